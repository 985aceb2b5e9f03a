"""`mmi preview`: what a model will see, as its own template writes it, counted, timed, and fit to be shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor

from mmi_plugin.cli import main
from mmi_plugin.conditions import get
from mmi_plugin.item import messages
from mmi_plugin.sources import load


def shown(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main(["preview", *map(str, argv)]) == 0
    return capsys.readouterr().out


def indented(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.split("\n"))


def test_a_task_in_plain_turns(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "mmi_demo_digits", "--items", 1)
    bench = load("demo_digits", "test")
    assert f"mmi_demo_digits: {len(bench.items)} items under 4 conditions are {4 * len(bench.items):,} prompts" in out
    for name in ("clean", "unrelated_text", "misleading_text", "ocr_text"):
        (turn,) = messages(get(name)(bench.items[0], 0, bench.pools))
        assert indented("[image 32 x 32]\n" + turn["content"][-1]["text"]) in out + "\n"
    assert "  ocr_text* (image 32 x 32)" in out and "  clean (image 32 x 32)" in out


def test_a_group_as_a_models_own_template_writes_it_with_an_estimate(
    tiny_llava: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    given = ("--model_args", f"pretrained={tiny_llava}", "--conditions", "clean", "--html", page)
    out = shown(capsys, "mmi_demo_digits", "--items", 2, *given)
    bench, processor = load("demo_digits", "test"), AutoProcessor.from_pretrained(tiny_llava)
    for item in bench.items[:2]:
        chat = messages(item)
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
        assert indented(text) in out + "\n" and f"{len(ids['input_ids'][0])} tokens" in out
    assert re.search(r"About \d+ (s|min) on cpu, from a trial of 32 prompts \(\d+\.\d s\)\.", out)
    text = page.read_text(encoding="utf-8")
    assert text.count("<article>") == 2 and text.count("data:image/") == 2 and "<script" not in text

    group = shown(capsys, "mmi_demo", "--items", 1, "--model_args", f"processor={tiny_llava}")
    assert [line.partition(" (")[0] for line in group.splitlines() if line.startswith("mmi_demo_")] == [
        "mmi_demo_arith: 400 items under 1 conditions are 400 prompts",
        "mmi_demo_capitals: 378 items under 6 conditions are 2,268 prompts",
        "mmi_demo_digits: 400 items under 4 conditions are 1,600 prompts",
    ]


def test_own_questions_whatever_they_hold(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "1.png")
    hostile = "<script>alert(1)</script>\u202e\x1b[31m"
    row = {"q": f"What? {hostile}", "image": "1.png", "a": ["red"]}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    page = tmp_path / "page.html"
    columns = ("--family", "vqa", "--metric", "exact_match", "--columns", "question=q", "answer=a")
    out = shown(capsys, tmp_path / "own.jsonl", *columns, "--html", page)
    assert "mmi_own: 1 items under 2 conditions are 2 prompts" in out and "right answer red" in out
    assert "both* (image 336 x" in out and ", image 40 x 20)" in out  # the irrelevant photograph, then its own
    assert "\x1b" not in out and "⟨U+202E⟩⟨U+001B⟩" in out
    text = page.read_text(encoding="utf-8")
    assert hostile not in text and "&lt;script&gt;alert(1)" in text and "<mark>" in text


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["mmi_demo_digit"],
            "mmi_demo_digit: neither a task of this package nor a file: did you mean",
        ),
        (["own.jsonl"], "own.jsonl: neither a task of this package nor a file: "),
        (["mmi_demo_digits", "--split", "train"], "--split: mmi_demo_digits has its own split"),
        (["tests", "--metric", "anls"], "tests: --family is missing: image_heavy, text_heavy or vqa"),
        (["mmi_demo_digits", "--conditions", "blank"], "unknown condition 'blank'"),
        (["mmi_demo_digits", "--items", "0"], "--items is 0: it must be at least 1"),
        (["mmi_demo_digits", "--model_args", "dtype=float32"], "neither pretrained=DIR, a model, nor processor=DIR"),
    ],
)
def test_what_cannot_be_shown_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preview", *argv]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and said in error
