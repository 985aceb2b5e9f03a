"""Conditions under which an adversary looks for the worst at evaluation, and its controls.

The item is that of the reference: what is moved, embeddings, pixels or a suffix of tokens, only a model can say, so
`mmi_plugin.models.attacked` acts on these. They are as any other condition in tasks, results and comparisons.
"""

from __future__ import annotations

import random
from typing import Annotated

from mmi_plugin.conditions.pools import Pools
from mmi_plugin.conditions.registry import Between, as_reference, condition
from mmi_plugin.item import Item

Relative = Annotated[float, Between(0, 1000)]
Bytes = Annotated[float, Between(0, 1_000_000)]
Steps = Annotated[int, range(1, 10_001)]
Restarts = Annotated[int, range(1, 101)]
Tokens = Annotated[int, range(1, 1001)]
Moved = Annotated[str, ("prompt", "after_image")]
Norm = Annotated[str, ("linf", "l2")]
BOTH = ("image_heavy", "text_heavy")


@condition(*BOTH, seen=False, published=False, attack=("apgd", "embeddings"))
def adversarial_embeddings(
    item: Item,
    rng: random.Random,
    pools: Pools,
    *,
    eps: Relative = 0.1,
    steps: Steps = 20,
    restarts: Restarts = 1,
    text: Moved = "prompt",
) -> Item:
    """The embeddings of the irrelevant modality moved by at most eps times their RMS, as Auto-PGD finds it worst."""
    return as_reference(item, rng, pools)


@condition(*BOTH, seen=False, published=False, attack=("square", "embeddings"))
def square_embeddings(
    item: Item,
    rng: random.Random,
    pools: Pools,
    *,
    eps: Relative = 0.1,
    queries: Steps = 1000,
    text: Moved = "prompt",
) -> Item:
    """The same moved as Square attack finds it worst, without gradients: beside Auto-PGD it tells whether these lie."""
    return as_reference(item, rng, pools)


@condition(*BOTH, seen=False, published=False, attack=("noise", "embeddings"))
def noise_embeddings(
    item: Item, rng: random.Random, pools: Pools, *, eps: Relative = 0.1, text: Moved = "prompt"
) -> Item:
    """The same moved at random, uniformly within eps: what of an attack is its size alone."""
    return as_reference(item, rng, pools)


@condition("text_heavy", seen=False, published=False, attack=("apgd", "pixels"))
def adversarial_pixels(
    item: Item,
    rng: random.Random,
    pools: Pools,
    *,
    eps: Bytes = 8,
    norm: Norm = "linf",
    steps: Steps = 20,
    restarts: Restarts = 1,
) -> Item:
    """The irrelevant image moved by at most eps 255ths, a pixel or in l2 all together, as Auto-PGD finds it worst."""
    return as_reference(item, rng, pools)


@condition("text_heavy", seen=False, published=False, attack=("square", "pixels"))
def square_pixels(item: Item, rng: random.Random, pools: Pools, *, eps: Bytes = 8, queries: Steps = 1000) -> Item:
    """The same moved as Square attack finds it worst, without gradients."""
    return as_reference(item, rng, pools)


@condition("text_heavy", seen=False, published=False, attack=("noise", "pixels"))
def noise_pixels(item: Item, rng: random.Random, pools: Pools, *, eps: Bytes = 8, norm: Norm = "linf") -> Item:
    """The same moved at random."""
    return as_reference(item, rng, pools)


@condition("image_heavy", seen=False, published=False, attack=("gradients", "tokens"))
def adversarial_tokens(
    item: Item,
    rng: random.Random,
    pools: Pools,
    *,
    length: Tokens = 10,
    steps: Steps = 20,
    restarts: Restarts = 1,
    candidates: Tokens = 64,
) -> Item:
    """A line after everything else, of `length` tokens, as greedy coordinate gradient search finds it worst."""
    return as_reference(item, rng, pools)


@condition("image_heavy", seen=False, published=False, attack=("noise", "tokens"))
def noise_tokens(item: Item, rng: random.Random, pools: Pools, *, length: Tokens = 10) -> Item:
    """The same of random tokens."""
    return as_reference(item, rng, pools)
