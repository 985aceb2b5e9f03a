"""Which of the options that an answer mentions it chooses."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise

from mmi_plugin.answers import cues, words
from mmi_plugin.answers.mentions import Choices, Mention

_REACH = 120  # characters before a mention that can say something about it
_MOST = 200  # mentions that are weighed: the last ones
_NEAR = 4  # cues before a mention that are tried
_APART = 30  # characters between mentions that can still be named together


@dataclass(slots=True)
class MentionGroup:
    """Options that are named together ("A or B"), and what is said of them."""

    mentions: list[Mention]
    denied: list[bool]
    doubted: bool = False  # the first is no more than possible, or asked for, or another's opinion
    cued: bool = False  # a verdict by the words before it or by its place
    affirmed: bool = False  # a verdict by the words after it: "B is correct"
    sure: bool = False  # surely names an option, as a verdict or not
    letters: set[str | None] = field(default_factory=set)  # of those not denied
    refused: set[str | None] = field(default_factory=set)  # of those denied

    def spells(self, *more: Mention) -> str:
        """Return the letters in order, with "?" for what is no option."""
        return "".join(mention.letter or "?" for mention in (*self.mentions, *more))


def chosen(text: str, found: list[Mention], options: Choices) -> tuple[str, int | None] | None:
    """Return the letter that a squeezed text chooses and its place (None: only its text is named), or None.

    The last verdict wins. Without one it is the one option that is named and neither denied nor doubted.
    """
    if not found:
        return None
    reader = _Reader(text, found[-_MOST:], options)
    if reader.breaks_off():
        return None
    groups = reader.groups()
    verdicts = [group for group in groups if group.letters and (group.cued or group.affirmed)]
    if verdicts:
        return _last(verdicts, groups)
    named = [group for group in groups if group.sure and group.letters and not group.doubted]
    letters = {letter for group in named for letter in group.letters}.difference(*(group.refused for group in groups))
    if len(letters) != 1 or None in letters or reader.declines(named[0].mentions[0].start):
        return None
    return _placed(letters.pop(), named)


def _last(verdicts: list[MentionGroup], groups: list[MentionGroup]) -> tuple[str, int | None] | None:
    """The letter of the last verdict, unless it names several or is taken back after it."""
    last = verdicts[-1]
    letter = next(iter(last.letters))
    if len(last.letters) != 1 or letter is None:
        return None
    if not last.cued and any(group.affirmed and group.letters != last.letters for group in verdicts):
        return None  # "A is correct. B is correct."
    end = last.mentions[-1].end
    if any(letter in group.refused for group in groups if group.mentions[0].start >= end):
        return None
    others = [place for place, group in enumerate(verdicts) if group.letters != last.letters]
    agreeing = verdicts[others[-1] + 1 :] if others else verdicts
    return _placed(letter, [*agreeing, *(group for group in groups if not group.doubted)])


def _placed(letter: str, groups: list[MentionGroup]) -> tuple[str, int | None]:
    """The letter, and the first place in `groups` where it is read as a label."""
    places = (each.label for group in groups for each in group.mentions if each.letter == letter)
    return letter, next((place for place in places if place is not None), None)


class _Reader:
    """Weighs the mentions of one text."""

    def __init__(self, text: str, found: list[Mention], options: Choices) -> None:
        pieces, end = [], 0
        for mention in found:
            if mention.text:  # the words of an option say nothing about others
                pieces += [text[end : mention.start], "\0" * (mention.end - mention.start)]
                end = mention.end
        self._text = "".join([*pieces, text[end:]])
        self._found, self._options = found, options
        first = max(0, found[0].start - _REACH)
        clauses = words.CLAUSE.finditer(self._text, first)
        self._clauses = [m.end() if m.group()[0] in ";!?\n." else m.start() for m in clauses]
        self._cues = [(m.start(), m.end(), m.lastgroup) for m in cues.CUE.finditer(self._text, first)]
        self._cue_starts = [start for start, _, _ in self._cues]
        self._items = self._list_items()

    def breaks_off(self) -> bool:
        """Whether the text ends where another option could follow."""
        return cues.BROKEN_OFF.search(self._text, max(0, len(self._text) - 20)) is not None

    def declines(self, place: int) -> bool:
        """Whether the text says that it cannot answer, unless it does so at `place`, or only goes through options."""
        refusals = list(cues.REFUSED.finditer(self._text))
        if refusals and not cues.NEVERTHELESS.search(self._text, refusals[-1].end(), max(refusals[-1].end(), place)):
            return True
        return self._text.rstrip().endswith(":") or cues.GOES_THROUGH.search(self._text) is not None

    def groups(self) -> list[MentionGroup]:
        """Return the mentions in groups, each weighed."""
        groups: list[MentionGroup] = []
        reached = judged = 0  # the ends of the mention before, and of the last judgement of one
        for mention in self._found:
            left = self._text[max(self._clause(mention), mention.start - _REACH, judged) : mention.start]
            wrong = words.WRONG.match(self._text, mention.end)
            right = None if wrong else words.RIGHT.match(self._text, mention.end)
            judgement = wrong or right
            denied = bool(wrong or words.DENIED.search(left))
            doubted = bool(words.DOUBTED.search(left)) or self._is_possible(mention, judgement)
            if groups and self._together(groups[-1], mention, judged):
                group = groups[-1]
                group.denied.append(denied or (group.denied[-1] and not right))
                group.mentions.append(mention)
            else:
                group = MentionGroup([mention], [denied], doubted)
                groups.append(group)
            if wrong and words.ALL_WRONG.match(self._text, mention.end):
                group.denied = [True] * len(group.denied)
            if not denied and not doubted:
                group.affirmed |= right is not None
                group.cued |= self._is_cued(mention, reached)
                group.sure |= mention.sure or mention.start in self._items or self._is_subject(mention, left)
            reached, judged = mention.end, judgement.end() if judgement else judged
        for group in groups:
            self._settle(group)
        return groups

    def _settle(self, group: MentionGroup) -> None:
        """Complete a group whose mentions are all known."""
        first, last = group.mentions[0], group.mentions[-1]
        for mention, denied in zip(group.mentions, group.denied, strict=True):
            (group.refused if denied else group.letters).add(mention.letter)
        if not group.doubted and not group.denied[0]:
            group.cued |= self._stands_out(first, last)
        headed = cues.LIST_HEAD.search(self._text[max(0, first.start - _APART) : first.start])
        if self._lists_all(group) or (headed and (last.text or first is not last)):
            group.cued = group.affirmed = group.sure = False  # a list of the options

    def _clause(self, mention: Mention) -> int:
        """Where the clause of a mention begins."""
        place = bisect_right(self._clauses, mention.start)
        return self._clauses[place - 1] if place else 0

    def _is_possible(self, mention: Mention, judgement: re.Match[str] | None) -> bool:
        """Whether a mention is supposed, or judged on a condition, or, not judged, no more than possible or asked."""
        if words.SUPPOSED.search(self._text, max(0, mention.start - _REACH), mention.start):
            return True
        if judgement:
            return words.CONDITION.match(self._text, judgement.end()) is not None
        end = cues.SENTENCE_END.search(self._text, mention.end, mention.end + _REACH)
        asked = end is not None and end.group() == "?"
        return asked or words.POSSIBLE.match(self._text, mention.end) is not None

    def _together(self, group: MentionGroup, mention: Mention, judged: int) -> bool:
        """Whether a mention is named together with those before it."""
        last = group.mentions[-1]
        if judged > last.end or mention.start - last.end > _APART or self._lists_all(group):
            return False
        if group.denied[-1] and self._clause(last) != self._clause(mention):
            return False
        gap = self._text[last.end : mention.start]
        if words.TOGETHER.fullmatch(gap):
            return True
        if not words.LISTED.fullmatch(gap):
            return False
        if "\n" in gap and mention.is_label and self._options.letters.startswith(group.spells(mention)):
            return True  # the next item of a list that breaks off
        ends = cues.STOP.match(self._text, mention.end) is not None
        return last.text == mention.text and (ends or not {".", ";", "\n"} & set(gap))

    def _lists_all(self, group: MentionGroup) -> bool:
        return len(group.mentions) > 1 and group.spells() == self._options.letters

    def _is_cued(self, mention: Mention, reached: int) -> bool:
        """Whether the words before a mention, and after the one before it, announce the answer."""
        place = bisect_left(self._cue_starts, mention.start)
        near = self._cues[max(0, place - _NEAR) : place]
        return any(reached <= cue[0] and cue[1] <= mention.start and self._leads(cue, mention) for cue in near)

    def _leads(self, cue: tuple[int, int, str | None], mention: Mention) -> bool:
        """Whether a cue leads to a mention."""
        start, end, kind = cue
        if mention.start - start > _REACH:
            return False
        if kind in ("noun", "trait"):
            after = cues.AFTER_NOUN if kind == "noun" else cues.AFTER_TRAIT
            return after.fullmatch(self._text, end, mention.start) is not None
        if not cues.AFTER_WORD.fullmatch(self._text, end, mention.start):
            return False
        if kind == "verb":
            return True
        if mention.label is not None:
            return cues.PAUSE.match(self._text, mention.end) is not None
        if kind == "being":
            return False
        asserted = cues.ASSERTED.search(self._text, end, mention.start) is not None
        return asserted or (kind != "turn" and cues.STOP.match(self._text, mention.end) is not None)

    def _stands_out(self, first: Mention, last: Mention) -> bool:
        """Whether mentions begin the answer, or are the whole of a line or of the rest of a sentence."""
        if first.start in self._items or (first.lower and self._text[first.start - 1 : first.start] not in ("", "\n")):
            return False
        if not re.search(r"\w|\0", self._text[: first.start]):
            ending = cues.NAMED_AFTER if last.label is None else cues.OPENING
            return ending.match(self._text, last.end) is not None
        if not cues.ALONE.match(self._text, last.end):
            return False
        before = self._text[max(0, first.start - _REACH) : first.start]
        if cues.HEAD.search(before):
            return not cues.ABBREVIATED.search(before)
        near = [each for each in self._found if first.start - len(before) < each.start < first.start]
        return first.label is not None and not near and cues.PHRASE.search(before) is not None

    def _is_subject(self, mention: Mention, left: str) -> bool:
        """Whether a bare letter is what a clause is about: "B matches the image"."""
        fits = mention.label is not None and words.FITS.match(self._text, mention.end)
        return bool(fits and cues.NO_WORDS.fullmatch(left))

    def _list_items(self) -> set[int]:
        """The starts of labels that go through the options: "A: ... B: ..."."""
        items = [mention for mention in self._found if mention.label is not None and self._is_item(mention)]
        pairs = [
            (one, other)
            for one, other in pairwise(items)
            if (one.letter or "?") + (other.letter or "?") in self._options.letters
        ]
        return {mention.start for pair in pairs for mention in pair}

    def _is_item(self, mention: Mention) -> bool:
        """Whether a label begins a line or sentence and something follows it."""
        head = mention.start == 0 or cues.HEAD.search(self._text[max(0, mention.start - 6) : mention.start])
        clear = mention.text or mention.end - mention.start > 1
        return bool(head and (clear or cues.ITEM.match(self._text, mention.end)))
