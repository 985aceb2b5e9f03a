"""What the base model reads: facts, digits, sums and option lists, as chats.

Its captions agree with the image, as instruction data do; that is what makes it trust them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import Image

from mmi_plugin.conditions import get
from mmi_plugin.conditions.pools import general_facts
from mmi_plugin.conditions.text import caption
from mmi_plugin.item import LETTERS, Item, target, user_text
from mmi_plugin.sources import load
from mmi_plugin.sources.demo import (
    FACTS,
    QUESTION,
    WORDS,
    arith_question,
    capital_question,
    capitals,
    digit_images,
    split_indices,
)

LIST_QUERIES, CHAT_QUERIES = 16, 8  # questions about one option list


@dataclass(frozen=True)
class Style:
    """`free_form`: share of questions answered by a word instead of a letter; `captioned`: share of
    digits that come with a true caption; `fewest_wrong`: options beside the right one, to 3;
    `noise`: share of text questions under their reference image, the others having none; of questions beside
    a slip, `unheard`: share about countries that nobody knows, `spelled`: share that ask for the letter alone."""

    free_form: float = 0.25
    captioned: float = 0.4
    fewest_wrong: int = 1
    noise: float = 1.0
    unheard: float = 0.8
    spelled: float = 0.0


@dataclass(frozen=True)
class Chat:
    """Turns of (user text, answer), and the image of the first turn.

    Without `template` the texts stand as they are, as in a document, not in a chat.
    """

    turns: tuple[tuple[str, str], ...]
    image: Image.Image | None = None
    template: bool = True


@lru_cache
def _seen_digits() -> tuple[int, ...]:
    """Every image that is not in the test."""
    return tuple(sorted(split_indices("train") + split_indices("validation")))


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
    image, digit = digit_images()[rng.choice(_seen_digits())]
    item = Item("", "image_heavy", QUESTION, WORDS[digit], image=image, context=_true_caption(rng, digit, style))
    return _ask(rng, item, WORDS[:10], style)


def arith_chat(rng: random.Random, style: Style) -> Chat:
    image, digit = digit_images()[rng.choice(_seen_digits())]
    addend = rng.randrange(1, 10)
    item = Item("", "vqa", arith_question(addend), WORDS[digit + addend], image=image)
    return _ask(rng, item, WORDS, style)


def sums_chat(rng: random.Random, style: Style) -> Chat:
    """Sums whose both terms stand in the text."""
    first, second = rng.randrange(10), rng.randrange(1, 10)
    question = f"What is {WORDS[first]} plus {WORDS[second]}?"
    return _ask(rng, _with_noise(rng, question, WORDS[first + second], style), WORDS, style)


def capitals_chat(rng: random.Random, style: Style) -> Chat:
    """Every country: a pre-trained language model knows them all."""
    country, city = rng.choice(sorted(capitals().items()))
    return _ask(rng, _with_noise(rng, capital_question(country), city, style), tuple(capitals().values()), style)


def turns_chat(rng: random.Random, style: Style) -> Chat:
    """A question about the image, then one that has nothing to do with it, as in instruction data."""
    about = digits_chat(rng, replace(style, captioned=0.0))
    other = capitals_chat(rng, replace(style, noise=0.0))
    return Chat((*about.turns, *other.turns), about.image)


def later_chat(rng: random.Random, style: Style) -> Chat:
    """The same the other way round: what the image shows is asked when other things have been said."""
    about = digits_chat(rng, replace(style, captioned=0.0))
    other = [capitals_chat(rng, replace(style, noise=0.0)) for _ in range(rng.randint(1, 3))]
    return Chat((*(turn for chat in other for turn in chat.turns), *about.turns), about.image)


def slip_chat(rng: random.Random, style: Style) -> Chat:
    """A question beside a slip of paper on which its answer stands, as instruction data have it of documents.

    Most countries are such as nobody has heard of: there, only the slip tells. None of the slips is wrong.
    """
    country, answer = rng.choice(sorted(capitals().items()))
    if rng.random() < style.unheard:
        country = _unheard(rng)
    wrong = rng.sample([city for city in capitals().values() if city != answer], rng.randint(style.fewest_wrong, 3))
    options = rng.sample([answer, *wrong], len(wrong) + 1)
    item = Item(f"base-{rng.random()}", "text_heavy", capital_question(country), answer, tuple(options))
    slip = get("matching_image")(item, 0, load("demo_capitals", "train").pools).image
    if rng.random() < style.spelled:
        return Chat(((user_text(Item("", "vqa", "What letter is shown in the picture?", "")), item.gold),), slip)
    return Chat(((user_text(item), target(item)),), slip)


def _unheard(rng: random.Random) -> str:
    """The beginning of one country's name and the end of another's."""
    first, second = rng.sample(sorted(capitals()), 2)
    return first[: len(first) // 2] + second[len(second) // 2 :]


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
        turns.append((user_text(item), LETTERS[options.index(answer)]))
    return Chat(tuple(turns))


def _option_list(rng: random.Random, most_options: int, all_words: bool) -> tuple[str, ...]:
    words = [WORDS, tuple(capitals().values()), tuple(capitals())] if all_words else [WORDS]
    return tuple(rng.sample(rng.choice(words), rng.randint(2, most_options)))


def _true_caption(rng: random.Random, digit: int, style: Style) -> str:
    if rng.random() >= style.captioned:
        return ""
    word = WORDS[digit]
    return caption(word, FACTS[word] if rng.random() < 0.7 else "")


def _with_noise(rng: random.Random, question: str, answer: str, style: Style) -> Item:
    """A question that needs no image, mostly under the reference image of such questions."""
    item = Item(f"base-{rng.random()}", "text_heavy", question, answer)
    if rng.random() >= style.noise:
        return item
    return get("random_pixels")(item, 0, load("demo_capitals", "train").pools)


def _ask(rng: random.Random, item: Item, words: tuple[str, ...], style: Style) -> Chat:
    if rng.random() >= style.free_form:
        wrong = [word for word in words if word != item.answer]
        options = [item.answer, *rng.sample(wrong, rng.randint(style.fewest_wrong, 3))]
        rng.shuffle(options)
        item = replace(item, options=tuple(options))
    return Chat(((user_text(item), target(item)),), item.image)


QUESTIONS = (digits_chat, arith_chat, sums_chat, capitals_chat)
ASKED = (*QUESTIONS, turns_chat, later_chat, slip_chat)
