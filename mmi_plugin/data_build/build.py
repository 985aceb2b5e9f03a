"""`mmi data build`: the parts of a recipe, one after the other, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mmi_plugin.data_build.leaks import Leaks
from mmi_plugin.data_build.recipe import Make, Part, Recipe
from mmi_plugin.data_build.shards import file_hash, write_shard
from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.items import Item
from mmi_plugin.provenance import versions
from mmi_plugin.sources.built import MANIFEST

RECIPE = "recipe.json"
STATE = "state.json"


def build(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Write the training set below `out` and return its manifest, which is written last.

    A build that was stopped goes on after its last whole shard when it is started again.

    Raises:
        InputError: `out` holds another recipe's build; a bad row, unless the recipe skips those.
    """
    wanted = json.loads(json.dumps(recipe.to_dict()))
    if (out / RECIPE).is_file() and json.loads((out / RECIPE).read_text()) != wanted:
        raise InputError(f"{out}: holds the build of another recipe; remove it or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
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
        state = json.loads((folder / STATE).read_text())
    rows = part.rows() if not state["done"] else iter(())
    rows = islice(rows, state["read"], None)
    while not state["done"]:
        sieve = _Sieve(part, recipe, leaks)
        name = f"{len(state['shards']):05d}"
        count = write_shard(islice(sieve.items(rows), recipe.rows_per_shard), folder / f"{name}.parquet")
        if sieve.left_out:
            (folder / f"{name}.left_out.txt").write_text("".join(f"{line}\n" for line in sieve.left_out))
        for key in ("read", "skipped", "refused"):
            state[key] += getattr(sieve, key)
        for family, number in sieve.families.items():
            state["items"][family] = state["items"].get(family, 0) + number
        if count:
            file = folder / f"{name}.parquet"
            state["shards"].append({"file": f"{part.source}/{file.name}", "rows": count, "sha256": file_hash(file)})
        state["done"] = count < recipe.rows_per_shard
        _write(folder / STATE, state)
    return {"licence": part.licence} | {key: value for key, value in state.items() if key != "done"}


class _Sieve:
    """Lets the items of one shard through; counts what it read, and names what it left out."""

    def __init__(self, part: Part, recipe: Recipe, leaks: Leaks) -> None:
        self._part, self._recipe, self._leaks = part, recipe, leaks
        self.read = self.skipped = self.refused = 0
        self.families: dict[str, int] = {}
        self.left_out: list[str] = []

    def items(self, rows: Iterator[Make]) -> Iterator[Item]:
        for make in rows:
            self.read += 1
            bad = BadRows(self._recipe.on_bad_row == "skip")
            with bad.watch():
                item = make()
                if item.picture is not None:
                    item.picture.open()
            if bad.lines:
                self.skipped += 1
                self.left_out += bad.lines
            elif self._part.draws(item, self._recipe.seed) and not self._repeats(item):
                self.families[item.family] = self.families.get(item.family, 0) + 1
                yield item

    def _repeats(self, item: Item) -> bool:
        test = self._leaks.find(item)
        if test:
            self.refused += 1
            self.left_out.append(f"{item.id}: is the test item {test}")
        return test is not None


def _write(file: Path, content: Any) -> None:
    started = file.with_suffix(".started")
    started.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    started.replace(file)
