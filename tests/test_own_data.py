"""`source: records` and `mmi eval`: a user's own questions, in the files that they come in."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from mmi_plugin.cli import main
from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError
from mmi_plugin.item import user_text
from mmi_plugin.results.runs import read_run
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.studies.demo import base_folder
from mmi_plugin.trainers.evaluation import load_task

ROWS = [
    {"nr": 7, "frage": "Which city is the capital of France?", "A": "Rome", "B": "Paris", "C": "None", "antwort": "B"},
    {"nr": 8, "frage": "Which city is the capital of Italy?", "A": "Rome", "B": "NA", "C": "Lima", "antwort": "Rome"},
]
NAMED = {"id_column": "nr", "question_column": "frage", "option_columns": "A, B, C", "answer_column": "antwort"}


def write(folder: Path, kind: str) -> Path:
    file = folder / f"questions.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    elif kind == "parquet":
        pd.DataFrame(ROWS).to_parquet(file)
    else:
        with file.open("w", encoding="utf-8", newline="") as target:
            writer = csv.DictWriter(target, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    return file


def own(path: Path | str, family: str = "text_heavy", **options: str) -> Benchmark:
    return load("records", "test", path=str(path), family=family, **options)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_a_table_with_columns_of_its_own_names(kind: str, tmp_path: Path) -> None:
    first, second = own(write(tmp_path, kind), **NAMED).items
    assert (first.id, first.question) == ("records-7", "Which city is the capital of France?")
    assert first.options == ("Rome", "Paris", "None") and first.answer == "Paris" and first.gold == "B"
    assert second.options == ("Rome", "NA", "Lima") and second.answer == "Rome"  # neither is a missing value


def test_a_list_of_options_with_images_elsewhere_and_facts(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "pictures" / "1.png")
    row = {
        "question": "What?",
        "options": ["cat", "dog"],
        "answer": 1,
        "image": "1.png",
        "facts": {"cat": "Cats purr."},
    }
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (item,) = own(file, "image_heavy", images=str(tmp_path / "pictures")).items
    assert item.answer == "dog" and item.image.getpixel((0, 0)) == (255, 0, 0) and item.facts == {"cat": "Cats purr."}
    assert item.id == "records-test-000000"


def test_a_folder_of_images_by_class(tmp_path: Path) -> None:
    for name, color in (("red_fox", "red"), ("sky", "blue"), ("grass", "green"), ("snow", "white"), ("coal", "black")):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), color).save(tmp_path / "test" / name / "1.png")
    items = own(tmp_path, "image_heavy", label_column="label").items
    assert {item.answer for item in items} == {"red fox", "sky", "grass", "snow", "coal"}
    assert all(len(item.options) == 4 and item.answer in item.options for item in items)
    (fox,) = [item for item in items if item.answer == "red fox"]
    assert fox.image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": None}, "source 'records' needs the key 'path'"),
        ({"path": "nowhere/q.csv"}, "nowhere/q.csv: no such file"),
        ({"family": "images"}, "key 'family' is 'images': did you mean 'image_heavy'?"),
        ({"question_column": "fragen"}, "column 'fragen' is missing: did you mean 'frage'?"),
        ({"option_columns": " , "}, "key 'option_columns' is ' , ', and names no column"),
        (
            {"answer_column": "frage"},
            "row 1: field 'answer' is 'Which city is the capital of France?', neither a letter",
        ),
        ({"label_column": "A"}, "key 'label_column' is for image_heavy, not text_heavy"),
        ({"family": "vqa"}, "column 'image' is missing"),
    ],
)
def test_what_does_not_fit_is_one_line(change: dict[str, str | None], said: str, tmp_path: Path) -> None:
    options = {"path": str(write(tmp_path, "jsonl")), "family": "text_heavy", **NAMED, **change}
    with pytest.raises(InputError) as error:
        load("records", "test", **options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_mmi_eval_asks_them_and_leaves_task_results_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "csv")
    columns = ["id=nr", "question=frage", "options=A,B,C", "answer=antwort"]
    model = ["--model_args", f"pretrained={base_folder()}", "--conditions", "random_pixels,black"]
    command = ["eval", "--data", str(file), "--family", "text_heavy", "--columns", *columns, *model]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "worst case" in capsys.readouterr().out
    assert "capital of France" in (tmp_path / "out" / "board.html").read_text(encoding="utf-8")
    task = yaml.safe_load((tmp_path / "out" / "tasks" / "mmi_own.yaml").read_text(encoding="utf-8"))
    assert task["dataset_kwargs"]["path"] == str(file) and task["dataset_kwargs"]["option_columns"] == "A,B,C"
    (item, *_) = load_task("mmi_own", str(tmp_path / "out" / "tasks")).items  # which a training asks again
    assert item.family == "text_heavy" and item.question == ROWS[0]["frage"]
    with pytest.raises(InputError, match="unknown task 'mmi_owm': did you mean 'mmi_own'"):
        load_task("mmi_owm", str(tmp_path / "out" / "tasks"))
    (samples,) = (tmp_path / "out").rglob("*_samples_mmi_own.jsonl")
    asked = [json.loads(line)["item_id"] for line in samples.read_text(encoding="utf-8").splitlines()]
    assert sorted(asked) == ["records-7", "records-7", "records-8", "records-8"]

    assert main([*command[:5], "--columns", "frage", *model, "--out", str(tmp_path / "no")]) == 2
    names = "id|question|options|answer|image|label|cluster|version|context"
    assert capsys.readouterr().err == f"error: --columns frage: not of the form {names}=COLUMN\n"


VERSIONED = {
    "id_column": "sample", "version_column": "kind", "context_column": "con_t", "image_column": "con_v",
    "option_columns": "choices",
}  # fmt: skip


def versioned(folder: Path, family: str) -> Path:
    """Questions with contexts from the other modality, a row for each: texts beside a picture, or pictures beside a
    text. The last question lacks one."""
    rows = []
    for number, (question, right) in enumerate([("Which one?", "cat"), ("And here?", "dog"), ("Here?", "dog")]):
        for kind, says, colour in (("wrong", "It is a fish.", "red"), ("other", "Water is wet.", "blue")):
            if (number, kind) == (2, "other"):
                continue
            name = f"{number}.png" if family == "image_heavy" else f"{number}-{kind}.png"
            Image.new("RGB", (20, 20), (10 * number, 0, 0) if family == "image_heavy" else colour).save(folder / name)
            row = {"sample": number, "kind": kind, "question": question, "choices": ["cat", "dog", "fish"]}
            context = says if family == "image_heavy" else None
            rows.append({**row, "answer": right, "con_v": name, "con_t": context})
    file = folder / "versions.parquet"
    pd.DataFrame(rows).to_parquet(file)
    return file


def test_rows_that_are_versions_of_one_question_with_texts_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = "wrong=corrupted, other=irrelevant"
    bench = own(versioned(tmp_path, "image_heavy"), "image_heavy", **VERSIONED, versions=named)
    assert [item.id for item in bench.items] == ["records-0", "records-1"]
    assert "1 questions lack a version and are left out: rows 5" in caplog.text
    item = bench.items[1]
    assert (item.question, item.answer, item.context) == ("And here?", "dog", "") and item.image is not None
    wrong, other = (get(f"given_{name}")(item, 0) for name in ("corrupted", "irrelevant"))
    assert (wrong.context, other.context) == ("It is a fish.", "Water is wet.")
    assert user_text(wrong).startswith("It is a fish.\nQuestion:\nAnd here?\n") and wrong.image.getpixel((0, 0)) == (
        10,
        0,
        0,
    )


def test_rows_that_are_versions_of_one_question_with_pictures_of_their_own(tmp_path: Path) -> None:
    named = "wrong=corrupted,other=irrelevant"
    bench = own(versioned(tmp_path, "text_heavy"), **VERSIONED, versions=named)
    item = bench.items[0]
    assert item.image is None, "its reference is noise, as of any question that a text decides"
    assert get("random_pixels")(item, 0).image is not None
    wrong, other = (get(f"given_{name}")(item, 0) for name in ("corrupted", "irrelevant"))
    assert wrong.image.getpixel((0, 0)) == (255, 0, 0) and other.image.getpixel((0, 0)) == (0, 0, 255)
    assert wrong.question == item.question and not wrong.context


def test_a_version_that_is_the_question_itself(tmp_path: Path) -> None:
    named = "other=clean,wrong=corrupted"
    item = own(versioned(tmp_path, "image_heavy"), "image_heavy", **VERSIONED, versions=named).items[0]
    assert not item.context and list(item.given) == ["corrupted"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"versions": None}, "key 'version_column' needs 'version_column' and 'versions', both"),
     ({"versions": "wrong=corupted"}, "key 'versions' has 'wrong=corupted': did you mean 'corrupted'"),
     ({"versions": "wrong"}, "key 'versions' has 'wrong', not of the form VALUE=NAME"),
     ({"versions": "wrong=clean,other=clean"}, "'other=clean': .*each once"),
     ({"versions": "wrong=corrupted"}, "row 2: field 'kind' is 'other': "),
     ({"label_column": "answer", "option_columns": None}, "key 'version_column' is for questions, and 'label_column'"),
     ({"id_column": "id"}, "row 1: field 'id' is missing, which versions have in common"),
     ({"id_column": "question", "version_column": "sample", "versions": "0=clean,1=corrupted"},
      "row 2: field 'sample' is '0', as in row 1"),
     ({"id_column": "kind", "version_column": "sample", "versions": "0=clean,1=corrupted,2=matching"},
      "row 3: its answer are not those of row 1, with the same id")],
)  # fmt: skip
def test_versions_that_cannot_be_told_apart_are_named(
    change: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    options = {**VERSIONED, "versions": "wrong=corrupted,other=irrelevant"} | change
    with pytest.raises(InputError, match=message):
        own(versioned(tmp_path, "image_heavy"), "image_heavy", **options)


def test_a_command_asks_them(tmp_path: Path) -> None:
    file = versioned(tmp_path, "image_heavy")
    flags = ["--columns", "id=sample", "version=kind", "context=con_t", "image=con_v", "options=choices"]
    flags += ["--versions", "wrong=corrupted", "other=irrelevant", "--model_args", f"pretrained={base_folder()}"]
    out = tmp_path / "out"
    assert main(["eval", "--data", str(file), "--family", "image_heavy", *flags, "--out", str(out)]) == 0
    (result,) = read_run(out).values()
    assert result.conditions == ("clean", "given_corrupted", "given_irrelevant") and len(result.records) == 6
