"""The page, parsed and compared with figures that are worked out here."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import pytest
from PIL import Image

from mmi_plugin.errors import InputError
from mmi_plugin.report.examples import Answer, Example
from mmi_plugin.report.page import write_page
from tests.report_demo import ABLATION, SHAPE, demo

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


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval from its formula."""
    z = 1.959963984540054
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def test_the_table_holds_every_figure_with_its_interval_and_change(tmp_path: Path) -> None:
    content = demo()
    vanilla, ours = content["rows"]
    figures = page(tmp_path, content).figures()
    checked = 0
    for task, (n, conditions) in SHAPE.items():
        for condition in conditions:
            label = condition.replace("_", " ") + (" unseen" if condition in ("ocr_text", "screenshot") else " seen")
            before, after = (row["accuracy"][f"{task}/{condition}"] for row in (vanilla, ours))
            cells = figures[task.removeprefix("mmi_")][label]
            for cell, share in zip(cells, (before, after), strict=False):
                low, high = wilson(share, n)
                assert cell == f"{100 * share:.1f} {100 * low:.1f}–{100 * high:.1f}"
            assert float(cells[2].replace("−", "-")) == pytest.approx(100 * (after - before), abs=0.0501)
            checked += 1
    assert checked == 10
    flips = fmean(share for key, share in ours["flip_rate"].items() if "capitals" in key)
    assert figures["demo_capitals"]["flips, mean"][1] == f"{100 * flips:.1f}"
    assert figures["demo_digits"]["worst case, seen conditions"][0].startswith(
        f"{100 * vanilla['worst_case_seen']['mmi_demo_digits']:.1f} "
    )
    assert "flips, mean" not in figures["demo_arith"] and "answers without an option" in figures["demo_arith"]


def test_several_seeds_are_averaged_and_the_best_row_is_bold(tmp_path: Path) -> None:
    content = demo(ABLATION, seeds=3)
    found = page(tmp_path, content)
    for index, name in enumerate(ABLATION[1:], start=1):
        values = [row["accuracy"]["mmi_demo_digits/misleading_text"] for row in content["rows"] if row["name"] == name]
        mean, half = found.figures()["demo_digits"]["misleading text seen"][index].split(" ±")
        assert float(mean) == pytest.approx(100 * fmean(values), abs=0.0501)
        assert float(half) == pytest.approx(50 * (max(values) - min(values)), abs=0.0501)
    body = found.source[found.source.index("worst case, all conditions") :]
    cells = re.findall(r"<td>(.*?)</td>", body, re.DOTALL)[: len(ABLATION)]
    means = [float(re.sub(r"<[^>]+>", " ", cell).split()[0]) for cell in cells]
    assert [("<strong>" in cell) for cell in cells] == [mean == max(means) for mean in means]


def test_the_headline_is_the_condition_that_was_hardest(tmp_path: Path) -> None:
    content = demo()
    content["rows"][0]["accuracy"]["mmi_demo_digits/misleading_text"] = 2 / 400
    content["rows"][1]["accuracy"]["mmi_demo_digits/misleading_text"] = 387 / 400
    (headline,) = page(tmp_path, content).all("h1")
    assert headline == "Under misleading text, accuracy goes from 0.5 % to 96.8 %"


def test_bars_are_as_long_as_their_figures_and_marked_in_words(tmp_path: Path) -> None:
    content = demo()
    found = page(tmp_path, content)
    expected = []
    for task, (_, conditions) in SHAPE.items():
        for condition in conditions:
            for row in content["rows"]:
                expected.append(row["accuracy"][f"{task}/{condition}"])
                expected += [row["flip_rate"][key] for key in [f"{task}/{condition}"] if key in row["flip_rate"]]
        if len(conditions) > 1:
            for row in content["rows"]:
                flips = [share for key, share in row["flip_rate"].items() if key.startswith(task)]
                expected += [row["worst_case"][task], fmean(flips)]
    widths = [float(a["width"]) for tag, a in found.elements if tag == "rect" and a["class"] == "fill"]
    assert widths == pytest.approx([100 * share for share in expected], abs=0.006)
    groups = found.all("th", scope="rowgroup")
    assert "ocr text unseen" in groups and "misleading text seen" in groups and "clean seen" in groups


def test_ablation_panels_place_every_seed(tmp_path: Path) -> None:
    content = demo(ABLATION, seeds=3)
    found = page(tmp_path, content)
    assert len(found.all("figure")) == 14 and not page(tmp_path, demo()).all("figure")
    text = found.source[found.source.index('aria-label="misleading text, demo_digits') :]
    text = text[: text.index("</svg>")]
    ticks = [(float(x), float(share)) for x, share in re.findall(r'class="tick" x="([\d.]+)".*?>([\d.]+)<', text)]
    (left, low), _, (right, high) = ticks
    shares = [100 * row["accuracy"]["mmi_demo_digits/misleading_text"] for row in content["rows"]]
    dots = [float(x) for x in re.findall(r'<circle class="seed" cx="([\d.]+)"', text)]
    assert len(dots) == 22 and low <= min(shares) and max(shares) <= high
    assert dots == pytest.approx([left + (s - low) / (high - low) * (right - left) for s in shares], abs=0.2)


def test_an_example_shows_image_prompt_and_verdicts_in_words(tmp_path: Path) -> None:
    found = page(tmp_path, demo(), [example(), example(after=Answer("A or B", None))])
    assert found.all("mark") == ["This picture seems to depict a two."] * 2
    assert found.all("div", class_="prompt", dir="auto")[0].endswith("Question: What digit? Option: A: one B: two")
    assert found.all("table", class_="answers")[0].endswith("Vanilla B B: two ✗ wrong Ours A. A: one ✓ right")
    assert found.all("table", class_="answers")[1].endswith("Ours A or B no option recognised ✗ wrong")
    assert "Right answer: A: one; the added text names B: two" in found.all("p")
    uri = next(attrs["src"] for tag, attrs in found.elements if tag == "img")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert picture.size == (32, 32) and picture.getpixel((5, 5)) == (200, 30, 60)


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


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    clean, hostile = page(tmp_path, demo(), [example()]), hostile_page(tmp_path)
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in clean.elements}
    assert not [name for _, attrs in hostile.elements for name in attrs if name.startswith("on")]
    assert HOSTILE[0] in hostile.all("mark") and "{{ 7*7 }}{% raw %}" in hostile.all("mark")
    for hidden in "\x00\x07\x1b\x7f\x9f\u202e\u2066\ufeff\u200f":
        assert hidden not in hostile.source and f"⟨U+{ord(hidden):04X}⟩" in hostile.source
    assert "1,000,000 characters in all" in hostile.source
    assert len(re.findall("x{1501,}", hostile.source)) == 1, "only the configuration is shown in full"


def test_the_page_needs_nothing_else_and_allows_nothing_else(tmp_path: Path) -> None:
    found = page(tmp_path, demo(ABLATION, 3), [example()])
    (policy,) = [attrs["content"] for _, attrs in found.elements if attrs.get("http-equiv")]
    (style,) = re.findall(r"<style>(.*?)</style>", found.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in found.elements}
    assert not [attrs for _, attrs in found.elements if "style" in attrs or "href" in attrs]
    assert all(attrs["src"].startswith("data:") for _, attrs in found.elements if "src" in attrs)
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_tables_and_pictures_are_accessible(tmp_path: Path) -> None:
    found = page(tmp_path, demo(ABLATION, 3), [example()])
    assert all(attrs.get("scope") for tag, attrs in found.elements if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in found.elements if tag == "img")
    pictures = [attrs for tag, attrs in found.elements if tag == "svg"]
    assert all(attrs.get("aria-hidden") == "true" or attrs.get("aria-label") for attrs in pictures)
    assert next(attrs for tag, attrs in found.elements if tag == "html")["lang"] == "en"


def luminance(colour: str) -> float:
    """WCAG 2 relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_and_bars_have_contrast_in_light_and_dark(tmp_path: Path) -> None:
    found = page(tmp_path, demo())
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", found.source, re.DOTALL)
    ]
    assert len(themes) == 3, "light, dark, print"
    pairs = [(ink, ground, 4.5) for ink in ("ink", "muted", "right", "wrong") for ground in ("ground", "raised")]
    pairs += [("ink", "mark", 4.5), ("before", "raised", 3), ("after", "raised", 3)]
    for theme in themes:
        for one, other, least in pairs:
            dark, light = sorted((luminance(theme[one]), luminance(theme[other])))
            assert (light + 0.05) / (dark + 0.05) >= least, (one, other, theme)


def test_provenance_is_complete(tmp_path: Path) -> None:
    content = demo(ABLATION, seeds=3)
    found = page(tmp_path, content)
    text = " ".join(found.all("body"))
    assert "transformers 5.23.0" in text and "0" * 64 in text and '"learning_rate": 0.001' in text
    seconds = ", ".join(str(row["seconds"]) for row in content["rows"] if row["name"] == "kl")
    assert f"KL 0, 1, 2 {seconds}" in text
    assert re.search(r"Page written \d{4}-\d\d-\d\d \d\d:\d\d UTC", text)


def test_one_row_or_no_perturbation_still_makes_a_page(tmp_path: Path) -> None:
    content = demo(("vanilla",))
    share = min(content["rows"][0]["accuracy"].values())
    (headline,) = page(tmp_path, content).all("h1")
    assert headline.endswith(f"Vanilla is right in {100 * share:.1f} %")
    row = content["rows"][0]
    row["accuracy"] = {"mmi_demo_arith/clean": 0.9}
    found = page(tmp_path, content)
    assert found.all("h1") == ["Accuracy without perturbations"] and list(found.figures()) == ["demo_arith"]


def test_a_missing_part_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    content = demo()
    del content["hashes"]
    with pytest.raises(InputError, match="demo: field 'hashes' is missing"):
        write_page(content, [], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
