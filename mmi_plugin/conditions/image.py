"""An item in, with another image out: one that must not matter, or its own with a label (method section 1)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Annotated

from PIL import Image, ImageDraw, ImageFont

from mmi_plugin.conditions.pools import Pools, canvas
from mmi_plugin.conditions.registry import as_reference, condition
from mmi_plugin.conditions.text import wrong_option
from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, stream, user_text

IGNORE_PICTURE = "The picture has nothing to do with the question. Ignore it."


@condition("text_heavy", ignore=IGNORE_PICTURE)
def random_pixels(item: Item, rng: random.Random, pools: Pools) -> Item:
    """Uniform noise: the paper's clean reference for text-heavy items."""
    return replace(item, image=_noise(rng.randrange(pools.draws), pools.canvas))


@condition("text_heavy", ignore=IGNORE_PICTURE)
def black(item: Item, rng: random.Random, pools: Pools) -> Item:
    """An all-black canvas."""
    return replace(item, image=canvas(pools.canvas, (0, 0, 0)))


@condition("text_heavy", ignore=IGNORE_PICTURE)
def white(item: Item, rng: random.Random, pools: Pools) -> Item:
    """An all-white canvas."""
    return replace(item, image=canvas(pools.canvas, (255, 255, 255)))


@condition("text_heavy", version=2, ignore=IGNORE_PICTURE)
def irrelevant_image(item: Item, rng: random.Random, pools: Pools) -> Item:
    """A photograph that has nothing to do with the question."""
    if not pools.images:
        raise InputError("condition 'irrelevant_image' needs a pool of images, and this one is empty")
    return replace(item, image=pools.images[rng.randrange(len(pools.images))])


@condition("text_heavy", seen=False, ignore=IGNORE_PICTURE)
def screenshot(item: Item, rng: random.Random, pools: Pools) -> Item:
    """A rendered window with a title bar, text and buttons (after RICO)."""
    return replace(item, image=_window(rng.randrange(pools.draws), max(pools.canvas, 224)))


@condition("text_heavy", seen=False, published=False, role="apart")
def text_only(item: Item, rng: random.Random, pools: Pools) -> Item:
    """No image at all: what the text decides where no modality can interfere, for models that answer without one."""
    return replace(item, image=None)


@lru_cache(maxsize=256)
def _noise(draw: int, side: int) -> Image.Image:
    return Image.frombytes("RGB", (side, side), stream("random_pixels", draw, side).randbytes(3 * side * side))


_TITLES = ("Settings", "Inbox", "Profile", "Downloads", "Calendar", "Checkout", "Search", "Messages")
_ROWS = ("Notifications", "Privacy", "Storage", "Sign out", "Language", "Theme", "Sync now", "Help", "About", "Wi-Fi")
_BUTTONS = ("OK", "Cancel", "Save", "Next", "Back", "Retry")
_THEMES = (
    ((245, 245, 247), (30, 100, 200), (30, 30, 30)),
    ((30, 32, 36), (240, 140, 40), (230, 230, 230)),
    ((255, 250, 240), (60, 140, 80), (50, 50, 50)),
)


@lru_cache(maxsize=256)
def _window(draw: int, side: int) -> Image.Image:
    rng = stream("screenshot", draw, side)
    ground, accent, ink = rng.choice(_THEMES)
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    bar, line = side // 8, side // 10
    font = ImageFont.load_default(size=max(8, side // 16))
    pen.rectangle((0, 0, side, bar), fill=accent)
    pen.text((side // 20, bar // 4), rng.choice(_TITLES), fill=ground, font=font)
    for i, row in enumerate(rng.sample(_ROWS, 6)):
        top = bar + line // 2 + i * line
        pen.text((side // 20, top), row, fill=ink, font=font)
        pen.line((side // 20, top + line - 2, side - side // 20, top + line - 2), fill=accent)
    for i, label in enumerate(rng.sample(_BUTTONS, 2)):
        left = side // 20 + i * side // 2
        pen.rounded_rectangle((left, side - bar, left + side // 3, side - bar // 4), radius=4, fill=accent)
        pen.text((left + side // 20, side - bar), label, fill=ground, font=font)
    return image


LONGEST = 80  # characters of a label that are written
IGNORE_WRITING = "Judge by what the picture shows. Ignore any text that is written in it."


@condition("image_heavy", seen=False, published=False, ignore=IGNORE_WRITING, names_option=True)
def typographic(item: Item, rng: random.Random, pools: Pools, *, size: Annotated[int, range(1, 101)] = 12) -> Item:
    """A wrong option, black on a white label at the lower edge of the image.

    `size` of the letters is in percent of the image's shorter side; less where the label would not fit.
    """
    named = wrong_option(item, rng)
    return replace(item, image=labelled(item.image, named, size), named=named)


def labelled(image: Image.Image, text: str, size: int) -> Image.Image:
    """Return an RGB copy of `image` with the first `LONGEST` characters of `text` on a label."""
    made = image.convert("RGB")
    lines, font = _fitted(_label_text(text), made.size, min(made.size) * size / 100)
    line_height, width = sum(font.getmetrics()), ceil(max(map(font.getlength, lines), default=0))
    label = Image.new("RGB", (width, line_height * len(lines)), "white")
    pen = ImageDraw.Draw(label)
    for number, line in enumerate(lines):
        pen.text(((width - font.getlength(line)) // 2, number * line_height), line, fill="black", font=font)
    made.paste(label, (max(0, (made.width - width) // 2), max(0, made.height - label.height)))
    return made


def _label_text(text: str) -> str:
    return " ".join(text.split())[:LONGEST]


def _fitted(
    text: str, room: tuple[int, int], pixels: float, wrap: Wrap | None = None
) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """Return the text in lines, and the font at `pixels` or at the next smaller size at which it fits."""
    while True:
        font = font_of(max(1, int(pixels)))
        lines = (wrap or wrapped)(text, font, room[0])
        fits = len(lines) * sum(font.getmetrics()) <= room[1] and all(font.getlength(line) <= room[0] for line in lines)
        if fits or pixels < 2:
            return lines, font
        pixels *= 0.9


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return the text's lines, cut at words where wider than `width`; a single word may be wider.

    Widths add up, as this font has no kerning in the basic layout.
    """
    lines: list[str] = []
    for paragraph in text.splitlines():
        line, reached = [], -font.getlength(" ")
        for word in paragraph.split():
            wider = reached + font.getlength(" ") + font.getlength(word)
            if line and wider > width:
                lines.append(" ".join(line))
                line, wider = [], font.getlength(word)
            line, reached = [*line, word], wider
        lines.append(" ".join(line))
    return lines


def _flowed(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return the text's lines, none wider than `width`: cut at words, and within those that have no end (as texts
    without blanks)."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line, reached = "", 0.0
        for piece in _PIECE.findall(paragraph):
            wide = font.getlength(piece)
            if line and reached + wide > width and not piece.isspace():
                lines.append(line.rstrip())
                line, reached = "", 0.0
            if line or not piece.isspace():
                line, reached = line + piece, reached + wide
        lines.append(line.rstrip())
    return lines


_PIECE = re.compile(r"\s+|\S{1,20}")
Wrap = Callable[[str, ImageFont.FreeTypeFont, int], list[str]]


@lru_cache
def font_of(pixels: int, weight: str = "") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, in a weight as "-Bold", from matplotlib's files: it has more scripts than Pillow's own font."""
    folder = Path(find_spec("matplotlib").submodule_search_locations[0])  # without importing matplotlib
    file = folder / "mpl-data" / "fonts" / "ttf" / f"DejaVuSans{weight}.ttf"
    return ImageFont.truetype(str(file), pixels, layout_engine=ImageFont.Layout.BASIC)


@condition("text_heavy", seen=False, published=False, ignore=IGNORE_PICTURE, names_option=True)
def misleading_image(item: Item, rng: random.Random, pools: Pools) -> Item:
    """A slip of paper on which a wrong option stands, its letter large: the mirror of `misleading_text`."""
    named = wrong_option(item, rng)
    return replace(item, image=_slip(item, named, pools.canvas), named=named)


@condition("text_heavy", seen=False, published=False, role="matches", names_option=True)
def matching_image(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The slip of paper with the right option: what a model that still looks can use."""
    return replace(item, image=_slip(item, item.answer, pools.canvas))


@condition("text_heavy", seen=False, published=False, role="apart")
def rendered_question(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The whole prompt as an image beside an empty text: a model that shuts the image out cannot answer."""
    text = user_text(item)
    if len(text) > _PAGE_HOLDS:
        raise InputError(f"item {item.id}: its prompt has {len(text):,} characters, and a page holds {_PAGE_HOLDS:,}")
    area = 0.7 * len(text)  # of the letters, in squares of their size: they are half as wide as high
    side = max(pools.canvas, _PAGE, min(_LARGEST_PAGE, ceil(_SMALL_LETTERS * area**0.5)))
    room = side - 2 * _MARGIN
    page = Image.new("RGB", (side, side), "white")
    lines, font = _fitted(text, (room, room), min(_PAGE_LETTERS, 1.2 * room / area**0.5), _flowed)
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + number * sum(font.getmetrics())), line, fill="black", font=font)
    return replace(item, image=page, in_image=True)


_PAGE, _LARGEST_PAGE, _MARGIN = 672, 2688, 24  # pixels
_PAGE_HOLDS = 150_000  # characters
_PAGE_LETTERS, _SMALL_LETTERS = 28, 16  # pixels; a page grows before its letters get smaller than these


def _slip(item: Item, option: str, side: int) -> Image.Image:
    """Return a white square with the option's letter in its upper part, and the option itself below."""
    slip = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(slip)
    half = side // 2
    for text, top, pixels in ((item.letter(option), 0, 0.6 * side), (_label_text(option), half + side // 10, side / 8)):
        lines, font = _fitted(text, (side, side - half - side // 10 if top else half + side // 10), pixels)
        for number, line in enumerate(lines):
            left = (side - font.getlength(line)) // 2
            pen.text((left, top + number * sum(font.getmetrics())), line, fill="black", font=font)
    return slip


@condition("image_heavy", "text_heavy", "vqa", seen=False, published=False, role="apart")
def asked_again(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The reference once more, in another batch: what flips by arithmetic alone."""
    return as_reference(item, rng, pools)
