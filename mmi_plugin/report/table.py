"""A board as a table for a terminal: models down, data sets and conditions across, at most `width` columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mmi_plugin.conditions import FLOOR
from mmi_plugin.report.board import Key, Leaderboard, Scope
from mmi_plugin.report.files import star, words
from mmi_plugin.results.estimates import Estimate
from mmi_plugin.results.measures import Measure

GAP = " "
RULE = " |"


def table(board: Leaderboard, names: Sequence[str], width: int = 120) -> str:
    """Return the numbers of the models `names`, in that order, as plain text.

    Data sets stand side by side while they fit and go on below otherwise.
    """
    columns = [
        _Column(board, names, scope, measure) for scope in board.scopes_of("task") for measure in board.summary(scope)
    ]
    name_width = max(map(len, names))
    blocks = [_block(names, block, name_width) for block in _pack(columns, width - name_width)]
    return "\n\n".join([*blocks, "\n".join(_notes(board, names, width))]) + "\n"


class _Column:
    """The header lines and cells of one measure, all of one width."""

    def __init__(self, board: Leaderboard, names: Sequence[str], scope: Scope, measure: Measure) -> None:
        self.titles = scope.name.removeprefix("mmi_"), f"n={len(board.outcomes[scope.name].items)}"
        first, _, rest = (words(measure.condition or measure.name) + star(measure.condition)).partition(" ")
        cells = _format([board.numbers[Key(name, scope, measure)] for name in names])
        self.width = max(map(len, [first, rest, *cells]))
        self.lines = [text.rjust(self.width) for text in (first, rest, *cells)]


def _format(cells: Sequence[Estimate]) -> list[str]:
    """Return the cells as text with their decimal points in one line, and half the range over several seeds."""
    means = [f"{100 * cell.value:.1f}" for cell in cells]
    spreads = [(max(cell.seeds) - min(cell.seeds)) / 2 if len(cell.seeds) > 1 else None for cell in cells]
    ranges = ["" if half is None else f"±{100 * half:.1f}" for half in spreads]
    width = max(map(len, ranges))
    return [mean + half.ljust(width) for mean, half in zip(means, ranges, strict=True)]


def _pack(columns: Sequence[_Column], width: int) -> list[list[list[_Column]]]:
    """Return blocks of groups of columns: a group is of one data set, a block fits in `width`."""
    blocks: list[list[list[_Column]]] = [[]]
    for group in _groups(columns, width):
        if blocks[-1] and _width([*blocks[-1], group]) > width:
            blocks.append([])
        blocks[-1].append(group)
    return blocks


def _groups(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """Return the columns by data set, one that is too wide in several pieces."""
    groups: list[list[_Column]] = []
    for column in columns:
        if groups and groups[-1][-1].titles == column.titles and _width([[*groups[-1], column]]) <= width:
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _width(block: Sequence[Sequence[_Column]]) -> int:
    return sum(map(_group_width, block)) + len(RULE) * (len(block) - 1)


def _group_width(group: Sequence[_Column]) -> int:
    """The columns' width with their gaps, or the title's where that is longer."""
    return max(sum(len(GAP) + column.width for column in group), len(GAP) + max(map(len, group[0].titles)))


def _block(names: Sequence[str], block: Sequence[Sequence[_Column]], name_width: int) -> str:
    heads = 4  # two lines of titles, two of labels
    rows = [name.ljust(name_width) for name in [*[""] * heads, *names]]
    lines = [name + RULE.join(texts) for name, *texts in zip(rows, *map(_group_lines, block), strict=True)]
    rule = "-" * max(map(len, lines))
    return "\n".join(line.rstrip() for line in [*lines[:heads], rule, *lines[heads:]])


def _group_lines(group: Sequence[_Column]) -> list[str]:
    """Return the group's title, header and row lines, all of one width."""
    width = _group_width(group)
    titles = [(GAP + title).ljust(width) for title in group[0].titles]
    body = ["".join(GAP + text for text in parts) for parts in zip(*(column.lines for column in group), strict=True)]
    return [*titles, *(text.rjust(width) for text in body)]


def _notes(board: Leaderboard, names: Sequence[str], width: int) -> list[str]:
    notes = [
        "Accuracy in percent. Worst case: right under every condition. Flip rate: answers that differ from "
        "those under the first condition, mean over the other conditions. * not used in training.",
    ]
    if any(Measure("flip_rate", FLOOR) in board.measures(scope) for scope in board.scopes_of("task")):
        notes.append("Asked again: flip rate of the first condition in another batch, by arithmetic alone.")
    unparseable = {
        (scope, name): board.numbers[Key(name, scope, Measure("unparseable"))]
        for scope in board.scopes_of("task")
        for name in names
    }
    several = sorted({len(found.seeds) for found in unparseable.values()} - {1})
    if several:
        counts = " or ".join(map(str, several))
        notes.append(f"± half the range over {counts} seeds; figures without ± are of one seed.")
    for scope in board.scopes_of("task"):
        shares = {name: unparseable[scope, name].value for name in names}
        found = [f"{name} {100 * share:.1f}%" for name, share in shares.items() if share]
        if found:
            label = scope.name.removeprefix("mmi_")
            notes.append(f"Answers without an option on {label}, counted as wrong: {', '.join(found)}.")
    return [line for note in notes for line in textwrap.wrap(note, width)]
