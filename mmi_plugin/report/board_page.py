"""The leaderboard as one self-contained page that works from disk."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime, timezone
from typing import Any

from markupsafe import Markup

from mmi_plugin.errors import shorten
from mmi_plugin.files import versions
from mmi_plugin.report.board import Key, Leaderboard, Number, Scope
from mmi_plugin.report.figures import svg_figures
from mmi_plugin.report.files import FAMILY_LABELS, interval, label, note, overview_columns, p_value, plain
from mmi_plugin.report.items import browser_data, to_script
from mmi_plugin.report.page import FOLDER, environment, points
from mmi_plugin.results.measures import Measure

NAME_LIMIT = 80  # characters


class BoardView:
    """What the template asks for."""

    def __init__(self, board: Leaderboard) -> None:
        self.board = board
        self.names, self.baseline, self.ranks = board.names, board.baseline, board.ranks
        self.note = note(board, lambda name: shorten(plain(name), NAME_LIMIT))
        self.columns = overview_columns(board)
        self.tasks = board.scopes_of("task")
        self.figures = {name: _data_uri("image/svg+xml", svg) for name, svg in svg_figures(board).items()}

    def number(self, name: str, scope: Scope, measure: Measure) -> Number:
        return self.board.numbers[Key(name, scope, measure)]

    def about(self, scope: Scope) -> str:
        outcomes = self.board.outcomes[scope.name]
        return f"{FAMILY_LABELS[outcomes.family]}, n = {len(outcomes.items)} items"

    def script_data(self, scope: Scope) -> Markup:
        return Markup(to_script(browser_data(self.board, scope.name)))


def to_html(board: Leaderboard) -> str:
    """Return the page. All text is escaped; it loads nothing, and runs only its own script."""
    style = _file("page.css") + _file("leaderboard.css")
    script = _file("leaderboard.js")
    made = environment()
    made.filters.update(interval=interval, label=label, p_value=p_value, points=points, short=_short)
    return made.get_template("leaderboard.html.j2").render(
        view=BoardView(board),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        versions=versions(),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _short(name: Any) -> str:
    return shorten(str(name), NAME_LIMIT)


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
