"""A board as CSV, JSON and Markdown; the Markdown is also what the terminal shows."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from mmi_plugin.conditions import FLOOR, get
from mmi_plugin.errors import plain, visible
from mmi_plugin.files import versions
from mmi_plugin.report.board import OVERALL, Key, Leaderboard, Scope, is_primary
from mmi_plugin.report.remarks import note, remarks
from mmi_plugin.results.estimates import Difference, Estimate
from mmi_plugin.results.measures import LABELS, Measure, times
from mmi_plugin.results.runs import differences, unknown

FAMILY_LABELS = {"image_heavy": "image-heavy", "text_heavy": "text-heavy", "vqa": "VQA", OVERALL: "perturbed data sets"}


def words(name: str) -> str:
    """Return a name of conditions, strengths or figures in words."""
    return name.replace("_", " ")


def label(measure: Measure) -> str:
    """Return a measure in words; a condition that training does not use has a star."""
    if measure.condition is None:
        several = {"flip_rate": "flip rate, mean", "unparseable": "unparseable, all"}
        return several.get(measure.name, LABELS[measure.name])
    return f"{LABELS[measure.name]}: {words(measure.condition)}{star(measure.condition)}"


def star(condition: str | None) -> str:
    """Return "*" for a perturbation that training does not use."""
    return "" if condition in (None, FLOOR) or get(condition).seen else "*"


def interval(estimate: Estimate, times: int = 100) -> str:
    """Return "97.5 [95.5, 98.6]", in percent, or as often as `times` says; "–" where there is no value."""
    if math.isnan(estimate.value):
        return "–"
    shown = f"{times * estimate.value:.1f}"
    return shown if math.isnan(estimate.low) else f"{shown} [{times * estimate.low:.1f}, {times * estimate.high:.1f}]"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


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


CHANGE = ("difference", "difference_low", "difference_high", "difference_n", "detectable", "p", "p_holm", "test")


def rows(board: Leaderboard) -> list[dict[str, Any]]:
    """Return one flat row per number; None where there is none. Shares are in [0, 1], `js` in bits, `logit_gap` in
    nats; `items_low` to `items_high` is the interval over items alone where there are several seeds, `seed_sd` the
    standard deviation between these."""
    return [
        {
            "rank": board.ranks[key.model],
            "model": key.model,
            "scope": key.scope.kind,
            "over": key.scope.name,
            "measure": key.measure.name,
            "condition": key.measure.condition,
            "seen": None if key.measure.condition is None else get(key.measure.condition).seen,
            "value": _finite(number.value),
            "low": _finite(number.low),
            "high": _finite(number.high),
            "n": number.n,
            "items_low": None if number.items is None else _finite(number.items[0]),
            "items_high": None if number.items is None else _finite(number.items[1]),
            "seeds": len(number.seeds),
            "seed_sd": number.seed_sd,
            **_change(board.changes.get(key)),
        }
        for name in board.names
        for key, number in board.numbers.items()
        if key.model == name
    ]


def _change(change: Difference | None) -> dict[str, Any]:
    if change is None:
        return dict.fromkeys(CHANGE)
    numbers = change.value, change.low, change.high, change.n, change.detectable, change.p, change.p_holm
    return dict(zip(CHANGE, [*map(_finite, numbers), change.test], strict=True))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def to_csv(board: Leaderboard) -> str:
    """Return `rows` as CSV with a head line."""
    found, text = rows(board), io.StringIO()
    writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in found)
    return text.getvalue()


def csv_cell(value: Any) -> Any:
    """Return what stands in a cell: hidden characters spelt out (a lone \\r would end the row), an apostrophe before a
    text that spreadsheets would take for a formula."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(tuple("=+-@\t\r\n")) else visible(value)


def to_json(board: Leaderboard) -> str:
    """Return models, data sets, provenance and `rows` as JSON."""
    tasks = {
        task: {
            "family": outcomes.family,
            "conditions": outcomes.conditions,
            "condition_versions": outcomes.condition_versions,
            "items": len(outcomes.items),
            "seed": outcomes.seed,
            "content_hash": outcomes.content_hash,
        }
        for task, outcomes in board.outcomes.items()
    }
    content = {
        "models": [
            {
                "rank": board.ranks[run.name],
                "name": run.name,
                "results": str(run.folder),
                "trainings": [str(one.folder) for one in board.trainings if one.name == run.name],
                "setup": {task: result.setup for task, result in run.results.items()},
            }
            for run in board.runs
        ],
        "baseline": board.baseline,
        "differences": [one._asdict() for one in differences(board.runs)],
        "unknown": unknown(board.runs),
        "tests": len(board.changes),
        "primary_tests": sum(map(is_primary, board.changes)),
        "tasks": tasks,
        "versions": versions(),
        "margin": board.margin,
        "remarks": remarks(board, plain),
        "reliance": [{"model": name, "task": task, **asdict(found)} for name, task, found in board.reliances],
        "numbers": rows(board),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def overview_columns(board: Leaderboard) -> list[tuple[str, Scope, Measure]]:
    """Return (label, scope, measure) of the table that ranks: all perturbed data sets, then families."""
    overall = board.scopes_of("all")[0]
    names = ("worst_case", "worst_case_seen", "reference_accuracy", "flip_rate", "unparseable")
    columns = [(LABELS[name], overall, Measure(name)) for name in names if Measure(name) in board.measures(overall)]
    for family in board.scopes_of("family"):
        columns.append((f"{FAMILY_LABELS[family.name]}, worst case", family, Measure("worst_case")))
    return columns


def overview(board: Leaderboard, show: Callable[[str], str] = escape) -> str:
    """Return the table that ranks, in percent with 95% intervals, as aligned Markdown.

    `show` makes a model's name fit: `escape` for a file, `plain` for a terminal.
    """
    columns = overview_columns(board)
    body = [
        [
            str(board.ranks[name]),
            _name(board, name, show),
            *(interval(board.numbers[Key(name, scope, measure)]) for _, scope, measure in columns),
        ]
        for name in board.names
    ]
    return table(["rank", "model", *(label for label, _, _ in columns)], body)


def terminal(board: Leaderboard) -> str:
    """Return the ranking, and what a reader must know of it, as a terminal shows them."""
    paragraphs = [note(board, plain), *remarks(board, plain)]
    return "\n".join([overview(board, plain), *(line for one in paragraphs for line in textwrap.wrap(one, 120))])


def to_markdown(board: Leaderboard) -> str:
    """Return the whole leaderboard as Markdown: ranking, remarks, then a table per data set."""
    parts = ["# Leaderboard", note(board, escape), overview(board), *remarks(board, escape)]
    for scope in board.scopes_of("task"):
        outcomes = board.outcomes[scope.name]
        parts.append(f"## {escape(scope.name)} ({FAMILY_LABELS[outcomes.family]}, {len(outcomes.items)} items)")
        body = [
            [label(measure), *(_cell(board, Key(name, scope, measure)) for name in board.names)]
            for measure in board.measures(scope)
        ]
        parts.append(table(["measure", *(_name(board, name, escape) for name in board.names)], body))
    return "\n\n".join(parts) + "\n"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
}


def to_latex(board: Leaderboard) -> str:
    """Return the table that ranks as LaTeX for `booktabs`, in percent with 95% intervals below as small print; the
    remarks are paragraphs after it."""
    columns, translate = overview_columns(board), str.maketrans(_LATEX)
    lines = [
        f"\\begin{{tabular}}{{ll{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join(["rank", "model", *(_stack(text.split()) for text, _, _ in columns)]) + r" \\",
        "\\midrule",
    ]
    for name in board.names:
        numbers = [interval(board.numbers[Key(name, scope, measure)]) for _, scope, measure in columns]
        small = [re.sub(r"(\[.*\])", r"{\\scriptsize \1}", number).replace("–", "--") for number in numbers]
        cells = [_stack(number.split(" ", 1)) for number in small]
        model = _name(board, name, plain).translate(translate)
        lines.append(" & ".join([str(board.ranks[name]), model, *cells]) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [
        f"\n\\par\\smallskip\\noindent{{\\footnotesize {one.translate(translate)}\\par}}"
        for one in remarks(board, plain)
    ]
    return "\n".join(lines) + "\n"


def _stack(lines: Sequence[str]) -> str:
    """Return lines of one cell: with all in one line, a ranking would be wider than a page."""
    joined = "\\\\ ".join(lines)
    return f"\\shortstack[r]{{{joined}}}" if len(lines) > 1 else joined


def _cell(board: Leaderboard, key: Key) -> str:
    shown, change = interval(board.numbers[key], times(key.measure)), board.changes.get(key)
    return shown if change is None else f"{shown} Δ {100 * change.value:+.1f}, {p_value(change.p_holm)}"


def _name(board: Leaderboard, name: str, show: Callable[[str], str]) -> str:
    return show(name) + (" (baseline)" if name == board.baseline else "")
