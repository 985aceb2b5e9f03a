"""The published evaluation files in, as `multiple_choice_data_test.json`, checked items out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError
from mmi_plugin.files import as_record, json_list
from mmi_plugin.item import LETTERS, Family, Item, check
from mmi_plugin.sources.facts import fact_map, template_facts
from mmi_plugin.sources.records import ambiguous, option_named, picture_of

log = logging.getLogger(__name__)

FIELDS = ("question", "multiple_choices", "multiple_choices_answer")
IDS = ("id", "data_id")
IMAGES = "images"


def read_published(path: Path, name: str, family: Family) -> list[Item]:
    """Return the items of a JSON list of {"id" or "data_id", "question", "multiple_choices",
    "multiple_choices_answer", "image"?, "facts"?}.

    `multiple_choices` maps letters to options, or lists the options, where null stands for none; the answer is a
    letter or an option; in a list, which has no letters of its own, an option before a letter. `image` is a path
    relative to the folder `images` beside the file or to the file, or the image itself in base64. An item that
    repeats an option, and a fact on what is no option of its item, are left out; both are counted and named.

    Raises:
        InputError: the first bad row, with file, row (from 1) and field.
    """
    where, repeated, astray = f"{name}: {path}", [], []
    found: list[Item] = []
    known: dict[str, str] = {}  # one copy of each image that many rows hold in base64
    for number, record in enumerate(json_list(path, where), start=1):
        place = f"{where}, row {number}"
        record = as_record(record, place)
        if isinstance(record.get("image"), str):
            record["image"] = known.setdefault(record["image"], record["image"])
        item, strays = _item(record, place, path.parent, name, family)
        astray += [number] * bool(strays)
        if len(set(item.options)) < len(item.options):
            repeated.append(number)
        else:
            found.append(check(item, place))
    say_rows(where, repeated, "items repeat an option and are left out")
    say_rows(where, astray, "items have facts on what is none of their options, which are left out")
    return found


def say_rows(where: str, rows: Sequence[int], what: str) -> None:
    """Log how many rows, counted from 1, are odd, and which; nothing where there are none."""
    if rows:
        named = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        log.warning("%s: %d %s: rows %s", where, len(rows), what, named)


def _item(record: Any, where: str, folder: Path, name: str, family: Family) -> tuple[Item, list[str]]:
    """Return the item of a record, not checked yet, and the facts that are on none of its options."""
    key = _key(record, where)
    lettered = _lettered(record["multiple_choices"], where)
    options = tuple(lettered.values())
    answer = _chosen(record["multiple_choices_answer"].strip(), lettered, record["multiple_choices"], where)
    given = fact_map(record.get("facts") or {}, where, padded=True)
    named = {fact: option_named(fact, options) for fact in given}
    facts = {option: given[fact] for fact, option in named.items() if option is not None}
    if family == "image_heavy" and not facts:
        facts = template_facts(options, answer)
    question, picture = record["question"].strip(), picture_of(record, where, _images(record, folder))
    item = Item(f"{name}-{key}", family, question, answer, options, picture, facts)
    return item, [fact for fact, option in named.items() if option is None]


def _key(record: Any, where: str) -> str | int:
    """Return the id of a record whose fields are there and of their kinds."""
    key = next((record[name] for name in IDS if record.get(name) is not None), None)
    if key is None:
        raise InputError(f"{where}: field 'id' is missing")
    if type(key) not in (str, int):
        raise InputError(f"{where}: field 'id' is {type(key).__name__}, not text")
    for field in FIELDS:
        if record.get(field) is None:
            raise InputError(f"{where}: field {field!r} is missing")
    for field in ("question", "multiple_choices_answer"):
        if not isinstance(record[field], str):
            raise InputError(f"{where}: field {field!r} is {type(record[field]).__name__}, not text")
    return key


def _images(record: dict[str, Any], folder: Path) -> Path:
    """Return where the path of an image starts: at `images` beside the file, where the file of that name is there."""
    name = record.get("image")
    inside = folder / IMAGES
    try:
        return inside if isinstance(name, str) and (inside / name).is_file() else folder
    except (OSError, ValueError):  # too long for a path, or with a null in it
        return folder


def _chosen(answer: str, lettered: dict[str, str], choices: Any, where: str) -> str:
    """Return the option that `answer` names. Raises InputError where letter and text are two options of a map."""
    by_letter, by_text = lettered.get(answer), answer if answer in lettered.values() else None
    if by_letter and by_text and by_letter != by_text and isinstance(choices, dict):
        raise InputError(ambiguous(where, answer, by_letter, by_text))
    return by_text or by_letter or answer


def _lettered(choices: Any, where: str) -> dict[str, str]:
    """Return letter -> option, in the order of the letters, without those that are null."""
    if isinstance(choices, list):
        choices = dict(zip(LETTERS, choices, strict=False)) if len(choices) <= len(LETTERS) else None
    kinds = (str, type(None))
    if not isinstance(choices, dict) or not all(isinstance(option, kinds) for option in choices.values()):
        raise InputError(f"{where}: field 'multiple_choices' is neither a map from letters to texts nor a list of them")
    return {letter: option.strip() for letter, option in sorted(choices.items()) if option is not None}
