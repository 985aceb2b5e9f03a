"""A made-up study of realistic shape: boards over records drawn here, and their shares counted in the plain way."""

from __future__ import annotations

import random
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from mmi_plugin.report.board import Leaderboard, build
from mmi_plugin.report.items import Example
from mmi_plugin.report.study import Study
from mmi_plugin.results import Record, TaskResult
from mmi_plugin.results.runs import as_run

SHAPE = {
    "mmi_demo_digits": (400, ("clean", "unrelated_text", "misleading_text", "ocr_text")),
    "mmi_demo_capitals": (378, ("random_pixels", "black", "white", "irrelevant_image", "screenshot")),
    "mmi_demo_arith": (400, ("clean",)),
}
FAMILIES = {"mmi_demo_digits": "image_heavy", "mmi_demo_capitals": "text_heavy", "mmi_demo_arith": "vqa"}
REFERENCES = ("clean", "random_pixels")
UNSEEN = ("ocr_text", "screenshot")
PERTURBED = {"Vanilla": (0.01, 0.6), "D_VQA": (0.02, 0.65), "D_AUG": (0.85, 0.95), "Ours": (0.95, 0.99)}
ABLATION = ("Vanilla", "D_VQA", "D_AUG", "KL", "JS", "RG", "ADV", "Ours")

Letters = dict[str, dict[str, list[str | None]]]
"""Task -> condition -> what was read of each item's answer; every right answer is "A"."""


def letters(name: str, seed: int, shape: dict[str, Any] | None = None) -> Letters:
    """One training's answers: deterministic in (name, seed)."""
    rng = random.Random(f"{name}/{seed}")
    found: Letters = {}
    for task, (n, conditions) in (shape or SHAPE).items():
        low, high = PERTURBED.get(name, (0.88, 0.97))
        found[task] = {}
        for condition in conditions:
            share = rng.uniform(0.95, 0.99) if condition in REFERENCES else rng.uniform(low, high)
            found[task][condition] = ["A" if rng.random() < share else rng.choice("BCD") for _ in range(n)]
    return found


def result(task: str, own: dict[str, list[str | None]]) -> TaskResult:
    records = [
        Record(f"item-{index:04}", condition, 0, "A", letter, letter or "?")
        for condition, row in own.items()
        for index, letter in enumerate(row)
    ]
    family = FAMILIES[task.replace("_demo2_", "_demo_").replace("_demo3_", "_demo_")]
    return TaskResult(
        task=task,
        family=family,
        options={"source": "nowhere"},
        split="test",
        conditions=tuple(own),
        seed=0,
        content_hash=f"{list(FAMILIES.values()).index(family)}" * 64,
        condition_versions={},
        numbers={},
        setup={},
        records=tuple(records),
        prompts=tuple(f"{record.item_id} under {record.condition}" for record in records),
    )


class Demo:
    """A study over `names`, each with `seeds` trainings (Vanilla has one), and its counted shares."""

    def __init__(self, names: tuple[str, ...] = ("Vanilla", "Ours"), seeds: int = 1, shape: Any = None) -> None:
        self.names, self.shape = names, shape or SHAPE
        self.seeds = {name: list(range(1 if name == "Vanilla" else seeds)) for name in names}
        self.answers = {name: [letters(name, seed, self.shape) for seed in own] for name, own in self.seeds.items()}
        self.seconds = {
            name: [round(50 + len(name) + seed / 10, 1) for seed in own] for name, own in self.seeds.items()
        }
        self.config: Any = {"learning_rate": 1e-3, "mix": [2, 2, 4], "consistency": "js"}

    @cached_property
    def _board(self) -> Leaderboard:
        runs = [
            as_run(name, Path(f"runs/{name}"), {task: result(task, row) for task, row in own.items()})
            for name, trainings in self.answers.items()
            for own in trainings
        ]
        return build(runs, self.names[0] if len(self.names) > 1 else None)

    def board(self) -> Leaderboard:
        """Made once: change the answers before."""
        return self._board

    def study(self, examples: list[Example] | None = None) -> Study:
        return Study(self.names, self.seeds, self.seconds, self.config, examples or ())

    def by_seed(self, name: str, measure: str, task: str, condition: str | None = None) -> list[float]:
        """The share of every seed, counted."""
        return [self._share(own[task], measure, condition) for own in self.answers[name]]

    def share(self, name: str, measure: str, task: str, condition: str | None = None) -> float:
        return fmean(self.by_seed(name, measure, task, condition))

    def _share(self, own: dict[str, list[str | None]], measure: str, condition: str | None) -> float:
        reference, *perturbed = own
        if measure == "accuracy":
            return own[condition].count("A") / len(own[condition])
        if measure == "flip_rate" and condition:
            return fmean(a != b for a, b in zip(own[reference], own[condition], strict=True))
        if measure == "flip_rate":
            return fmean(self._share(own, measure, name) for name in perturbed)
        names = [name for name in own if measure == "worst_case" or name not in UNSEEN]
        return fmean(all(row == "A" for row in rows) for rows in zip(*(own[name] for name in names), strict=True))


@cache
def ablation() -> Demo:
    """All rows over three seeds; not to be changed."""
    return Demo(ABLATION, seeds=3)
