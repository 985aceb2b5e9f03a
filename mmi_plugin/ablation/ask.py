"""The embedded benchmark asked in process, by the scorer that `mmi_hf` answers with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmi_plugin import prompts
from mmi_plugin.answers import parse_letter
from mmi_plugin.conditions import get
from mmi_plugin.demo.rows import TASKS
from mmi_plugin.items import Item, image_hash
from mmi_plugin.metrics import Record
from mmi_plugin.sources import Benchmark, load

SEED = 0  # of the conditions, as in the tasks
BATCH_SIZE = 32
SETTINGS = {"max_new_tokens": 16}  # generation_kwargs of the tasks

Answers = dict[str, Any]
"""JSON: `items` (ids), `gold` (letters) and, by condition, `parsed` (letters or None), in one order."""


def benchmark(task: str) -> Benchmark:
    """Return the test split of a task of the embedded benchmark."""
    return load(task.removeprefix("mmi_"), "test")


def digests() -> dict[str, str]:
    """Return what decides data and questions of both splits, by task and split."""
    found = {}
    for task in TASKS:
        for split in ("train", "test"):
            bench = load(task.removeprefix("mmi_"), split)
            found[f"{task}/{split}"] = bench.digest(bench.conditions, SEED)
    return found


def ask_checkpoint(folder: Path, limit: int | None) -> dict[str, Answers]:
    """Return the greedy answers of a checkpoint to the first `limit` test items of each task, under all conditions."""
    import torch

    from mmi_plugin.harness.checkpoint import load_model, load_processor
    from mmi_plugin.harness.scorer import Scorer

    model = load_model(str(folder), dtype=torch.float32)
    scorer = Scorer(model, load_processor(str(folder), "main", False), BATCH_SIZE, str(folder))
    return {task: _ask(scorer, benchmark(task), limit) for task in TASKS}


def _ask(scorer: Any, bench: Benchmark, limit: int | None) -> Answers:
    from mmi_plugin.harness.order import Request, batches, served
    from mmi_plugin.harness.scorer import Row

    items = bench.items[:limit]
    rows = [get(name)(item, SEED, bench.pools) for name in bench.conditions for item in items]
    requests = [Request("", _image_key(row), len(prompts.user_text(row))) for row in rows]
    shared = served(requests)
    parsed: list[str | None] = [None] * len(rows)
    for batch in batches(requests, BATCH_SIZE):
        chats = [Row(prompts.messages(rows[place]), (), requests[place].image in shared) for place in batch]
        for place, answer in zip(batch, scorer.answer(chats, SETTINGS), strict=True):
            parsed[place] = parse_letter(answer.text, rows[place].options)
    by_condition = {name: parsed[i * len(items) : (i + 1) * len(items)] for i, name in enumerate(bench.conditions)}
    return {"items": [item.id for item in items], "gold": [item.gold for item in items], "parsed": by_condition}


def _image_key(row: Item) -> str | None:
    return "-".join(map(image_hash, row.pictures)) or None


def records(answers: Answers) -> Sequence[Record]:
    """Return the answers to one task as records, without the raw text."""
    return [
        Record(item, name, SEED, gold, letter, letter or "")
        for name, letters in answers["parsed"].items()
        for item, gold, letter in zip(answers["items"], answers["gold"], letters, strict=True)
    ]
