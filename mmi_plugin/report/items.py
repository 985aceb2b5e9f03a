"""What the page's item browser shows: prompts, pictures and every model's answers, as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from mmi_plugin.documents import Selection, perturbed
from mmi_plugin.errors import InputError, shorten, visible
from mmi_plugin.report.board import Leaderboard
from mmi_plugin.report.scores import words
from mmi_plugin.results import Record, group_by_item
from mmi_plugin.results.files import TaskResult
from mmi_plugin.results.measures import Outcomes
from mmi_plugin.sources import Benchmark

ITEMS = 1000  # per data set
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


def browser_data(board: Leaderboard, task: str) -> dict[str, Any]:
    """Return the items of `task`, at most `ITEMS`, preferring those with the most changed answers.

    Texts and pictures are indices into `texts` and `images`; conditions stand as in the outcomes,
    the reference first, models in the order of rank. Pictures are made anew from the data set where
    it is at hand and the same by its content hash; `remark` says so where it is not.
    """
    outcomes = board.outcomes[task]
    results = [run.results[task] for run in board.runs]
    groups = [group_by_item(result.records) for result in results]
    prompts = {(r.item_id, r.condition): p for r, p in zip(results[0].records, results[0].prompts, strict=True)}
    benchmark, remark = _benchmark(results[0])
    pictures = {item.id: item for item in benchmark.items} if benchmark else {}
    texts, images = _Table(), _Table()

    def cell(item: str, condition: str) -> dict[str, Any]:
        prompt = shorten(visible(prompts[item, condition]), PROMPT_LIMIT)
        found = {"prompt": texts.add(prompt), "answers": [_answer(group[item][condition], texts) for group in groups]}
        if item in pictures:
            shown = perturbed(benchmark, pictures[item], condition, results[0].seed).images
            found |= {"image": images.add(_thumbnail(shown))} if shown else {}
        named = groups[0][item][condition].named
        return found | ({"named": named} if named else {})

    items = [
        {
            "id": shorten(visible(item), NAME_LIMIT),
            "gold": groups[0][item][outcomes.conditions[0]].gold,
            "cells": [cell(item, condition) for condition in outcomes.conditions],
        }
        for item in _chosen([run.outcomes[task] for run in board.runs])
    ]
    return {
        "conditions": [words(name) for name in outcomes.conditions],
        "models": [shorten(visible(name), NAME_LIMIT) for name in board.names],
        "items": items,
        "of": len(outcomes.items),
        "texts": texts.values,
        "images": images.values,
        "remark": remark,
    }


def to_script(data: Any) -> str:
    """Return JSON that can stand in a script element whatever its strings hold."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _chosen(outcomes: Sequence[Outcomes]) -> list[str]:
    first = outcomes[0]
    changed = sum((one.parsed != one.parsed[:, :1]).sum(1) for one in outcomes)
    kept = sorted(range(len(first.items)), key=lambda index: (-changed[index], index))[:ITEMS]
    return [first.items[index] for index in sorted(kept)]


def _answer(record: Record, texts: _Table) -> list[Any]:
    """Return [letter or null, index of the raw text, probabilities or null]."""
    raw = texts.add(shorten(visible(record.raw), ANSWER_LIMIT))
    shares = record.probabilities and [round(share, 3) for share in record.probabilities]
    return [record.parsed, raw, shares]


def _benchmark(result: TaskResult) -> tuple[Benchmark | None, str]:
    """Return the data set of `result`, or None and the reason."""
    try:
        benchmark = Selection.parse(result.options, result.split, result.task).benchmark()
    except InputError as error:
        return None, f"No pictures: {visible(str(error))}"
    if benchmark.digest(result.conditions, result.seed) != result.content_hash:
        return None, "No pictures: the data set at hand is not the one that the models were asked."
    return benchmark, ""


def _thumbnail(images: Sequence[Image.Image]) -> str:
    """Return the images of one prompt as a picture, side by side."""
    picture = images[0].convert("RGB") if len(images) == 1 else _side_by_side(images)
    kind = "PNG" if max(picture.size) <= 64 else "JPEG"
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    small = [ImageOps.contain(image.convert("RGB"), (THUMBNAIL, THUMBNAIL)) for image in images]
    row = Image.new("RGB", (sum(image.width for image in small), max(image.height for image in small)), "white")
    left = 0
    for image in small:
        row.paste(image, (left, 0))
        left += image.width
    return row
