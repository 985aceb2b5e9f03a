"""A benchmark in, the documents of a task out: every item under every condition, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from mmi_plugin.conditions import check_names, fitting, get
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import LETTERS, Item, image_hash, target, user_text
from mmi_plugin.pictures import Picture
from mmi_plugin.plugins import origin
from mmi_plugin.sources import SOURCES, Benchmark, load, options_of
from mmi_plugin.sources.facts import with_facts
from mmi_plugin.sources.materials import ACTS_ON, SETTINGS, Materials, acting, profile, settings_in


def from_outside(source: str, conditions: Sequence[str], prompts: object = None) -> dict[str, str]:
    """Return the files and packages of a user's own that a source, conditions and a model's prompts are of, with hashes
    of their code."""
    used = [SOURCES.get(source), *(get(name).perturb for name in conditions), type(prompts)]
    return {name: code for one in filter(None, used) for name, code in origin(one.__module__).items()}


@dataclass(frozen=True)
class Selection:
    """Which benchmark a task asks, under which conditions; `conditions` is never empty.

    options: the source's own, as (name, value). facts: a file of facts on wrong options, in place of the items' own.
    materials: what its conditions draw from and how its prompts are put, where not as the data set has it.
    """

    source: str
    split: str
    conditions: tuple[str, ...]
    seed: int
    options: tuple[tuple[str, Any], ...] = ()
    facts: str | None = None
    materials: Materials = Materials()  # noqa: RUF009

    @classmethod
    def parse(cls, options: Mapping[str, Any], split: str, task: str) -> Selection:
        """Return the selection that a task's `dataset_kwargs` describe.

        Raises InputError that begins with the task's name for an unknown or missing key, source,
        pool or condition, a condition of another family, a value of another type, bad data.
        """
        if not isinstance(options.get("source"), str):
            raise InputError(f"{task}: key 'source' is missing in dataset_kwargs")
        try:
            own = options_of(options["source"])
            for key in options:
                if key not in (*_OPTIONS, *own):
                    raise InputError(f"unknown key {key!r} in dataset_kwargs: {nearest(key, (*_OPTIONS, *own))}")
                if key != "conditions" and not isinstance(options[key], _TYPES.get(key, str)):
                    raise InputError(f"key {key!r} is {options[key]!r}, not {_TYPES.get(key, str).__name__}")
            chosen = tuple(sorted((key, value) for key, value in options.items() if key in own))
            bench = load(options["source"], split, **dict(chosen))
            conditions = _conditions(options.get("conditions"), bench)
            seed, facts = options.get("seed", 0), options.get("facts")
            selection = cls(options["source"], split, conditions, seed, chosen, facts, _materials(options, conditions))
            selection.benchmark()
        except InputError as error:
            raise InputError(f"{task}: {error}") from error
        return selection

    def to_dict(self) -> dict[str, Any]:
        """Return the `dataset_kwargs` that describe this selection in full."""
        return {
            "source": self.source,
            "conditions": list(self.conditions),
            "seed": self.seed,
            **dict(self.options),
            **({} if self.facts is None else {"facts": self.facts}),
            **self.materials.to_dict(),
        }

    def benchmark(self) -> Benchmark:
        """Return the benchmark with its facts and the pools to draw from. Raises InputError for a bad pool or file."""
        bench = load(self.source, self.split, **dict(self.options))
        if self.facts is not None:
            bench = with_facts(bench, Path(self.facts))
        pools = self.materials.over(bench.pools)
        return bench if pools is bench.pools else replace(bench, pools=pools)


_OPTIONS = ("source", "conditions", "seed", "facts", "profile", *SETTINGS)
_TYPES = {"seed": int, "draws": int, "canvas": int, "options": int, "hard": bool}  # every other key is a text


def _materials(options: Mapping[str, Any], conditions: Sequence[str]) -> Materials:
    """Return what is set of the materials, by `profile` or by itself. Raises InputError for what would not act."""
    given = settings_in(options)
    for key in given:
        if key not in acting(given, conditions):
            raise InputError(f"key {key!r} acts on {', '.join(ACTS_ON[key])}, and none of them is asked")
    return Materials(**(profile(options["profile"], conditions) if "profile" in options else {}) | given)


def _conditions(names: list[str] | None, bench: Benchmark) -> tuple[str, ...]:
    """Return `names`, checked, or the published conditions that fit."""
    if names is None:
        return bench.conditions
    try:
        checked = check_names(names, bench.family)
    except InputError as error:
        raise InputError(f"key 'conditions': {error}") from error
    for name in checked:
        if not fitting([name], bench.metric):
            raise InputError(f"key 'conditions': {name!r} names an option, and free-form questions have none")
    return checked


_STAND_IN = Image.new("RGB", (32, 32))
_REMEMBERED = 512  # images whose name is kept


@dataclass(frozen=True, eq=False)
class Documents:
    """What is asked of a benchmark, in `rows`: one per item and condition, the rows of an item next to each other.

    Columns: item_id, family, condition, seed, gold (letter), named (letter or None), prompt, choices (the
    letters), options (what they stand for), image_key (equal where the images are, or None), cluster (equal where items
    share an image or a passage, or None), group (equal where items count together, or None). Of a free-form question
    gold is its answer, answers all that count and metric how they are compared; else these are empty and None. Images
    are not stored: `item` makes them when they are needed.
    """

    bench: Benchmark
    rows: Dataset

    @cached_property
    def _items(self) -> dict[str, Item]:
        return {item.id: item for item in self.bench.items}

    def item(self, row: Mapping[str, Any]) -> Item:
        """Return the item of a row under the row's condition."""
        return perturbed(self.bench, self._items[row["item_id"]], row["condition"], row["seed"])


@lru_cache(maxsize=8)
def documents(bench: Benchmark, conditions: tuple[str, ...], seed: int = 0, limit: int | None = None) -> Documents:
    """Return the documents of the first `limit` items of a benchmark under all `conditions`, drawn with `seed`.

    Raises InputError that names an item without options which no metric scores, or with an id that occurs twice.
    """
    return Documents(bench, Dataset.from_list(list(_rows(bench, conditions, seed, limit))))


def _rows(bench: Benchmark, conditions: tuple[str, ...], seed: int, limit: int | None) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    names = _ImageNames()
    for item in bench.items[:limit]:
        if item.id in seen:
            raise InputError(f"{bench.name}: item {item.id}: field 'id' occurs twice")
        if not item.options and not (bench.metric and item.answers):
            raise InputError(f"{bench.name}: item {item.id}: field 'options' is missing or empty")
        seen.add(item.id)
        # A prompt does not depend on pixels: no picture is decoded for it.
        unseen = replace(item, image=_STAND_IN) if isinstance(item.picture, Picture) else item
        for name in conditions:
            changed = perturbed(bench, unseen, name, seed)
            yield {
                "item_id": item.id,
                "family": item.family,
                "condition": name,
                "seed": seed,
                "gold": target(changed),
                "named": changed.named and changed.letter(changed.named) if item.options else changed.named,
                "prompt": user_text(changed),
                "choices": LETTERS[: len(item.options)],
                "options": list(changed.options),
                "answers": [] if item.options else list(item.answers),
                "metric": None if item.options else bench.metric,
                "image_key": names.of(item, changed),
                "group": item.group,
                "cluster": item.cluster or item.group or (None if item.picture is None else names.own(item)),
            }


class _ImageNames:
    """Names images by their content, and hashes an image that serves many items once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Image.Image | Picture, str]] = {}

    def own(self, item: Item) -> str:
        """Return the name of the item's own image."""
        return self._hash(item.picture)

    def of(self, item: Item, changed: Item) -> str | None:
        """Return what all prompts with the images of `changed`, made from `item` or a stand-in, have in common."""
        own = self.own(item)
        kept = [picture is _STAND_IN or picture is item.picture for picture in changed.pictures]
        names = [own if same else self._hash(picture) for same, picture in zip(kept, changed.pictures, strict=True)]
        derived = item.picture is not None and not kept[-1]  # what a stand-in was turned into tells too little
        return "-".join([own, *names] if derived else names) or None

    def _hash(self, picture: Image.Image | Picture | None) -> str:
        if id(picture) not in self._known:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            self._known[id(picture)] = picture, image_hash(picture)[:16]
        return self._known[id(picture)][1]


def perturbed(bench: Benchmark, item: Item, condition: str, seed: int) -> Item:
    """Return `item` under `condition`, drawing from the benchmark's pools."""
    return get(condition)(item, seed, bench.pools)
