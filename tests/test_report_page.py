"""The page, parsed and compared with figures that are worked out here."""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path
from statistics import fmean

import pytest
from PIL import Image

from mmi_plugin.errors import InputError
from mmi_plugin.report.examples import Answer
from mmi_plugin.report.page import write_page
from tests.report_demo import ABLATION, SHAPE, demo
from tests.report_pages import example, page


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
    content["rows"][1]["accuracy"]["mmi_demo_digits/misleading_text"] = 399 / 400
    (headline,) = page(tmp_path, content).all("h1")
    assert headline == "Under misleading text, accuracy goes from 0.5 % to 99.8 %"


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


def test_there_is_a_panel_per_measure_of_an_ablation_only(tmp_path: Path) -> None:
    assert len(page(tmp_path, demo(ABLATION)).all("figure")) == 14
    assert not page(tmp_path, demo()).all("figure")


@pytest.mark.parametrize("condition", ["clean", "misleading_text"])
def test_ablation_panels_place_every_seed(tmp_path: Path, condition: str) -> None:
    content = demo(ABLATION, seeds=3)
    text = page(tmp_path, content).source
    text = text[text.index(f'aria-label="{condition.replace("_", " ")}, demo_digits') :]
    text = text[: text.index("</svg>")]
    ticks = [(float(x), float(share)) for x, share in re.findall(r'class="tick" x="([\d.]+)".*?>([\d.]+)<', text)]
    (left, low), _, (right, high) = ticks
    shares = [100 * row["accuracy"][f"mmi_demo_digits/{condition}"] for row in content["rows"]]
    dots = [float(x) for x in re.findall(r'<circle class="seed" cx="([\d.]+)"', text)]
    assert len(dots) == 22 and low <= min(shares) and max(shares) <= high
    assert dots == pytest.approx([left + (s - low) / (high - low) * (right - left) for s in shares], abs=0.2)


def test_an_example_shows_image_prompt_and_verdicts_in_words(tmp_path: Path) -> None:
    found = page(tmp_path, demo(), [example(), example(after=Answer("A or B", None))])
    assert found.all("mark") == ["This picture seems to depict a two."] * 2
    assert found.all("div", class_="prompt", dir="auto")[0].endswith("Question: What digit? Option: A: one B: two")
    assert found.all("table", class_="answers")[0].endswith("Vanilla B B: two ✗ wrong Ours A. A: one ✓ right")
    assert found.all("table", class_="answers")[1].endswith("Ours A or B no option ✗ wrong")
    assert "Right answer: A: one; the added text names B: two" in found.all("p")
    uri = next(attrs["src"] for tag, attrs in found.elements if tag == "img")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert picture.size == (32, 32) and picture.getpixel((5, 5)) == (200, 30, 60)


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
