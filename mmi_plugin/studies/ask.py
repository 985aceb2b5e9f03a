"""The embedded benchmark asked in process, by the evaluator of `models`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmi_plugin.results import Record
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.studies.demo import TASKS

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

    from mmi_plugin.models.answer import Scorer
    from mmi_plugin.models.evaluate import evaluate
    from mmi_plugin.models.families import prompts_of
    from mmi_plugin.models.load import load_model, load_processor

    model = load_model(str(folder), dtype=torch.float32)
    scorer = Scorer(model, prompts_of(load_processor(str(folder))), BATCH_SIZE)
    found = {}
    for task in TASKS:
        bench = benchmark(task)
        found[task] = _answers(evaluate(scorer, bench, bench.conditions, SETTINGS, BATCH_SIZE, limit, SEED))
    return found


def _answers(asked: Sequence[Record]) -> Answers:
    gold = {record.item_id: record.gold for record in asked}
    parsed: dict[str, list[str | None]] = {}
    for record in asked:
        parsed.setdefault(record.condition, []).append(record.parsed)
    return {"items": list(gold), "gold": list(gold.values()), "parsed": parsed}


def records(answers: Answers) -> Sequence[Record]:
    """Return the answers to one task as records, without the raw text."""
    return [
        Record(item, name, SEED, gold, letter, letter or "")
        for name, letters in answers["parsed"].items()
        for item, gold, letter in zip(answers["items"], answers["gold"], letters, strict=True)
    ]
