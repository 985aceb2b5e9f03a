"""Results folders of lmms-eval in; runs that can be compared, each one model's records by task, out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mmi_plugin.errors import InputError, nearest, plain, shorten
from mmi_plugin.results import TaskResult
from mmi_plugin.results.estimates import check_comparable
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.reading import RESULTS, SETUP, check_within, read_results
from mmi_plugin.sources.materials import SETTINGS

Value = TypeVar("Value")
_SHOWN = 60  # characters of a value


def read_run(folder: Path | str) -> dict[str, TaskResult]:
    """Return task name -> result for our tasks in the newest run below `folder`.

    The run must have been made with `--log_samples`. Raises InputError that names the file when
    something is missing or malformed.
    """
    return read_results(newest_results(folder))


def newest_results(folder: Path | str) -> Path:
    """Return the newest results file below `folder`; lmms-eval's file names begin with the time."""
    return results_below(folder)[-1]


def results_below(folder: Path | str) -> list[Path]:
    """Return the results files below `folder`, the newest last. Raises InputError when there is none.

    Hidden folders hold what an unfinished run has written. A link that leads out of `folder` is an InputError, too.
    """
    try:
        files = [path for path in Path(folder).rglob(f"*{RESULTS}") if path.is_file()]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    whole = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    for path in whole:
        check_within(path, Path(folder))
    if not whole:
        raise InputError(f"{folder}: holds no results of a run (no *{RESULTS})")
    return sorted(whole, key=lambda path: path.name)


@dataclass(frozen=True)
class Run:
    """One model's newest result on each task, with the same answers as arrays."""

    name: str
    folder: Path
    results: Mapping[str, TaskResult]
    outcomes: Mapping[str, Outcomes]


def read_runs(arguments: Sequence[str], common: bool = False) -> list[Run]:
    """Return the models below folders, given as FOLDER or as NAME=FOLDER, all asked the same. Several folders of one
    NAME are trainings of one model that differ in their seed alone.

    common: of each only the tasks that all were asked; else a task that one lacks is an InputError.

    lmms-eval writes the results of each model into a folder of its own, whose name becomes the
    model's unless NAME is given. Raises InputError with the reason for a folder without results,
    NAME for several models, two models of one name that was not given for both, an incomplete run, and models that were
    asked different things.
    """
    runs: list[Run] = []
    given: dict[str, tuple[Path, bool]] = {}  # of each name a folder, and whether it was given for all
    for argument in arguments:
        for name, folder, named in _folders(argument):
            before, alike = given.setdefault(name, (folder, named))
            if folder != before and not (named and alike):
                raise InputError(f"{before} and {folder} are both named {name!r}: give NAME=FOLDER")
            if any(run.name == name and run.folder.resolve() == folder.resolve() for run in runs):
                raise InputError(f"{folder}: given twice")
            runs.append(_read(name, folder))
    found = _common(runs) if common else runs
    check_runs(found)
    _check_seeds(found)
    return found


def _check_seeds(runs: Sequence[Run]) -> None:
    """Raise InputError for runs of one name that differ in more than their training."""
    for name in dict.fromkeys(run.name for run in runs):
        if odd := differences([run for run in runs if run.name == name]):
            raise InputError(f"{name} is given several times, for trainings with other seeds: {odd[0].say(plain)}")


def _common(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with those tasks alone that all of them have. Raises InputError when there is none."""
    tasks = set.intersection(*(set(run.results) for run in runs))
    if not tasks:
        asked = "; ".join(f"{run.name}: {', '.join(sorted(run.results))}" for run in runs)
        raise InputError(f"--common: no task was asked of all models ({asked})")

    def shared(values: Mapping[str, Value]) -> dict[str, Value]:
        return {task: value for task, value in values.items() if task in tasks}

    return [replace(run, results=shared(run.results), outcomes=shared(run.outcomes)) for run in runs]


def check_runs(runs: Sequence[Run]) -> None:
    """Raise InputError with the reason unless all were asked the same."""
    first, *others = runs
    for other in others:
        _check(first, other)


def _folders(argument: str) -> list[tuple[str, Path, bool]]:
    """Return (name, folder, whether the name was given) of every model that `argument` stands for."""
    try:
        named = "=" in argument and not Path(argument).exists()
    except OSError as error:
        raise InputError(f"{argument}: cannot be read: {error.strerror}") from error
    given, folder = argument.split("=", 1) if named else ("", argument)
    found = sorted({path.parent for path in results_below(folder)})
    if not named:
        return [(path.resolve().name, path, False) for path in found]
    if not given or len(found) > 1:
        raise InputError(f"{argument}: one NAME is for one model, and {folder} has {len(found)}")
    return [(given, found[0], True)]


def _read(name: str, folder: Path) -> Run:
    results: dict[str, TaskResult] = {}
    for path in sorted(folder.glob(f"*{RESULTS}")):  # the file names begin with the time
        results.update(read_results(path))
    return as_run(name, folder, results)


def as_run(name: str, folder: Path, results: Mapping[str, TaskResult]) -> Run:
    """Return one model's results as a run. Raises InputError that begins with `folder` for an incomplete one."""
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
        raise InputError(
            f"{has} and {lacks} cannot be compared: {task} was asked of {has} only (--common leaves such tasks out)"
        )
    for task, outcomes in first.outcomes.items():
        one, two = first.results[task].options, other.results[task].options
        for key in SETTINGS:
            if one.get(key) != two.get(key):
                shown = " and ".join(_shown(one.get(key, "not set"), two.get(key, "not set")))
                raise InputError(f"{' and '.join(names)} cannot be compared on {task}: key {key!r} is {shown}")
        check_comparable(outcomes, other.outcomes[task], names)


class Differing(NamedTuple):
    """What two runs are known to differ in, in words, with both values."""

    words: str
    names: tuple[str, str]
    values: tuple[str, str]

    def say(self, show: Callable[[str], str]) -> str:
        """Return it as text; `show` makes names and values fit."""
        return f"{self.words} of {' and '.join(map(show, self.names))}: {' and '.join(map(show, self.values))}"


def differences(runs: Sequence[Run], baseline: str | None = None) -> list[Differing]:
    """Return each thing of `SETUP` in which runs differ, with the first two that do; a baseline is one of them."""
    pairs = [pair for pair in combinations(runs, 2) if baseline in (None, pair[0].name, pair[1].name)]
    found = []
    for key, words in SETUP.items():
        for one, other in pairs:
            values = _first_differing(one, other, key)
            if values:
                found.append(Differing(words, (one.name, other.name), values))
                break
    return found


def _first_differing(one: Run, other: Run, key: str) -> tuple[str, str] | None:
    for task, result in one.results.items():
        first, second = result.setup, other.results[task].setup
        if key in first and key in second and first[key] != second[key]:
            return _shown(first[key], second[key])
    return None


def _shown(first: Any, second: Any) -> tuple[str, str]:
    """Return both values as text, of settings by name only what differs."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
        first, second = ({key: values.get(key) for key in keys} for values in (first, second))
    return _text(first), _text(second)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(plain(text), _SHOWN)


def unknown(runs: Sequence[Run]) -> list[str]:
    """Return, in words, each thing of `SETUP` that would be compared and that the results of some run do not tell."""
    setups = [result.setup for run in runs for result in run.results.values()]
    return [words for key, words in SETUP.items() if len(runs) > 1 and any(key not in setup for setup in setups)]


def find_baseline(name: str | None, runs: Sequence[Run], allow_different: bool = False) -> str | None:
    """Return `name`. Raises InputError when no run has it, or when runs to be tested were asked in different ways.

    allow_different: test them all the same.
    """
    names = [run.name for run in runs]
    if name is not None and name not in names:
        raise InputError(f"--baseline: no model {name!r}: {nearest(name, names)}")
    found = [] if name is None or allow_different else [one.say(str) for one in differences(runs, name)]
    if found:
        raise InputError(f"--baseline: {'; '.join(found)} (--allow-different-prompts tests them all the same)")
    return name
