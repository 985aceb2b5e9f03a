"""What tasks ask in; what a model will see, as text for a terminal or as a page, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mmi_plugin.errors import plain, shorten, visible
from mmi_plugin.report.files import star
from mmi_plugin.report.items import PROMPT_LIMIT
from mmi_plugin.report.page import FOLDER, content_hash, environment

INDENT = "    "


@dataclass(frozen=True)
class Shown:
    """One prompt: its text around what the condition added to it, `size` in words, its images as a data URI."""

    condition: str
    before: str
    added: str
    after: str
    size: str
    images: str
    picture: str | None


@dataclass(frozen=True)
class ShownItem:
    """One item under every condition."""

    id: str
    gold: str
    prompts: Sequence[Shown]


@dataclass(frozen=True)
class Preview:
    """One task; `counts` of its prompts and the `estimate` of their time are sentences."""

    task: str
    counts: str
    items: Sequence[ShownItem]
    estimate: str = ""


def to_terminal(previews: Sequence[Preview], remark: str) -> str:
    """Return the previews as text; hidden characters are spelt out."""
    lines = [remark] if remark else []
    for preview in previews:
        lines += ["", f"{plain(preview.task)}: {preview.counts}", *([preview.estimate] if preview.estimate else [])]
        for item in preview.items:
            lines += ["", f"item {plain(item.id)}, right answer {plain(item.gold)}"]
            for shown in item.prompts:
                lines.append(f"  {shown.condition}{star(shown.condition)} ({shown.size})")
                text = shorten(visible(f"{shown.images}{shown.before}{shown.added}{shown.after}"), PROMPT_LIMIT)
                lines += [f"{INDENT}{line}".rstrip() for line in text.split("\n")]
    return "\n".join(lines).strip("\n")


def to_html(previews: Sequence[Preview], remark: str) -> str:
    """Return the previews as one page that loads and runs nothing; all text is escaped, as on the board's page."""
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    template = environment().get_template("preview.html.j2")
    return template.render(previews=previews, remark=remark, style=Markup(style), style_hash=content_hash(style))
