"""Options that a question lists in its own text, as the published training file has them."""

from __future__ import annotations

import re

from mmi_plugin.answers import normalise
from mmi_plugin.errors import InputError
from mmi_plugin.items import LETTERS

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


def chosen(answer: str, options: tuple[str, ...], where: str) -> str:
    """Return the option that `answer` is: its letter, its text, or both ("B: dog").

    Raises an InputError that begins with `where` otherwise.
    """
    by_letter = dict(zip(LETTERS, options, strict=False))
    labelled = _LABELLED.fullmatch(answer.strip())
    letter = labelled[1] if labelled else answer.strip(" ().")
    said = labelled[2] if labelled else ""
    if letter in by_letter and said in ("", by_letter[letter]):
        return by_letter[letter]
    same = [option for option in options if normalise(option) == normalise(answer)]
    if len(same) != 1:
        raise InputError(
            f"{where}: field 'answer' is {answer!r}, neither a letter nor one of the options {list(options)}"
        )
    return same[0]
