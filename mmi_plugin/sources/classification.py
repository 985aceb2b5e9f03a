"""Photographs with a class each in, multiple-choice items out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mmi_plugin.answers import mentions
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import LETTERS, Item, stream
from mmi_plugin.sources.facts import fact_map, template_facts
from mmi_plugin.sources.local import decoded_rows
from mmi_plugin.sources.registry import SOURCES, Benchmark
from mmi_plugin.sources.table import ItemOf, Row, Table

if TYPE_CHECKING:
    from datasets import Dataset


@lru_cache
def wordnet_names() -> dict[str, str]:
    """WordNet id -> first lemma ("n02119789" -> "kit fox"), from the table that timm ships."""
    folder = Path(find_spec("timm").submodule_search_locations[0])  # without importing timm
    text = (folder / "data" / "_info" / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t", 1) for line in text.splitlines() if line)
    return {wnid: lemmas.split(",")[0].strip() for wnid, lemmas in pairs}


def readable(name: str) -> str:
    """Return a class name in words: WordNet ids looked up, underscores as spaces."""
    if re.fullmatch(r"n\d{8}", name):
        return wordnet_names().get(name, name)
    return name.replace("_", " ").strip()


@dataclass(frozen=True)
class Quiz:
    """How a class becomes options: `options` of them, the answer among them, drawn from `classes`.

    hard: the classes with the nearest names are the wrong ones; otherwise they are drawn per item.
    """

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
        chosen = wrong[: self.options - 1] if self.hard else rng.sample(wrong, self.options - 1)
        options = [answer, *chosen]
        rng.shuffle(options)
        return tuple(options)

    @cached_property
    def _wrong(self) -> Mapping[str, list[str]]:
        """Class -> the classes that can stand against it, the nearest name first."""
        return {
            name: sorted(
                (other for other in self.classes if not mentions(other, name) and not mentions(name, other)),
                key=lambda other, name=name: (-_likeness(name, other), other),
            )
            for name in self.classes
        }


def _likeness(a: str, b: str) -> float:
    """Similarity of two names as strings, from 0 to 1, the same in both directions."""
    return SequenceMatcher(None, *sorted((a, b)), autojunk=False).ratio()


@dataclass(frozen=True, eq=False)
class Classes(Table):
    """A table of images and their classes as a source.

    spoken: from the name of a class to words. cut: the hub's one split serves training and testing. label: the column
    of the classes.
    """

    question: str = ""
    spoken: Callable[[str], str] = readable
    cut: bool = False
    label: str = "label"

    def __call__(
        self, split: str, *, path: str | None = None, from_split: str | None = None,
        options: int = 4, hard: bool = False,
    ) -> Benchmark:  # fmt: skip
        """Return one question per image; with `from_split` that split is taken whole, as it is."""
        if isinstance(options, bool) or not isinstance(options, int) or not 2 <= options <= len(LETTERS):
            raise InputError(f"key 'options' is {options!r}, not an integer from 2 to {len(LETTERS)}")
        if not isinstance(hard, bool):
            raise InputError(f"key 'hard' is {hard!r}, not true or false")

        def reader(data: Dataset) -> ItemOf:
            ask = self._questions(data, options, hard)
            if from_split or not self.cut:
                return ask
            tested = held_out(self.name, len(data))
            return lambda row: ask(row) if (row.number in tested) == (split == "test") else None

        return self.benchmark(split, reader, path, from_split)

    def _questions(self, data: Dataset, options: int, hard: bool) -> ItemOf:
        """Return what makes an item of a row with `image`, `label` and perhaps `facts`."""
        feature = data.features[self.label]
        if hasattr(feature, "names"):
            names = feature.names
        else:
            names = sorted({str(row[self.label]) for row in decoded_rows(data.select_columns([self.label]), self.name)})
        words = {name: self.spoken(name) for name in names}
        quiz = Quiz(options, hard, sorted(set(words.values())))

        def item_of(row: Row) -> Item:
            label = row.values[self.label]
            if label is None or (isinstance(label, int) and not 0 <= label < len(names)):
                raise InputError(f"{row.where}: field {self.label!r} is {label}")
            answer = words[names[label] if isinstance(label, int) else label]
            chosen = quiz.choose(answer, row.item_id())
            given = fact_map(row.values.get("facts") or {}, row.where, padded=True)
            for name in given:
                if name not in quiz.classes:
                    raise InputError(
                        f"{row.where}: field 'facts' has {name!r}, no class: {nearest(name, quiz.classes)}"
                    )
            return row.item(self.question, chosen, answer, facts=given or template_facts(chosen, answer))

        return item_of


def held_out(name: str, rows: int) -> frozenset[int]:
    """Return the rows, from 0, of the cut data set `name` that are held out for testing: a fifth."""
    return frozenset(stream(name, "split").sample(range(rows), max(1, rows // 5)))


def classes(
    hub: str, question: str, *, splits: Mapping[str, str], cut: bool = False
) -> Callable[[Callable[[str], str]], Callable[[str], str]]:
    """Register a function from the name of a class to words as a source; the rest is as in `Classes`."""

    def register(spoken: Callable[[str], str]) -> Callable[[str], str]:
        name, columns = spoken.__name__, {"image": "image", "label": "class"}
        SOURCES[name] = Classes(
            name, "image_heavy", hub, None, splits, columns, question=question, spoken=spoken, cut=cut
        )
        return spoken

    return register
