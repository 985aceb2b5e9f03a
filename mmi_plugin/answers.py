"""From a model's raw text to the letter of an option, or to None: never a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from mmi_plugin.items import LETTERS

_LEAD = r"(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*(?:option\s+)?"
# A letter that stands as a label: alone, bracketed, or followed by a label's punctuation.
_LABEL = re.compile(rf"^(?:{_LEAD})?[\s(\[*\"']*([A-Z])[\s)\]*\"']*(?:[.:,)](?:\s|$)|$|\n)", re.IGNORECASE)
_SENTENCE = re.compile(rf"\b{_LEAD}[(\[*\"']*([A-Z])\b(?!\s+\w)", re.IGNORECASE)


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


def parse_letter(raw: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that `raw` chooses.

    In this order: the text of one option ("A dog" where that is an option), a label ("B", "(b)",
    "B: seven", "Answer: B", "The answer is B."), the one option that the text mentions. Anything
    else, also a text that mentions several options, is None.
    """
    text = raw.strip()
    valid = LETTERS[: len(options)]
    by_text = {normalise(option): letter for letter, option in zip(valid, options, strict=True)}
    exact = by_text.get(normalise(text)) if len(text) > 1 else None
    if exact:
        return exact
    label = _LABEL.match(text) or _SENTENCE.search(text)
    if label and label.group(1).upper() in valid:
        return label.group(1).upper()
    if len(text) == 1:
        return by_text.get(normalise(text))
    named = [letter for letter, option in zip(valid, options, strict=True) if mentions(text, option)]
    return named[0] if len(named) == 1 else None
