"""demo_digits: scikit-learn's 1,797 handwritten digits; the image alone decides."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from mmi_plugin.conditions import Pools
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item
from mmi_plugin.scikit_files import digits
from mmi_plugin.seeding import stream
from mmi_plugin.sources.benchmark import Benchmark
from mmi_plugin.sources.registry import source

QUESTION = "What digit is shown in the picture?"
CANVAS = 32  # side in pixels of every image of the embedded benchmark
TEST_IMAGES = 400
WORDS = tuple(
    [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
    ]
)
FACTS = {
    "zero": "A zero is drawn as a closed loop with nothing inside.",
    "one": "A one is drawn as a single upright stroke.",
    "two": "A two ends in a flat stroke at the bottom.",
    "three": "A three has a pair of curves that open to the left.",
    "four": "A four has a corner and a long upright stroke.",
    "five": "A five has a flat top and a round belly.",
    "six": "A six has a loop at the bottom and a tail at the top.",
    "seven": "A seven has a flat top and a slanted stem.",
    "eight": "An eight is a pair of loops on top of each other.",
    "nine": "A nine has a loop at the top and a tail at the bottom.",
}


@lru_cache
def digit_images() -> tuple[tuple[Image.Image, int], ...]:
    """All images with their digits, dark ink on white paper, in scikit-learn's order."""
    images, shown = digits()
    pixels = (255 - images / 16 * 255).round().astype(np.uint8)
    pictures = [Image.fromarray(p).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC).convert("RGB") for p in pixels]
    return tuple(zip(pictures, map(int, shown), strict=True))


@lru_cache
def split_indices(split: str) -> tuple[int, ...]:
    """Indices into `digit_images` of one split; the two splits share no image."""
    order = stream("demo_digits", "split").sample(range(len(digit_images())), len(digit_images()))
    parts = {"test": order[:TEST_IMAGES], "train": order[TEST_IMAGES:]}
    if split not in parts:
        raise InputError(f"unknown split {split!r} of the embedded benchmark: valid: test, train")
    return tuple(sorted(parts[split]))


def options_with(answer: str, wrong: list[str], *names: object) -> tuple[str, ...]:
    """Return the answer and three of the wrong options, in an order drawn from `names`."""
    rng = stream("options", *names)
    options = [answer, *rng.sample(sorted(wrong), 3)]
    rng.shuffle(options)
    return tuple(options)


def demo_pools(split: str) -> Pools:
    """Irrelevant photographs are the split's own digits."""
    return Pools(images=tuple(digit_images()[i][0] for i in split_indices(split)), canvas=CANVAS)


@source
def demo_digits(split: str) -> Benchmark:
    """One item per image of the split."""
    items = []
    for index in split_indices(split):
        image, digit = digit_images()[index]
        answer = WORDS[digit]
        wrong = [word for word in WORDS[:10] if word != answer]
        options = options_with(answer, wrong, "digits", index)
        facts = {word: FACTS[word] for word in options if word != answer}
        items.append(Item(f"digits-{index:04d}", "image_heavy", QUESTION, answer, options, image, facts))
    return Benchmark("demo_digits", "image_heavy", tuple(items), demo_pools(split))
