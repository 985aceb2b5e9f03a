"""The letters and option texts that an answer mentions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from mmi_plugin.answers import cues, words
from mmi_plugin.answers.text import squeezed, unmarked
from mmi_plugin.item import LETTERS

_ARTICLE = re.compile(r"(?:an?|the) ", re.IGNORECASE)
_WORD = re.compile(words.WORD)
# Options that are mostly parts of speech, and options that judge others: "B is right".
_PARTS_OF_SPEECH = frozenset(
    {"no", "one", "none", "both", "all", "other", "some", "either", "neither", "not", "it", "i"}
)
_JUDGEMENTS = frozenset({"right", "correct", "true", "best", "likely", "wrong", "incorrect", "false"})
# Between a label and its option's text: ": ", ". ", ") ", " - ", " ("; the same where that text is a letter; and where
# the text is another option's.
_LABEL_GAP = re.compile(r"[ :.,()=|>→\n-]{0,5}")
_LETTER_GAP = re.compile(r"[:.)] |(?<=\)) ")
_LABEL_CLASH = re.compile(r" ?[:.)=|>→(-] ?\(?| ")
# Between an option's text and its label: " (", ": ", " - ", ", "; and where the label is another option's.
_TEXT_GAP = re.compile(r" ?[(:=→|,-]{0,2} ?\(?")
_TEXT_CLASH = re.compile(r" ?[:=→] ?| - ")
# After an I that is no pronoun.
_NO_PRONOUN = re.compile(r" ?(?:[.:)\n\u3040-\uffef]|$)|,? (?:is|isn't|because|not)\b|, [A-Z]\b")

FOLDS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: unicodedata.normalize("NFC", text).casefold(),
)
"""What makes two texts the same, from strict to lenient."""


@dataclass(slots=True)
class Mention:
    """A letter, an option's text, or both."""

    start: int
    end: int
    letter: str | None  # None where it is no option's, or more than one's
    label: int | None = None  # the place of the letter itself
    text: bool = False  # an option's text is part of it
    sure: bool = False  # surely names an option: "option B", "(B)", "B: three", no mere part of speech
    lower: bool = False  # a small letter without brackets or title

    @property
    def is_label(self) -> bool:
        return self.label is not None and not self.text

    @property
    def is_text(self) -> bool:
        return self.text and self.label is None


class Wanted(NamedTuple):
    """An option's text as it is looked for."""

    letter: str
    text: str
    mark: str  # the option's last character, which may be a question mark
    cased: bool  # another option differs from it by case only


@dataclass(frozen=True)
class Choices:
    """The options of a question, ready to be looked up."""

    letters: str
    exact: tuple[dict[str, str | None], ...]  # for each of FOLDS, text -> letter; None where it is several options'
    wanted: tuple[tuple[str, tuple[Wanted, ...]], ...]  # by text in small letters, the longest first

    def named(self, text: str) -> str | None:
        """Return the letter of the option whose text is `text` under the first fold that tells them apart."""
        found = (table.get(fold(text)) for fold, table in zip(FOLDS, self.exact, strict=True))
        return next((letter for letter in found if letter), None)


@lru_cache(maxsize=4096)
def choices(options: tuple[str, ...]) -> Choices:
    """Return the options, ready to be looked up."""
    letters = LETTERS[: len(options)]
    exact: tuple[dict[str, str | None], ...] = tuple({} for _ in FOLDS)
    for fold, table in zip(FOLDS, exact, strict=True):
        for letter, option in zip(letters, options, strict=True):
            key = fold(option.strip())
            table[key] = None if key in table or not key else letter
    cores = [squeezed(unmarked(option)).replace("\n", " ").strip().rstrip(" .,;:!?") for option in options]
    bare = [core[_ARTICLE.match(core).end() :] if _ARTICLE.match(core) else core for core in cores]
    keys = [FOLDS[-1](text) for text in bare]
    wanted: dict[str, list[Wanted]] = {}
    for letter, option, core, text, key in zip(letters, options, cores, bare, keys, strict=True):
        chosen = text if keys.count(key) == 1 else core
        cased = keys.count(key) > 1
        for form in sorted({unicodedata.normalize("NFC", chosen), unicodedata.normalize("NFD", chosen)}):
            if form and not (len(form) == 1 and form.upper() in letters):  # which is a label
                wanted.setdefault(_small(form), []).append(Wanted(letter, form, option.rstrip()[-1:], cased))
    ordered = sorted(wanted.items(), key=lambda pair: -len(pair[0]))
    return Choices(letters, exact, tuple((key, tuple(found)) for key, found in ordered))


def _small(text: str) -> str:
    """Return `text` in small letters, as long as it was."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in text)


def find(text: str, options: Choices) -> list[Mention]:
    """Return the letters and option texts of a squeezed text, in order, labels joined to their texts."""
    texts = list(_texts(text, options))
    inside = bytearray(len(text))
    for mention in texts:
        inside[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
    labels = [label for label in (*_labels(text, options), *_ordinals(text, options)) if not inside[label.end - 1]]
    return _joined(text, sorted([*texts, *labels], key=lambda mention: mention.start), options)


def _texts(text: str, options: Choices) -> Iterator[Mention]:
    """Option texts as whole words, the longest first, none within another."""
    flat = _small(text).replace("\n", " ")
    taken = bytearray(len(text))
    for key, wanted in options.wanted:
        start = flat.find(key)
        while start >= 0:
            end = start + len(key)
            if taken.find(1, start, end) < 0 and _is_whole(text, start, end):
                taken[start:end] = b"\1" * (end - start)
                if _is_meant(text, start, end, key, wanted):
                    yield _text(text, start, end, key, wanted)
            start = flat.find(key, end)


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether a text is no part of a word or number: "dog" in "dogma", "4" in "4.5"."""
    first, last = text[start], text[end - 1]
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before and _WORD.match(first):
        if _WORD.match(before[-1]) or (len(before) == 2 and before[1] in "-'" and _WORD.match(before[0])):
            return False
        if first.isdigit() and (before[-1] in "-+$€£" or (before[-1] in ".,/:" and before[0].isdigit())):
            return False
    if not after:
        return True
    if not _WORD.match(last):
        return after[0] != last
    if _WORD.match(after[0]) or unicodedata.combining(after[0]) or (last.isdigit() and after[0] in "%°"):
        return False
    if len(after) == 2 and after[0] in "-'" and _WORD.match(after[1]) and after != "'s":
        return False
    return not (last.isdigit() and len(after) == 2 and after[0] in ".,/:" and after[1].isdigit())


def _is_meant(text: str, start: int, end: int, key: str, wanted: tuple[Wanted, ...]) -> bool:
    """Whether a text names an option; not a small letter, "right" in "B is right", or "one" in "one of them"."""
    if len(key) == 1 and key.isalpha() and all(text[start] != each.text for each in wanted):
        return False
    if key in _JUDGEMENTS and cues.JUDGED.search(text, max(0, start - 24), start):
        return False
    return key not in _PARTS_OF_SPEECH or _follows_article(text, start) or bool(cues.NAMED_AFTER.match(text, end))


def _text(text: str, start: int, end: int, key: str, wanted: tuple[Wanted, ...]) -> Mention:
    letters = {each.letter for each in wanted}
    if any(each.cased for each in wanted):
        letters = {each.letter for each in wanted if each.text == text[start:end]}
    sure = key not in _PARTS_OF_SPEECH or _follows_article(text, start)
    sure = sure or not cues.PART_BEFORE.search(text, max(0, start - 12), start)
    mark = end + text.startswith(" ", end)
    if text[mark : mark + 1] in ("?", "!") and any(each.mark == text[mark] for each in wanted):
        end = mark + 1
    for article in ("a ", "an ", "the "):
        first = start - len(article)
        if first >= 0 and text[first:start].lower() == article and not (first and _WORD.match(text[first - 1])):
            return Mention(first, end, letters.pop() if len(letters) == 1 else None, text=True, sure=sure)
    return Mention(start, end, letters.pop() if len(letters) == 1 else None, text=True, sure=sure)


def _follows_article(text: str, start: int) -> bool:
    return _ARTICLE.fullmatch(text, max(0, start - 2), start) is not None


def _labels(text: str, options: Choices) -> Iterator[Mention]:
    """Single letters that could be labels; a capital that is no option's has no letter."""
    for match in words.LABEL.finditer(text):
        place = match.start("bracketed") if match["bracketed"] else match.start("bare")
        char, clear = text[place], bool(match["bracketed"] or match["title"])
        letter = char.upper() if char.upper() in options.letters else None
        if letter is None and char.islower():
            continue
        if char in "AI" and not match["bracketed"] and not words.NO_ARTICLE.match(text, place + 1):
            continue
        if char == "I" and not clear and not _NO_PRONOUN.match(text, place + 1):
            continue
        clear = clear or (letter is not None and options.exact[0].get(char) == letter)
        yield Mention(match.start(), match.end(), letter, place, sure=clear, lower=char.islower() and not clear)


def _ordinals(text: str, options: Choices) -> Iterator[Mention]:
    """ "the second option" and its like."""
    for match in words.ORDINAL.finditer(text):
        place = len(options.letters) - 1 if match[6] else (match.lastindex or 0) - 1
        yield Mention(match.start(), match.end(), options.letters[place : place + 1] or None, sure=True)


def _joined(text: str, found: list[Mention], options: Choices) -> list[Mention]:
    """Join a label and its own option's text; a label with another option's text is no option."""
    done: list[Mention] = []
    for mention in found:
        last = done[-1] if done else None
        if last and _belong(last, mention, text, options):
            closing = text.startswith(")", mention.end) and "(" in text[last.end : mention.start]
            label = mention.label if last.label is None else last.label
            done[-1] = Mention(last.start, mention.end + closing, last.letter, label, text=True, sure=True)
        elif last and _clash(last, mention, text):
            done[-1] = Mention(last.start, mention.end, None, last.label, text=True, sure=True)
        else:
            done.append(mention)
    return [mention for mention in done if not mention.lower or _ends_clause(text, mention)]


def _belong(last: Mention, mention: Mention, text: str, options: Choices) -> bool:
    """Whether two mentions are a label and its text, or a text and its label."""
    span = (last.end, mention.start)
    if last.letter is None:
        return False
    if last.is_label and mention.is_label:  # the option's text is a letter
        own = options.exact[0].get(text[mention.label]) == last.letter
        return own and _LETTER_GAP.fullmatch(text, *span) is not None
    if last.is_label and mention.is_text:
        return last.letter == mention.letter and _LABEL_GAP.fullmatch(text, *span) is not None
    if last.is_text and mention.is_label:
        return last.letter == mention.letter and _TEXT_GAP.fullmatch(text, *span) is not None
    return False


def _clash(last: Mention, mention: Mention, text: str) -> bool:
    """Whether two mentions are a label and another option's text, or a text and another's label."""
    if last.letter == mention.letter:
        return False
    if last.is_label and mention.is_text and last.letter and not last.lower:
        return bool(cues.STOP.match(text, mention.end) and _LABEL_CLASH.fullmatch(text, last.end, mention.start))
    if not last.is_text or not mention.is_label:
        return False
    bracketed = text.startswith("(", mention.start) and mention.start - last.end < 2
    return bracketed or _TEXT_CLASH.fullmatch(text, last.end, mention.start) is not None


def _ends_clause(text: str, mention: Mention) -> bool:
    """Whether a small letter ends its clause, and is no article before which the text breaks off."""
    if mention.end == len(text) and text.endswith(" a") and text[-3:-2].isalpha():
        return False
    return bool(cues.STOP.match(text, mention.end)) or text[mention.end : mention.end + 1] in (",", ":")
