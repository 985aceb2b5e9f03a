"""The committed fixtures of the nine benchmarks: the hub's schema and layout, a few rows each."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "fixtures" / "suite"
ITEMS = {
    "mini_imagenet": 8,
    "caltech101": 3,
    "food101": 6,
    "openbookqa": 4,
    "mmlu": 3,
    "arc_challenge": 3,
    "scienceqa": 3,
    "mmbench": 3,
    "seedbench": 3,
}
"""Usable test items per fixture."""
FAMILIES = {
    "image_heavy": ("mini_imagenet", "caltech101", "food101"),
    "text_heavy": ("openbookqa", "mmlu", "arc_challenge"),
    "vqa": ("scienceqa", "mmbench", "seedbench"),
}


def at(name: str) -> str:
    return str(DATA / name)
