"""Read what one run of the harness wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError
from mmi_plugin.results import Record

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


@dataclass(frozen=True)
class TaskResult:
    """One task of a run. `options` are the task's `dataset_kwargs`; `numbers` are the harness's own,
    by the names of `measures.task_numbers`; `content_hash` identifies items, conditions and seed, of which
    `condition_versions` (empty in old results) names a part; `setup` holds what is known of `SETUP`;
    `records` and their `prompts` are in the order written."""

    task: str
    family: str
    options: dict[str, Any]
    split: str
    conditions: tuple[str, ...]
    seed: int
    content_hash: str
    condition_versions: dict[str, int]
    numbers: dict[str, float]
    setup: dict[str, Any]
    records: tuple[Record, ...]
    prompts: tuple[str, ...]


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
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a JSON object")
    return value


def _field(row: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], where: object) -> Any:
    if name not in row:
        raise InputError(f"{where}: field {name!r} is missing")
    if not isinstance(row[name], kinds):
        raise InputError(f"{where}: field {name!r} is {row[name]!r}")
    return row[name]
