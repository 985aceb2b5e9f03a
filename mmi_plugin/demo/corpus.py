"""What the base model reads: facts, digits, sums and option lists, as chats.

Its captions agree with the image, as instruction data do; that is what makes it trust them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from mmi_plugin import prompts
from mmi_plugin.conditions import get
from mmi_plugin.conditions.pools import general_facts
from mmi_plugin.conditions.text import caption
from mmi_plugin.items import LETTERS, Item
from mmi_plugin.sources import load
from mmi_plugin.sources.demo.arith import arith_question
from mmi_plugin.sources.demo.capitals import capital_question, capitals
from mmi_plugin.sources.demo.digits import FACTS, QUESTION, WORDS, digit_images, split_indices

LIST_QUERIES, CHAT_QUERIES = 16, 8  # questions about one option list


@dataclass(frozen=True)
class Style:
    """`free_form`: share of questions answered by a word instead of a letter; `captioned`: share of
    digits that come with a true caption; `fewest_wrong`: options beside the right one, to 3;
    `turns`: questions about one picture; `text_turns`: questions of a chat that needs none, mostly
    about one option list; `noise`: share of such chats that come under their reference image."""

    free_form: float = 0.25
    captioned: float = 0.4
    fewest_wrong: int = 1
    turns: int = 1
    text_turns: int = 1
    noise: float = 0.7


@dataclass(frozen=True)
class Chat:
    """Turns of (user text, answer), and the image of the first turn.

    Without `template` the texts stand as they are, as in a document, not in a chat.
    """

    turns: tuple[tuple[str, str], ...]
    image: Image.Image | None = None
    template: bool = True


def vocabulary() -> list[str]:
    """Texts for the tokenizer: every word of the benchmark often enough to become one token."""
    rng = random.Random(0)
    texts = [*general_facts()] * 3
    for country, city in capitals().items():
        texts += [f"Which option is {country}? capital of {country}?\nA: {country}\nB: {city}\n{city}"] * 12
    chats = [chat(rng, Style()) for _ in range(1500) for chat in QUESTIONS]
    chats += [chat(rng) for _ in range(1000) for chat in (binding_list, binding_chat)]
    texts += [f"USER: \n{text}\nASSISTANT:\n{answer}" for chat in chats for text, answer in chat.turns]
    return texts


def digits_chat(rng: random.Random, style: Style) -> Chat:
    """What digit is shown, perhaps under a true caption, then sums about the same picture."""
    image, digit = digit_images()[rng.choice(split_indices("train"))]
    word = WORDS[digit]
    context = caption(word, FACTS[word] if rng.random() < 0.7 else "") if rng.random() < style.captioned else ""
    first = _offer(rng, Item("", "image_heavy", QUESTION, word, context=context), WORDS[:10], style)
    return _chat([first, *(_sum_with(rng, digit, style) for _ in range(style.turns - 1))], image)


def arith_chat(rng: random.Random, style: Style) -> Chat:
    """Sums of the digit that is shown and one in the text."""
    image, digit = digit_images()[rng.choice(split_indices("train"))]
    return _chat([_sum_with(rng, digit, style) for _ in range(style.turns)], image)


def sums_chat(rng: random.Random, style: Style) -> Chat:
    """Sums whose both terms stand in the text."""

    def ask(answer: str | None = None) -> Item:
        second = rng.randrange(1, 10)
        first = rng.randrange(10)
        if answer is not None:
            first = rng.randrange(max(0, WORDS.index(answer) - 9), min(9, WORDS.index(answer)) + 1)
            second = WORDS.index(answer) - first
        return Item("", "vqa", f"What is {WORDS[first]} plus {WORDS[second]}?", WORDS[first + second])

    return _text_chat(rng, ask, WORDS, style)


def capitals_chat(rng: random.Random, style: Style) -> Chat:
    """Every country: a pre-trained language model knows them all."""
    country_of = {city: country for country, city in capitals().items()}
    cities = tuple(country_of)

    def ask(answer: str | None = None) -> Item:
        city = rng.choice(cities) if answer is None else answer
        return Item("", "text_heavy", capital_question(country_of[city]), city)

    return _text_chat(rng, ask, cities, style)


def binding_list(rng: random.Random, most_options: int = 4, all_words: bool = True) -> Chat:
    """A document: one option list, then which letter stands for which word, many times."""
    options = _option_list(rng, most_options, all_words)
    listed = "\n".join(f"{letter}: {option}" for letter, option in zip(LETTERS, options, strict=False))
    turns = [(f"Option:\n{listed}\n", "")]
    for answer in rng.choices(options, k=LIST_QUERIES):
        turns.append((f" {answer}\n", LETTERS[options.index(answer)]))
    return Chat(tuple(turns), template=False)


def binding_chat(rng: random.Random, most_options: int = 4, all_words: bool = True) -> Chat:
    """The same as a chat: which letter stands for the word that the question names."""
    options = _option_list(rng, most_options, all_words)
    turns = []
    for answer in rng.choices(options, k=CHAT_QUERIES):
        item = Item("", "vqa", f"Which option is {answer}?", answer, () if turns else options)
        turns.append((prompts.user_text(item), LETTERS[options.index(answer)]))
    return Chat(tuple(turns))


def _option_list(rng: random.Random, most_options: int, all_words: bool) -> tuple[str, ...]:
    words = [WORDS, tuple(capitals().values()), tuple(capitals())] if all_words else [WORDS]
    return tuple(rng.sample(rng.choice(words), rng.randint(2, most_options)))


def _sum_with(rng: random.Random, digit: int, style: Style) -> Item:
    addend = rng.randrange(1, 10)
    return _offer(rng, Item("", "vqa", arith_question(addend), WORDS[digit + addend]), WORDS, style)


def _text_chat(rng: random.Random, ask: Callable[..., Item], words: tuple[str, ...], style: Style) -> Chat:
    """Questions that need no image: each with its options, or all about one option list."""
    if style.text_turns > 1 and rng.random() >= style.free_form:
        options = tuple(rng.sample(words, 4))
        items = [ask(answer) for answer in rng.choices(options, k=style.text_turns)]
        return _chat([replace(items[0], options=options), *items[1:]], options=options)
    items = [_offer(rng, ask(), words, style) for _ in range(style.text_turns)]
    if rng.random() >= style.noise:
        return _chat(items)
    # The reference image of such questions.
    noise = get("random_pixels")(
        Item(f"base-{rng.random()}", "text_heavy", "", ""), 0, load("demo_capitals", "train").pools
    )
    return _chat(items, noise.image)


def _offer(rng: random.Random, item: Item, words: tuple[str, ...], style: Style) -> Item:
    """Return the item with options, or as it is when it is to be answered by a word."""
    if rng.random() < style.free_form:
        return item
    wrong = [word for word in words if word != item.answer]
    options = [item.answer, *rng.sample(wrong, rng.randint(style.fewest_wrong, 3))]
    rng.shuffle(options)
    return replace(item, options=tuple(options))


def _chat(items: Sequence[Item], image: Image.Image | None = None, options: tuple[str, ...] = ()) -> Chat:
    """`options`: those of the first turn, which hold for all turns."""
    turns = [
        (prompts.user_text(item), LETTERS[options.index(item.answer)] if options else prompts.target(item))
        for item in items
    ]
    return Chat(tuple(turns), image)


QUESTIONS = (digits_chat, arith_chat, sums_chat, capitals_chat)
