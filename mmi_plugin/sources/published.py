"""Reader of the published evaluation files, `multiple_choice_data_test.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError
from mmi_plugin.items import LETTERS, Family, Item, check
from mmi_plugin.pictures import Picture
from mmi_plugin.sources.facts import given_facts, template_facts

REQUIRED = ("id", "question", "multiple_choices", "multiple_choices_answer")


def read_published(path: Path, name: str, family: Family) -> list[Item]:
    """Return the items of a JSON list of {"id", "question", "multiple_choices",
    "multiple_choices_answer", "image"?, "facts"?}.

    `multiple_choices` maps letters to options, or lists the options; the answer is a letter or an
    option; `image` is a path relative to the file.

    Raises:
        InputError: the first bad row, with file, row (from 1) and field.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {path}: cannot be read: {error}") from error
    if not isinstance(records, list):
        raise InputError(f"{name}: {path}: holds {type(records).__name__}, not a list of records")
    return [
        _item(record, f"{name}: {path}, row {number}", path.parent, name, family)
        for number, record in enumerate(records, start=1)
    ]


def _item(record: Any, where: str, folder: Path, name: str, family: Family) -> Item:
    if not isinstance(record, dict):
        raise InputError(f"{where}: is {type(record).__name__}, not a record")
    for field in REQUIRED:
        if record.get(field) is None:
            raise InputError(f"{where}: field {field!r} is missing")
    lettered = _lettered(record["multiple_choices"], where)
    answer = str(record["multiple_choices_answer"]).strip()
    answer = lettered.get(answer, answer)
    options = tuple(lettered.values())
    image = record.get("image")
    facts = given_facts(record.get("facts") or {}, where)
    if family == "image_heavy" and not facts:
        facts = template_facts(options, answer)
    item = Item(
        id=f"{name}-{record['id']}",
        family=family,
        question=str(record["question"]).strip(),
        answer=answer,
        options=options,
        image=Picture((folder / str(image)).read_bytes, f"{where}: field 'image' {image!r}") if image else None,
        facts=facts,
    )
    return check(item, where)


def _lettered(choices: Any, where: str) -> dict[str, str]:
    """Return letter -> option, in the order of the letters."""
    if isinstance(choices, list):
        choices = dict(zip(LETTERS, choices, strict=False)) if len(choices) <= len(LETTERS) else None
    if not isinstance(choices, dict) or not all(isinstance(option, str) for option in choices.values()):
        raise InputError(f"{where}: field 'multiple_choices' is neither a map from letters to texts nor a list of them")
    return {letter: option.strip() for letter, option in sorted(choices.items())}
