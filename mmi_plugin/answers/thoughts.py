"""Where a model's thought ends and its answer begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

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
