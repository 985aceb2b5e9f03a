"""From image classification to multiple choice."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import TYPE_CHECKING

from mmi_plugin.answers import mentions
from mmi_plugin.errors import InputError
from mmi_plugin.items import LETTERS, Item
from mmi_plugin.seeding import stream
from mmi_plugin.sources.facts import given_facts, template_facts
from mmi_plugin.sources.table import Row

if TYPE_CHECKING:
    from datasets import Dataset


_WNID = re.compile(r"n\d{8}")


@lru_cache
def wordnet_names() -> dict[str, str]:
    """WordNet id -> first lemma ("n02119789" -> "kit fox"), from the table that timm ships."""
    folder = Path(find_spec("timm").submodule_search_locations[0])  # without importing timm
    text = (folder / "data" / "_info" / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t", 1) for line in text.splitlines() if line)
    return {wnid: lemmas.split(",")[0].strip() for wnid, lemmas in pairs}


def readable(name: str) -> str:
    """Return a class name in words: WordNet ids looked up, underscores as spaces."""
    if _WNID.fullmatch(name):
        return wordnet_names().get(name, name)
    return name.replace("_", " ").strip()


def class_names(data: Dataset, column: str) -> list[str]:
    """Return the raw names of all classes, in the order of their labels or of the alphabet."""
    feature = data.features[column]
    return feature.names if hasattr(feature, "names") else sorted({str(name) for name in data[column]})


@dataclass(frozen=True)
class Quiz:
    """How a picture and its class become a question.

    `options` is how many there are, the answer among them; `hard` takes the classes with the
    nearest names as wrong ones, otherwise they are drawn per item.
    """

    question: str
    options: int
    hard: bool
    classes: Sequence[str]

    def choose(self, answer: str, *names: object) -> tuple[str, ...]:
        """Return the options in their order, a pure function of the classes, the answer and `names`.

        No wrong option contains the answer in words or is contained in it ("flamingo", "flamingo head").
        Raises InputError when too few classes are left.
        """
        rng = stream("options", *names)
        wrong = self._wrong[answer]
        if len(wrong) < self.options - 1:
            raise InputError(f"key 'options' is {self.options}, and {answer!r} has only {len(wrong)} wrong classes")
        chosen = list(wrong[: self.options - 1]) if self.hard else rng.sample(wrong, self.options - 1)
        options = [answer, *chosen]
        rng.shuffle(options)
        return tuple(options)

    @cached_property
    def _wrong(self) -> Mapping[str, list[str]]:
        """Class -> the classes that can stand against it, the nearest name first."""
        return {
            name: sorted(self._apart(name), key=lambda other: (-_likeness(name, other), other)) for name in self.classes
        }

    def _apart(self, name: str) -> list[str]:
        return [other for other in self.classes if not mentions(other, name) and not mentions(name, other)]


def _likeness(a: str, b: str) -> float:
    """Similarity of two names as strings, from 0 to 1, the same in both directions."""
    return SequenceMatcher(None, *sorted((a, b)), autojunk=False).ratio()


def check_options(options: int, hard: bool) -> None:
    """Raise an InputError unless `options` and `hard` make a quiz."""
    if isinstance(options, bool) or not isinstance(options, int) or not 2 <= options <= len(LETTERS):
        raise InputError(f"key 'options' is {options!r}, not an integer from 2 to {len(LETTERS)}")
    if not isinstance(hard, bool):
        raise InputError(f"key 'hard' is {hard!r}, not true or false")


def quiz_maker(
    source: str, split: str, question: str, options: int, hard: bool, words: Mapping[str, str] | None = None
) -> Callable[[Dataset], Callable[[Row], Item]]:
    """Return what makes items of rows with `image`, `label` and perhaps `facts`.

    words: class names that `readable` would not say well -> how to say them.
    """
    check_options(options, hard)

    def maker(data: Dataset) -> Callable[[Row], Item]:
        named = class_names(data, "label")
        spoken = {name: (words or {}).get(name, readable(name)) for name in named}
        quiz = Quiz(question, options, hard, sorted(set(spoken.values())))

        def make(row: Row) -> Item:
            label = row.values["label"]
            if label is None or (isinstance(label, int) and not 0 <= label < len(named)):
                raise InputError(f"{row.where}: field 'label' is {label}")
            answer = spoken[named[label] if isinstance(label, int) else label]
            name = f"{source}-{split}-{row.number:06d}"
            chosen = quiz.choose(answer, name)
            given = given_facts(row.values.get("facts") or {}, row.where)
            facts = given or template_facts(chosen, answer)
            return Item(name, "image_heavy", question, answer, chosen, row.picture("image"), facts)

        return make

    return maker
