"""Pages written and parsed: what the tests of the report share."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from mmi_plugin.report.examples import Answer, Example
from mmi_plugin.report.page import write_page
from tests.report_demo import demo

VOID = {"meta", "img", "rect", "line", "circle", "br"}


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
        """Task -> measure -> cells of the table of all figures."""
        body = self.source[self.source.index('<table class="figures') :]
        body = body[: body.index("</table>")]
        found: dict[str, dict[str, list[str]]] = {}
        for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)[1:]:
            cells = [
                " ".join(re.sub(r"<[^>]+>", " ", cell).split())
                for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
            ]
            if len(cells) == 1:
                found[cells[0].split()[0]] = measures = {}
            else:
                measures[cells[0]] = cells[1:]
        return found


def example(**changes: object) -> Example:
    values = {
        "task": "demo_digits",
        "item_id": "digits-0001",
        "condition": "misleading_text",
        "image": Image.new("RGB", (32, 32), (200, 30, 60)),
        "prompt": "This picture seems to depict a two.\nQuestion:\nWhat digit?\nOption:\nA: one\nB: two",
        "context": "This picture seems to depict a two.",
        "options": ("one", "two"),
        "gold": "A",
        "named": "B",
        "before": Answer("B", "B"),
        "after": Answer("A.", "A"),
    }
    return Example(**{**values, **changes})


def page(tmp_path: Path, content: dict, examples: list[Example] | None = None) -> Page:
    path = tmp_path / "new" / "report.html"
    write_page(content, examples or [], path)
    return Page(path.read_text(encoding="utf-8"))


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


def hostile_page(tmp_path: Path) -> Page:
    text = "\n".join(HOSTILE)
    content = demo()
    content["config"] = {text[:200]: text}
    content["versions"] = {HOSTILE[0]: HOSTILE[1]}
    content["hashes"] = {HOSTILE[2]: HOSTILE[5]}
    hostile = [
        example(
            item_id=bad,
            task=bad,
            prompt=f"{bad}\n{bad}",
            context=bad,
            options=(bad, "two"),
            before=Answer(bad, None),
            after=Answer(bad, "A"),
            image=None if index else Image.new("RGBA", (3000, 7)),
        )
        for index, bad in enumerate(HOSTILE)
    ]
    return page(tmp_path, content, hostile)
