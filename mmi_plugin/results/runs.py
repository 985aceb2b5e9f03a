"""Results folders of lmms-eval in; runs that can be compared, each one model's records by task, out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from mmi_plugin.errors import InputError, nearest, shorten, visible
from mmi_plugin.files import parse_json
from mmi_plugin.results import Record, TaskResult
from mmi_plugin.results.estimates import check_comparable
from mmi_plugin.results.measures import Outcomes

RESULTS = "_results.json"
SETUP = {
    "processor_hash": "processor",
    "tokenizer_hash": "vocabulary",
    "template_hash": "chat template",
    "chat_template_kwargs": "arguments of the chat template",
    "system_instruction": "system prompt",
    "decoding": "decoding",
    "max_thinking_tokens": "tokens of a thought",
    "reasoning_tags": "tags of thoughts",
}
"""What decides answers beside weights and items, in words."""


def read_run(folder: Path | str) -> dict[str, TaskResult]:
    """Return task name -> result for our tasks in the newest run below `folder`.

    The run must have been made with `--log_samples`. Raises InputError that names the file when
    something is missing or malformed.
    """
    return read_results(newest_results(folder))


def read_results(path: Path) -> dict[str, TaskResult]:
    """Return what `read_run` does, for one results file."""
    results = _parse(path.read_text(encoding="utf-8"), str(path))
    found = {}
    for task, config in _field(results, "configs", dict, path).items():
        metadata = config.get("metadata")
        if isinstance(metadata, dict) and "content_hash" in metadata:
            found[task] = _read_task(path, task, config, results)
    if not found:
        raise InputError(f"{path}: holds no task of this package")
    return found


def newest_results(folder: Path | str) -> Path:
    """Return the newest results file below `folder`; lmms-eval's file names begin with the time."""
    return results_below(folder)[-1]


def results_below(folder: Path | str) -> list[Path]:
    """Return the results files below `folder`, the newest last. Raises InputError when there is none.

    Hidden folders hold what an unfinished run has written.
    """
    files = Path(folder).rglob(f"*{RESULTS}")
    whole = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not whole:
        raise InputError(f"{folder}: holds no results of a run (no *{RESULTS})")
    return sorted(whole, key=lambda path: path.name)


def _read_task(path: Path, task: str, config: Mapping[str, Any], results: Mapping[str, Any]) -> TaskResult:
    row = _field(_field(results, "results", dict, path), task, dict, path)
    samples = path.with_name(path.name.removesuffix(RESULTS) + f"_samples_{task}.jsonl")
    metadata, options = config["metadata"], _field(config, "dataset_kwargs", dict, path)
    rows = list(_rows(samples))
    return TaskResult(
        task=task,
        family=_field(metadata, "family", str, path),
        options=options,
        split=_field(config, "test_split", str, path),
        conditions=tuple(_field(options, "conditions", list, path)),
        seed=_field(options, "seed", int, path),
        content_hash=metadata["content_hash"],
        condition_versions=metadata.get("condition_versions", {}),
        numbers={key.removesuffix(",none"): value for key, value in row.items() if _is_number(key, value)},
        setup=_setup(results, task, config),
        records=tuple(map(Record.from_dict, rows)),
        prompts=tuple(row["input"] for row in rows),
    )


def _setup(results: Mapping[str, Any], task: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the results say of `SETUP`; models of lmms-eval's own say little, old results less."""
    written, flags = results.get("mmi", {}), results.get("config", {}).get("resolved_cli_args", {})
    found = {**flags, **config, **results, **written.get("model", {})}
    if task in written.get("decoding", {}):
        found["decoding"] = written["decoding"][task]
    return {key: found[key] for key in SETUP if key in found}


def _is_number(key: str, value: object) -> bool:
    return isinstance(value, int | float) and key.endswith(",none") and "_stderr" not in key


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: missing; run with --log_samples")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}: row {number}"
            row = _parse(line, where)
            for field, kinds in _FIELDS.items():
                _field(row, field, kinds, where)
            _field({"failure": None, **row}, "failure", _OPTIONAL_TEXT, where)
            if row.get("probabilities") is not None:
                _check_probabilities(row["probabilities"], where)
            yield row


def _check_probabilities(values: object, where: str) -> None:
    numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    if not numbers or not all(0 <= value <= 1 for value in values) or not 0 < sum(values) < 1 + 1e-3:
        raise InputError(f"{where}: field 'probabilities' is {values!r}, not a share per option")


_OPTIONAL_TEXT = (str, type(None))
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "item_id": str,
    "condition": str,
    "seed": int,
    "gold": str,
    "parsed": _OPTIONAL_TEXT,
    "raw": str,
    "named": _OPTIONAL_TEXT,
    "input": str,
}


def _parse(text: str, where: str) -> dict[str, Any]:
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a JSON object")
    return value


def _field(row: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], where: object) -> Any:
    if name not in row:
        raise InputError(f"{where}: field {name!r} is missing")
    if not isinstance(row[name], kinds):
        raise InputError(f"{where}: field {name!r} is {row[name]!r}")
    return row[name]


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
        raise InputError(f"{has} and {lacks} cannot be compared: {task} was asked of {has} only")
    for task, outcomes in first.outcomes.items():
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
    return shorten(" ".join(visible(text).split()), _SHOWN)


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


_SHOWN = 60  # characters of a value
