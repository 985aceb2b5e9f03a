"""What a result says about how it came about."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = (
    "mmi-plugin",
    "lmms-eval",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "numpy",
    "pillow",
)


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
