"""Which modality is followed where they conflict: against entropies by hand and a logistic curve that is known."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmi_plugin.conditions import get, perturbing
from mmi_plugin.errors import plain
from mmi_plugin.item import Item
from mmi_plugin.report.board import Leaderboard, build
from mmi_plugin.report.figures import figures
from mmi_plugin.report.files import terminal, to_json, to_latex, to_markdown
from mmi_plugin.report.page import to_html
from mmi_plugin.report.remarks import remarks
from mmi_plugin.results import Record, TaskResult
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.reliance import CONFLICT, IMAGE_ALONE, TEXT_ALONE, relative_uncertainty, reliance
from mmi_plugin.results.runs import Run, as_run


def entropy(shares: tuple[float, ...]) -> float:
    return -sum(share * math.log(share) for share in shares if share)


def test_relative_uncertainty_by_hand() -> None:
    image, text = (0.5, 0.25, 0.25), (0.9, 0.05, 0.05)
    expected = 2 * (entropy(text) - entropy(image)) / (entropy(text) + entropy(image))
    found = relative_uncertainty(np.array([image, text, (1, 0, 0)]), np.array([text, text, (0, 1, 0)]))
    assert found[:2] == pytest.approx([expected, 0]) and np.isnan(found[2])
    certain = np.array([(1.0, 0, 0)])
    assert relative_uncertainty(certain, np.array([image])) == pytest.approx([2])
    assert relative_uncertainty(np.array([image]), certain) == pytest.approx([-2])


def answers(item: str, condition: str, letter: str, shares: tuple[float, ...], named: str | None) -> Record:
    return Record(item, condition, 0, "A", letter, letter, named, shares)


def conflicts(balance: float, slope: float, n: int) -> Outcomes:
    """Items with the text's doubts drawn at random, and answers by a logistic curve over the relative uncertainty."""
    rng, records = np.random.default_rng(5), []
    for number in range(n):
        one, other = rng.uniform(0.05, 0.6, 2)
        image, text = (1 - one, one / 2, one / 2), (other / 2, 1 - other, other / 2)
        image_doubt, text_doubt = entropy(image), entropy(text)
        x = 2 * (text_doubt - image_doubt) / (text_doubt + image_doubt)
        follows = rng.random() < 1 / (1 + math.exp(-slope * (x - balance)))
        key = f"i{number}"
        records += [
            answers(key, IMAGE_ALONE, "A", image, None),
            answers(key, TEXT_ALONE, "B", text, "B"),
            answers(key, CONFLICT, "B" if follows else "A", (0.5, 0.5, 0), "B"),
        ]
    return Outcomes.of("t", "image_heavy", (IMAGE_ALONE, CONFLICT, TEXT_ALONE), records)


@pytest.mark.parametrize(("balance", "slope"), [(0.4, -4.0), (-0.3, -2.5)])
def test_the_balance_of_a_known_curve_is_found(balance: float, slope: float) -> None:
    found = reliance(conflicts(balance, slope, 3000))
    assert found.n == 3000
    assert found.balance == pytest.approx(balance, abs=0.08) and found.slope == pytest.approx(slope, rel=0.12)
    shares = [one.share.value for one in found.bins]
    assert shares == sorted(shares, reverse=True), "the less certain the text, the less it is followed"
    curve = [1 / (1 + math.exp(-slope * (one.uncertainty - balance))) for one in found.bins]
    at = np.array([one.uncertainty for one in found.bins])
    assert found.probability(at) == pytest.approx(curve, abs=0.04)
    assert shares == pytest.approx(curve, abs=0.06), "a curve's mean over a fifth is near its value at the middle"


def test_only_items_with_a_conflict_count() -> None:
    """Of four items one follows the text, one the image; on one the text leads nowhere; one answers neither."""
    shown = {"a": "BB", "b": "AB", "c": "AC", "d": "CB"}  # under the conflict, and to the text alone
    records = [
        one
        for key, (conflict, text) in shown.items()
        for one in (
            answers(key, IMAGE_ALONE, "A", (0.8, 0.1, 0.1), None),
            answers(key, CONFLICT, conflict, (0.4, 0.4, 0.2), "B"),
            answers(key, TEXT_ALONE, text, (0.1, 0.7, 0.2), "B"),
        )
    ]
    found = reliance(Outcomes.of("t", "image_heavy", (IMAGE_ALONE, CONFLICT, TEXT_ALONE), records))
    assert (found.n, found.text_ratio.value, found.balance) == (2, 0.5, None)
    assert reliance(Outcomes.of("t", "image_heavy", (IMAGE_ALONE, CONFLICT), records[:2])) is None


def test_a_text_beside_a_black_picture_is_the_same_text_and_counts_in_no_worst_case() -> None:
    item = Item("i1", "image_heavy", "What is it?", "cat", ("cat", "dog", "eel"), image=Image.new("RGB", (6, 6), "red"))
    alone, beside = get(TEXT_ALONE)(item), get(CONFLICT)(item)
    assert (alone.context, alone.named) == (beside.context, beside.named)
    assert alone.image.getextrema() == ((0, 0),) * 3
    assert perturbing((IMAGE_ALONE, CONFLICT, TEXT_ALONE)) == (IMAGE_ALONE, CONFLICT)


def test_the_board_says_what_its_numbers_are_not_enough_for() -> None:
    """Two models on 30 questions, one wrong more; and of ten conflicts, all follow the text."""
    board = _harmed_board()
    assert reliance(board.outcomes["c"]).logit_gap.value == pytest.approx(math.log(0.7 / 0.3))
    said = " ".join(" ".join(remarks(board, plain)).split())
    assert "b is no more than 2 points worse than a on q: not shown (-3.3 points [" in said
    wilson = 100 * 10 / (10 + 1.959964**2)  # of ten in ten
    assert (
        "a on c: of 10 items on which image and text alone lead to different options, "
        f"100.0% [{wilson:.1f}, 100.0] follow the text, whose option is ahead of the image's by 0.85 nats"
    ) in said
    wide = replace(board, margin=50.0)
    assert "b is no more than 50 points worse than a on q: shown" in " ".join(remarks(wide, plain))


def test_every_output_has_the_remarks() -> None:
    board = _harmed_board()
    wanted, gap = remarks(board, plain), f"{math.log(0.7 / 0.3):.1f}"
    assert len(wanted) == 3
    for text in (terminal(board), to_markdown(board), to_latex(board), to_html(board)):
        folded = " ".join(unescape(text).replace("\\", "").split())
        assert [one for one in wanted if one in folded] == wanted
    content = json.loads(to_json(board))
    assert content["remarks"] == wanted and content["margin"] == 2.0
    own = content["reliance"][0]
    assert (own["model"], own["n"], own["text_ratio"]["value"], len(own["bins"])) == ("a", 10, 1.0, 5)
    page = " ".join(re.sub(r"<[^>]+>", " ", to_html(board)).split())
    assert f"logit gap in nats: misleading text {gap} [" in page and f"100.0 [72.2, 100.0] {gap} [" in page


def test_the_figure_draws_the_fifths_and_the_curve() -> None:
    outcomes = conflicts(0.4, -4.0, 400)
    own = reliance(outcomes)
    made = figures(build([Run("a", Path("r"), {}, {"t": outcomes})]))["reliance_t"]
    (axes,) = made.axes
    (bars,), (curve, _) = axes.containers, axes.lines[-2:]
    assert bars.lines[0].get_ydata() == pytest.approx([100 * one.share.value for one in own.bins])
    low = [segment[0][1] for segment in bars.lines[2][0].get_segments()]
    assert low == pytest.approx([100 * one.share.low for one in own.bins])
    x = curve.get_xdata()
    assert curve.get_ydata() == pytest.approx(100 / (1 + np.exp(-own.slope * (x - own.balance))))
    assert f"{100 * own.text_ratio.value:.1f}% of 400 follow the text" in axes.get_legend().get_texts()[0].get_text()


def _harmed_board() -> Leaderboard:
    folder = Path("results")
    vqa = {name: [("A" if number >= wrong else "B") for number in range(30)] for name, wrong in (("a", 0), ("b", 1))}
    runs = []
    for name, letters in vqa.items():
        records = [Record(f"i{n}", "clean", 0, "A", letter, letter) for n, letter in enumerate(letters)]
        conflict = [
            one
            for n in range(10)
            for one in (
                answers(f"c{n}", IMAGE_ALONE, "A", (0.8, 0.2), None),
                answers(f"c{n}", CONFLICT, "B", (0.3, 0.7), "B"),
                answers(f"c{n}", TEXT_ALONE, "B", (0.1, 0.9), "B"),
            )
        ]
        asked = {
            "q": ("vqa", ("clean",), records),
            "c": ("image_heavy", (IMAGE_ALONE, CONFLICT, TEXT_ALONE), conflict),
        }
        results = {
            task: TaskResult(
                task, family, {}, "test", names, 0, "0" * 64, {}, {}, {}, tuple(own), tuple("prompt" for _ in own)
            )
            for task, (family, names, own) in asked.items()
        }
        runs.append(as_run(name, folder, results))
    return build(runs, "a")
