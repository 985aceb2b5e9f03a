"""The page in a real browser: it renders, in light and dark, and runs nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from mmi_plugin.report.page import to_html
from tests.report_demo import ablation
from tests.report_pages import example, hostile_source

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def browse(page: Path, *flags: str, at: str = "") -> str:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri() + at]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True).stdout


def screenshot(page: Path, width: int, *flags: str) -> Image.Image:
    picture = page.with_suffix(".png")
    browse(page, f"--screenshot={picture}", f"--window-size={width},1600", *flags)
    return Image.open(picture).convert("RGB")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    demo = ablation()
    path.write_text(to_html(demo.board(), demo.study([example()])), encoding="utf-8")
    return path


def test_the_table_is_in_the_rendered_document(report: Path) -> None:
    document = browse(report, "--dump-dom")
    assert 'class="figures' in document and "Ours" in document and "demo_capitals" in document
    assert document.count("<figure") == 14 + 6, "panels, and plots"
    shown = document[document.index('id="examples"') : document.index('id="items"')]
    assert shown.count("<article>") == 1


@pytest.mark.parametrize("width", [1280, 400])
def test_the_style_is_applied_in_light_and_dark(report: Path, width: int) -> None:
    light = screenshot(report, width)
    assert light.getpixel((2, 2)) == (255, 255, 255)
    colours = {colour for _, colour in light.getcolors(1 << 20)}
    assert {(0x9A, 0x5B, 0x13), (0x0B, 0x62, 0xB8)} <= colours, "bars before and after"
    dark = screenshot(report, width, "--blink-settings=preferredColorScheme=0")
    assert dark.getpixel((2, 2)) == (0x14, 0x17, 0x1A)


def test_hostile_text_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(hostile_source(), encoding="utf-8")
    document = browse(tmp_path / "report.html", "--dump-dom")
    assert "<title>Modality interference report</title>" in document
    assert "&lt;script&gt;" in document and document.count("<script") == 4, "the page's own"
