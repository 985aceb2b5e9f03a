"""Pages written and parsed: what the tests of the report share."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from PIL import Image

from mmi_plugin.item import Item
from mmi_plugin.report.items import Example
from mmi_plugin.report.page import to_html
from mmi_plugin.results import Record
from tests.report_demo import Demo

VOID = {"meta", "img", "rect", "line", "circle", "br", "input"}


class Page(HTMLParser):
    """Elements as (tag, attributes), the text of each, and tables as rows of cell texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(text)
        assert not self._open, f"unclosed: {[self.elements[i][0] for i in self._open]}"

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.elements[self._open.pop()][0] == tag
        if tag in ("th", "td"):
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.texts[index] += data

    def all(self, tag: str, **attributes: str) -> list[str]:
        """The texts of the elements with this tag and these attributes, white space folded."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            " ".join(text.split())
            for (found, attrs), text in zip(self.elements, self.texts, strict=True)
            if found == tag and wanted.items() <= attrs.items()
        ]

    def figures(self) -> dict[str, dict[str, list[str]]]:
        """Task -> measure -> cells of the tables of all numbers, by the models in the head of each."""
        found: dict[str, dict[str, list[str]]] = {}
        for summary, body in re.findall(r"<summary>(.*?)</summary>(.*?)</details>", self.source, re.DOTALL):
            measures = found.setdefault(summary.split()[0].removeprefix("mmi_"), {})
            for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL):
                name, *cells = [
                    " ".join(re.sub(r"<[^>]+>", " ", cell).split())
                    for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
                ]
                measures[name] = cells
        return found


PROMPTED = Item(
    "digits-0001",
    "image_heavy",
    "What digit?",
    "one",
    ("one", "two"),
    Image.new("RGB", (32, 32), (200, 30, 60)),
    context="This picture seems to depict a two.",
    named="two",
)


def answer(raw: str, parsed: str | None) -> Record:
    return Record("digits-0001", "misleading_text", 0, "A", parsed, raw, "B")


def example(
    task: str = "demo_digits", before: Record | None = None, after: Record | None = None, **changes: object
) -> Example:
    item = replace(PROMPTED, **changes)
    return Example(task, "misleading_text", item, before or answer("B", "B"), after or answer("A.", "A"))


def page(demo: Demo, examples: list[Example] | None = None) -> Page:
    return Page(without_scripts(to_html(demo.board(), demo.study(examples))))


def without_scripts(source: str) -> str:
    """The page as a reader without scripting has it; a parser of HTML takes scripts for text."""
    return re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL)


HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "</style></pre></mark></bdi>' onload='x",
    "{{ 7*7 }}{% raw %}",
    "\x00\x07\x1b[31m\x7f\x9f",
    "\u202eright to left\u2066\ufeff\u200f",
    "\ud800 lone",
    "x" * 1_000_000,
)


def hostile_source() -> str:
    text = "\n".join(HOSTILE)
    demo = Demo()
    demo.config = {text[:200]: text}
    hostile = [
        example(
            bad,
            answer(bad, None),
            answer(bad, "A"),
            id=bad,
            question=f"{bad}\n{bad}",
            context=bad,
            options=(bad, "two"),
            answer=bad,
            image=None if index else Image.new("RGBA", (3000, 7)),
        )
        for index, bad in enumerate(HOSTILE)
    ]
    return to_html(demo.board(), demo.study(hostile))
