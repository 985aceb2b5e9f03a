"""Reader of training files: JSON list or JSONL of the published record format (method section 2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.items import FAMILIES, Item, check
from mmi_plugin.pictures import Picture

FIELDS = ("id", "type", "image", "question", "options", "answer", "facts")
REQUIRED = ("id", "type", "question", "answer")


def read_records(path: str | Path) -> tuple[Item, ...]:
    """Return the items of a `.json` list or a `.jsonl` file, every row and image checked.

    A record is {"id", "type", "image"?, "question", "options"?, "answer", "facts"?}; `type` is
    image_heavy, text_heavy or VQA; `image` is a path relative to the file; `facts` maps wrong
    options to sentences.

    Raises:
        InputError: the first bad row, with file, row (from 1) and field.
    """
    path = Path(path)
    items: list[Item] = []
    rows: dict[str, int] = {}
    for number, record in enumerate(_records(path), start=1):
        where = f"{path}, row {number}"
        item = _item(record, where, path.parent)
        if item.id in rows:
            raise InputError(f"{where}: field 'id' {item.id!r} is already in row {rows[item.id]}")
        rows[item.id] = number
        items.append(item)
    if not items:
        raise InputError(f"{path}: no rows")
    return tuple(items)


def _records(path: Path) -> Iterator[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield _parse(line, f"{path}, line {number}")
        return
    records = _parse(text, str(path))
    if not isinstance(records, list):
        raise InputError(f"{path}: holds {type(records).__name__}, not a list of records")
    yield from records


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error}") from error


def _item(record: Any, where: str, folder: Path) -> Item:
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
    if not isinstance(record["id"], (str, int)):
        raise InputError(f"{where}: field 'id' is {type(record['id']).__name__}, not text")
    family = record["type"].lower()
    if family not in FAMILIES:
        raise InputError(f"{where}: field 'type' is {record['type']!r}: {nearest(family, FAMILIES)}")
    item = Item(
        id=str(record["id"]),
        family=family,
        question=record["question"],
        answer=record["answer"],
        options=_texts(record.get("options") or [], where),
        image=_image(record.get("image"), where, folder),
        facts=_facts(record.get("facts") or {}, where),
    )
    return check(item, where)


def _texts(options: Any, where: str) -> tuple[str, ...]:
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise InputError(f"{where}: field 'options' is not a list of texts")
    return tuple(options)


def _facts(facts: Any, where: str) -> dict[str, str]:
    if not isinstance(facts, dict) or not all(isinstance(text, str) for text in facts.values()):
        raise InputError(f"{where}: field 'facts' is not a map from option to text")
    return facts


def _image(name: Any, where: str, folder: Path) -> Picture | None:
    if not name:
        return None
    if not isinstance(name, str):
        raise InputError(f"{where}: field 'image' is {type(name).__name__}, not a path")
    picture = Picture((folder / name).read_bytes, f"{where}: field 'image' {name!r}")
    picture.digest()
    return picture
