"""A study's models and examples in; what the page says of them beyond their board out."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmi_plugin.errors import shorten
from mmi_plugin.item import FAMILIES, LETTERS, user_text
from mmi_plugin.report.board import Key, Leaderboard, Scope
from mmi_plugin.report.items import ANSWER_LIMIT, NAME_LIMIT, Example, data_uri
from mmi_plugin.results import Record
from mmi_plugin.results.estimates import Estimate
from mmi_plugin.results.measures import Measure

THUMBNAIL = 320  # longest side in pixels of an example's image
PROMPT_LIMIT = 1500  # characters
PANEL_LEFT, PANEL_RIGHT, PANEL_WIDTH = 64, 270, 330  # units of a panel's SVG view box
PANEL_TOP, ROW_HEIGHT = 8, 21


@dataclass(frozen=True)
class Study:
    """What only a study knows of the models on its board: `names` in its own order, of which the first stands for
    before and the last for after; `seeds` and `seconds` of trainings; `config`; examples of what the last changed."""

    names: tuple[str, ...]
    seeds: Mapping[str, Sequence[int]]
    seconds: Mapping[str, Sequence[float]]
    config: Any
    examples: Sequence[Example] = ()


class Pair(NamedTuple):
    """One measure over one data set, before and after."""

    scope: Scope
    measure: Measure
    before: Estimate
    after: Estimate

    @property
    def difference(self) -> float:
        return self.after.value - self.before.value


class StudyView:
    """What the template asks of a study: its first model stands for before, its last for after."""

    def __init__(self, board: Leaderboard, study: Study) -> None:
        self._board, self.study = board, study
        self.names, self.before, self.after = study.names, study.names[0], study.names[-1]
        self.several_rows, self.ablation = len(self.names) > 1, len(self.names) > 2
        self.several_seeds = max(map(len, study.seeds.values())) > 1
        self.tasks = board.scopes_of("task")
        self.config = json.dumps(study.config, indent=2, ensure_ascii=False, default=str)
        self.examples = [ExampleView(example, self.before, self.after) for example in study.examples]

    def shown(self) -> tuple[str, ...]:
        """The models of the bars."""
        return (self.before, self.after) if self.several_rows else (self.before,)

    def estimate(self, name: str, scope: Scope, measure: Measure) -> Estimate:
        return self._board.numbers[Key(name, scope, measure)]

    def conditions(self, scope: Scope) -> tuple[str, ...]:
        """The conditions of a data set, its reference first."""
        return self._board.outcomes[scope.name].conditions

    def items(self, scope: Scope) -> int:
        return len(self._board.outcomes[scope.name].items)

    def pair(self, scope: Scope, measure: Measure) -> Pair:
        return Pair(scope, measure, *(self.estimate(name, scope, measure) for name in (self.before, self.after)))

    def hardest(self) -> list[Pair]:
        """Per family with perturbations the condition with the lowest accuracy before."""
        return self._lowest(lambda scope: self.conditions(scope)[1:], lambda pair: pair.before.value)

    def headline(self) -> Pair | None:
        """The hardest condition of all; None where nothing was perturbed."""
        return min(self.hardest(), key=lambda pair: pair.before.value, default=None)

    def undisturbed(self) -> list[Pair]:
        """Per family with `clean` items the data set whose clean accuracy changed for the worst."""
        return self._lowest(lambda scope: {"clean"} & {self.conditions(scope)[0]}, lambda pair: pair.difference)

    def _lowest(self, conditions: Callable[[Scope], Any], key: Callable[[Pair], float]) -> list[Pair]:
        found = []
        for family in FAMILIES:
            scopes = [scope for scope in self.tasks if self._board.outcomes[scope.name].family == family]
            pairs = [self.pair(scope, Measure("accuracy", name)) for scope in scopes for name in conditions(scope)]
            found += sorted(pairs, key=key)[:1]
        return found

    def panel(self, scope: Scope, measure: Measure) -> Panel:
        return dot_panel({name: self.estimate(name, scope, measure) for name in self.names})


class ExampleView:
    """An example whose prompt is split at the end of the added text, with every answer in words."""

    def __init__(self, example: Example, before: str, after: str) -> None:
        self.example, item = example, example.item
        self.task, self.item_id = shorten(example.task, NAME_LIMIT), shorten(item.id, NAME_LIMIT)
        prompt = user_text(item)
        added = len(item.context) if prompt.startswith(item.context) else 0
        self.added = shorten(prompt[:added], PROMPT_LIMIT)
        self.prompt = shorten(prompt[added:], PROMPT_LIMIT)
        self.gold = self._option(example.before.gold)
        self.named = self._option(example.before.named) if example.before.named else ""
        self.answers = [(before, *self._answer(example.before)), (after, *self._answer(example.after))]

    @property
    def image_uri(self) -> str:
        """The picture as a data URI of a PNG, at most `THUMBNAIL` pixels a side; empty without one."""
        if self.example.item.image is None:
            return ""
        picture = self.example.item.image.convert("RGB")
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        return data_uri("image/png", buffer.getvalue())

    def _option(self, letter: str) -> str:
        options, index = self.example.item.options, LETTERS.index(letter)
        return f"{letter}: {shorten(options[index] if index < len(options) else '', ANSWER_LIMIT)}"

    def _answer(self, record: Record) -> tuple[str, str, str]:
        """Return what the model wrote, the option that was read from it, and the verdict."""
        option = "no option" if record.parsed is None else self._option(record.parsed)
        return shorten(record.raw, ANSWER_LIMIT), option, "right" if record.right else "wrong"


class DotRow(NamedTuple):
    """One model of a panel: its line, a dot per seed, its mean, in units of the view box, and the mean itself."""

    name: str
    y: float
    dots: tuple[float, ...]
    mean_x: float
    mean: float


class Panel(NamedTuple):
    """A dot plot of one measure; `ticks` are (x, share), `baseline` is the first model's mean."""

    rows: tuple[DotRow, ...]
    ticks: tuple[tuple[float, float], ...]
    baseline: float
    bottom: float
    height: float


def dot_panel(estimates: Mapping[str, Estimate]) -> Panel:
    """Return the dot plot of one measure over the models, on an axis cut at tens of percent."""
    low, high = axis([value for one in estimates.values() for value in one.seeds])

    def x(share: float) -> float:
        return PANEL_LEFT + (share - low) / (high - low) * (PANEL_RIGHT - PANEL_LEFT)

    rows = tuple(
        DotRow(name, PANEL_TOP + (i + 0.5) * ROW_HEIGHT, tuple(map(x, one.seeds)), x(one.value), one.value)
        for i, (name, one) in enumerate(estimates.items())
    )
    bottom = PANEL_TOP + len(rows) * ROW_HEIGHT
    ticks = tuple((x(share), share) for share in (low, (low + high) / 2, high))
    return Panel(rows, ticks, rows[0].mean_x, bottom, bottom + 20)


def axis(values: list[float]) -> tuple[float, float]:
    """Return the tens of percent around `values`, at least 10 points apart."""
    low = min(math.floor(round(10 * min(values), 9)), 9)
    high = max(math.ceil(round(10 * max(values), 9)), low + 1)
    return low / 10, high / 10
