"""Find, name and check the results folders that a leaderboard compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.harness.results import RESULTS, TaskResult, read_results, results_below
from mmi_plugin.statistics import Outcomes, check_comparable


@dataclass(frozen=True)
class Run:
    """One model's newest result on each task, with the same answers as arrays."""

    name: str
    folder: Path
    results: Mapping[str, TaskResult]
    outcomes: Mapping[str, Outcomes]


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """Return the models below folders, given as FOLDER or as NAME=FOLDER, all asked the same.

    lmms-eval writes the results of each model into a folder of its own, whose name becomes the
    model's unless NAME is given. Raises InputError with the reason for a folder without results,
    NAME for several models, two models of one name, an incomplete run, and models that were asked
    different things.
    """
    runs: dict[str, Run] = {}
    for argument in arguments:
        for name, folder in _folders(argument):
            if name in runs:
                raise InputError(f"{runs[name].folder} and {folder} are both named {name!r}: give NAME=FOLDER")
            runs[name] = _read(name, folder)
    first, *others = runs.values()
    for other in others:
        _check(first, other)
    return list(runs.values())


def _folders(argument: str) -> list[tuple[str, Path]]:
    """Return (name, folder) of every model that `argument` stands for."""
    named = "=" in argument and not Path(argument).exists()
    given, folder = argument.split("=", 1) if named else ("", argument)
    found = sorted({path.parent for path in results_below(folder)})
    if not named:
        return [(path.resolve().name, path) for path in found]
    if not given or len(found) > 1:
        raise InputError(f"{argument}: one NAME is for one model, and {folder} has {len(found)}")
    return [(given, found[0])]


def _read(name: str, folder: Path) -> Run:
    results: dict[str, TaskResult] = {}
    for path in sorted(folder.glob(f"*{RESULTS}")):  # the file names begin with the time
        results.update(read_results(path))
    try:
        outcomes = {
            task: Outcomes.of(
                task,
                result.family,
                result.conditions,
                result.records,
                result.seed,
                result.content_hash,
                result.condition_versions,
            )
            for task, result in results.items()
        }
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return Run(name, folder, results, outcomes)


def _check(first: Run, other: Run) -> None:
    names = first.name, other.name
    for task in sorted(set(first.results) ^ set(other.results)):
        has, lacks = names if task in first.results else names[::-1]
        raise InputError(f"{has} and {lacks} cannot be compared: {task} was asked of {has} only")
    for task, outcomes in first.outcomes.items():
        check_comparable(outcomes, other.outcomes[task], names)


def find_baseline(name: str | None, runs: Sequence[Run]) -> str | None:
    """Return `name`, or raise an InputError with the nearest name of a run."""
    names = [run.name for run in runs]
    if name is not None and name not in names:
        raise InputError(f"--baseline: no model {name!r}: {nearest(name, names)}")
    return name
