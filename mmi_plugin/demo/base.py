"""The base model that the package ships."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

from mmi_plugin.errors import InputError

WEIGHTS = "model.safetensors"


def base_folder() -> Path:
    """Return the folder of the shipped checkpoint. Raises InputError where it is missing."""
    folder = Path(str(resources.files("mmi_plugin.demo"))) / "base"
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS}: missing; build it with `python -m mmi_plugin.demo.build_base`")
    return folder


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
