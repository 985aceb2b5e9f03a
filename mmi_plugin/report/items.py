"""Items as the page shows them: every model's answers to browse, and examples of what a training changed."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from mmi_plugin.conditions import REFERENCE
from mmi_plugin.documents import Selection, perturbed
from mmi_plugin.errors import InputError, shorten, visible
from mmi_plugin.item import Item, stream
from mmi_plugin.report.board import Leaderboard
from mmi_plugin.report.files import words
from mmi_plugin.results import Record, TaskResult, group_by_item
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.sources import Benchmark

EMBEDDED = ("demo_digits", "demo_capitals", "demo_arith")
ITEMS = 1000  # per data set in the page itself
THUMBNAIL = 160  # longest side in pixels
PROMPT_LIMIT, ANSWER_LIMIT, NAME_LIMIT = 4000, 300, 80  # characters


class _Table:
    """Distinct values by index: prompts and pictures repeat across conditions and items."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._index: dict[str, int] = {}

    def add(self, value: str) -> int:
        if value not in self._index:
            self._index[value] = len(self.values)
            self.values.append(value)
        return self._index[value]


class Browser:
    """What the page's browser shows of the items of one task: `first`, at most `ITEMS`, those with the most changed
    answers, and `rest`, both in the order of ids.

    Pictures are made anew from the data set where it is at hand and the same by its content hash; `remark` says so
    where it is not. `anywhere`: also of a data set that only the results name, from wherever they say.
    """

    def __init__(self, board: Leaderboard, task: str, anywhere: bool = False) -> None:
        self._conditions, self._names = board.outcomes[task].conditions, board.names
        results = [run.results[task] for run in board.runs]
        self._groups = [group_by_item(result.records) for result in results]
        asked = zip(results[0].records, results[0].prompts, strict=True)
        self._prompts = {(record.item_id, record.condition): prompt for record, prompt in asked}
        self._seed = results[0].seed
        self._benchmark, self.remark = _benchmark(results[0], anywhere)
        self._pictures = {item.id: item for item in self._benchmark.items} if self._benchmark else {}
        self.first, self.rest = _chosen([run.outcomes[task] for run in board.runs])

    def data(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the items `ids`. Texts and pictures are indices into `texts` and `images`; conditions stand as in the
        outcomes, the reference first, models in the order of rank."""
        texts, images = _Table(), _Table()
        return {
            "conditions": [words(name) for name in self._conditions],
            "models": [shorten(visible(name), NAME_LIMIT) for name in self._names],
            "items": [self._item(item, texts, images) for item in ids],
            "texts": texts.values,
            "images": images.values,
            "remark": self.remark,
        }

    def _item(self, item: str, texts: _Table, images: _Table) -> dict[str, Any]:
        reference = self._groups[0][item][self._conditions[0]]
        return {
            "id": shorten(visible(item), NAME_LIMIT),
            "gold": _gold(reference),
            "options": [texts.add(shorten(visible(option), ANSWER_LIMIT)) for option in reference.options or ()],
            "cells": [self._cell(item, condition, texts, images) for condition in self._conditions],
        }

    def _cell(self, item: str, condition: str, texts: _Table, images: _Table) -> dict[str, Any]:
        prompt = shorten(visible(self._prompts[item, condition]), PROMPT_LIMIT)
        given = [(group[item][condition], group[item][self._conditions[0]]) for group in self._groups]
        answers = [_answer(*pair, texts) for pair in given]
        found: dict[str, Any] = {"prompt": texts.add(prompt), "answers": answers}
        if item in self._pictures:
            shown = perturbed(self._benchmark, self._pictures[item], condition, self._seed).images
            found |= {"image": images.add(thumbnail(shown))} if shown else {}
        named = self._groups[0][item][condition].named
        return found | ({"named": shorten(visible(named), NAME_LIMIT)} if named else {})


def to_script(data: Any) -> str:
    """Return JSON that can stand in a script element whatever its strings hold."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _chosen(outcomes: Sequence[Outcomes]) -> tuple[list[str], list[str]]:
    """Return the ids of the `ITEMS` items with the most changed answers, and the others."""
    first = outcomes[0]
    changed = sum(one.changed.sum(1) for one in outcomes)
    order = sorted(range(len(first.items)), key=lambda index: (-changed[index], index))
    return tuple([first.items[index] for index in sorted(part)] for part in (order[:ITEMS], order[ITEMS:]))


def _answer(record: Record, reference: Record, texts: _Table) -> list[Any]:
    """Return [letter or text that was read, or null, index of the raw text, probabilities or null, score, whether it is
    another one than under the reference, whether it is the one that is named]."""
    raw = texts.add(shorten(visible(record.raw), ANSWER_LIMIT))
    shares = record.probabilities and [round(share, 3) for share in record.probabilities]
    read = record.parsed and shorten(visible(record.parsed), NAME_LIMIT)
    return [read, raw, shares, round(record.score, 3), record.flipped(reference), record.follows]


def _gold(record: Record) -> str:
    """Return what would be right, of a free-form question with how often it was given where more than once."""
    counts = Counter(record.answers or [record.gold])
    said = (answer if count == 1 else f"{answer} ({count} times)" for answer, count in counts.most_common())
    return shorten(visible(" / ".join(said)), ANSWER_LIMIT)


def _benchmark(result: TaskResult, anywhere: bool) -> tuple[Benchmark | None, str]:
    """Return the data set of `result`, or None and the reason.

    Whoever wrote the results named its source: unless the reader asks for it, only those are loaded that are in the
    package, and so need no folder and no network.
    """
    embedded = result.options.get("source") in EMBEDDED and set(result.options) <= {"source", "conditions", "seed"}
    if not (embedded or anywhere):
        return None, "No pictures: they are read from where the results say only with --pictures."
    try:
        benchmark = Selection.parse(result.options, result.split, result.task).benchmark()
    except InputError as error:
        return None, f"No pictures: {visible(str(error))}"
    if benchmark.digest(result.conditions, result.seed) != result.content_hash:
        return None, "No pictures: the data set at hand is not the one that the models were asked."
    return benchmark, ""


def thumbnail(images: Sequence[Image.Image]) -> str:
    """Return the images of one prompt as a picture, side by side."""
    picture = images[0].convert("RGB") if len(images) == 1 else _side_by_side(images)
    kind = "PNG" if max(picture.size) <= 64 else "JPEG"
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, quality=80)
    return data_uri(f"image/{kind.lower()}", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    small = [ImageOps.contain(image.convert("RGB"), (THUMBNAIL, THUMBNAIL)) for image in images]
    row = Image.new("RGB", (sum(image.width for image in small), max(image.height for image in small)), "white")
    left = 0
    for image in small:
        row.paste(image, (left, 0))
        left += image.width
    return row


@dataclass(frozen=True)
class Example:
    """An `item` of a task as a condition made it, and what a model answered before and after a training."""

    task: str
    condition: str
    item: Item
    before: Record
    after: Record


def pick_examples(
    benchmark: Benchmark,
    before_records: Sequence[Record],
    after_records: Sequence[Record],
    per_condition: int = 1,
) -> list[Example]:
    """Return `per_condition` items of each perturbed condition, the same ones every time.

    Items that were wrong before and are right after come first, and among them those that were
    right under the reference condition, so that the condition alone misled the model. A benchmark
    whose records have the reference condition only gives examples of that one.

    Raises:
        InputError: an item is not in the benchmark, a condition was recorded twice, or the two
            runs do not share items, conditions and seeds.
    """
    before, after = group_by_item(before_records), group_by_item(after_records)
    items = {item.id: item for item in benchmark.items}
    _check_pairs(benchmark.name, items, before_records, after_records)
    reference = REFERENCE[benchmark.family]
    recorded = {record.condition for record in before_records}
    conditions = [name for name in benchmark.conditions if name in recorded and name != reference]
    used: set[str] = set()
    examples = []
    for condition in conditions or [reference]:
        having = [item_id for item_id in before if condition in before[item_id]]

        def rank(item_id: str, condition: str = condition) -> tuple[bool, bool, bool, float]:
            old, new = before[item_id][condition], after[item_id][condition]
            origin = before[item_id].get(reference)
            mended = not old.right and new.right
            misled = origin is not None and origin.right
            return not mended, not misled, item_id in used, stream(item_id, condition).random()

        for item_id in sorted(having, key=rank)[:per_condition]:
            used.add(item_id)
            old, new = before[item_id][condition], after[item_id][condition]
            changed = perturbed(benchmark, items[item_id], condition, old.seed)
            examples.append(Example(benchmark.name, condition, changed, old, new))
    return examples


def _check_pairs(name: str, items: Mapping[str, Item], before: Sequence[Record], after: Sequence[Record]) -> None:
    asked = [{(record.item_id, record.condition, record.seed) for record in records} for records in (before, after)]
    for item_id, condition, seed in sorted(asked[0] ^ asked[1]):
        raise InputError(f"{name}: item {item_id}: {condition!r} with seed {seed} is in one of the two runs only")
    for record in before:
        if record.item_id not in items:
            raise InputError(f"{name}: item {record.item_id} is in the records and not in the benchmark")
