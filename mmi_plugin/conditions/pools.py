"""What conditions draw from: unrelated facts and irrelevant photographs, from installed packages or a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from mmi_plugin.errors import InputError
from mmi_plugin.items import image_hash
from mmi_plugin.pictures import Picture

PHOTOS = ("china.jpg", "flower.jpg")


def photos() -> list[Image.Image]:
    """The sample photographs, in `load_sample_images`' order."""
    return [Image.open(scikit_folder() / "images" / name) for name in PHOTOS]


def scikit_folder() -> Path:
    """The data files that scikit-learn ships, without importing it, which takes longer than an evaluation's start."""
    (package,) = find_spec("sklearn").submodule_search_locations
    return Path(package) / "datasets"


@lru_cache
def general_facts() -> tuple[str, ...]:
    """The built-in sentences, one true general fact each."""
    text = resources.files("mmi_plugin.conditions").joinpath("facts.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@lru_cache
def sample_photos(crops_per_photo: int = 12, size: int = 224) -> tuple[Image.Image, ...]:
    """Crops of the two photographs that scikit-learn ships: a pool that needs no download."""
    crops: list[Image.Image] = []
    for photo in photos():
        columns = crops_per_photo // 3
        step_x, step_y = (photo.width - size) // (columns - 1), (photo.height - size) // 2
        corners = [(x * step_x, y * step_y) for y in range(3) for x in range(columns)]
        crops += [photo.crop((x, y, x + size, y + size)) for x, y in corners]
    return tuple(crops)


@lru_cache
def folder_photos(folder: str) -> tuple[Picture, ...]:
    """Every image file at or below `folder`, by name. Raises InputError when there is none."""
    known = Image.registered_extensions()
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in known and path.is_file())
    if not files:
        raise InputError(f"pool {folder!r}: the folder holds no image")
    return tuple(Picture(path.read_bytes, f"pool image {path}") for path in files)


@dataclass(frozen=True)
class Pools:
    """`sentences`: unrelated ones. `images`: irrelevant photographs. `canvas`: side in pixels of
    generated images. `draws`: how many distinct noise images and screenshots there are."""

    sentences: Sequence[str] = field(default_factory=general_facts)
    images: Sequence[Image.Image | Picture] = field(default_factory=sample_photos)
    canvas: int = 224
    draws: int = 64

    @staticmethod
    @lru_cache
    def default() -> Pools:
        """Return the pools that the package ships, made once."""
        return Pools()

    def digest(self) -> str:
        """SHA-256 of the pools' content."""
        parts = [*self.sentences, *map(image_hash, self.images), str(self.canvas), str(self.draws)]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
