"""YAML files of names and values, and what a result says about how it came about."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from mmi_plugin.errors import InputError


def read_mapping(path: Path, held: str) -> dict[Any, Any]:
    """Return the content of `path`. `held`: what the file should hold, for the error.

    Raises InputError that names the file, when it cannot be read or holds anything else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not {held}")
    return content


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
