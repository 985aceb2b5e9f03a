"""An answer without its markup, for the rules of `answers`, with each character's place kept."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any


def _letters() -> Iterator[tuple[int, str]]:
    """Full-width, circled, bold and squared forms of ASCII characters."""
    yield from ((code, unicodedata.normalize("NFKC", chr(code))) for code in range(0xFF01, 0xFF5F))
    for code in (*range(0x24B6, 0x24EA), *range(0x1D400, 0x1D6A4), *range(0x1F130, 0x1F14A)):
        plain = unicodedata.normalize("NFKC", chr(code))
        if len(plain) == 1 and plain.isascii():
            yield code, plain
    for first in (0x1F150, 0x1F170):
        yield from ((first + place, chr(ord("A") + place)) for place in range(26))


_SAME = {
    " ": '"“”„«»「」『』【】〈〉《》`{}\r\xad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\ufe0e\ufe0f\u20e3',
    "'": "’‘ʼ´",
    ",": "、،",
    ".": "。…",
    "-": "‐‑‒–—―−",
    "(": "[〔",
    ")": "]〕",
    "→": "⇒➔➜➡∴",
    "✓": "✔☑✅",
    "✗": "✘❌✖❎🚫",
    "\n": "\x85\u2028\u2029",
}
_TRANSLATION = (
    {code: " " for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\x85"}
    | dict(_letters())
    | {ord(char): plain for plain, chars in _SAME.items() for char in chars}
    | {0x0410: "A"}  # Cyrillic: the first letter of either alphabet
)

# What frames the final answer: \boxed{, <answer>, <final_answer>, <conclusion>, <|begin_of_box|>.
_FRAME = re.compile(r"\\boxed\s?\{|<(?:final_?)?answer>|<conclusion>|<\|begin_of_box\|>", re.IGNORECASE)
# What ends a frame or a line: </answer>, <|end_of_box|>, <br>, an escaped line break.
_FRAME_END = re.compile(r"\\n(?![a-z])|</(?:final_?)?answer>|</conclusion>|<\|end_of_box\|>|<br ?/?>", re.IGNORECASE)
_BRACKETED = re.compile(r"<([A-Z])>")
# LaTeX's text and font commands and delimiters, tags and special tokens, emphasis, rules of a table,
# marks of headings, quotations and lists, quotes at the edge of a word.
_MARKUP = re.compile(
    r"\\+(?!\w)|\\(?:text|math)?(?:text|bf|rm|it|sf|tt|bm|bold|boldsymbol|left|right|fbox|Box)?\b|\\[()\[\]]|\$(?!\d)|\$(?=[^$\s]{1,20}\$)"
    r"|</?(?:[A-Za-z][^<>\n]{1,60}|[a-z])>|<\|[^|<>\n]{1,40}\|>"
    r"|~~[^~\n]{1,80}~~|\*+|(?<![^\W_])_+|_+(?![^\W_])|\|?(?::?-{3,}:?\|?)+"
    r"|^[ \t]*(?:[#>]+|[-•+](?=[ \t]))|(?<!\w)'|'(?!\w)",
    re.MULTILINE,
)
_SPACES = re.compile(r"[^\S\n]*\n\s*|[^\S\n]+")
# The end of the model's turn: a special token, or the next turn of a model that does not stop.
TURN_END = re.compile(
    r"</s>|<eos>|<end_of_turn>|<turn\|>|<\|(?:im_end|eot_id|eom_id|end|return|endoftext|end_of_text|im_start|user)\|>"
    r"|\n[ \t]{0,9}(?:#{1,6} ?)?(?:USER|Human|User|Instruction) ?:"
)
# The next question of a model that goes on with questions of its own.
NEXT_QUESTION = re.compile(r"\n[ \t]{0,9}(?:#{1,6} ?)?(?:\*\*)?(?:Question|Q) ?\d{0,4} ?[:.]")


def unmarked(raw: str) -> str:
    """Return `raw`, as long as it was, with plain letters and blanks for its markup; frames become "answer:"."""
    text = raw.translate(_TRANSLATION)
    if "\\" in text or "<" in text:
        text = _FRAME.sub(lambda frame: "answer:".ljust(len(frame.group())), raw).translate(_TRANSLATION)
        text = _BRACKETED.sub(r"(\1)", text)
        text = _FRAME_END.sub(lambda frame: "\n".ljust(len(frame.group())), text)
    return _MARKUP.sub(lambda mark: " " * len(mark.group()), text)


def squeezed(unmarked_text: str) -> str:
    """Return the text with one blank or line break for each run of white space."""
    return _SPACES.sub(lambda run: "\n" if "\n" in run.group() else " ", unmarked_text)


def place_in(unmarked_text: str, place: int) -> int:
    """Return where the character at `place` of `squeezed(unmarked_text)` stands in `unmarked_text`."""
    for run in _SPACES.finditer(unmarked_text):
        if run.start() >= place:
            break
        place += run.end() - run.start() - 1
    return place


THOUGHTS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),  # Qwen3, DeepSeek-R1, GLM, InternVL3.5, MiniCPM-V, Kimi K2, Nemotron, Granite 4
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<reasoning>", "</reasoning>"),  # LLaVA-CoT
    ("<reason>", "</reason>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<think:opensource>", "</think:opensource>"),  # Hunyuan 3
    ("<longcat_think>", "</longcat_think>"),  # LongCat
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<unused94>thought", "<unused95>"),  # MedGemma
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss (harmony)
    ("<|channel|>commentary<|message|>", "<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "assistantfinal"),  # the same, decoded without special tokens
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThoughts
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|think|>", "<|content|>"),  # Solar Open
    ("Here is my thought process:", "Here is my response:"),  # Granite 3
    ("Here's my thought process:", "Here's my response:"),
)
"""Opening and closing tags of the thoughts of known models; case does not matter."""


def tag_pairs(given: Any, usual: Any = None) -> tuple[tuple[str, str], ...]:
    """Return the opening and closing tags that lmms-eval's `reasoning_tags` list: JSON or lists, or "none".

    Where they are lmms-eval's `usual` ones, all that are known. Raises ValueError for another form.
    """
    try:
        pairs = json.loads(given) if isinstance(given, str) and given != "none" else given
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if pairs in (None, False, "none"):
        return ()
    if not isinstance(pairs, list | tuple) or not all(map(_is_pair, pairs)):
        raise ValueError("not a list of [start, end] pairs")
    tags = tuple((start, end) for start, end in pairs)
    return tuple(dict.fromkeys((*THOUGHTS, *tags))) if usual and tags == tag_pairs(usual) else tags


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(tag, str) and tag for tag in pair)


def answer_start(raw: str, thoughts: Sequence[tuple[str, str]] = THOUGHTS) -> int | None:
    """Return where in `raw` the answer begins: after the last closing tag, 0 without one.

    A closing tag needs no opening one, which may stand in the prompt. None: a thought was opened and
    never closed.
    """
    start: int | None = 0
    for tag in _tags(tuple(map(tuple, thoughts))).finditer(raw):
        start = tag.end() if tag.lastgroup == "closing" else None
    return start


@lru_cache(maxsize=16)
def _tags(thoughts: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """Any closing tag, or any opening one; an empty tag is none."""
    openings, closings = (
        [tag for tag in tags if tag] for tags in (zip(*thoughts, strict=True) if thoughts else ((), ()))
    )
    closing, opening = ("|".join(map(re.escape, sorted(tags, key=len, reverse=True))) for tags in (closings, openings))
    return re.compile(rf"(?P<closing>{closing or '(?!)'})|(?P<opening>{opening or '(?!)'})", re.IGNORECASE)
