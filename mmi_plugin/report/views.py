"""What the page's template asks for: figures side by side, and examples ready to be shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from mmi_plugin.errors import shorten
from mmi_plugin.items import FAMILIES, LETTERS
from mmi_plugin.report.charts import Panel, dot_panel
from mmi_plugin.report.examples import Answer, Example
from mmi_plugin.report.scores import Cell, Measure, Scores, Task

THUMBNAIL = 320  # longest side in pixels of an example's image
PROMPT_LIMIT, ANSWER_LIMIT, NAME_LIMIT = 1500, 300, 80  # characters


@dataclass(frozen=True)
class Change:
    """One measure before and after."""

    task: Task
    measure: Measure
    before: Cell
    after: Cell

    @property
    def difference(self) -> float:
        return self.after.mean - self.before.mean


class FiguresView:
    """The scores; the first row in the ablation's order is before, the last is after."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.names, self.tasks = scores.names, scores.tasks
        self.before, self.after = self.names[0], self.names[-1]
        self.several_rows = len(self.names) > 1
        self.ablation = len(self.names) > 2
        self.several_seeds = max(len(scores.seeds(name)) for name in self.names) > 1

    def pair(self) -> tuple[str, ...]:
        return (self.before, self.after) if self.several_rows else (self.before,)

    def cell(self, name: str, task: Task, measure: Measure) -> Cell:
        return self.scores.cell(name, task, measure)

    def change(self, task: Task, measure: Measure) -> Change:
        return Change(task, measure, self.cell(self.before, task, measure), self.cell(self.after, task, measure))

    def panel(self, task: Task, measure: Measure) -> Panel:
        return dot_panel({name: self.cell(name, task, measure) for name in self.names})

    def best(self, task: Task, measure: Measure) -> frozenset[str]:
        """Return the rows whose mean, as shown, is the best one; none where all are equal."""
        means = {name: round(self.cell(name, task, measure).mean, 3) for name in self.names}
        best = max(means.values()) if measure.higher_is_better else min(means.values())
        found = frozenset(name for name, mean in means.items() if mean == best)
        return found if len(found) < len(self.names) else frozenset()

    def hardest(self) -> list[Change]:
        """Per family with perturbations the condition with the lowest accuracy before."""
        return self._lowest(lambda task: task.perturbed, lambda change: change.before.mean)

    def headline(self) -> Change | None:
        """Return the hardest condition of all; None where nothing was perturbed."""
        return min(self.hardest(), key=lambda change: change.before.mean, default=None)

    def undisturbed(self) -> list[Change]:
        """Per family with `clean` items the data set whose clean accuracy changed for the worst."""
        return self._lowest(lambda task: {"clean"} & {task.reference}, lambda change: change.difference)

    def _lowest(self, conditions: Callable[[Task], object], key: Callable[[Change], float]) -> list[Change]:
        found = []
        for family in FAMILIES:
            tasks = [task for task in self.tasks if task.family == family]
            changes = [self.change(task, task.accuracy(name)) for task in tasks for name in conditions(task)]
            found += sorted(changes, key=key)[:1]
        return found


@dataclass(frozen=True)
class AnswerView:
    """One model's answer in words; `raw` is what it wrote, `option` what was read from it."""

    row: str
    raw: str
    option: str
    verdict: str


class ExampleView:
    """An example whose prompt is split at the end of the added text."""

    def __init__(self, example: Example, before: str, after: str) -> None:
        self.example = example
        self.task, self.item_id = shorten(example.task, NAME_LIMIT), shorten(example.item_id, NAME_LIMIT)
        added = len(example.context) if example.prompt.startswith(example.context) else 0
        self.added = shorten(example.prompt[:added], PROMPT_LIMIT)
        self.prompt = shorten(example.prompt[added:], PROMPT_LIMIT)
        self.gold = _option(example, example.gold)
        self.named = _option(example, example.named) if example.named else ""
        self.answers = [_answer(example, before, example.before), _answer(example, after, example.after)]

    @property
    def image_uri(self) -> str:
        """The picture as a data URI of a PNG, at most `THUMBNAIL` pixels a side; empty without one."""
        if self.example.image is None:
            return ""
        picture = self.example.image.convert("RGB")
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _option(example: Example, letter: str) -> str:
    index = LETTERS.index(letter)
    text = example.options[index] if index < len(example.options) else ""
    return f"{letter}: {shorten(text, ANSWER_LIMIT)}"


def _answer(example: Example, row: str, answer: Answer) -> AnswerView:
    raw = shorten(answer.raw, ANSWER_LIMIT)
    if answer.parsed is None:
        return AnswerView(row, raw, "no option", "wrong")
    verdict = "right" if answer.parsed == example.gold else "wrong"
    return AnswerView(row, raw, _option(example, answer.parsed), verdict)
