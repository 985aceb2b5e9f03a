"""Measures, numbers and names of a leaderboard in words, and tables of them as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmi_plugin.conditions import get
from mmi_plugin.report.leaderboard import OVERALL
from mmi_plugin.report.scores import words
from mmi_plugin.report.text import visible
from mmi_plugin.statistics import Estimate, Measure
from mmi_plugin.statistics.measures import LABELS

FAMILY_LABELS = {"image_heavy": "image-heavy", "text_heavy": "text-heavy", "vqa": "VQA", OVERALL: "perturbed data sets"}


def label(measure: Measure) -> str:
    """Return a measure in words; a condition that training does not use has a star."""
    if measure.condition is None:
        several = {"flip_rate": "flip rate, mean", "unparseable": "unparseable, all"}
        return several.get(measure.name, LABELS[measure.name])
    star = "" if get(measure.condition).seen else "*"
    return f"{LABELS[measure.name]}: {words(measure.condition)}{star}"


def interval(estimate: Estimate) -> str:
    """Return "97.5 [95.5, 98.6]", in percent; "–" where there is no value."""
    if math.isnan(estimate.value):
        return "–"
    shown = f"{100 * estimate.value:.1f}"
    return shown if math.isnan(estimate.low) else f"{shown} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def plain(text: str) -> str:
    """Return `text` on one line, hidden characters spelt out."""
    return " ".join(visible(text).split())


def escape(text: str) -> str:
    """Return `plain` text so that Markdown, and the HTML made of it, shows it as it is."""
    return plain(text).translate(_SPECIAL)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned, also as plain text."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
