"""Every mistake of a user is one line on stderr and exit status 2, before training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from mmi_plugin.sources import load
from mmi_plugin.trainers import run

GOOD = {"id": "a", "type": "text_heavy", "question": "Which?", "answer": "x", "options": ["x", "y"]}
FREE = {"type": "VQA", "options": ..., "answer": "it is x"}


def complaint(capsys: pytest.CaptureFixture, *argv: object) -> str:
    """Run the command line; return its one line."""
    capsys.readouterr()
    assert run.main([str(arg) for arg in argv]) == 2
    bars = ("Loading weights", "checking ")  # which a slow machine gets to see
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.strip().startswith(bars)]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture
def base(tiny_llava: Path, tmp_path: Path) -> list[str]:
    fields = {"model_name_or_path": tiny_llava, "output_dir": tmp_path / "out", "max_steps": 1, "mix": "0 1 0"}
    argv = [part for name, value in fields.items() for part in (f"--{name}", *str(value).split())]
    return [*argv, "--per_device_train_batch_size", "1", "--report_to", "none", "--use_cpu", "true"]


BAD_ROWS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "no options": ({"options": []}, "'options'"),
    "one option": ({"options": ["x"]}, "'options'"),
    "options no list": ({"options": "xy"}, "'options'"),
    "gold missing": ({"answer": "z"}, "'answer'"),
    "answer empty": ({"answer": " "}, "'answer'"),
    "answer a number": ({"answer": 3}, "'answer'"),
    "question empty": ({"question": ""}, "'question'"),
    "question null": ({"question": None}, "'question'"),
    "type unknown": ({"type": "texty"}, "'type'"),
    "type missing": ({"type": ...}, "'type'"),
    "id missing": ({"id": ...}, "'id'"),
    "image gone": ({"image": "gone.png"}, "'image'"),
    "image broken": ({"image": "broken.png"}, "'image'"),
    "image cut": ({"image": "cut.png"}, "'image'"),
    "image needed": ({"type": "image_heavy"}, "'image'"),
    "facts a list": ({"facts": ["y"]}, "'facts'"),
    "fact on no option": ({"facts": {"q": "It is."}}, "'facts'.*'q'"),
    "fact empty": ({"facts": {"y": ""}}, "'facts'.*empty"),
    "unknown field": ({"awnser": "x"}, "'awnser'.*'answer'"),
    "no record": (None, "not a record"),
    "id a list": ({"id": ["b"]}, "'id'"),
    "id true": ({"id": True}, "'id'"),
    "id blank": ({"id": " "}, "'id'"),
    "id NaN": ({"id": float("nan")}, "'id'"),
    "question NaN": ({"question": float("nan")}, "'question'"),
    "answer missing": ({"answer": ...}, "'answer'"),
    "type a number": ({"type": 1}, "'type'"),
    "option a number": ({"options": ["x", 2]}, "'options'"),
    "option empty": ({"options": ["x", " "]}, "'options'.*empty"),
    "options too many": ({"options": ["x", *map(str, range(26))]}, "'options'.*27"),
    "options unlisted": ({"options": ..., "question": "Which of x and y?"}, "'options'.*'question'"),
    "letter unlisted": ({"options": ..., "question": "Which?\nA: x\nB: y", "answer": "C"}, "'answer'.*'C'"),
    "letter and option differ": ({"options": ..., "question": "Which?\nA: x\nB: y", "answer": "A: y"}, "'answer'"),
    "image a list": ({"image": ["a.png"]}, "'image'"),
    "image a folder": ({"image": "."}, "'image'"),
    "image empty": ({"image": "empty.png"}, "'image'"),
    "history no list": ({**FREE, "history": "none"}, "'history'"),
    "history of three": ({**FREE, "history": [["a", "b", "c"]]}, "'history'"),
    "history half empty": ({**FREE, "history": [["a", ""]]}, "'history'.*empty"),
    "history with options": ({"history": [["a", "b"]]}, "'history'"),
    "placeholder in the question": ({"question": "What is <image> here?"}, "'question'.*<image>"),
    "placeholder in an option": ({"options": ["x", "<image>"]}, "'options'.*<image>"),
    "placeholder in the answer": ({**FREE, "answer": "an <image>"}, "'answer'.*<image>"),
    "placeholder in a fact": ({"facts": {"y": "an <image>"}}, "'facts'.*<image>"),
    "answer too long": ({**FREE, "answer": "dogs and " * 2000}, "'answer'.*tokens, max_length is"),
    "question too long": ({"question": "dogs and " * 2000}, "'question'.*tokens, max_length is"),
    "history too long": ({**FREE, "history": [["dogs and " * 1000, "yes"]] * 2}, "tokens, max_length is"),
}


def bad_row(case: str) -> Any:
    change = BAD_ROWS[case][0]
    return change and {name: value for name, value in {**GOOD, "id": "b", **change}.items() if value is not ...}


def write(folder: Path, kind: str, rows: list[Any]) -> Path:
    """Write training rows, and the broken images that some of them name."""
    image = folder / "cut.png"
    Image.effect_noise((64, 64), 50).save(image)
    image.write_bytes(image.read_bytes()[:500])
    (folder / "broken.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    data = folder / f"rows.{kind}"
    data.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    return data


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_names_file_row_and_field(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, case: str, kind: str
) -> None:
    data = write(tmp_path, kind, [GOOD, bad_row(case)])
    line = complaint(capsys, *base, "--train_file", data)
    assert re.search(rf"rows\.{kind}, row 2: .*{BAD_ROWS[case][1]}", line), line
    assert len(line) < 1000
    assert list((tmp_path / "out").glob("[!.]*")) == []  # nothing but the mark that the folder was in use


def test_a_line_that_is_no_json_is_a_bad_row(base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write(tmp_path, "jsonl", [GOOD])
    data.write_text(data.read_text() + "\n\n{")
    assert "rows.jsonl, row 3: not JSON" in complaint(capsys, *base, "--train_file", data)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": "b", "question": "Wh\xffch?"}', "not JSON: 'utf-8'"),
        (b"[" * 200_000, "not JSON: nested too deeply"),
        (b'{"id": ' + b"1" * 5000 + b"}", "not JSON: .*digits"),
        (json.dumps({**GOOD, "id": "b", "question": "\ud800"}).encode(), "field 'question' .*lone surrogate"),
        (json.dumps({**GOOD, "id": "b", "image": "/dev/zero"}).encode(), "field 'image' '/dev/zero' .*regular file"),
    ],
)
def test_a_hostile_line_is_one_line_for_the_user(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, line: bytes, said: str
) -> None:
    good = json.dumps({**GOOD, "question": "one\u2028two\x85three"}, ensure_ascii=False).encode()
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + good + b"\n" + line)
    assert re.search(rf"rows\.jsonl, row 2: {said}", complaint(capsys, *base, "--train_file", tmp_path / "rows.jsonl"))


def test_bad_rows_can_be_skipped_and_are_listed(base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """All kinds at once: the run trains on the good rows, and lists each bad one once."""
    rows = [GOOD, *map(bad_row, BAD_ROWS), {**GOOD, "id": "good too"}]
    rows = [{**row, "id": f"b{i}"} if row and row.get("id") == "b" else row for i, row in enumerate(rows)]
    data = write(tmp_path, "json", rows)
    assert run.main([*base, "--train_file", str(data), "--on-bad-row", "skip", "--disable_tqdm", "true"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    listed = (tmp_path / "out" / "skipped_rows.txt").read_text().splitlines()
    assert said[0].startswith(f"skipped {len(BAD_ROWS)} bad rows, listed in ") and len(listed) == len(BAD_ROWS)
    places = sorted(int(re.search(r"rows\.json, row (\d+): ", line)[1]) for line in listed)
    assert places == list(range(2, len(rows)))
    data = json.loads((tmp_path / "out" / "training.json").read_text())["data"]
    assert data["items"] == {"rows.json:text_heavy": 2} and data["skipped"] == len(BAD_ROWS)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--train_file", "gone.json"], ["gone.json", "cannot be read"]),
        (["--sources", "demo_digit"], ["demo_digit", "demo_digits"]),
        ([], ["sources", "train_file"]),
        (["--sources", "demo_capitals", "--mix", "2", "2", "3"], ["mix", "2:2:3", "nearest"]),
        (["--sources", "demo_capitals", "--mix", "1", "0", "0"], ["mix", "image_heavy"]),
        (["--sources", "demo_capitals", "--mix", "1", "2"], ["mix"]),
        (["--sources", "demo_capitals", "--text_heavy_conditions", "blakc"], ["text_heavy_conditions", "'black'"]),
        (["--sources", "demo_capitals", "--text_heavy_conditions", "misleading_text"], ["text_heavy_conditions"]),
        (["--sources", "demo_capitals", "--epz", "0.1"], ["--epz", "'eps'"]),
        (["--sources", "demo_capitals", "--eps", "small"], ["eps", "small"]),
        (["--sources", "demo_capitals", "--eps", "-1"], ["eps", "-1"]),
        (["--sources", "demo_capitals", "--step_rule", "sing"], ["step_rule", "sing"]),
        (["--sources", "demo_capitals", "--resume_from_checkpoint", "true"], ["resume_from_checkpoint"]),
        (["--sources", "demo_capitals", "--resume_from_checkpoint", "gone"], ["resume_from_checkpoint", "gone"]),
        (["--sources", "demo_capitals", "--lora_r", "4", "--lora_targets", "nothing"], ["lora_targets", "nothing"]),
        (["--sources", "demo_capitals", "--model_name_or_path", "gone"], ["model_name_or_path", "gone"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) and value and value[0].startswith("--") else "",
)
def test_a_bad_field_is_named(
    base: list[str], capsys: pytest.CaptureFixture, argv: list[str], words: list[str]
) -> None:
    line = complaint(capsys, *base, *argv)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("consistancy: js", ["consistancy", "'consistency'"]),
        ("eps: small", ["eps", "small"]),
        ("adversary: pdg", ["adversary", "'pgd'"]),
        ("mix: [a, b, c]", ["mix"]),
        ("max_steps: [1]", ["max_steps", "list"]),
        ("temperature: 0", ["temperature"]),
        ("- a list", ["list"]),
        ("eps: [", ["cannot be read"]),
    ],
)
def test_a_bad_config_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture, text: str, words: list[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    line = complaint(capsys, "--config", path, "--output_dir", tmp_path / "out")
    assert all(word in line for word in words), line
    assert "wrong.yaml" in line


@pytest.mark.parametrize("damage", ["config", "weights", "missing weight", "no processor"])
def test_a_damaged_checkpoint_is_named(
    base: list[str], tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture, damage: str
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in tiny_llava.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if damage == "config":
        (folder / "config.json").write_text("{")
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes((tiny_llava / "model.safetensors").read_bytes()[:5000])
    elif damage == "missing weight":
        weights = load_file(tiny_llava / "model.safetensors")
        weights.pop(next(name for name in weights if "linear_1.weight" in name))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        (folder / "processor_config.json").unlink()
        (folder / "chat_template.jinja").unlink()
    line = complaint(capsys, *base, "--sources", "demo_capitals", "--model_name_or_path", folder)
    assert str(folder) in line


def test_one_id_in_two_places_is_named(base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / "rows.json"
    data.write_text(json.dumps([{**GOOD, "id": load("demo_capitals", "train").items[0].id}]))
    line = complaint(capsys, *base, "--sources", "demo_capitals", "--train_file", data)
    assert "rows.json" in line and "demo_capitals" in line and "'id'" in line
