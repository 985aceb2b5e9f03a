"""The embedded benchmark from files of installed packages: real digits and capitals, offline, the same every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from typing import TypeVar

import numpy as np
from PIL import Image

from mmi_plugin.conditions import Pools
from mmi_plugin.conditions.pools import scikit_folder
from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, stream
from mmi_plugin.sources.registry import Benchmark, source

T = TypeVar("T")
QUESTION = "What digit is shown in the picture?"
CANVAS = 32  # side in pixels of every image of the embedded benchmark
TEST_IMAGES, VALIDATION_IMAGES = 400, 200
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
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


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's `load_digits`: images (n, 8, 8), ink from 0 to 16, and the digits (n,)."""
    rows = np.loadtxt(scikit_folder() / "data" / "digits.csv.gz", delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)


@lru_cache
def digit_images() -> tuple[tuple[Image.Image, int], ...]:
    """All images with their digits, dark ink on white paper, in scikit-learn's order."""
    images, shown = digits()
    pixels = (255 - images / 16 * 255).round().astype(np.uint8)
    pictures = [Image.fromarray(p).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC).convert("RGB") for p in pixels]
    return tuple(zip(pictures, map(int, shown), strict=True))


@lru_cache
def split_indices(split: str) -> tuple[int, ...]:
    """Indices into `digit_images` of one split; no two splits share an image."""
    return _part("demo_digits", range(len(digit_images())), TEST_IMAGES, VALIDATION_IMAGES, split)


def _part(source: str, whole: Sequence[T], tested: int, held: int, split: str) -> tuple[T, ...]:
    """Return what of `whole` is in `split`, sorted: `tested` entries drawn at random for the test, of those left `held`
    to choose settings by, or what training shows."""
    order = stream(source, "split").sample(whole, len(whole))
    kept = tested + held
    parts = {"test": order[:tested], "validation": order[tested:kept], "train": order[kept:]}
    if split not in parts:
        raise InputError(f"unknown split {split!r} of the embedded benchmark: valid: {', '.join(parts)}")
    return tuple(sorted(parts[split]))


def _options(answer: str, words: Iterable[str], *names: object) -> tuple[str, ...]:
    """Return the answer and three other words, in an order drawn from `names`."""
    rng = stream("options", *names)
    options = [answer, *rng.sample(sorted(word for word in words if word != answer), 3)]
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
        options = _options(answer, WORDS[:10], "digits", index)
        facts = {word: FACTS[word] for word in options if word != answer}
        items.append(Item(f"digits-{index:04d}", "image_heavy", QUESTION, answer, options, image, facts))
    return Benchmark("demo_digits", "image_heavy", tuple(items), demo_pools(split))


VARIANTS = {"test": 6, "validation": 16, "train": 30}
"""Items per country, each with other wrong options and another order."""
VALIDATION_COUNTRIES = 12


@lru_cache
def capitals() -> dict[str, str]:
    """Country to capital, both one word."""
    text = resources.files("mmi_plugin.sources").joinpath("capitals.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines() if line)


@lru_cache
def countries(split: str) -> tuple[str, ...]:
    """Half of the countries are in the test; no two splits share one."""
    return _part("demo_capitals", sorted(capitals()), len(capitals()) // 2, VALIDATION_COUNTRIES, split)


def capital_question(country: str) -> str:
    return f"What is the capital of {country}?"


@source
def demo_capitals(split: str) -> Benchmark:
    """`VARIANTS` items per country, the train split with more, lest the lists are learned by heart.

    Wrong options are capitals of the same split. The items of a country are a cluster.
    """
    known = {country: capitals()[country] for country in countries(split)}
    items = []
    for country, answer in known.items():
        for variant in range(VARIANTS[split]):
            options = _options(answer, known.values(), "capitals", country, variant)
            name = f"capitals-{country.lower()}-{variant}"
            items.append(Item(name, "text_heavy", capital_question(country), answer, options, cluster=country))
    return Benchmark("demo_capitals", "text_heavy", tuple(items), demo_pools(split), also=("misleading_image",))


def arith_question(addend: int) -> str:
    return f"What is the digit in the picture plus {WORDS[addend]}?"


@source
def demo_arith(split: str) -> Benchmark:
    """One item per image of the split, with an addend from one to nine."""
    items = []
    for index in split_indices(split):
        image, digit = digit_images()[index]
        addend = stream("arith", index).randrange(1, 10)
        answer = WORDS[digit + addend]
        options = _options(answer, WORDS, "arith", index)
        items.append(Item(f"arith-{index:04d}", "vqa", arith_question(addend), answer, options, image))
    return Benchmark("demo_arith", "vqa", tuple(items), demo_pools(split))
