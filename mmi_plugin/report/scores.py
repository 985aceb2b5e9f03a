"""The figures of training rows, checked and joined over seeds: what the table and the page both show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mmi_plugin.conditions import REFERENCE, for_family, get
from mmi_plugin.errors import InputError
from mmi_plugin.items import FAMILIES

ROWS = {
    "vanilla": "Vanilla",
    "d_vqa": "D_VQA",
    "d_aug": "D_AUG",
    "kl": "KL",
    "js": "JS",
    "rg": "RG",
    "adv": "ADV",
    "ours": "Ours",
}
"""Row names in the order of the ablation, with the names that are shown."""

FIELDS = ("name", "seed", "seconds", "accuracy", "flip_rate", "worst_case", "worst_case_seen", "unparseable", "n")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """One number per row: the mean of `row[field][key]` over `keys`, a share in [0, 1].

    `condition` is None for a number of the whole task.
    """

    field: str
    keys: tuple[str, ...]
    label: str
    condition: str | None = None

    @property
    def unseen(self) -> bool:
        return self.condition is not None and not get(self.condition).seen

    @property
    def higher_is_better(self) -> bool:
        return self.field not in ("flip_rate", "unparseable")


@dataclass(frozen=True)
class Cell:
    """A measure of one row: a share per seed, over `n` items each."""

    values: tuple[float, ...]
    n: int
    proportion: bool

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def half_range(self) -> float:
        """Half the distance between the best and the worst seed; 0 with one seed."""
        return (max(self.values) - min(self.values)) / 2

    @property
    def spread(self) -> tuple[float, float] | None:
        """Worst and best seed; with one seed the 95% Wilson interval over items.

        None where neither exists: one seed of a mean over conditions, whose items repeat.
        """
        if len(self.values) > 1:
            return min(self.values), max(self.values)
        if not self.proportion:
            return None
        from scipy.stats import binomtest  # slow to import, and of use to the page only

        interval = binomtest(round(self.mean * self.n), self.n).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Task:
    """One data set: its conditions stand reference first, `n` counts items."""

    name: str
    family: str
    conditions: tuple[str, ...]
    n: int

    @property
    def label(self) -> str:
        return self.name.removeprefix("mmi_")

    @property
    def reference(self) -> str:
        return REFERENCE[self.family]

    @property
    def perturbed(self) -> tuple[str, ...]:
        return tuple(name for name in self.conditions if name != self.reference)

    def accuracy(self, condition: str) -> Measure:
        return Measure("accuracy", (f"{self.name}/{condition}",), words(condition), condition)

    def flip_rate(self, condition: str) -> Measure:
        return Measure("flip_rate", (f"{self.name}/{condition}",), words(condition), condition)

    def mean_flip_rate(self) -> Measure:
        return Measure("flip_rate", tuple(f"{self.name}/{name}" for name in self.perturbed), "flip rate")

    def whole(self, field: str, label: str) -> Measure:
        return Measure(field, (self.name,), label)

    def measures(self) -> tuple[Measure, ...]:
        """Accuracy per condition, then worst case and mean flip rate where there is a perturbation."""
        found = [self.accuracy(name) for name in self.conditions]
        if self.perturbed:
            found += [self.whole("worst_case", "worst case"), self.mean_flip_rate()]
        return tuple(found)

    def all_measures(self) -> tuple[Measure, ...]:
        """`measures`, and what only the page has room for."""
        found = [self.accuracy(name) for name in self.conditions]
        if self.perturbed:
            found += [
                self.whole("worst_case", "worst case, all conditions"),
                self.whole("worst_case_seen", "worst case, seen conditions"),
                *map(self.flip_rate, self.perturbed),
                self.mean_flip_rate(),
            ]
        return (*found, self.whole("unparseable", "answers without an option"))


class Scores:
    """Training rows by name, each over its seeds, all on the same items.

    Takes the `rows` of `demo.json`. Raises InputError that names row, seed and field for a missing
    or impossible figure, a repeated (row, seed), or rows that differ in tasks, conditions or items.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        if not rows:
            raise InputError("rows: there are none")
        self._rows: dict[str, dict[int, Row]] = {}
        for number, row in enumerate(rows, start=1):
            self._add(row, f"rows, row {number}")
        known = list(ROWS)
        between = known.index("ours") - 0.5
        self.names = tuple(sorted(self._rows, key=lambda name: known.index(name) if name in ROWS else between))
        self.tasks = _tasks(rows[0])
        for row in rows:
            self._check(row)

    def _add(self, row: Row, where: str) -> None:
        for field in FIELDS:
            if field not in row:
                raise InputError(f"{where}: field {field!r} is missing")
        seeds = self._rows.setdefault(row["name"], {})
        if row["seed"] in seeds:
            raise InputError(f"{where}: {row['name']} with seed {row['seed']} is there twice")
        seeds[row["seed"]] = row

    def _check(self, row: Row) -> None:
        where = f"row {row['name']}, seed {row['seed']}"
        expected = {f"{task.name}/{name}" for task in self.tasks for name in task.conditions}
        if set(row["accuracy"]) != expected:
            odd = sorted(set(row["accuracy"]) ^ expected)
            raise InputError(f"{where}: field 'accuracy' differs from the first row in {', '.join(odd)}")
        for task in self.tasks:
            if row["n"].get(task.name) != task.n:
                raise InputError(f"{where}: field 'n' of {task.name} is {row['n'].get(task.name)}, not {task.n}")
            for measure in task.measures():
                _share(row, measure, where)
            for field in ("worst_case_seen", "unparseable"):
                _share(row, task.whole(field, field), where)

    def seeds(self, name: str) -> tuple[int, ...]:
        return tuple(self._rows[name])

    def seconds(self, name: str) -> tuple[float, ...]:
        """Training time of each seed."""
        return tuple(row["seconds"] for row in self._rows[name].values())

    def cell(self, name: str, task: Task, measure: Measure) -> Cell:
        values = tuple(_share(row, measure, f"row {name}") for row in self._rows[name].values())
        per_item = len(measure.keys) == 1 and measure.field != "unparseable"
        return Cell(values, task.n, per_item)


def words(name: str) -> str:
    return name.replace("_", " ")


def shown(name: str) -> str:
    """Return the display name of a row."""
    return ROWS.get(name, name)


def _share(row: Row, measure: Measure, where: str) -> float:
    values = []
    for key in measure.keys:
        value = row[measure.field].get(key)
        if not isinstance(value, int | float) or math.isnan(value) or not 0 <= value <= 1:
            raise InputError(f"{where}: field {measure.field!r} of {key} is {value!r}, not a share from 0 to 1")
        values.append(value)
    return fmean(values)


def _tasks(row: Row) -> tuple[Task, ...]:
    """Return the tasks of a row by family, each with its conditions in the registry's order."""
    found: dict[str, list[str]] = {}
    for key in row["accuracy"]:
        task, _, condition = key.rpartition("/")
        found.setdefault(task, []).append(condition)
    tasks = []
    for name, conditions in found.items():
        family = _family(name, conditions)
        ordered = tuple(condition for condition in for_family(family) if condition in conditions)
        n = row["n"].get(name)
        if not isinstance(n, int) or n < 1:
            raise InputError(f"row {row['name']}, seed {row['seed']}: field 'n' of {name} is {n!r}, not a count")
        tasks.append(Task(name, family, ordered, n))
    return tuple(sorted(tasks, key=lambda task: FAMILIES.index(task.family)))


def _family(task: str, conditions: Sequence[str]) -> str:
    """Return the family that has all `conditions`; a task with none but `clean` checks VQA."""
    fitting = [family for family in FAMILIES if all(family in get(name).families for name in conditions)]
    if not fitting:
        raise InputError(f"{task}: no family has the conditions {', '.join(conditions)} together")
    return fitting[-1]
