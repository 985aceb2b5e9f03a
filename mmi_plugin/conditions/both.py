"""The condition that adds noise in both modalities to items that need both."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Annotated

from mmi_plugin.conditions.pools import Pools
from mmi_plugin.conditions.registry import condition
from mmi_plugin.conditions.text import Count, unrelated_sentences
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item

MOST = 16  # added images
IGNORE_BOTH = (
    "Only the last picture belongs to the question. "
    "Ignore the other pictures, and any text that is not part of the question or its options."
)


@condition("vqa", seen=False, published=False, ignore=IGNORE_BOTH)
def both(
    item: Item,
    rng: random.Random,
    pools: Pools,
    *,
    sentences: Count = 10,
    images: Annotated[int, range(0, MOST + 1)] = 1,
) -> Item:
    """Unrelated sentences before the question, and irrelevant photographs before the item's own image."""
    text = unrelated_sentences(item, rng, pools, sentences)
    others = [image for image in pools.images if image is not item.picture]
    drawn = rng.sample(others, min(len(others), MOST))  # so that fewer images are the first of more
    if images > len(others):
        raise InputError(f"condition 'both' needs {images} irrelevant images, and the pool has {len(others)}")
    return replace(item, context=text, added_images=tuple(drawn[:images]))
