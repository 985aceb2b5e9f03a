"""A condition and a data set of one's own: installed beside mmi-plugin, both are known wherever a name is given."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Annotated

from mmi_plugin.conditions import Pools, condition
from mmi_plugin.item import Item
from mmi_plugin.sources import Benchmark, source


@condition("image_heavy", seen=False, published=False, names_option=True)
def shouted_text(item: Item, rng: random.Random, pools: Pools) -> Item:
    """A wrong option in capitals, and an exclamation mark."""
    named = rng.choice(item.wrong_options)
    return replace(item, context=f"IT IS {named.upper()}!", named=named)


@condition("image_heavy", seen=False, published=False)
def louder_text(item: Item, rng: random.Random, pools: Pools, *, times: Annotated[int, range(1, 10)] = 1) -> Item:
    """The question so many times, which must not matter."""
    return replace(item, context="\n".join([item.question] * times))


@source
def seasons(split: str) -> Benchmark:
    """Which season a month is in, north of the equator."""
    names = ("winter", "spring", "summer", "autumn")
    months = {"January": "winter", "April": "spring", "July": "summer", "October": "autumn"}
    asked = [Item(m, "text_heavy", f"Which season is {m} in?", season, names) for m, season in months.items()]
    return Benchmark("seasons", "text_heavy", asked)
