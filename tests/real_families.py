"""Model families with real vocabularies, templates and processor settings at tiny sizes, where they are at hand."""

from __future__ import annotations

import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "families.tar.xz"
NAMES = (
    *("gemma3", "idefics3", "instructblip", "internvl3", "llava15", "llava_onevision", "llavanext_mistral"),
    *("qwen25vl", "qwen3vl"),
)
CASES = [
    pytest.param(f"real-{name}", marks=pytest.mark.skipif(not ARCHIVE.is_file(), reason="no real vocabularies here"))
    for name in NAMES
]
_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # until the process ends


@cache
def _unpacked() -> Path:
    _KEPT.append(tempfile.TemporaryDirectory(prefix="families"))
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(_KEPT[0].name, filter="data")
    return Path(_KEPT[0].name) / "families"


def folder(name: str) -> Path:
    """Return the folder of a family, as `save_pretrained` leaves it but without weights."""
    return _unpacked() / name.removeprefix("real-")


def save(name: str, to: Path, seed: int = 0) -> Path:
    """Save a checkpoint of the family with random weights, a few megabytes, and return its folder."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(seed)
    AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder(name))).float().save_pretrained(to)
    AutoProcessor.from_pretrained(folder(name)).save_pretrained(to)
    return to
