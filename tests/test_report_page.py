"""The page of a study, parsed and compared with figures that are counted here."""

from __future__ import annotations

import base64
import io
import json
import math
import re

import pytest
from PIL import Image

from tests.report_demo import ABLATION, SHAPE, UNSEEN, Demo, ablation
from tests.report_pages import answer, example, page


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval from its formula."""
    z = 1.959963984540054
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def label(condition: str) -> str:
    return condition.replace("_", " ") + ("*" if condition in UNSEEN else "")


def test_the_table_holds_every_figure_with_its_interval_and_change() -> None:
    demo = Demo()
    found = page(demo)
    figures, checked = found.figures(), 0
    for task, (n, conditions) in SHAPE.items():
        table = figures[task.removeprefix("mmi_")]
        columns = table["Measure"]
        for condition in conditions:
            cells = dict(zip(columns, table[f"accuracy: {label(condition)}"], strict=True))
            before, after = (demo.share(name, "accuracy", task, condition) for name in ("Vanilla", "Ours"))
            for name, share in (("Vanilla", before), ("Ours", after)):
                low, high = wilson(share, n)
                assert cells[name].startswith(f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
            change = re.search(r"Δ ([−+\d.]+), p", cells["Ours"])[1].replace("−", "-")
            assert float(change) == pytest.approx(100 * (after - before), abs=0.0501)
            checked += 1
    assert checked == 10
    capitals, digits = figures["demo_capitals"], figures["demo_digits"]
    ours = capitals["Measure"].index("Ours")
    flips = demo.share("Ours", "flip_rate", "mmi_demo_capitals")
    assert capitals["flip rate, mean"][ours].startswith(f"{100 * flips:.1f} [")
    seen = demo.share("Ours", "worst_case_seen", "mmi_demo_digits")
    assert digits["worst case, seen"][digits["Measure"].index("Ours")].startswith(f"{100 * seen:.1f} [")
    assert "flip rate, mean" not in figures["demo_arith"] and "unparseable, all" in figures["demo_arith"]


def test_several_seeds_are_averaged_and_the_best_row_is_bold() -> None:
    demo = ablation()
    found = page(demo)
    table = found.figures()["demo_digits"]
    for name, cell in zip(table["Measure"], table["accuracy: misleading text"], strict=True):
        values = demo.by_seed(name, "accuracy", "mmi_demo_digits", "misleading_text")
        assert float(cell.split()[0]) == pytest.approx(100 * sum(values) / len(values), abs=0.0501)
        if name != "Vanilla":
            half = float(re.search(r"±([\d.]+) over 3 seeds", cell)[1])
            assert half == pytest.approx(50 * (max(values) - min(values)), abs=0.0501)
    body = found.source[found.source.index('<th scope="row">worst case</th>') :]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", body, re.DOTALL)[: len(ABLATION)]
    means = [float(re.sub(r"<[^>]+>", " ", cell).split()[0]) for cell in cells]
    assert [("<strong>" in cell) for cell in cells] == [mean == max(means) for mean in means]


def test_the_headline_is_the_condition_that_was_hardest() -> None:
    demo = Demo()
    for name, right in (("Vanilla", 2), ("Ours", 399)):
        demo.answers[name][0]["mmi_demo_digits"]["misleading_text"] = ["A"] * right + ["B"] * (400 - right)
    (headline,) = page(demo).all("h1")
    assert headline == "Under misleading text, accuracy goes from 0.5 % to 99.8 %"


def test_bars_are_as_long_as_their_figures_and_marked_in_words() -> None:
    demo = Demo()
    found = page(demo)
    expected = []
    for task, (_, conditions) in SHAPE.items():
        for condition in conditions:
            for name in demo.names:
                expected.append(demo.share(name, "accuracy", task, condition))
                expected += [demo.share(name, "flip_rate", task, condition)] * (condition != conditions[0])
        if len(conditions) > 1:
            for name in demo.names:
                expected += [demo.share(name, measure, task) for measure in ("worst_case", "flip_rate")]
    widths = [float(a["width"]) for tag, a in found.elements if tag == "rect" and a["class"] == "fill"]
    assert widths == pytest.approx([100 * share for share in expected], abs=0.006)
    groups = found.all("th", scope="rowgroup")
    assert "ocr text unseen" in groups and "misleading text seen" in groups and "clean seen" in groups


def test_there_is_a_panel_per_measure_of_an_ablation_only() -> None:
    assert len(page(Demo(ABLATION)).all("figure", class_="panel")) == 14
    assert not page(Demo()).all("figure", class_="panel")


@pytest.mark.parametrize("condition", ["clean", "misleading_text"])
def test_ablation_panels_place_every_seed(condition: str) -> None:
    demo = ablation()
    text = page(demo).source
    text = text[text.index(f'aria-label="{condition.replace("_", " ")}, demo_digits') :]
    text = text[: text.index("</svg>")]
    ticks = [(float(x), float(share)) for x, share in re.findall(r'class="tick" x="([\d.]+)".*?>([\d.]+)<', text)]
    (left, low), _, (right, high) = ticks
    shares = [
        100 * share for name in ABLATION for share in demo.by_seed(name, "accuracy", "mmi_demo_digits", condition)
    ]
    dots = [float(x) for x in re.findall(r'<circle class="seed" cx="([\d.]+)"', text)]
    assert len(dots) == 22 and low <= min(shares) and max(shares) <= high
    assert dots == pytest.approx([left + (s - low) / (high - low) * (right - left) for s in shares], abs=0.2)


def test_an_example_shows_image_prompt_and_verdicts_in_words() -> None:
    found = page(Demo(), [example(), example(after=answer("A or B", None))])
    assert found.all("mark") == ["This picture seems to depict a two."] * 2
    assert "Question: What digit? Option: A: one B: two" in found.all("div", class_="prompt", dir="auto")[0]
    assert found.all("table", class_="answers")[0].endswith("Vanilla B B: two ✗ wrong Ours A. A: one ✓ right")
    assert found.all("table", class_="answers")[1].endswith("Ours A or B no option ✗ wrong")
    assert "Right answer: A: one; the added text names B: two" in found.all("p")
    uri = next(a["src"] for tag, a in found.elements if tag == "img" and a["alt"].startswith("Image of item"))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert picture.size == (32, 32) and picture.getpixel((5, 5)) == (200, 30, 60)


def test_tables_and_pictures_are_accessible() -> None:
    found = page(ablation(), [example()])
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


def test_text_and_bars_have_contrast_in_light_and_dark() -> None:
    found = page(Demo())
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


def test_provenance_is_complete() -> None:
    demo = ablation()
    found = page(demo)
    text = " ".join(found.all("body"))
    assert "transformers 5." in text and "0" * 64 in text and '"learning_rate": 0.001' in text
    assert f"KL 0, 1, 2 {', '.join(map(str, demo.seconds['KL']))}" in text
    assert re.search(r"Page written \d{4}-\d\d-\d\d \d\d:\d\d UTC", text)
    assert json.dumps(demo.config, indent=2) in found.source.replace("&#34;", '"')


def test_one_row_or_no_perturbation_still_makes_a_page() -> None:
    demo = Demo(("Vanilla",))
    shares = [demo.share("Vanilla", "accuracy", t, name) for t, (_, names) in SHAPE.items() for name in names]
    (headline,) = page(demo).all("h1")
    assert headline.endswith(f"Vanilla is right in {100 * min(shares):.1f} %")
    found = page(Demo(("Vanilla",), shape={"mmi_demo_arith": (400, ("clean",))}))
    assert found.all("h1") == ["Accuracy without perturbations"] and list(found.figures()) == ["demo_arith"]
