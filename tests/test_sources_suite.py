"""The nine benchmarks on fixtures with the hub's schema: items, options, contract."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
from datasets import load_dataset

from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError
from mmi_plugin.item import check, item_hash
from mmi_plugin.pictures import Picture
from mmi_plugin.sources import LICENCES, SOURCES, Benchmark, load
from mmi_plugin.sources.classification import Quiz, held_out
from mmi_plugin.sources.table import Table
from tests.suite import DATA, FAMILIES, ITEMS, at


def hub_rows(name: str, file: str) -> list[dict[str, Any]]:
    """The rows as `datasets` gives them."""
    data = load_dataset("parquet", data_files=str(DATA / name / f"{file}-00000-of-00001.parquet"), split="train")
    return list(data)


def fixture(name: str, split: str = "test", **options: Any) -> Benchmark:
    return load(name, split, path=at(name), **options)


def test_all_nine_are_registered() -> None:
    tables = [name for name, made in SOURCES.items() if isinstance(made, Table) and "test" in made.splits]
    assert [name for name in tables if name not in LICENCES] == list(ITEMS)


@pytest.mark.parametrize("name", ITEMS)
def test_items_are_sound(name: str) -> None:
    bench = fixture(name)
    assert len(bench.items) == ITEMS[name] == len({item.id for item in bench.items})
    assert name in FAMILIES[bench.family]
    for item in bench.items:
        check(item, item.id)
        assert item.id.startswith(name)
        assert (item.image is None) == (bench.family == "text_heavy")
        assert isinstance(item.picture, Picture | None)
        for condition in bench.conditions:
            changed = get(condition)(item, 0, bench.pools)
            assert (changed.question, changed.options, changed.answer) == (item.question, item.options, item.answer)


@pytest.mark.parametrize("name", ITEMS)
def test_hash_is_the_same_every_time_and_another_for_other_rows(name: str) -> None:
    bench = fixture(name)
    load.cache_clear()
    again = fixture(name)
    assert again.items[0] is not bench.items[0]
    digest = bench.digest(bench.conditions, 0)
    assert again.digest(bench.conditions, 0) == digest
    assert Benchmark(name, bench.family, bench.items[1:]).digest(bench.conditions, 0) != digest


@pytest.mark.parametrize("name", ["openbookqa", "arc_challenge"])
def test_questions_with_labelled_choices(name: str) -> None:
    file = {"openbookqa": "main/test", "arc_challenge": "ARC-Challenge/test"}[name]
    for item, row in zip(fixture(name).items, hub_rows(name, file), strict=True):
        choices = row["choices"]
        assert item.id == f"{name}-{row['id']}"
        assert item.question == row.get("question_stem", row.get("question")).strip()
        assert item.options == tuple(choices["text"])
        assert item.answer == choices["text"][choices["label"].index(row["answerKey"])]


def test_mmlu_leaves_out_and_names_an_item_whose_options_repeat(caplog: pytest.LogCaptureFixture) -> None:
    load.cache_clear()
    kept = [row for row in hub_rows("mmlu", "all/test") if row["choices"][0] != "same"]
    for item, row in zip(fixture("mmlu").items, kept, strict=True):
        assert (item.question, item.answer) == (row["question"], row["choices"][row["answer"]])
    assert "1 items repeat an option and are left out: rows 3" in caplog.text


def test_scienceqa_puts_the_hint_before_the_question() -> None:
    for item, row in zip(fixture("scienceqa").items, hub_rows("scienceqa", "ScienceQA-IMG/test"), strict=True):
        assert item.question == (f"{row['hint']}\n{row['question']}" if row["hint"] else row["question"])
        assert item.answer == row["choices"][row["answer"]]
        assert item.image.tobytes() == row["image"].convert("RGB").tobytes()


def test_mmbench_takes_the_options_that_are_there_and_no_rotated_copy() -> None:
    items = fixture("mmbench").items
    assert [item.id for item in items] == ["mmbench-200", "mmbench-201", "mmbench-202"]
    assert [len(item.options) for item in items] == [4, 2, 3]
    assert [item.answer for item in items] == ["a wall", "yes", "three"]
    assert [item.question.count("\n") for item in items] == [0, 1, 0]


def test_seedbench_takes_the_questions_about_images() -> None:
    rows = [row for row in hub_rows("seedbench", "data/test") if row["data_type"] == "image"]
    assert len(rows) == 3
    for item, row in zip(fixture("seedbench").items, rows, strict=True):
        assert item.id == f"seedbench-{row['question_id']}"
        assert item.answer == row[f"choice_{row['answer'].lower()}"]
        assert item.image.tobytes() == row["image"][0].convert("RGB").tobytes()


def test_wordnet_ids_are_said_in_words() -> None:
    expected = ["house finch", "robin", "dalmatian", "ladybug", "aircraft carrier", "carousel", "school bus", "orange"]
    assert [item.answer for item in fixture("mini_imagenet").items] == expected


def test_caltech_is_cut_once_and_its_two_kinds_of_faces_are_one() -> None:
    test, train = fixture("caltech101").items, fixture("caltech101", "train").items
    assert len(test) + len(train) == 18 and len(test) == 18 // 5
    assert not {item_hash(item) for item in test} & {item_hash(item) for item in train}
    assert {int(item.id[-6:]) for item in test} == held_out("caltech101", 18)
    assert len(fixture("caltech101", from_split="train").items) == 18
    words = {option for item in (*test, *train) for option in item.options}
    assert "face" in words and "airplane" in words and not words & {"faces", "faces easy", "airplanes"}


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("hard", [False, True])
def test_options_are_as_many_as_asked_for_and_drawn_per_item(count: int, hard: bool) -> None:
    items = fixture("mini_imagenet", options=count, hard=hard).items
    load.cache_clear()
    assert [item.options for item in fixture("mini_imagenet", options=count, hard=hard).items] == [
        item.options for item in items
    ]
    assert all(len(item.options) == len(set(item.options)) == count for item in items)
    assert len({item.options.index(item.answer) for item in items}) > 1, "the right letter varies"
    assert all(set(item.facts) == set(item.wrong_options) for item in items)


def test_hard_options_are_the_nearest_names() -> None:
    names = ["black swan", "black stork", "grey fox", "oboe", "black grouse", "banjo"]
    quiz = Quiz(3, True, names)

    def ratio(other: str) -> float:
        return difflib.SequenceMatcher(None, *sorted(("black swan", other)), autojunk=False).ratio()

    nearest = sorted(names[1:], key=ratio)[-2:]
    assert set(quiz.choose("black swan", "item")) == {"black swan", *nearest}


def test_no_wrong_option_holds_the_right_one() -> None:
    quiz = Quiz(3, True, ["flamingo", "flamingo head", "lamp", "crab"])
    assert set(quiz.choose("flamingo", 1)) == {"flamingo", "lamp", "crab"}
    with pytest.raises(InputError, match="'options' is 4, and 'flamingo' has only 2 wrong classes"):
        Quiz(4, False, quiz.classes).choose("flamingo", 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"options": 27}, "key 'options' is 27, not an integer from 2 to 26"),
        ({"options": 1}, "key 'options' is 1"),
        ({"options": "4"}, "key 'options' is '4'"),
        ({"hard": "yes"}, "key 'hard' is 'yes'"),
        ({"options": 9}, "'options' is 9, and 'house finch' has only 7 wrong classes"),
        ({"optoins": 4}, "takes no option 'optoins': did you mean 'options'?"),
    ],
)
def test_wrong_options_of_a_source_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        fixture("mini_imagenet", **options)
