"""Conditions that give text-heavy items an image that must not matter (method section 1)."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from mmi_plugin.conditions.pools import Pools
from mmi_plugin.conditions.registry import condition
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item
from mmi_plugin.seeding import stream

IGNORE_PICTURE = "The picture has nothing to do with the question. Ignore it."


@condition("text_heavy", ignore=IGNORE_PICTURE)
def random_pixels(item: Item, rng: random.Random, pools: Pools) -> Item:
    """Uniform noise: the paper's clean reference for text-heavy items."""
    return replace(item, image=_noise(rng.randrange(pools.draws), pools.canvas))


@condition("text_heavy", ignore=IGNORE_PICTURE)
def black(item: Item, rng: random.Random, pools: Pools) -> Item:
    """An all-black canvas."""
    return replace(item, image=_canvas(pools.canvas, (0, 0, 0)))


@condition("text_heavy", ignore=IGNORE_PICTURE)
def white(item: Item, rng: random.Random, pools: Pools) -> Item:
    """An all-white canvas."""
    return replace(item, image=_canvas(pools.canvas, (255, 255, 255)))


@condition("text_heavy", ignore=IGNORE_PICTURE)
def irrelevant_image(item: Item, rng: random.Random, pools: Pools) -> Item:
    """A photograph that has nothing to do with the question."""
    if not pools.images:
        raise InputError("condition 'irrelevant_image' needs a pool of images, and this one is empty")
    return replace(item, image=pools.images[rng.randrange(len(pools.images))])


@condition("text_heavy", seen=False, ignore=IGNORE_PICTURE)
def screenshot(item: Item, rng: random.Random, pools: Pools) -> Item:
    """A rendered window with a title bar, text and buttons (after RICO)."""
    return replace(item, image=_window(rng.randrange(pools.draws), max(pools.canvas, 224)))


@lru_cache(maxsize=256)
def _noise(draw: int, side: int) -> Image.Image:
    return Image.frombytes("RGB", (side, side), stream("random_pixels", draw, side).randbytes(3 * side * side))


@lru_cache
def _canvas(side: int, colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


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
