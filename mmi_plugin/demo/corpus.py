"""What the base model reads: facts, digits, sums and option lists, as chats.

Its captions agree with the image, as instruction data do; that is what makes it trust them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from PIL import Image

from mmi_plugin import prompts
from mmi_plugin.conditions import get
from mmi_plugin.items import LETTERS, Item
from mmi_plugin.sources import load
from mmi_plugin.sources.demo.arith import arith_question
from mmi_plugin.sources.demo.capitals import capital_question, capitals
from mmi_plugin.sources.demo.digits import FACTS, QUESTION, WORDS, digit_images, split_indices

CAPTIONED = 0.4  # share of image questions whose image comes with a true caption
FREE_FORM = 0.25  # share of questions answered by a word instead of a letter
QUERIES = 16  # questions about one option list


@dataclass(frozen=True)
class Chat:
    """Turns of (user text, answer), and the image of the first turn."""

    turns: tuple[tuple[str, str], ...]
    image: Image.Image | None = None


def digits_chat(rng: random.Random) -> Chat:
    image, digit = digit_images()[rng.choice(split_indices("train"))]
    item = Item("", "image_heavy", QUESTION, WORDS[digit], image=image, context=_caption(rng, digit))
    return _ask(rng, item, WORDS[:10])


def arith_chat(rng: random.Random) -> Chat:
    image, digit = digit_images()[rng.choice(split_indices("train"))]
    addend = rng.randrange(1, 10)
    item = Item("", "vqa", arith_question(addend), WORDS[digit + addend], image=image)
    return _ask(rng, item, WORDS)


def capitals_chat(rng: random.Random) -> Chat:
    """Every country: a pre-trained language model knows them all."""
    country, city = rng.choice(sorted(capitals().items()))
    item = Item(f"base-{rng.random()}", "text_heavy", capital_question(country), city)
    item = get("random_pixels")(item, 0, load("demo_capitals", "train").pools)
    return _ask(rng, item, tuple(capitals().values()))


def binding_chat(rng: random.Random, most_options: int = 4, all_words: bool = True) -> Chat:
    """Text only: one option list, then which letter stands for which word, many times."""
    lists = [WORDS, tuple(capitals().values()), tuple(capitals())] if all_words else [WORDS]
    options = rng.sample(rng.choice(lists), rng.randint(2, most_options))
    listed = "\n".join(f"{letter}: {option}" for letter, option in zip(LETTERS, options, strict=False))
    turns = [(f"Option:\n{listed}\n", "")]
    for answer in rng.choices(options, k=QUERIES):
        turns.append((f" {answer}\n", LETTERS[options.index(answer)]))
    return Chat(tuple(turns))


def _caption(rng: random.Random, digit: int) -> str:
    if rng.random() >= CAPTIONED:
        return ""
    word = WORDS[digit]
    caption = f"This picture seems to depict {'an' if word == 'eight' else 'a'} {word}."
    return f"{caption} {FACTS[word]}" if rng.random() < 0.7 else caption


def _ask(rng: random.Random, item: Item, words: tuple[str, ...]) -> Chat:
    if rng.random() >= FREE_FORM:
        wrong = [word for word in words if word != item.answer]
        options = [item.answer, *rng.sample(wrong, 3)]
        rng.shuffle(options)
        item = replace(item, options=tuple(options))
    return Chat(((prompts.user_text(item), prompts.target(item)),), item.image)
