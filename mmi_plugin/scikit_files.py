"""The data files that scikit-learn ships, without importing it, which takes longer than an evaluation's own start."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = ("china.jpg", "flower.jpg")


def photos() -> list[Image.Image]:
    """The sample photographs, in `load_sample_images`' order."""
    return [Image.open(_folder() / "images" / name) for name in PHOTOS]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """`load_digits`' images (n, 8, 8), ink from 0 to 16, and the digits (n,)."""
    rows = np.loadtxt(_folder() / "data" / "digits.csv.gz", delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)


def _folder() -> Path:
    (package,) = find_spec("sklearn").submodule_search_locations
    return Path(package) / "datasets"
