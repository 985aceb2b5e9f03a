"""What a training set is made of, from a YAML file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.items import Item
from mmi_plugin.mapping_file import read_mapping
from mmi_plugin.seeding import stream
from mmi_plugin.sources import SOURCES, llava_instruct, load

Make = Callable[[], Item]


@dataclass(frozen=True)
class Part:
    """One data set of the mixture: its train split, or the `share` of it that is drawn."""

    source: str
    licence: str
    share: float = 1.0
    path: str | None = None

    def rows(self) -> Iterator[Make]:
        """Yield per row what makes its item, always in the same order."""
        if self.source == llava_instruct.NAME:
            return llava_instruct.stream(self.path)
        options = {} if self.path is None else {"path": self.path}
        return ((lambda item=item: item) for item in load(self.source, "train", **options).items)

    def draws(self, item: Item, seed: int) -> bool:
        """Whether `item` is in the share: a function of its id and the seed alone."""
        return self.share >= 1 or stream("share", seed, item.id).random() < self.share


@dataclass(frozen=True)
class Recipe:
    """`exclude`: sources whose test items must not be in the set. `on_bad_row`: stop or skip."""

    parts: tuple[Part, ...]
    exclude: tuple[str, ...]
    seed: int = 0
    rows_per_shard: int = 5000
    on_bad_row: str = "stop"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a YAML file. Raises InputError that names file and key."""
    content = read_mapping(path, "keys and values")
    _check_keys(content, Recipe, ("parts", "exclude"), str(path))
    if not isinstance(content["parts"], list) or not content["parts"]:
        raise InputError(f"{path}: key 'parts' is not a list of data sets")
    parts = []
    for number, part in enumerate(content["parts"], start=1):
        where = f"{path}: key 'parts', entry {number}"
        _check_keys(part, Part, ("source", "licence"), where)
        _check_source(part["source"], (*SOURCES, llava_instruct.NAME), where)
        if not isinstance(part.get("share", 1), (int, float)) or not 0 < part.get("share", 1) <= 1:
            raise InputError(f"{where}: key 'share' is {part['share']!r}, not above 0 and at most 1")
        if part["source"] in (earlier.source for earlier in parts):
            raise InputError(f"{where}: key 'source' {part['source']!r} occurs twice")
        parts.append(Part(**part))
    if not isinstance(content["exclude"], list):
        raise InputError(f"{path}: key 'exclude' is not a list of sources")
    for name in content["exclude"]:
        _check_source(name, SOURCES, f"{path}: key 'exclude'")
    recipe = Recipe(**{**content, "parts": tuple(parts), "exclude": tuple(content["exclude"])})
    if type(recipe.rows_per_shard) is not int or recipe.rows_per_shard < 1:
        raise InputError(f"{path}: key 'rows_per_shard' is {recipe.rows_per_shard!r}, not a positive integer")
    if recipe.on_bad_row not in ("stop", "skip"):
        raise InputError(f"{path}: key 'on_bad_row' is {recipe.on_bad_row!r}, not stop or skip")
    return recipe


def _check_keys(content: Any, of: type, required: tuple[str, ...], where: str) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{where}: holds {type(content).__name__}, not keys and values")
    known = [field.name for field in fields(of)]
    for name in content:
        if name not in known:
            raise InputError(f"{where}: unknown key {name!r}: {nearest(str(name), known)}")
    for name in required:
        if name not in content:
            raise InputError(f"{where}: key {name!r} is missing")


def _check_source(name: Any, known: Any, where: str) -> None:
    if name not in known:
        raise InputError(f"{where}: unknown source {name!r}: {nearest(str(name), known)}")
