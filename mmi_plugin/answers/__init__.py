"""From a model's raw text to the letter of an option, or to None: never a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mmi_plugin.answers.mentions import Choices, choices, find
from mmi_plugin.answers.text import (
    NEXT_QUESTION,
    THOUGHTS,
    TURN_END,
    answer_start,
    place_in,
    squeezed,
    tag_pairs,
    unmarked,
)
from mmi_plugin.answers.verdict import chosen

__all__ = [
    "THOUGHTS", "Reading", "answer_start", "mentions", "normalise", "parse_letter", "read", "read_free", "tag_pairs",
]  # fmt: skip

# One letter and nothing else but brackets, punctuation and pictographs: "(B)", "B.", "- b", "B 👍".
_LONE = re.compile(
    r"(?![\s\S]*[✗👎])[\s()<\-.,:;!?'✓→\u2600-\u2668\u2670-\u27bf\U0001f300-\U0001faff]*([A-Za-z])"
    r"[\s()>.,:;!?'✓\u2600-\u2668\u2670-\u27bf\U0001f300-\U0001faff]*"
)


LONGEST = 1000  # characters of a free-form answer: comparing takes time with the square of them


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """Fold case, width and white space, and drop the punctuation at both ends."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", folded).strip(" \t\n.,:;!?\"'*()[]")


def mentions(text: str, phrase: str) -> bool:
    """Whether `phrase` stands in `text` as whole words, case and width aside."""
    needle, hay = normalise(phrase), normalise(text)
    if not needle or needle not in hay:  # which spares most calls a regular expression
        return False
    return re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", hay) is not None


@dataclass(frozen=True)
class Reading:
    """What an answer chooses."""

    letter: str | None
    """The letter of the option, of a free-form answer its text; None where it is not clear."""
    start: int | None
    """Where in the raw text the letter stands; None if the option was named by its text, or none was read."""
    cut_off: bool
    """Whether a thought was begun and never ended."""


def read(raw: str, options: Sequence[str], thoughts: Sequence[tuple[str, str]] = THOUGHTS) -> Reading:
    """Return which of `options` the answer `raw` chooses.

    Thoughts, which stand between the tags of `thoughts`, are left out. The first rule that applies
    decides: a lone letter that is a label; the exact text of one option (as it is, then under NFC, then
    without case, unless that makes two options equal); the last verdict ("The answer is B",
    "B is correct", the letter at the start or on a line of its own); the one option that is named. What
    is denied, doubted or asked, several options together and a repeated list are no choice.
    """
    start = answer_start(raw, thoughts)
    if start is None:
        return Reading(None, None, True)
    found = _read_answer(raw[start:], choices(tuple(options)))
    if found is None:
        return Reading(None, None, False)
    letter, place = found
    return Reading(letter, None if place is None else start + place, False)


def read_free(raw: str, thoughts: Sequence[tuple[str, str]] = THOUGHTS) -> Reading:
    """Return the free-form answer `raw`: what follows thoughts, up to the end of the turn, its first `LONGEST`
    characters."""
    start = answer_start(raw, thoughts)
    return Reading(None if start is None else _in_turn(raw[start:]).strip()[:LONGEST] or None, None, start is None)


def parse_letter(raw: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that `raw` chooses, as `read` does, or None."""
    return read(raw, options).letter


def _read_answer(answer: str, options: Choices) -> tuple[str, int | None] | None:
    """The letter and its place in an answer without thoughts, up to the end of the model's turn."""
    answer = _in_turn(answer)
    following = NEXT_QUESTION.search(answer)
    if following and (found := _read_turn(answer[: following.start()], options)):
        return found
    return _read_turn(answer, options)


def _in_turn(answer: str) -> str:
    """The answer up to the end of the model's turn."""
    end = TURN_END.search(answer)
    return answer[: end.start()] if end and re.search(r"\w", answer[: end.start()]) else answer


def _read_turn(answer: str, options: Choices) -> tuple[str, int | None] | None:
    plain = unmarked(answer)
    lone = _LONE.fullmatch(plain)
    if lone and lone[1].upper() in options.letters:
        return lone[1].upper(), lone.start(1)
    if exact := options.named(answer.strip()):
        return exact, None
    text = squeezed(plain)
    found = chosen(text, find(text, options), options)
    if found is None:
        return None
    letter, place = found
    return letter, None if place is None else place_in(plain, place)
