"""Figures as a paper takes them: no titles, one font, one order and look of models, colours that all can tell apart."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from mmi_plugin.report.board import Leaderboard
from mmi_plugin.report.figures import caption, figures, save_figures
from tests.leaderboard_boards import leaderboard
from tests.report_demo import ablation

OKABE_ITO = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}
"""Okabe and Ito (2008), Color universal design."""


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    return ablation().board()


@pytest.fixture(scope="module")
def made(board: Leaderboard) -> Mapping[str, Figure]:
    return figures(board)


def test_each_has_a_caption_and_no_title(board: Leaderboard, made: Mapping[str, Figure]) -> None:
    kinds = ["dots_image_heavy", "dots_text_heavy", "heatmap"]
    assert [name for name in made if not name.startswith("bars_")] == kinds and len(made) == 6
    for name, figure in made.items():
        assert not figure.get_suptitle() and not any(
            axes.get_title(loc) for axes in figure.axes for loc in ("left", "center")
        )
        assert "ccuracy" in caption(board, name)
    assert caption(board, "bars_mmi_demo_digits").startswith("mmi_demo_digits, n = 400 items: accuracy by condition")


def test_models_stand_in_the_order_of_rank_and_look_the_same_in_all(
    board: Leaderboard, made: Mapping[str, Figure]
) -> None:
    looks = []
    for name, figure in made.items():
        axes = figure.axes[0]
        if name == "heatmap":
            assert [label.get_text() for label in axes.get_xticklabels()] == list(board.names)
            continue
        handles, labels = axes.get_legend_handles_labels()
        assert labels == list(board.names)
        looks.append(
            [
                to_hex(one.patches[0].get_facecolor() if name.startswith("bars") else one[0].get_color())
                for one in handles
            ]
        )
    assert all(one == looks[0] for one in looks) and set(looks[0]) <= OKABE_ITO and len(set(looks[0])) == 7
    markers = [handle[0].get_marker() for handle in made["dots_text_heavy"].axes[0].get_legend_handles_labels()[0]]
    assert len(set(zip(looks[0], markers, strict=True))) == len(board.names) == 8


def test_dots_are_not_joined_and_none_hides_another(board: Leaderboard, made: Mapping[str, Figure]) -> None:
    axes = made["dots_text_heavy"].axes[0]
    lines = [handle[0] for handle in axes.get_legend_handles_labels()[0]]
    assert {line.get_linestyle() for line in lines} == {"None"}
    heights = np.array([line.get_ydata() for line in lines])  # (models, lines)
    assert heights.shape == (8, 6) and len(np.unique(heights.round(6))) == heights.size
    low = min(
        number.low
        for key, number in board.numbers.items()
        if key.scope.name == "mmi_demo_capitals" and key.measure.name in ("accuracy", "worst_case")
    )
    assert axes.get_xlim()[0] <= 100 * low and axes.get_xlim()[1] > 100


def test_all_text_has_one_font_and_size(made: Mapping[str, Figure]) -> None:
    texts = [text for figure in made.values() for text in figure.findobj(Text) if text.get_text().strip()]
    assert len(texts) > 100
    assert {(text.get_fontsize(), text.get_fontname()) for text in texts} == {(9.0, "DejaVu Sans")}


def test_they_are_written_as_png_svg_and_pdf_with_its_font(made: Mapping[str, Figure], tmp_path: Path) -> None:
    few = {"dots_image_heavy": made["dots_image_heavy"], "heatmap": made["heatmap"]}
    for folder in ("one", "two"):
        save_figures(few, tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in few for kind in ("png", "svg", "pdf"))
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    pdf = (tmp_path / "one" / "dots_image_heavy.pdf").read_bytes()
    assert set(re.findall(rb"/Type /Font /Subtype /(\w+)", pdf)) == {b"CIDFontType2", b"Type0"}, "Type 42, no Type 3"
    assert b"/FontFile2" in pdf and b"CreationDate" not in pdf


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_takes_the_table(evaluated: list[Path], tmp_path: Path) -> None:
    names = "a_b & 50% #1 {x}", "$\\alpha$ ~^"
    arguments = [f"{name}={run}" for name, run in zip(names, evaluated, strict=True)]
    assert leaderboard(*arguments, "--latex", tmp_path / "board.tex") == 0
    table = (tmp_path / "board.tex").read_text(encoding="utf-8")
    assert len(re.findall(r"\d\\\\ \{\\scriptsize \[\d+\.\d, \d+\.\d\]\}", table)) == 16
    rules = "".join(
        f"\\let\\{name}rule\\hline" for name in ("top", "mid", "bottom")
    )  # of booktabs, where it is missing
    document = f"\\documentclass{{article}}{rules}\\begin{{document}}\\input{{board.tex}}\\end{{document}}"
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout[-500:]
