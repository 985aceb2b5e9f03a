"""A board, and of a study what it trained, in; one page that works from disk out, with files for many items."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator
from datetime import datetime, timezone
from glob import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from mmi_plugin.conditions import get
from mmi_plugin.errors import shorten, visible
from mmi_plugin.files import versions, write_whole
from mmi_plugin.report.board import Key, Leaderboard, Scope
from mmi_plugin.report.figures import caption, svg_figures
from mmi_plugin.report.files import FAMILY_LABELS, interval, label, overview_columns, p_value, plain, words
from mmi_plugin.report.items import ITEMS, NAME_LIMIT, Browser, data_uri, to_script
from mmi_plugin.report.remarks import note, remarks
from mmi_plugin.report.study import PANEL_LEFT, PANEL_TOP, PANEL_WIDTH, Study, StudyView
from mmi_plugin.results.attacks import attacks, warnings
from mmi_plugin.results.estimates import Estimate
from mmi_plugin.results.measures import LOWER_IS_BETTER, Measure, times
from mmi_plugin.sources import LICENCES

FOLDER = Path(__file__).parent
PART = 5000  # items in one of the files beside a page


def write_page(path: Path, board: Leaderboard, study: Study | None = None, pictures: bool = False) -> None:
    """Write the page of `to_html`, and beside it the items that it does not hold itself, `PART` in a file."""
    view = BoardView(board, pictures, path.name)
    written = set()
    for name, content in view.files():
        write_whole(path.with_name(name), content)
        written.add(name)
    for old in path.parent.glob(f"{escape(path.name)}.items-*.js"):
        if old.name not in written:  # of an earlier page in this place
            old.unlink()
    write_whole(path, _render(view, study))


def to_html(board: Leaderboard, study: Study | None = None, pictures: bool = False) -> str:
    """Return the page by itself, with those items of a large data set whose answers changed most.

    All text is escaped, characters that would hide or reorder others are spelt out; it loads nothing, but for files of
    further items beside it where `write_page` writes some, and runs only its own script. pictures: also those of data
    sets that only the results name."""
    return _render(BoardView(board, pictures), study)


def _render(view: BoardView, study: Study | None) -> str:
    style, script = ((FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            view=view,
            study=study and StudyView(view.board, study),
            style=Markup(style),
            script=Markup(script),
            style_hash=content_hash(style),
            script_hash=content_hash(script),
            versions=versions(),
            written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


class BoardView:
    """What the template asks of a board. page: the name of the file; empty for a page without files beside it."""

    def __init__(self, board: Leaderboard, pictures: bool = False, page: str = "") -> None:
        self.board = board
        self.names, self.baseline, self.ranks = board.names, board.baseline, board.ranks
        asked = {str(result.options.get("source")) for run in board.runs for result in run.results.values()}
        self.licences = {name: LICENCES[name] for name in sorted(asked & set(LICENCES))}
        self.note = note(board, _within, doubts=False)  # which `attacks` has
        self.remarks = remarks(board, _within)
        self.columns = overview_columns(board)
        self.tasks = board.scopes_of("task")
        self.attacks = [
            (run.name, task, attacks(result.records, result.conditions), warnings(result.records, result.conditions))
            for run in board.runs
            for task, result in run.results.items()
            if any(record.attack for record in result.records)
        ]
        figures = svg_figures(board).items()
        self.figures = [(data_uri("image/svg+xml", svg), caption(board, name)) for name, svg in figures]
        self._page, self._pictures = page, pictures
        self._beside: dict[str, list[dict[str, Any]]] = {scope.name: [] for scope in self.tasks}
        self._browsers: dict[str, Browser] = {}  # those that have told their further items, and not yet the first

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield (name, content) of every file of further items: a call of the page's own function with their data."""
        for index, scope in enumerate(self.tasks):
            if len(self.board.outcomes[scope.name].items) <= ITEMS:
                continue
            browser = self._browsers[scope.name] = Browser(self.board, scope.name, self._pictures)
            parts = [browser.rest[start : start + PART] for start in range(0, len(browser.rest), PART)]
            for number, ids in enumerate(tqdm(parts, desc=f"Items of {scope.name}", unit="file", delay=2)):
                data, name = to_script(browser.data(ids)), f"{self._page}.items-{index}-{number}.js"
                mark = hashlib.sha256(data.encode()).hexdigest()
                self._beside[scope.name].append({"name": name, "mark": mark, "items": len(ids)})
                yield name, f'mmiItems({index}, "{mark}", {data});\n'

    @property
    def loads(self) -> bool:
        """Whether the page's script loads files beside it."""
        return any(self._beside.values())

    def about(self, scope: Scope) -> str:
        outcomes = self.board.outcomes[scope.name]
        return f"{FAMILY_LABELS[outcomes.family]}, n = {len(outcomes.items)} items"

    def best(self, scope: Scope, measure: Measure) -> frozenset[str]:
        """Return, of three models or more, those whose number, as shown, is the best; none where all are equal."""
        shown = {name: round(self.board.numbers[Key(name, scope, measure)].value, 3) for name in self.names}
        best = min(shown.values()) if measure.name in LOWER_IS_BETTER else max(shown.values())
        found = frozenset(name for name, value in shown.items() if value == best)
        return found if 2 < len(self.names) > len(found) else frozenset()

    def script_data(self, scope: Scope) -> Markup:
        browser = self._browsers.pop(scope.name, None) or Browser(self.board, scope.name, self._pictures)
        whole = {"of": len(self.board.outcomes[scope.name].items), "files": self._beside[scope.name]}
        return Markup(to_script(browser.data(browser.first) | whole))


def environment() -> Environment:
    """Return the templates of this folder: all text escaped, its hidden characters spelt out."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    filters = (percent, points, words, interval, label, p_value, span, short, task, times)
    made.filters.update({one.__name__: one for one in filters})
    panel = {"panel_left": PANEL_LEFT, "panel_top": PANEL_TOP, "panel_width": PANEL_WIDTH}
    made.globals.update(panel, Key=Key, Measure=Measure, unseen=_is_unseen, lower_is_better=LOWER_IS_BETTER)
    return made


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign and a true minus."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def span(estimate: Estimate) -> tuple[float, float] | None:
    """Return worst and best seed, or with one seed the interval over items, if there is one."""
    if len(estimate.seeds) > 1:
        return min(estimate.seeds), max(estimate.seeds)
    return None if math.isnan(estimate.low) else (estimate.low, estimate.high)


def task(name: str) -> str:
    """Return the name of a task without what all of ours begin with."""
    return short(name.removeprefix("mmi_"))


def _within(name: str) -> str:
    return shorten(plain(name), NAME_LIMIT)


def short(name: Any) -> str:
    return shorten(str(name), NAME_LIMIT)


def _is_unseen(measure: Measure) -> bool:
    return measure.condition is not None and not get(measure.condition).seen


def content_hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
