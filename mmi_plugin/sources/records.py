"""Records in, checked items out: those of training files, and of published ones as `multiple_choice_data_test.json`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from mmi_plugin.answers import normalise
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import json_list
from mmi_plugin.items import FAMILIES, LETTERS, Family, Item, check
from mmi_plugin.pictures import Picture, Size, read_picture
from mmi_plugin.sources.facts import fact_map, template_facts

_LABELLED = re.compile(r"\(?([A-Z])[:.)](?:\s+|$)(.*)")
_HEADS = ("question:", "option:", "options:")


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the question and its options, from a text such as "Question:\\nWhat?\\nOption:\\nA: x\\nB: y".

    The options are the last lines that begin with A, B, C and so on; a line between two of them
    continues the one before, what follows the last belongs to the question. No options: ().
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    places = _labelled(lines)
    if len(places) < 2:
        return text.strip(), ()
    ends = [*places[1:], places[-1] + 1]
    options = [
        " ".join([_LABELLED.match(lines[start])[2], *lines[start + 1 : end]]).strip()
        for start, end in zip(places, ends, strict=True)
    ]
    rest = [line for line in lines[: places[0]] + lines[ends[-1] :] if line and line.lower() not in _HEADS]
    return "\n".join(rest), tuple(options)


def _labelled(lines: list[str]) -> list[int]:
    """Return the places of the last list A, B, C, ... in `lines`."""
    letters = [match[1] if (match := _LABELLED.match(line)) else None for line in lines]
    starts = [place for place, letter in enumerate(letters) if letter == "A"]
    places: list[int] = starts[-1:]
    for place in range(places[0] + 1 if places else len(lines), len(lines)):
        if len(places) < len(LETTERS) and letters[place] == LETTERS[len(places)]:
            places.append(place)
    return places


def option_of(answer: str, options: tuple[str, ...], where: str) -> str:
    """Return the option that `answer` is: its letter, its text, or both ("B: dog").

    Raises an InputError that begins with `where` otherwise, also where letter and text are two options.
    """
    by_letter = dict(zip(LETTERS, options, strict=False))
    labelled = _LABELLED.fullmatch(answer.strip())
    letter = labelled[1] if labelled else answer.strip(" ().")
    said = labelled[2] if labelled else ""
    same = [option for option in options if normalise(option) == normalise(answer)]
    if letter in by_letter and said in ("", by_letter[letter]):
        if not said and any(option != by_letter[letter] for option in same):
            raise InputError(_ambiguous(where, answer, by_letter[letter], same[0]))
        return by_letter[letter]
    if len(same) != 1:
        raise InputError(
            f"{where}: field 'answer' is {answer!r}, neither a letter nor one of the options {list(options)}"
        )
    return same[0]


def _ambiguous(where: str, answer: str, by_letter: str, by_text: str) -> str:
    return f"{where}: field 'answer' is {answer!r}, which is {by_letter!r} by its letter and {by_text!r} by its text"


FIELDS = ("id", "type", "image", "question", "options", "answer", "facts", "history")
REQUIRED = ("id", "type", "question", "answer")
IMAGE_MARK = "<image>"


def item_of(record: Any, where: str, picture: Picture | None) -> Item:
    """Return the checked item of a record, or raise an InputError that begins with `where`."""
    _check_fields(record, where)
    family = record["type"].lower()
    if family not in FAMILIES:
        raise InputError(f"{where}: field 'type' is {record['type']!r}: {nearest(family, FAMILIES)}")
    question = without_mark(record["question"]) if picture else record["question"]
    options, answer = tuple(record.get("options") or ()), record["answer"]
    if not options and family != "vqa" and answer.strip():
        question, options = split_options(question)
        if not options:
            raise InputError(f"{where}: field 'options' is missing, and field 'question' lists none as lines A:, B:")
        answer = option_of(answer, options, where)
    item = Item(
        id=str(record["id"]).strip(),
        family=family,
        question=question,
        answer=answer,
        options=options,
        image=picture,
        facts=_facts(record.get("facts") or {}, options, where),
        history=tuple(map(tuple, record.get("history") or ())),
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
    if not _are_texts(record.get("options") or []):
        raise InputError(f"{where}: field 'options' is not a list of texts")
    turns = record.get("history") or []
    if not isinstance(turns, list) or not all(_are_texts(turn) and len(turn) == 2 for turn in turns):
        raise InputError(f"{where}: field 'history' is not a list of [question, answer]")


def without_mark(question: str) -> str:
    """Drop the one line by which LLaVA's files say where the image goes: first or last."""
    text = question.strip()
    cut = text.removeprefix if text.startswith(IMAGE_MARK) else text.removesuffix
    return cut(IMAGE_MARK).strip()


def _facts(facts: Any, options: tuple[str, ...], where: str) -> dict[str, str]:
    """Return option -> sentence; an option may be named by its letter or in another case."""
    facts = fact_map(facts, where)
    names = dict(zip(map(normalise, LETTERS), options, strict=False))
    names |= {normalise(option): option for option in options} | {option: option for option in options}
    for name, text in facts.items():
        if options and name not in names and normalise(name) not in names:
            raise InputError(f"{where}: field 'facts' has {name!r}, not among the options {list(options)}")
        if not text.strip():
            raise InputError(f"{where}: field 'facts' has an empty text for {name!r}")
    return {names.get(name, names.get(normalise(name), name)): text for name, text in facts.items()}


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def picture_of(record: dict[str, Any], where: str, folder: Path) -> Picture | None:
    """Return the image at the path in field `image`, relative to `folder`; None where there is none.

    Raises an InputError that begins with `where` for what is no path.
    """
    name = record.get("image")
    if not name:
        return None
    if not isinstance(name, str):
        raise InputError(f"{where}: field 'image' is {type(name).__name__}, not a path")
    return picture_at(name, where, folder)


def picture_at(name: str, where: str, folder: Path, size: Size | InputError | None = None) -> Picture:
    """Return the image at the path `name`, relative to `folder`, that a row at `where` has. size: if known."""
    return Picture(partial(read_picture, folder / name), f"{where}: field 'image' {name!r}", size)


PUBLISHED_FIELDS = ("id", "question", "multiple_choices", "multiple_choices_answer")


def read_published(path: Path, name: str, family: Family) -> list[Item]:
    """Return the items of a JSON list of {"id", "question", "multiple_choices",
    "multiple_choices_answer", "image"?, "facts"?}.

    `multiple_choices` maps letters to options, or lists the options; the answer is a letter or an
    option; in a list, which has no letters of its own, an option before a letter. `image` is a path
    relative to the file.

    Raises:
        InputError: the first bad row, with file, row (from 1) and field.
    """
    where = f"{name}: {path}"
    return [
        _published_item(record, f"{where}, row {number}", path.parent, name, family)
        for number, record in enumerate(json_list(path, where), start=1)
    ]


def _published_item(record: Any, where: str, folder: Path, name: str, family: Family) -> Item:
    if not isinstance(record, dict):
        raise InputError(f"{where}: is {type(record).__name__}, not a record")
    for field in PUBLISHED_FIELDS:
        if record.get(field) is None:
            raise InputError(f"{where}: field {field!r} is missing")
    for field in ("id", "question", "multiple_choices_answer"):
        if type(record[field]) not in ((str, int) if field == "id" else (str,)):
            raise InputError(f"{where}: field {field!r} is {type(record[field]).__name__}, not text")
    lettered = _lettered(record["multiple_choices"], where)
    options = tuple(lettered.values())
    answer = _chosen(record["multiple_choices_answer"].strip(), lettered, record["multiple_choices"], where)
    facts = fact_map(record.get("facts") or {}, where, padded=True)
    if family == "image_heavy" and not facts:
        facts = template_facts(options, answer)
    item = Item(
        id=f"{name}-{record['id']}",
        family=family,
        question=record["question"].strip(),
        answer=answer,
        options=options,
        image=picture_of(record, where, folder),
        facts=facts,
    )
    return check(item, where)


def _chosen(answer: str, lettered: dict[str, str], choices: Any, where: str) -> str:
    """Return the option that `answer` names. Raises InputError where letter and text are two options of a map."""
    by_letter, by_text = lettered.get(answer), answer if answer in lettered.values() else None
    if by_letter and by_text and by_letter != by_text and isinstance(choices, dict):
        raise InputError(_ambiguous(where, answer, by_letter, by_text))
    return by_text or by_letter or answer


def _lettered(choices: Any, where: str) -> dict[str, str]:
    """Return letter -> option, in the order of the letters."""
    if isinstance(choices, list):
        choices = dict(zip(LETTERS, choices, strict=False)) if len(choices) <= len(LETTERS) else None
    if not isinstance(choices, dict) or not all(isinstance(option, str) for option in choices.values()):
        raise InputError(f"{where}: field 'multiple_choices' is neither a map from letters to texts nor a list of them")
    return {letter: option.strip() for letter, option in sorted(choices.items())}
