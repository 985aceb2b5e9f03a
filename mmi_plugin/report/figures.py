"""A leaderboard's figures: dots per family, a heatmap, bars and conflicts per data set, and what each shows."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mmi_plugin.conditions import REFERENCE, get
from mmi_plugin.errors import shorten
from mmi_plugin.files import write_whole
from mmi_plugin.report.board import Key, Leaderboard, Scope, Sweep, sweeps
from mmi_plugin.report.files import FAMILY_LABELS, plain, words
from mmi_plugin.results.estimates import Estimate
from mmi_plugin.results.measures import Measure
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.reliance import Reliance

# Okabe and Ito's colours, told apart also by the colour-blind; markers, line styles and hatches tell more apart.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
_MARKERS, _LINES, _HATCHES = ("o", "s", "^", "D", "v", "P", "X"), ("-", "--", ":", "-."), ("", "//", "..", "xx")
_FORMATS = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""What says when a file was made is left out."""


def save_figures(made: Mapping[str, Figure], folder: Path) -> None:
    """Write figures into `folder` as PNG (200 dots an inch), SVG and PDF."""
    for name, figure in made.items():
        for kind in _FORMATS:
            write_whole(folder / f"{name}.{kind}", _rendered(figure, kind))


def svg_figures(board: Leaderboard) -> dict[str, bytes]:
    """Return every figure by name as an SVG file."""
    return {name: _rendered(figure, "svg") for name, figure in figures(board).items()}


def figures(board: Leaderboard) -> dict[str, Figure]:
    """Return the figures by name, names fit for files: dots_FAMILY, heatmap, bars_TASK; for a sweep
    dose_TASK_CONDITION@STRENGTH in place of bars; where conflicts were asked, reliance_TASK. Models look the same and
    stand in the order of rank in all."""
    with _style():
        families = [scope for scope in board.scopes_of("family") if len(_accuracies(board, scope.tasks)) > 1]
        dots = {f"dots_{scope.name}": _dots(board, scope) for scope in families}
        bars = {
            f"bars_{scope.name}": _bars(board, scope)
            for scope in board.scopes_of("task")
            if not sweeps(board.outcomes[scope.name].conditions)
        }
        heatmap = {"heatmap": _heatmap(board)}
        asked = dict.fromkeys(task for _, task, _ in board.reliances)
        conflicts = {
            f"reliance_{task}": _reliance(
                {name: one for name, where, one in board.reliances if where == task}, board.names
            )
            for task in asked
        }
    return dots | heatmap | bars | dose_figures(board.numbers, board.outcomes, board.names) | conflicts


def caption(board: Leaderboard, name: str) -> str:
    """Return what one of `figures` shows: figures have no title, which a paper would have to cut off."""
    kind, _, what = name.partition("_")
    if kind == "dots":
        return f"{FAMILY_LABELS[what]}: accuracy by condition with 95% intervals (* not used in training)"
    if kind == "heatmap":
        return "Accuracy by data set and condition (* not used in training)"
    task = max((scope.name for scope in board.scopes_of("task") if what.startswith(scope.name)), key=len)
    about = f"{task}, n = {len(board.outcomes[task].items)} items"
    if kind == "reliance":
        return (
            f"{about}: answers that follow the text where image and text alone lead to different options, by the "
            "text's uncertainty relative to the image's; fifths of these items with 95% intervals, and a logistic curve"
        )
    if kind == "bars":
        return f"{about}: accuracy by condition with 95% intervals (* not used in training)"
    reference = words(REFERENCE[board.outcomes[task].family])
    return f"{about}: {words(what.removeprefix(f'{task}_'))} with 95% intervals (thin line: {reference})"


def dose_figures(
    numbers: Mapping[Key, Estimate], outcomes: Mapping[str, Outcomes], names: Sequence[str] = ()
) -> dict[str, Figure]:
    """Return the dose-response curves of every sweep among the data sets `outcomes`, for each of the models `names`
    (default: all, in the order of `numbers`)."""
    scopes = {key.scope.name: key.scope for key in numbers if key.scope.kind == "task"}
    names = names or tuple(dict.fromkeys(key.model for key in numbers))
    with _style():
        return {
            f"dose_{task}_{sweep.title}": _dose(numbers, scope, outcomes[task], sweep, names)
            for task, scope in scopes.items()
            for sweep in sweeps(outcomes[task].conditions)
        }


@contextmanager
def _style() -> Iterator[None]:
    """Names are shown as they are, never as mathematics; one board always gives one file, with one font in one size,
    whatever the reader's own settings; a PDF holds it as TrueType, which journals ask for."""
    settings = {"text.parse_math": False, "svg.hashsalt": "mmi", "pdf.fonttype": 42, "axes.axisbelow": True}
    settings |= {"font.family": "DejaVu Sans", "font.size": 9}
    settings |= dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9)
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format=kind, dpi=200, bbox_inches="tight", metadata=_FORMATS[kind])
    return buffer.getvalue()


def _dots(board: Leaderboard, family: Scope) -> Figure:
    """Return accuracies and worst case of a family, a line per data set and condition; in it each model has a place of
    its own, so that equal ones are both seen."""
    lines = _accuracies(board, family.tasks)
    tasks = dict.fromkeys(scope for scope, _ in lines)
    lines += [(scope, Measure("worst_case")) for scope in tasks if len(board.outcomes[scope.name].conditions) > 1]
    lines.sort(key=lambda line: list(tasks).index(line[0]))
    step = 0.8 / len(board.names)
    figure = Figure(figsize=(6, 0.8 + len(lines) * max(0.3, 0.12 * len(board.names))))
    axes = figure.add_subplot()
    for index, (name, look) in enumerate(_looks(board.names)):
        found = [board.numbers[Key(name, *line)] for line in lines]
        places = np.arange(len(lines)) + (index + 0.5) * step - 0.4
        shares, reach = _shares(found)
        style = {"color": look.colour, "marker": look.marker, "markersize": 4.5, "elinewidth": 1, "linestyle": "none"}
        axes.errorbar(shares, places, xerr=reach, label=_short(name), **style)
    for place in range(1, len(lines)):
        axes.axhline(place - 0.5, color="0.85", linewidth=0.6)
    axes.set_yticks(range(len(lines)), [_spoke(scope, measure, len(tasks) > 1) for scope, measure in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    lowest = min(
        10 * (min(board.numbers[Key(name, *line)].low for name in board.names for line in lines) * 10 // 1), 80
    )
    axes.set_xlim(lowest - 1, 101)
    axes.locator_params(axis="x", steps=[1, 2, 5, 10], integer=True)
    axes.set_xlabel("accuracy in percent")
    axes.grid(axis="x", alpha=0.4)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _shares(estimates: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """Return values in percent, of shape (estimates,), and how far their intervals reach, (2, estimates)."""
    shares = 100 * np.array([estimate.value for estimate in estimates])
    reach = 100 * np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T
    return shares, reach.clip(0)


def _heatmap(board: Leaderboard) -> Figure:
    """Return accuracies, a line per data set and condition, a column per model."""
    lines = _accuracies(board, tuple(scope.name for scope in board.scopes_of("task")))
    shares = np.array([[100 * board.numbers[Key(name, *line)].value for name in board.names] for line in lines])
    figure = Figure(figsize=(2.5 + 0.9 * len(board.names), 1 + 0.3 * len(lines)))
    axes = figure.add_subplot()
    shown = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share < 55 else "black"
        axes.text(column, row, f"{share:.1f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(board.names)), [_short(name) for name in board.names], rotation=30, ha="right")
    axes.set_yticks(range(len(lines)), [_spoke(scope, measure, True) for scope, measure in lines])
    figure.colorbar(shown, label="accuracy in percent")
    return figure


def _bars(board: Leaderboard, scope: Scope) -> Figure:
    """Return accuracies by condition and the worst case of one data set, with 95% intervals."""
    measures = [measure for _, measure in _accuracies(board, scope.tasks)]
    measures += [Measure("worst_case")] * (len(measures) > 1)
    figure = Figure(figsize=(2 + 0.9 * len(measures) * max(1, len(board.names) / 3), 3.2))
    axes = figure.add_subplot()
    width = 0.8 / len(board.names)
    for index, (name, look) in enumerate(_looks(board.names)):
        places = np.arange(len(measures)) + (index + 0.5) * width - 0.4
        shares, reach = _shares([board.numbers[Key(name, scope, measure)] for measure in measures])
        style = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "error_kw": {"elinewidth": 1}}
        axes.bar(places, shares, width, label=_short(name), yerr=reach, **style)
    axes.set_xticks(range(len(measures)), [_under(measure) for measure in measures])
    axes.set_ylim(0, 105)
    axes.set_ylabel("accuracy in percent")
    axes.grid(axis="y", alpha=0.4)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _dose(
    numbers: Mapping[Key, Estimate], scope: Scope, outcomes: Outcomes, sweep: Sweep, names: Sequence[str]
) -> Figure:
    """Return accuracy and flip rate over the values of one strength, with 95% intervals; a thin line is the accuracy
    under the reference. Values that are names, and no numbers, are not joined."""
    figure = Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2)
    reference = Measure("accuracy", REFERENCE[outcomes.family])
    joined = all(isinstance(value, int) for value in sweep.names)
    places = np.array(list(sweep.names) if joined else range(len(sweep.names)))
    for index, (name, look) in enumerate(_looks(names)):
        style = {"color": look.colour, "marker": look.marker, "markersize": 4, "label": _short(name)}
        style["linestyle"] = look.line if joined else "none"
        shift = 0 if joined else (index + 0.5) * 0.4 / len(names) - 0.2
        for axes, measure in ((left, "accuracy"), (right, "flip_rate")):
            shares, reach = _shares([numbers[Key(name, scope, Measure(measure, c))] for c in sweep.names.values()])
            if joined:
                axes.fill_between(places, shares - reach[0], shares + reach[1], color=look.colour, alpha=0.15, lw=0)
            axes.errorbar(places + shift, shares, yerr=None if joined else reach, elinewidth=1, **style)
        plain_accuracy = 100 * numbers[Key(name, scope, reference)].value
        left.axhline(plain_accuracy, color=look.colour, linestyle=look.line, linewidth=0.8, alpha=0.7)
    for axes, label in ((left, "accuracy in percent"), (right, "flip rate in percent")):
        axes.set_xticks(places, [str(value) for value in sweep.names])
        axes.set_xlabel(f"{words(sweep.condition)}: {words(sweep.parameter)}")
        axes.set_ylabel(label)
        axes.set_ylim(-3, 103)
        axes.grid(alpha=0.4)
    right.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _reliance(found: Mapping[str, Reliance], names: Sequence[str]) -> Figure:
    """Return the share that follows the text over the text's relative uncertainty, with the share over all items."""
    figure = Figure(figsize=(5, 3.2))
    axes = figure.add_subplot()
    for name, look in _looks(names):
        if (own := found.get(name)) is None:
            continue
        places = np.array([one.uncertainty for one in own.bins])
        shares, reach = _shares([one.share for one in own.bins])
        style = {"color": look.colour, "marker": look.marker, "markersize": 4, "linestyle": "none", "elinewidth": 1}
        ratio = f"{_short(name)}: {100 * own.text_ratio.value:.1f}% of {own.n} follow the text"
        axes.errorbar(places, shares, reach, label=ratio, **style)
        along = np.linspace(places[0], places[-1], 100)
        if (curve := own.probability(along)) is not None:
            axes.plot(along, 100 * curve, color=look.colour, linestyle=look.line, linewidth=1)
    axes.axhline(50, color="0.7", linewidth=0.8)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("relative uncertainty of the text")
    axes.set_ylabel("follow the text, in percent")
    axes.grid(alpha=0.4)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _accuracies(board: Leaderboard, tasks: Sequence[str]) -> list[tuple[Scope, Measure]]:
    """Return (data set, accuracy under a condition) for every condition of `tasks`."""
    return [
        (scope, Measure("accuracy", condition))
        for scope in board.scopes_of("task")
        if scope.name in tasks
        for condition in board.outcomes[scope.name].conditions
    ]


class _Look(NamedTuple):
    colour: str
    marker: str
    line: str
    hatch: str


def _looks(names: Iterable[str]) -> Iterator[tuple[str, _Look]]:
    """Yield (name, look) of every model; no two alike among the first 28."""
    for index, name in enumerate(names):
        again = index // len(_COLOURS) % len(_LINES)
        marker = _MARKERS[(index + again) % len(_MARKERS)]
        yield name, _Look(_COLOURS[index % len(_COLOURS)], marker, _LINES[again], _HATCHES[again])


def _short(name: str) -> str:
    return shorten(plain(name), 40)


def _under(measure: Measure) -> str:
    if measure.condition is None:
        return "worst\ncase"
    return words(measure.condition).replace(" ", "\n") + ("" if get(measure.condition).seen else "*")


def _spoke(scope: Scope, measure: Measure, several: bool) -> str:
    under = _under(measure).replace("\n", " ")
    return f"{scope.name.removeprefix('mmi_')}, {under}" if several else under
