"""An item in, with text added out: where the image decides, or with images too where both do (method section 1)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated

from mmi_plugin.answers import mentions, normalise
from mmi_plugin.conditions.pools import Pools, canvas
from mmi_plugin.conditions.registry import condition
from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, stream

Count = Annotated[int, range(0, 1001)]
Position = Annotated[str, ("before", "inside", "after")]
Shown = Annotated[str, ("own", "black")]

IGNORE_TEXT = "Judge by the picture alone. Ignore any text that is not part of the question or its options."
SNIPPETS = 10  # snippets per item where none other are asked for


@condition("image_heavy", "vqa")
def clean(item: Item, rng: random.Random, pools: Pools) -> Item:
    """The item as it is."""
    return item


@condition("image_heavy", ignore=IGNORE_TEXT)
def unrelated_text(
    item: Item, rng: random.Random, pools: Pools, *, sentences: Count = 10, position: Position = "before"
) -> Item:
    """True sentences that have nothing to do with the question; ten before it, as published."""
    return _with_text(item, unrelated_sentences(item, rng, pools, sentences), position)


@condition("image_heavy", ignore=IGNORE_TEXT, names_option=True, apart_at={"picture": "black"})
def misleading_text(
    item: Item, rng: random.Random, pools: Pools, *, position: Position = "before", picture: Shown = "own"
) -> Item:
    """A caption that asserts a wrong option, and what the item knows about that option.

    `picture=black` puts it beside a black picture: what the text alone leads to.

    With `pools.facts_as_given`, as published: the first fact that the item was given, whole, or without any a caption
    that asserts an option, perhaps the right one.
    """
    item = _beside(item, picture, pools)
    if pools.facts_as_given:
        named, text = _first_fact(item) or _any_caption(item, rng)
        return replace(_with_text(item, text, position), named=named)
    named = wrong_option(item, rng)
    fact = item.facts.get(named, "")
    if mentions(fact, item.answer):
        fact = ""
    return replace(_with_text(item, caption(named, fact), position), named=named)


@condition("image_heavy", seen=False, published=False, role="matches", apart_at={"picture": "black"})
def matching_text(
    item: Item, rng: random.Random, pools: Pools, *, position: Position = "before", picture: Shown = "own"
) -> Item:
    """A caption that names the right option: what a model that still hears the text can use.

    `picture=black` puts it beside a black picture, so that the text alone can tell.
    """
    return _with_text(_beside(item, picture, pools), caption(item.answer), position)


def _beside(item: Item, picture: str, pools: Pools) -> Item:
    return item if picture == "own" else replace(item, image=canvas(pools.canvas, (0, 0, 0)))


def _first_fact(item: Item) -> tuple[str, str] | None:
    """Return the option and the text of the first fact that came with the item; None where there is none."""
    facts = ((option, text) for option, text in item.facts.items() if option in item.options)
    return next(((option, text) for option, text in facts if text != template_fact(option)), None)


def _any_caption(item: Item, rng: random.Random) -> tuple[str, str]:
    named = rng.choice(item.options)
    return named, caption(named)


def wrong_option(item: Item, rng: random.Random) -> str:
    """Return a wrong option to assert, if possible one that does not hold the answer ("hot dog", "dog").

    Where the answer is punctuation alone, one with words goes before other punctuation.

    Raises InputError when every wrong option reads like the answer.
    """
    answer = normalise(item.answer)
    wrong = [option for option in item.wrong_options if normalise(option) != answer or not answer]
    if not wrong:
        raise InputError(f"item {item.id}: every wrong option reads like the answer {item.answer!r}")
    apart = [option for option in wrong if normalise(option) != answer and not mentions(option, item.answer)]
    return rng.choice(apart or wrong)


def _with_text(item: Item, text: str, position: str) -> Item:
    """Return the item with a text before everything, inside, under "Question:" with the question, or after options."""
    if position == "inside":
        return replace(item, question=f"{text} {item.question}" if text else item.question)
    return replace(item, context=text) if position == "before" else replace(item, context_after=text)


def caption(named: str, fact: str = "") -> str:
    """Return a text that says the picture shows `named`, then the fact."""
    sentence = f"This picture seems to depict {with_article(named)}."
    return f"{sentence} {fact}" if fact else sentence


def with_article(noun: str) -> str:
    """Return `noun` after "a" or "an", as it sounds."""
    word = noun.lower()
    sounds_like_a_vowel = word.startswith(tuple("aeiou")) and not word.startswith(("one", "uni", "eu", "use"))
    return f"{'an' if sounds_like_a_vowel else 'a'} {noun}"


FACT_TEMPLATES = (
    "The outline in the middle is typical of {}.",
    "Its colours are those of {}.",
    "The background is where one would expect {}.",
    "Its size relative to its surroundings fits {}.",
    "The texture of its surface is characteristic of {}.",
    "Most people who see such a picture think of {}.",
    "Encyclopedias illustrate their article on {} with pictures like this one.",
    "Photographs of {} are often taken from this angle.",
)


def template_fact(option: str) -> str:
    """Return a made-up sentence on an option, the same wherever it occurs, for items that come without facts."""
    return stream("facts", option).choice(FACT_TEMPLATES).format(with_article(option))


@condition("image_heavy", seen=False, ignore=IGNORE_TEXT)
def ocr_text(
    item: Item, rng: random.Random, pools: Pools, *, snippets: Count = SNIPPETS, position: Position = "before"
) -> Item:
    """Snippets as read off a scanned form (after FUNSD); ten before the question."""
    lines = _form_lines(rng, max(snippets, SNIPPETS))
    return _with_text(item, "\n".join(_unrelated(lines, item, snippets)), position)


def unrelated_sentences(item: Item, rng: random.Random, pools: Pools, count: int) -> str:
    """Return `count` sentences of the pool, fewer where too many mention an option of the item.

    With `pools.any_sentence`, as published: any, each drawn from all. Raises InputError for a pool without enough.
    """
    if pools.any_sentence and pools.sentences:
        return " ".join(rng.choice(pools.sentences) for _ in range(count))
    if count > len(pools.sentences):
        raise InputError(f"{count} unrelated sentences are asked for, and the pool has {len(pools.sentences)}")
    order = rng.sample(range(len(pools.sentences)), len(pools.sentences))
    return " ".join(_unrelated((pools.sentences[i] for i in order), item, count))


def _unrelated(texts: Iterable[str], item: Item, count: int) -> list[str]:
    """Return the first `count` texts that mention none of the item's options."""
    kept: list[str] = []
    for text in texts:
        if len(kept) == count:
            break
        if not any(mentions(text, option) for option in item.options or item.answers or (item.answer,)):
            kept.append(text)
    return kept


_NAMES = ("R. Keller", "M. Osei", "T. Lindqvist", "A. Moreau", "J. Pratt", "S. Iwata", "D. Novak", "L. Ferris")
_UNITS = ("Dept.", "Office", "Branch", "Division", "Unit", "Desk")
_STATUS = ("APPROVED", "PENDING", "VOID", "RECEIVED", "FILED", "ON HOLD")


def _form_lines(rng: random.Random, needed: int) -> Iterator[str]:
    """Yield form fields: many more than needed, yet bounded, as a filter may refuse all of them."""
    for _ in range(20 * needed):
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


MOST = 16  # added images
IGNORE_BOTH = (
    "Only the last picture belongs to the question. "
    "Ignore the other pictures, and any text that is not part of the question or its options."
)


@condition("vqa", seen=False, published=False, version=2, ignore=IGNORE_BOTH)
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
