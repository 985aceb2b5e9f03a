"""An item in, with the picture or the text that its own data set has for it out: other people's interference sets."""

from __future__ import annotations

import random
from dataclasses import replace

from mmi_plugin.conditions.pools import Pools
from mmi_plugin.conditions.registry import condition
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import Item

PREFIX = "given_"


def version_of(item: Item, name: str) -> Item:
    """Return the item in its data set's own version `name`. Raises InputError where it has none."""
    if (given := item.given.get(name)) is None:
        raise InputError(f"condition '{PREFIX}{name}': item {item.id} has no version {name!r}: {_those(item, name)}")
    image = item.picture if given.image is None else given.image
    question, named = given.question or item.question, given.named or item.named
    return replace(item, image=image, question=question, context=given.context or item.context, named=named)


def _those(item: Item, name: str) -> str:
    return nearest(name, item.given) if item.given else "its data set came with none"


@condition("image_heavy", seen=False, published=False)
def given_handwritten(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The data set's own photograph of the same scene with a wrong word written on a note (SCAM)."""
    return version_of(item, "handwritten")


@condition("image_heavy", seen=False, published=False)
def given_synthetic(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The data set's own picture with the same wrong word put on by a computer (SCAM)."""
    return version_of(item, "synthetic")


@condition("image_heavy", "text_heavy", "vqa", seen=False, published=False)
def given_corrupted(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The data set's own text or picture that says something else (Words or Vision, or your own)."""
    return version_of(item, "corrupted")


@condition("image_heavy", "text_heavy", "vqa", seen=False, published=False)
def given_irrelevant(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The data set's own text or picture that has nothing to do with the question (Words or Vision, or your own)."""
    return version_of(item, "irrelevant")


@condition("image_heavy", "text_heavy", "vqa", seen=False, published=False, role="matches")
def given_matching(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The data set's own text or picture that says the same as the item (Words or Vision, or your own)."""
    return version_of(item, "matching")


@condition("vqa", seen=False, published=False)
def given_distraction(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The data set's own distracting picture or hint, added to the item or put into it (D-SQA)."""
    return version_of(item, "distraction")
