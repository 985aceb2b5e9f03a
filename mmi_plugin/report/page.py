"""The report: one HTML page that needs no script, no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmi_plugin.errors import InputError, visible
from mmi_plugin.report.charts import PANEL_LEFT, PANEL_RIGHT, PANEL_TOP, PANEL_WIDTH
from mmi_plugin.report.examples import Example
from mmi_plugin.report.scores import Scores, shown, words
from mmi_plugin.report.views import ExampleView, FiguresView

FOLDER = Path(__file__).parent
FAMILY_NAMES = {"image_heavy": "image-heavy", "text_heavy": "text-heavy", "vqa": "VQA"}


def write_page(demo: Mapping[str, Any], examples: Sequence[Example], path: Path) -> None:
    """Write the report on `demo` (the content of `demo.json`) with `examples` to `path`.

    The first row in the ablation's order stands for before, the last for after. Every text is
    escaped, and characters that would hide or reorder others are spelt out. Raises InputError for
    figures that are missing or impossible.
    """
    for field in ("rows", "versions", "config", "hashes"):
        if field not in demo:
            raise InputError(f"demo: field {field!r} is missing")
    figures = FiguresView(Scores(demo["rows"]))
    style = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            figures=figures,
            examples=[ExampleView(example, figures.before, figures.after) for example in examples],
            style=style,
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            versions=demo["versions"],
            hashes=demo["hashes"],
            config=json.dumps(demo["config"], indent=2, ensure_ascii=False, default=str),
            written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


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
    made.filters.update(percent=percent, points=points, words=words, shown=shown)
    made.globals.update(
        family_names=FAMILY_NAMES,
        panel_left=PANEL_LEFT,
        panel_right=PANEL_RIGHT,
        panel_top=PANEL_TOP,
        panel_width=PANEL_WIDTH,
    )
    return made


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign and a true minus."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")
