"""demo_capitals: capitals of countries; the text alone decides."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from mmi_plugin.errors import InputError
from mmi_plugin.items import Item
from mmi_plugin.seeding import stream
from mmi_plugin.sources.benchmark import Benchmark
from mmi_plugin.sources.demo.digits import demo_pools, options_with
from mmi_plugin.sources.registry import source

VARIANTS = {"test": 6, "train": 30}
"""Items per country, each with other wrong options and another order."""


@lru_cache
def capitals() -> dict[str, str]:
    """Country to capital, both one word."""
    text = resources.files("mmi_plugin.sources.demo").joinpath("capitals.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines() if line)


@lru_cache
def countries(split: str) -> tuple[str, ...]:
    """Half of the countries; the two splits share none."""
    order = stream("demo_capitals", "split").sample(sorted(capitals()), len(capitals()))
    half = len(order) // 2
    parts = {"test": order[:half], "train": order[half:]}
    if split not in parts:
        raise InputError(f"unknown split {split!r} of the embedded benchmark: valid: test, train")
    return tuple(sorted(parts[split]))


def capital_question(country: str) -> str:
    return f"What is the capital of {country}?"


@source
def demo_capitals(split: str) -> Benchmark:
    """`VARIANTS` items per country, the train split with more, lest the lists are learned by heart.

    Wrong options are capitals of the same split.
    """
    known = {country: capitals()[country] for country in countries(split)}
    items = []
    for country, answer in known.items():
        wrong = [city for city in known.values() if city != answer]
        for variant in range(VARIANTS[split]):
            options = options_with(answer, wrong, "capitals", country, variant)
            name = f"capitals-{country.lower()}-{variant}"
            items.append(Item(name, "text_heavy", capital_question(country), answer, options))
    return Benchmark("demo_capitals", "text_heavy", tuple(items), demo_pools(split))
