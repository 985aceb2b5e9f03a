"""Training records in, checked items out; and what these share with other files of questions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmi_plugin.answers import normalise
from mmi_plugin.errors import InputError, nearest, shorten
from mmi_plugin.files import as_record
from mmi_plugin.item import FAMILIES, LETTERS, Item, check
from mmi_plugin.pictures import Picture, Size, decode_base64, read_picture
from mmi_plugin.sources.facts import fact_map

_LABELLED = re.compile(r"\(?([A-Z])[:.)](?:\s+|$)(.*)")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}")  # paths of images have a dot before their suffix
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
    letter, said = _lettered(answer)
    same = {option: None for option in options if normalise(option) == normalise(answer)}
    if letter in by_letter and said in ("", by_letter[letter]):
        if not said and any(option != by_letter[letter] for option in same):
            raise InputError(ambiguous(where, answer, by_letter[letter], next(iter(same))))
        return by_letter[letter]
    if len(same) != 1:
        raise InputError(
            f"{where}: field 'answer' is {answer!r}, neither a letter nor one of the options {list(options)}"
        )
    return next(iter(same))


def _lettered(answer: str) -> tuple[str, str]:
    """Return the letter of an answer, or all of it where it may be one, and the text after a letter's mark, or ""."""
    labelled = _LABELLED.fullmatch(answer.strip())
    return (labelled[1], labelled[2]) if labelled else (answer.strip(" ()."), "")


def _place_of(answer: str, options: tuple[str, ...], chosen: str) -> int | None:
    """Return which of several options that read alike the letter of `answer` is; None where `chosen` is there once."""
    letter, _ = _lettered(answer)
    places = [place for place, option in enumerate(options) if option == chosen]
    lettered = [place for place in places if LETTERS[place] == letter]
    return None if len(places) < 2 else (lettered or places)[0]


def ambiguous(where: str, answer: str, by_letter: str, by_text: str) -> str:
    return f"{where}: field 'answer' is {answer!r}, which is {by_letter!r} by its letter and {by_text!r} by its text"


FIELDS = ("id", "type", "image", "question", "options", "answer", "facts", "history")
REQUIRED = ("id", "type", "question", "answer")
IMAGE_MARK = "<image>"


def of_arrow(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as a file would have it: Arrow fills what a row does not have with null, and has no maps."""
    found, facts, turns = dict(record), record.get("facts"), record.get("history")
    if _structs(facts, "option", "text"):
        facts = {fact["option"]: fact["text"] for fact in facts}
    if isinstance(facts, Mapping):
        found["facts"] = {option: text for option, text in facts.items() if text is not None}
    if _structs(turns, "question", "answer"):
        found["history"] = [[turn["question"], turn["answer"]] for turn in turns]
    return found


def _structs(value: Any, *names: str) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) and set(names) <= set(one) for one in value)


def item_of(record: Any, where: str, picture: Picture | None) -> Item:
    """Return the checked item of a record, or raise an InputError that begins with `where`."""
    _check_fields(as_record(record, where), where)
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
        place=_place_of(record["answer"], options, answer),
    )
    return check(item, where, repeated_options=True)


def _check_fields(record: dict[str, Any], where: str) -> None:
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
    names = {name: option_named(name, options) for name in facts}
    for name, text in facts.items():
        if options and names[name] is None:
            raise InputError(f"{where}: field 'facts' has {name!r}, not among the options {list(options)}")
        if not text.strip():
            raise InputError(f"{where}: field 'facts' has an empty text for {name!r}")
    return {names[name] or name: text for name, text in facts.items()}


def option_named(name: str, options: Sequence[str]) -> str | None:
    """Return the option that `name` is: itself, in another case, or its letter; None where there is none."""
    names = dict(zip(map(normalise, LETTERS), options, strict=False))
    names |= {normalise(option): option for option in options} | {option: option for option in options}
    return names.get(name, names.get(normalise(name)))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def picture_of(record: dict[str, Any], where: str, folder: Path) -> Picture | None:
    """Return the image in field `image`, a path relative to `folder` or the file itself in base64; None without one.

    Raises an InputError that begins with `where` for what is neither.
    """
    name = record.get("image")
    if not name:
        return None
    if not isinstance(name, str):
        raise InputError(f"{where}: field 'image' is {type(name).__name__}, not a path")
    return picture_at(name, where, folder)


def picture_at(name: str, where: str, folder: Path, size: Size | InputError | None = None) -> Picture:
    """Return the image that a row at `where` has in field `image`, as `picture_of` does. size: if known."""
    if is_within(name):
        return Picture(partial(decode_base64, name), f"{where}: field 'image', base64,", size)
    return Picture(partial(read_picture, folder / name), f"{where}: field 'image' {shorten(name, 300)!r}", size)


def is_within(name: str) -> bool:
    """Whether a field `image` holds the image itself, in base64."""
    return _BASE64.fullmatch(name.strip()) is not None
