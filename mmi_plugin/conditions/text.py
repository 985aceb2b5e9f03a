"""Conditions that add text to image-heavy items (method section 1)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mmi_plugin.answers import mentions
from mmi_plugin.conditions.pools import Pools
from mmi_plugin.conditions.registry import condition
from mmi_plugin.items import Item

SENTENCES = 10  # unrelated sentences per item, as published
SNIPPETS = 10


@condition("image_heavy", "vqa")
def clean(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The item as it is."""
    return item


@condition("image_heavy")
def unrelated_text(item: Item, rng: random.Random, pools: Pools) -> Item:
    """Ten true sentences that have nothing to do with the question, before it."""
    order = rng.sample(range(len(pools.facts)), len(pools.facts))
    sentences = _unrelated((pools.facts[i] for i in order), item, SENTENCES)
    return replace(item, context=" ".join(sentences))


@condition("image_heavy")
def misleading_text(item: Item, rng: random.Random, pools: Pools) -> Item:
    """A caption that asserts a wrong option, and what the item knows about that option."""
    wrong = item.wrong_options
    named = rng.choice([option for option in wrong if not mentions(option, item.answer)] or wrong)
    fact = item.facts.get(named, "")
    if mentions(fact, item.answer):
        fact = ""
    return replace(item, context=caption(named, fact), named=named)


def caption(named: str, fact: str = "") -> str:
    """Return a text that says the picture shows `named`, then the fact."""
    word = named.lower()
    sounds_like_a_vowel = word.startswith(tuple("aeiou")) and not word.startswith(("one", "uni", "eu", "use"))
    sentence = f"This picture seems to depict {'an' if sounds_like_a_vowel else 'a'} {named}."
    return f"{sentence} {fact}" if fact else sentence


@condition("image_heavy", seen=False)
def ocr_text(item: Item, rng: random.Random, pools: Pools) -> Item:
    """Snippets as read off a scanned form (after FUNSD), before the question."""
    return replace(item, context="\n".join(_unrelated(_form_lines(rng), item, SNIPPETS)))


def _unrelated(texts: Iterable[str], item: Item, count: int) -> list[str]:
    """Return the first `count` texts that mention none of the item's options."""
    kept: list[str] = []
    for text in texts:
        if len(kept) == count:
            break
        if not any(mentions(text, option) for option in item.options or (item.answer,)):
            kept.append(text)
    return kept


_NAMES = ("R. Keller", "M. Osei", "T. Lindqvist", "A. Moreau", "J. Pratt", "S. Iwata", "D. Novak", "L. Ferris")
_UNITS = ("Dept.", "Office", "Branch", "Division", "Unit", "Desk")
_STATUS = ("APPROVED", "PENDING", "VOID", "RECEIVED", "FILED", "ON HOLD")


def _form_lines(rng: random.Random) -> Iterator[str]:
    """Yield form fields: many more than needed, yet bounded, as a filter may refuse all of them."""
    for _ in range(20 * SNIPPETS):
        number = rng.randrange(10_000, 99_999)
        day, month, year = rng.randrange(1, 29), rng.randrange(1, 13), rng.randrange(60, 99)
        amount = f"{rng.randrange(1, 99)},{rng.randrange(100, 999)}.{rng.randrange(10, 99)}"
        yield rng.choice(
            [
                f"FORM {number} REV. {month:02d}/{year}",
                f"DATE: {month:02d}/{day:02d}/{year}",
                f"TO: {rng.choice(_NAMES)}  FROM: {rng.choice(_NAMES)}",
                f"INVOICE NO. {number}",
                f"TOTAL $ {amount}",
                f"QTY {rng.randrange(1, 400)}  UNIT PRICE {amount}",
                f"SIGNATURE: {rng.choice(_NAMES)}",
                f"FAX ({rng.randrange(200, 999)}) {rng.randrange(200, 999)}-{rng.randrange(1000, 9999)}",
                f"{rng.choice(_UNITS)} CODE: {rng.randrange(10, 99)}-{rng.randrange(100, 999)}",
                f"STATUS: {rng.choice(_STATUS)}",
                f"PAGE {rng.randrange(1, 9)} OF {rng.randrange(9, 30)}",
                f"ACCT. {number}-{rng.randrange(10, 99)}  REF: {rng.choice(_UNITS).upper()}{day}",
            ]
        )
