"""Diagnose and mitigate modality interference in multimodal language models."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Item", "Results", "compare", "evaluate", "include", "items", "load", "perturb", "read", "train"]


def __getattr__(name: str) -> Any:
    """Return one of the public names, when it is first used: a command needs few of them, and torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mmi_plugin.notebook"), name)
