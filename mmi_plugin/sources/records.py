"""Reader of training files: JSON list or JSONL of the published record format (method section 2)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmi_plugin.answers import normalise
from mmi_plugin.errors import BadRows, InputError, nearest
from mmi_plugin.items import FAMILIES, LETTERS, Item, check
from mmi_plugin.pictures import Picture
from mmi_plugin.sources.listed import chosen, split_options

FIELDS = ("id", "type", "image", "question", "options", "answer", "facts", "history")
REQUIRED = ("id", "type", "question", "answer")
IMAGE_MARK = "<image>"


def read_records(
    path: str | Path, images: str | Path | None = None, bad: BadRows | None = None
) -> list[tuple[str, Item]]:
    """Return (what errors about it begin with, item) of a `.json` list or a `.jsonl` file, each image checked.

    A record is {"id", "type", "image"?, "question", "options"?, "answer", "facts"?, "history"?}:
    `type` is image_heavy, text_heavy or VQA; `image` is a path relative to the folder `images`, by
    default that of the file; `facts` maps wrong options to sentences; `history` lists the
    [question, answer] turns before a free-form one. Image- and text-heavy records without
    `options` list them in the question, and their answer may be a letter, as in the published file.

    Raises:
        InputError: the first bad row, with file, row (from 1) and field; with `bad`, as that says.
    """
    path, bad = Path(path), bad or BadRows()
    folder = Path(images) if images else path.parent
    found: list[tuple[str, Item]] = []
    rows: dict[str, int] = {}
    for number, content in _records(path):
        where = f"{path}, row {number}"
        with bad.watch():
            record = _parse(content, where) if path.suffix == ".jsonl" else content
            item = item_of(record, where, _picture(record, where, folder))
            if item.id in rows:
                raise InputError(f"{where}: field 'id' {item.id!r} is already in row {rows[item.id]}")
            rows[item.id] = number
            found.append((where, item))
    if not found:
        raise InputError(f"{path}: no rows" + (f" but {len(bad.lines)} bad ones" if bad.lines else ""))
    return found


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (row from 1, record), where a record of a .jsonl file is still text."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        yield from ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())
        return
    records = _parse(text, str(path))
    if not isinstance(records, list):
        raise InputError(f"{path}: holds {type(records).__name__}, not a list of records")
    yield from enumerate(records, start=1)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error}") from error


def item_of(record: Any, where: str, picture: Picture | None) -> Item:
    """Return the checked item of a record, or raise an InputError that begins with `where`."""
    _check_fields(record, where)
    family = record["type"].lower()
    if family not in FAMILIES:
        raise InputError(f"{where}: field 'type' is {record['type']!r}: {nearest(family, FAMILIES)}")
    question = without_mark(record["question"]) if picture else record["question"]
    options, answer = _texts(record.get("options") or [], where), record["answer"]
    if not options and family != "vqa" and answer.strip():
        question, options = split_options(question)
        if not options:
            raise InputError(f"{where}: field 'options' is missing, and field 'question' lists none as lines A:, B:")
        answer = chosen(answer, options, where)
    item = Item(
        id=str(record["id"]).strip(),
        family=family,
        question=question,
        answer=answer,
        options=options,
        image=picture,
        facts=_facts(record.get("facts") or {}, options, where),
        history=_history(record.get("history") or [], where),
    )
    return check(item, where)


def _check_fields(record: Any, where: str) -> None:
    if not isinstance(record, dict):
        raise InputError(f"{where}: is {type(record).__name__}, not a record")
    for name in record:
        if name not in FIELDS:
            raise InputError(f"{where}: unknown field {name!r}: {nearest(name, FIELDS)}")
    for name in REQUIRED:
        if name not in record:
            raise InputError(f"{where}: field {name!r} is missing")
    for name in ("type", "question", "answer"):
        if not isinstance(record[name], str):
            raise InputError(f"{where}: field {name!r} is {type(record[name]).__name__}, not text")
    if type(record["id"]) not in (str, int):
        raise InputError(f"{where}: field 'id' is {type(record['id']).__name__}, not text")


def without_mark(question: str) -> str:
    """Drop the one line by which LLaVA's files say where the image goes: first or last."""
    text = question.strip()
    return (
        text.removeprefix(IMAGE_MARK).strip() if text.startswith(IMAGE_MARK) else text.removesuffix(IMAGE_MARK).strip()
    )


def _texts(options: Any, where: str) -> tuple[str, ...]:
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise InputError(f"{where}: field 'options' is not a list of texts")
    return tuple(options)


def _facts(facts: Any, options: tuple[str, ...], where: str) -> dict[str, str]:
    """Return option -> sentence; an option may be named by its letter or in another case."""
    if not isinstance(facts, dict) or not all(isinstance(text, str) for text in facts.values()):
        raise InputError(f"{where}: field 'facts' is not a map from option to text")
    names = {normalise(option): option for option in options}
    names |= dict(zip(map(normalise, LETTERS), options, strict=False)) | {option: option for option in options}
    for name, text in facts.items():
        if options and name not in names and normalise(name) not in names:
            raise InputError(f"{where}: field 'facts' has {name!r}, not among the options {list(options)}")
        if not text.strip():
            raise InputError(f"{where}: field 'facts' has an empty text for {name!r}")
    return {names.get(name, names.get(normalise(name), name)): text for name, text in facts.items()}


def _history(turns: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(turns, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in turns
    ):
        raise InputError(f"{where}: field 'history' is not a list of [question, answer]")
    return tuple((question, answer) for question, answer in turns)


def _picture(record: Any, where: str, folder: Path) -> Picture | None:
    name = record.get("image") if isinstance(record, Mapping) else None
    if not name:
        return None
    if not isinstance(name, str):
        raise InputError(f"{where}: field 'image' is {type(name).__name__}, not a path")
    picture = Picture((folder / name).read_bytes, f"{where}: field 'image' {name!r}")
    picture.digest()
    return picture
