"""What conditions draw from, and how prompts are put: photographs, sentences, settings of a task or a training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from mmi_plugin.errors import InputError
from mmi_plugin.item import Form, image_hash
from mmi_plugin.pictures import SUFFIXES, Picture, read_picture

PHOTOS = {
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "skimage/data": (
        *("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg"),
        *("retina.jpg", "ihc.png", "camera.png", "clock_motion.png", "coins.png", "moon.png", "brick.png"),
        *("cell.png", "grass.png", "gravel.png"),
    ),
}
"""Folder of an installed package -> the photographs there, each of something else. All are free to use: CC0, public
domain or without known restrictions, as the packages' documentation says of each."""
PHOTO = 336  # longest side in pixels


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it, which may take longer than an evaluation's start."""
    (folder,) = find_spec(package).submodule_search_locations
    return Path(folder)


def scikit_folder() -> Path:
    """The data files that scikit-learn ships."""
    return package_folder("sklearn") / "datasets"


@lru_cache
def general_facts() -> tuple[str, ...]:
    """The built-in sentences, one true general fact each."""
    text = resources.files("mmi_plugin.conditions").joinpath("facts.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@lru_cache
def sample_photos() -> tuple[Image.Image, ...]:
    """The photographs that scikit-learn and scikit-image ship, whole, at most `PHOTO` wide and high: a pool that needs
    no download."""
    return tuple(_shrunk(file) for file in photo_files())


def photo_files() -> Iterator[Path]:
    """Yield the files of `PHOTOS`."""
    for folder, names in PHOTOS.items():
        package, _, inner = folder.partition("/")
        yield from (package_folder(package) / inner / name for name in names)


def _shrunk(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        photo = opened.convert("RGB")
    scale = min(1, PHOTO / max(photo.size))
    return photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)


@lru_cache
def canvas(side: int, colour: tuple[int, int, int]) -> Image.Image:
    """Return a square of one colour, made once, so that it is hashed and encoded once."""
    return Image.new("RGB", (side, side), colour)


@lru_cache
def folder_photos(folder: str) -> tuple[Picture, ...]:
    """Every image file at or below `folder`, by name. Raises InputError when there is none."""
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"pool {folder!r}: the folder holds no image")
    return tuple(Picture(partial(read_picture, path), f"pool image {path}") for path in files)


@dataclass(frozen=True)
class Pools:
    """What conditions draw from, and how the prompts of their items are put.

    sentences: unrelated ones. images: irrelevant photographs. canvas: side in pixels of generated images. draws: how
    many distinct noise images and screenshots there are. any_sentence: unrelated sentences are drawn with replacement
    and whatever they mention, not different ones without the item's options. facts_as_given: the item's first fact is
    the whole misleading text. form: of every prompt.
    """

    sentences: Sequence[str] = field(default_factory=general_facts)
    images: Sequence[Image.Image | Picture] = field(default_factory=sample_photos)
    canvas: int = 224
    draws: int = 64
    any_sentence: bool = False
    facts_as_given: bool = False
    form: Form = Form()  # noqa: RUF009

    @staticmethod
    @lru_cache
    def default() -> Pools:
        """Return the pools that the package ships, made once."""
        return Pools()

    def digest(self) -> str:
        """SHA-256 of the pools' content and of all that is not as by default."""
        parts = [*self.sentences, *map(image_hash, self.images), str(self.canvas), str(self.draws)]
        parts += [name for name in ("any_sentence", "facts_as_given") if getattr(self, name)]
        parts += [repr(self.form)] if repr(self.form) != repr(Form()) else []
        parts += [f"brief={self.form.brief}"] if self.form.brief else []
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
