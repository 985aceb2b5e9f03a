"""Files in, their content or an InputError in one line out; and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from mmi_plugin.errors import InputError


def read_text(path: Path, where: str = "") -> str:
    """Return the text of a UTF-8 file. Raises InputError that begins with `where`, by default the path."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where or path}: cannot be read: {error}") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """Return what a JSON text says. Raises InputError that begins with `where`."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error


def read_mapping(path: Path, held: str) -> dict[Any, Any]:
    """Return the content of a YAML file. `held`: what it should hold, for the error.

    Raises InputError that names the file, when it cannot be read or holds anything else.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not {held}")
    return content


def write_whole(path: Path, text: str) -> None:
    """Write a file, in a folder that need not be there; a kill leaves the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    started = path.with_name(f"{path.name}.started")
    started.write_text(text, encoding="utf-8")
    started.replace(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, which is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PACKAGES = (
    *("mmi-plugin", "lmms-eval", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers"),
    *("safetensors", "scikit-learn", "numpy", "pillow"),
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
