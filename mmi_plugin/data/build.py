"""`mmi data build`: a recipe of public data in, shards of a training set free of test items out."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from mmi_plugin.answers import normalise
from mmi_plugin.errors import BadRows, InputError, nearest
from mmi_plugin.files import file_hash, parse_json, read_mapping, read_text, versions, write_whole
from mmi_plugin.item import Item, image_hash, stream
from mmi_plugin.sources import SOURCES, llava_instruct, load
from mmi_plugin.sources.records import split_options
from mmi_plugin.sources.shards import MANIFEST, write_shard
from mmi_plugin.trainers.named import find_config


@dataclass(frozen=True)
class Part:
    """One data set of the mixture: its train split, or the `share` of it that is drawn."""

    source: str
    licence: str
    share: float = 1.0
    path: str | None = None

    def rows(self) -> Iterator[Callable[[], Item]]:
        """Yield per row what reads its item, always in the same order; that raises an InputError for a bad row."""
        if self.source == llava_instruct.NAME:
            return llava_instruct.readers(self.path)
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


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a YAML file. Raises InputError that names file and key."""
    content = read_mapping(path, "keys and values")
    _check_keys(content, Recipe, str(path))
    if not isinstance(content["parts"], list) or not content["parts"]:
        raise InputError(f"{path}: key 'parts' is not a list of data sets")
    parts = []
    for number, part in enumerate(content["parts"], start=1):
        where = f"{path}: key 'parts', entry {number}"
        _check_keys(part, Part, where)
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


def _check_keys(content: Any, of: type, where: str) -> None:
    """Raise an InputError unless `content` is a mapping that the dataclass `of` can be made from."""
    if not isinstance(content, dict):
        raise InputError(f"{where}: holds {type(content).__name__}, not keys and values")
    known = {field.name: field for field in fields(of)}
    for name in content:
        if name not in known:
            raise InputError(f"{where}: unknown key {name!r}: {nearest(str(name), known)}")
    for name, field in known.items():
        if name not in content and field.default is MISSING:
            raise InputError(f"{where}: key {name!r} is missing")


def _check_source(name: Any, known: Any, where: str) -> None:
    if name not in known:
        raise InputError(f"{where}: unknown source {name!r}: {nearest(str(name), known)}")


class Leaks:
    """The test items of some sources, by normalised text and by the hash of the decoded image.

    A text counts where the text is the whole question: many image questions share one wording.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.counts: dict[str, int] = {}
        self._texts: dict[str, str] = {}
        self._images: dict[str, str] = {}
        for name in sources:
            items = load(name, "test").items
            self.counts[name] = len(items)
            for item in items:
                if item.picture is None:
                    self._texts[_text(item)] = item.id
                else:
                    self._images[image_hash(item.image)] = item.id

    def find(self, item: Item) -> str | None:
        """Return the id of the test item that `item` repeats, if it does."""
        if item.picture is not None and (found := self._images.get(image_hash(item.image))):
            return found
        return self._texts.get(_text(item))


def _text(item: Item) -> str:
    """Return question and options, these in any order, without case, width and punctuation at the ends."""
    question, options = (item.question, item.options) if item.options else split_options(item.question)
    return "\n".join([normalise(question), *sorted(map(normalise, options))])


RECIPE = "recipe.json"
STATE = "state.json"


def build(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Write the training set below `out` and return its manifest, which is written last.

    A build that was stopped goes on after its last whole shard when it is started again.

    Raises:
        InputError: `out` holds another recipe's build; a bad row, unless the recipe skips those.
    """
    wanted = json.loads(json.dumps(asdict(recipe)))
    if (out / RECIPE).is_file() and _read(out / RECIPE) != wanted:
        raise InputError(f"{out}: holds the build of another recipe; remove it or choose another folder")
    _write(out / RECIPE, wanted)
    leaks = Leaks(recipe.exclude)
    parts = {part.source: _build_part(part, recipe, out, leaks) for part in recipe.parts}
    manifest = {"recipe": wanted, "excluded_test_items": leaks.counts, "parts": parts, "versions": versions()}
    _write(out / MANIFEST, manifest)
    return manifest


def _build_part(part: Part, recipe: Recipe, out: Path, leaks: Leaks) -> dict[str, Any]:
    """Write the shards of a part that are not there yet; return its entry in the manifest."""
    folder = out / part.source
    folder.mkdir(exist_ok=True)
    state: dict[str, Any] = {"read": 0, "skipped": 0, "refused": 0, "items": {}, "shards": [], "done": False}
    if (folder / STATE).is_file():
        state = _read(folder / STATE)
    rows = iter(()) if state["done"] else islice(part.rows(), state["read"], None)
    while not state["done"]:
        sieve = _Sieve(part, recipe, leaks)
        file = folder / f"{len(state['shards']):05d}.parquet"
        count = write_shard(islice(sieve.items(rows), recipe.rows_per_shard), file)
        if sieve.left_out:
            write_whole(file.with_suffix(".left_out.txt"), "".join(f"{line}\n" for line in sieve.left_out))
        for key, number in sieve.counts.items():
            state[key] += number
        state["items"] = dict(Counter(state["items"]) + sieve.families)
        if count:
            state["shards"].append({"file": f"{part.source}/{file.name}", "rows": count, "sha256": file_hash(file)})
        state["done"] = count < recipe.rows_per_shard
        _write(folder / STATE, state)
    return {"licence": part.licence} | {key: value for key, value in state.items() if key != "done"}


class _Sieve:
    """Lets the items of one shard through; counts what it read, and names what it left out."""

    def __init__(self, part: Part, recipe: Recipe, leaks: Leaks) -> None:
        self._part, self._recipe, self._leaks = part, recipe, leaks
        self.counts = Counter(read=0, skipped=0, refused=0)
        self.families: Counter[str] = Counter()
        self.left_out: list[str] = []

    def items(self, rows: Iterator[Callable[[], Item]]) -> Iterator[Item]:
        for read in rows:
            self.counts["read"] += 1
            bad = BadRows(self._recipe.on_bad_row == "skip")
            with bad.watch():
                item = read()
                if item.picture is not None:
                    item.picture.open()
            if bad.lines:
                self.counts["skipped"] += 1
                self.left_out += bad.lines
            elif not self._part.draws(item, self._recipe.seed):
                continue
            elif test := self._leaks.find(item):
                self.counts["refused"] += 1
                self.left_out.append(f"{item.id}: is the test item {test}")
            else:
                self.families[item.family] += 1
                yield item


def _read(file: Path) -> Any:
    return parse_json(read_text(file), str(file))


def _write(file: Path, content: Any) -> None:
    write_whole(file, json.dumps(content, indent=1) + "\n")


def run(args: argparse.Namespace) -> int:
    """Build, and print a line per part; return 0."""
    manifest = build(read_recipe(find_config(str(args.config), "data")), args.out)
    for name, part in manifest["parts"].items():
        items = sum(part["items"].values())
        left = f"{part['skipped']} bad rows left out, {part['refused']} test items refused"
        print(f"{name}: {items} items of {part['read']} rows in {len(part['shards'])} shards; {left}")
    return 0
