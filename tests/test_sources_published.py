"""The published tree and training file as they come: folders, names, fields, and what is odd about them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.sources import load
from mmi_plugin.sources.local import ROOT
from tests.training_rows import read_records

CHOICES = {"A": "robin", "B": "orange", "C": "lamp"}
ROW = {"id": 1, "question": "What is it?", "multiple_choices": CHOICES, "multiple_choices_answer": "B"}
TREE = {  # task -> file of the published tree
    "mini_imagenet": "mini-imagenet/multiple_choice_data_test.json",
    "caltech101": "caltech-101/multiple_choice_data_test.json",
    "openbookqa": "OpenBookQA/multiple_choice_data_test.json",
    "mmlu": "MMLU/multiple_choice_data_test.json",
    "scienceqa": "VQADatasets/ScienceQA/multiple_choice_data_test.json",
    "mmbench": "MMBench-EN/multiple_choice_data.json",
    "seedbench": "SEED-Bench-Img/multiple_choice_data.json",
}


@pytest.fixture(autouse=True)
def forget() -> None:
    load.cache_clear()


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One item of every data set, whose image is red below `images` and blue beside the file."""
    monkeypatch.setenv(ROOT, str(tmp_path))
    for name, path in TREE.items():
        file = tmp_path / path
        row = {**ROW, "facts": {"lamp": "This lamp gives light."}, "image": "1.png"}
        if name in ("openbookqa", "mmlu"):
            row = ROW
        if name == "mmbench":
            row = {**ROW, "image": base64.b64encode(png((0, 200, 0))).decode()}
        if name in ("mmbench", "seedbench"):
            row = {"data_id" if key == "id" else key: value for key, value in row.items()}
            row["multiple_choices"] = {**CHOICES, "A": None, "D": None}
        write(file, [row])
        (file.parent / "images").mkdir()
        (file.parent / "images" / "1.png").write_bytes(png((200, 0, 0)))
        (file.parent / "1.png").write_bytes(png((0, 0, 200)))
    (tmp_path / "published").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", TREE)
def test_every_data_set_of_the_tree_is_found_below_the_root(name: str, tree: Path) -> None:
    (item,) = load(name, "test").items
    cut = name in ("mmbench", "seedbench")
    assert (item.id, item.question, item.answer) == (f"{name}-1", "What is it?", "orange")
    assert item.options == (("orange", "lamp") if cut else ("robin", "orange", "lamp"))
    assert item.gold == ("A" if cut else "B")
    colours = {"openbookqa": None, "mmlu": None, "mmbench": (0, 200, 0)}
    colour = item.image and item.image.getpixel((0, 0))
    assert colour == colours.get(name, (200, 0, 0))
    if name in ("mini_imagenet", "caltech101"):
        assert item.facts == {"lamp": "This lamp gives light."}


def test_an_image_may_stand_beside_the_file(tree: Path) -> None:
    (tree / "SEED-Bench-Img" / "images" / "1.png").unlink()
    assert load("seedbench", "test").items[0].image.getpixel((0, 0)) == (0, 0, 200)


def test_an_item_that_repeats_an_option_is_left_out_and_named(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    twice = {**ROW, "id": 2, "multiple_choices": {"A": "robin", "B": "orange", "C": "robin "}}
    write(tree / TREE["mmlu"], [ROW, twice, {**ROW, "id": 3}])
    assert [item.id for item in load("mmlu", "test").items] == ["mmlu-1", "mmlu-3"]
    assert "1 items repeat an option and are left out: rows 2" in caplog.text


def test_facts_on_no_option_are_left_out_and_named(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    facts = {"LAMP": "Lamps shine.", "sofa": "A sofa is soft."}
    write(tree / TREE["caltech101"], [{**ROW, "image": "1.png", "facts": facts}])
    assert load("caltech101", "test").items[0].facts == {"lamp": "Lamps shine."}
    assert "1 items have facts on what is none of their options, which are left out: rows 1" in caplog.text


def test_what_is_neither_base64_nor_a_path_is_named_at_once_and_in_few_words(tree: Path) -> None:
    write(tree / TREE["mmbench"], [{**ROW, "image": " " * 300_000 + "!"}])
    with pytest.raises(InputError, match=r"field 'image' ' +… \(300,001 characters in all\)' does not decode") as error:
        load("mmbench", "test").digest(("clean",), 0)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n").decode(), "identify"),
        (base64.b64encode(png((1, 2, 3))[:-30]).decode(), "does not decode"),
        ("A" * 101, "does not decode"),
    ],
    ids=["postscript", "cut", "no-base64"],
)
def test_an_image_in_base64_is_as_untrusted_as_a_file(tree: Path, image: str, said: str) -> None:
    write(tree / TREE["mmbench"], [{**ROW, "image": image}])
    bench = load("mmbench", "test")
    with pytest.raises(InputError, match=rf"row 1: field 'image', base64, .*{said}"):
        bench.digest(("clean",), 0)


def test_a_large_image_in_base64_is_refused_undecoded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmi_plugin.pictures.BYTES", 60)
    with pytest.raises(InputError, match="characters of base64, more than 80"):
        load("mmbench", "test").digest(("clean",), 0)


def test_a_root_with_something_unknown_says_what_it_saw(tree: Path) -> None:
    (tree / "VQADatasets" / "viquae").mkdir()  # one of the tree's own, of which there is no task
    (tree / "OpenBookQA").rename(tree / "obqa_copy")
    with pytest.raises(InputError, match=r"^openbookqa: MMI_DATA_ROOT .* but 'obqa_copy', which is no known data set"):
        load("openbookqa", "test")
    (tree / "obqa_copy").rename(tree / "open_book-qa")
    assert load("openbookqa", "test").items[0].answer == "orange"
    (tree / "Openbookqa").mkdir()
    load.cache_clear()
    with pytest.raises(InputError, match=r"^openbookqa: MMI_DATA_ROOT holds .Openbookqa. and .open_book-qa.: leave"):
        load("openbookqa", "test")


def test_a_root_without_a_copy_says_so_before_the_hub_is_asked(
    tree: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no hub here")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(InputError, match=r"^food101: cannot load 'ethz/food101' from the hub: no hub here"):
        load("food101", "test")
    assert f"food101: MMI_DATA_ROOT ({tree}) holds no copy, so it is loaded from the hub" in caplog.text


def test_another_split_than_the_files_says_what_is_there(tree: Path) -> None:
    with pytest.raises(InputError, match=r"mini-imagenet holds no split 'train' .*found: .*multiple_choice_data_test"):
        load("mini_imagenet", "train")


def test_training_rows_with_repeated_ids_and_options_are_kept_and_counted(tmp_path: Path) -> None:
    listed = "Question:\nWhich?\nOption:\nA: cat\nB: dog\nC: dog\n"
    rows = [
        {"id": "000001", "type": "text_heavy", "question": listed, "answer": "C"},
        {"id": "000001", "type": "text_heavy", "question": listed, "answer": "B: dog"},
        {"id": "000001", "type": "text_heavy", "question": listed, "answer": "dog"},
        {"id": "000001#2", "type": "VQA", "question": "What?", "answer": "Nothing."},
    ]
    bad = BadRows()
    items = [item for _, item in read_records(write(tmp_path / "train.json", rows), bad=bad)]
    assert [item.id for item in items] == ["000001", "000001#2", "000001#3", "000001#2#2"]
    assert [item.gold for item in items] == ["C", "B", "B", None]  # the letter that the file gives; the first of two
    assert items[0].options == ("cat", "dog", "dog")
    assert bad.counts == {"repeated ids": 3, "repeated options": 3}
