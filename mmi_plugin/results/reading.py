"""One results file of lmms-eval in, with its samples, by whomever they were written; the tasks that it holds out.

Nothing is believed that can be recounted: letters are read anew from the raw answers, numbers from the samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmi_plugin.answers import LONGEST, read, read_free, tag_pairs
from mmi_plugin.answers.agreement import check_metric
from mmi_plugin.conditions import IN_IMAGE, check_names
from mmi_plugin.errors import InputError
from mmi_plugin.files import json_lines, read_bytes, read_text
from mmi_plugin.item import FAMILIES, LETTERS
from mmi_plugin.results import Record, TaskResult, group_by_item
from mmi_plugin.results.attacks import check_attack
from mmi_plugin.results.fields import Kinds, field, parse_object, part, shown
from mmi_plugin.results.measures import task_numbers

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
    "plugins": "code of conditions, sources and families from outside",
}
"""What decides answers beside weights and items, in words."""

Tags = tuple[tuple[str, str], ...]
_TASK = re.compile(r"[\w@=+-][\w.@=+-]{0,199}")  # its name is part of names of files
_HASH = re.compile(r"[0-9a-f]{64}")
_THEIR_TAGS: Tags = (("<think>", "</think>"), ("<analysis>", "</analysis>"))
"""What lmms-eval writes where `--reasoning_tags` was not given: then all that are known are left out, too."""
_OPTIONAL_TEXT = (str, type(None))
_FIELDS: dict[str, Kinds] = {
    "item_id": str,
    "condition": str,
    "seed": int,
    "gold": str,
    "parsed": _OPTIONAL_TEXT,
    "raw": str,
    "named": _OPTIONAL_TEXT,
    "input": str,
}
_LATER: dict[str, Kinds] = {
    "failure": _OPTIONAL_TEXT,
    "options": (list, type(None)),
    "cut_off": bool,
    "cluster": _OPTIONAL_TEXT,
    "group": _OPTIONAL_TEXT,
}
"""Fields that old results lack."""
_FREE: dict[str, Kinds] = {"answers": (list, type(None)), "metric": _OPTIONAL_TEXT}
"""Fields of free-form answers."""


def read_results(path: Path) -> dict[str, TaskResult]:
    """Return task name -> result for our tasks in one results file.

    Raises InputError that names the file, and the row, when something is missing or malformed, and when results and
    samples do not agree.
    """
    results = parse_object(read_text(path), str(path))
    found = {}
    for task, config in field(results, "configs", dict, path).items():
        if not isinstance(config, dict):
            raise InputError(f"{path}: field 'configs' holds {shown(config)} of {shown(task)}")
        metadata = config.get("metadata")
        if isinstance(metadata, dict) and "content_hash" in metadata:
            found[task] = _read_task(path, task, config, results)
    if not found:
        raise InputError(f"{path}: holds no task of this package")
    return found


def _read_task(path: Path, task: str, config: Mapping[str, Any], results: Mapping[str, Any]) -> TaskResult:
    if not _TASK.fullmatch(task):
        raise InputError(f"{path}: task {shown(task)} has no name of a task")
    written = field(field(results, "results", dict, path), task, dict, path)
    metadata, options = config["metadata"], field(config, "dataset_kwargs", dict, path)
    family, conditions = _family(metadata, options, path), tuple(options["conditions"])
    seed = field(options, "seed", int, path)
    rows = list(_rows(path.with_name(path.name.removesuffix(RESULTS) + f"_samples_{task}.jsonl"), conditions, seed))
    logged = [Record.from_dict(row) for row in rows]
    thoughts = _thoughts(results, config, path)
    records = [_read_anew(record, row["input"], thoughts) for record, row in zip(logged, rows, strict=True)]
    try:
        if not written.get("incomplete,none"):
            group_by_item(logged, conditions)
        _check_numbers(written, numbers := task_numbers(logged, family, conditions))
        if records != logged:
            numbers = task_numbers(records, family, conditions)
    except InputError as error:
        raise InputError(f"{path}: {task}: {error}") from error
    return TaskResult(
        task=task,
        family=family,
        options=options,
        split=field(config, "test_split", str, path),
        conditions=conditions,
        seed=seed,
        content_hash=metadata["content_hash"],
        condition_versions=_versions(metadata, conditions, path),
        numbers=numbers,
        setup=_setup(results, task, config, path),
        records=tuple(records),
        prompts=tuple(row["input"] for row in rows),
        read_anew=sum(old.parsed != new.parsed for old, new in zip(logged, records, strict=True)),
    )


def _family(metadata: Mapping[str, Any], options: Mapping[str, Any], path: Path) -> str:
    """Return the family, once it and the conditions are known ones."""
    family, names = field(metadata, "family", str, path), field(options, "conditions", list, path)
    if family not in FAMILIES:
        raise InputError(f"{path}: field 'family' is {shown(family)}, not one of {', '.join(FAMILIES)}")
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: field 'conditions' is {shown(names)}")
    try:
        check_names(names, family)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(metadata["content_hash"], str) or not _HASH.fullmatch(metadata["content_hash"]):
        raise InputError(f"{path}: field 'content_hash' is {shown(metadata['content_hash'])}")
    return family


def _versions(metadata: Mapping[str, Any], conditions: Sequence[str], path: Path) -> dict[str, int]:
    """Return condition -> version: of each that was asked, or in old results of none."""
    found = part(metadata, "condition_versions", path)
    for name in found:
        field(found, name, int, path)
    if found and set(found) != set(conditions):
        odd = sorted(set(found) ^ set(conditions))[0]
        raise InputError(f"{path}: field 'condition_versions' and the conditions that were asked differ in {odd!r}")
    return found


def _thoughts(results: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> Tags:
    """Return the tags of thoughts with which the answers were read."""
    flags = part(part(results, "config", path), "resolved_cli_args", path)
    given = config.get("reasoning_tags")
    if given is None:
        given = flags.get("reasoning_tags", _THEIR_TAGS)
    try:
        return tag_pairs(given, _THEIR_TAGS)
    except ValueError as error:
        raise InputError(f"{path}: field 'reasoning_tags' is {shown(given)}") from error


def _read_anew(record: Record, prompt: str, thoughts: Tags) -> Record:
    """Return the record with what its raw answer says."""
    if record.failure:
        return replace(record, parsed=None, cut_off=False)
    said = record.raw.removeprefix(prompt)
    reading = read_free(said, thoughts) if record.metric else read(said, record.options, thoughts)
    return replace(record, parsed=reading.letter, cut_off=reading.cut_off)


def _check_numbers(written: Mapping[str, Any], counted: Mapping[str, float]) -> None:
    """Raise InputError for a number of the results that is not that of the samples."""
    for name, value in counted.items():
        said = written.get(f"{name},none")
        if said is None and (math.isnan(value) or f"{name},none" not in written):
            continue
        is_number = isinstance(said, int | float) and not isinstance(said, bool) and -1e9 < said < 1e9
        if not is_number or not abs(said - value) < 1e-6:
            raise InputError(f"{name!r} is {shown(said)}, and the samples say {value:.6g}")


def _setup(results: Mapping[str, Any], task: str, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what the results say of `SETUP`; models of lmms-eval's own say little, old results less."""
    written = part(results, "mmi", path)
    flags = part(part(results, "config", path), "resolved_cli_args", path)
    found = {**flags, **config, **results, **part(written, "model", path)}
    decoding = part(written, "decoding", path)
    if task in decoding:
        found["decoding"] = decoding[task]
    found["plugins"] = part(part(part(written, "tasks", path), task, path), "plugins", path)
    return {key: found[key] for key in SETUP if key in found}


def _rows(path: Path, conditions: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: missing; run with --log_samples")
    check_within(path, path.parent)
    try:
        data = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    golds: dict[str, Any] = {}
    for number, line in json_lines(data):
        where = f"{path}: row {number}"
        row = parse_object(line, where)
        for name, kinds in _FIELDS.items():
            field(row, name, kinds, where)
        for name, kinds in {**_LATER, **_FREE}.items():
            field(row, name, kinds, where, needed=False)
        free = row.get("metric") is not None
        if row.get("options") is None and not free:  # in old results, or by whoever would not have letters read anew
            row["options"] = _listed(row["input"])
        _check_free(row, where) if free else _check_letters(row, where)
        check_attack(row, where)
        _check_asked(row, conditions, seed, where)
        for name in ("gold", "options", "cluster", "group", *_FREE):
            if (before := golds.setdefault((row["item_id"], name), row.get(name))) != row.get(name):
                raise InputError(f"{where}: field {name!r} is {shown(row.get(name))}, and before {shown(before)}")
        yield row


def _listed(prompt: str) -> list[str] | None:
    """Return the options that a prompt lists as lines "A: ...", "B: ..."; None where it lists none."""
    lines = prompt.split("\n")
    places = [number for number, line in enumerate(lines) if line.startswith("A: ")][-1:]
    for letter in LETTERS[1:] if places else ():
        later = (number for number in range(places[-1] + 1, len(lines)) if lines[number].startswith(f"{letter}: "))
        if (place := next(later, None)) is None:
            break
        places.append(place)
    ends = [*places[1:], places[-1] + 1] if places else []
    found = ["\n".join(lines[start:end])[3:] for start, end in zip(places, ends, strict=True)]
    return found if len(found) > 1 else None


def _check_free(row: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a free-form answer that its metric cannot be asked about."""
    answers = row.get("answers") or []
    if not answers or not all(isinstance(text, str) and 0 < len(text) <= LONGEST for text in answers):
        raise InputError(f"{where}: field 'answers' is {shown(answers)}, not a list of texts")
    check_metric(row["metric"], answers, where)
    if row["gold"] not in answers:
        raise InputError(f"{where}: field 'gold' is {shown(row['gold'])}, not one of the answers")
    if (named := row.get("named")) is not None and not 0 < len(named) <= LONGEST:
        raise InputError(f"{where}: field 'named' is {shown(named)}, not an answer")
    if (shares := row.get("probabilities")) is not None:
        raise InputError(f"{where}: field 'probabilities' is {shown(shares)}, and a free-form question has no options")


def check_within(path: Path, folder: Path) -> None:
    """Raise InputError for a link that leads out of `folder`."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: leads out of {folder}")


def _check_asked(row: Mapping[str, Any], conditions: Sequence[str], seed: int, where: str) -> None:
    if row["condition"] not in conditions:
        raise InputError(f"{where}: field 'condition' is {shown(row['condition'])}, which was not asked")
    if row["seed"] != seed:
        raise InputError(f"{where}: field 'seed' is {shown(row['seed'])}, and that of the task is {shown(seed)}")
    if row.get("target", row["gold"]) != row["gold"]:
        raise InputError(f"{where}: field 'gold' is {row['gold']!r}, and the target {shown(row['target'])}")


def _check_letters(row: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a letter of no option, and for options or probabilities that are none."""
    options = row["options"]
    if options is None:
        raise InputError(f"{where}: field 'options' is missing, and field 'input' lists none")
    if not 0 < len(options) <= len(LETTERS) or not all(isinstance(option, str) for option in options):
        raise InputError(f"{where}: field 'options' is {shown(options)}")
    valid = LETTERS[: len(options)]
    asked = "\n".join(f"{letter}: {text}" for letter, text in zip(valid, options, strict=True))
    if asked not in row["input"] and row["condition"] != IN_IMAGE:
        raise InputError(f"{where}: field 'options' is {shown(options)}, which were not asked")
    for name in ("gold", "parsed", "named"):
        letter = row[name]
        if not (letter is None or (len(letter) == 1 and letter in valid)):
            raise InputError(f"{where}: field {name!r} is {shown(letter)}, not the letter of an option")
    if (shares := row.get("probabilities")) is not None:
        numbers = isinstance(shares, list) and all(type(share) in (int, float) for share in shares)
        if not numbers or not all(0 <= share <= 1 for share in shares) or not 0 < sum(shares) < 1 + 1e-3:
            raise InputError(f"{where}: field 'probabilities' is {shown(shares)}, not a share per option")
        if len(shares) != len(options):
            raise InputError(f"{where}: field 'probabilities' has {len(shares)} values, not one per option")
