import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from mmi_plugin.conditions import Pools
from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, check, image_hash, messages, target, user_text
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.sources.demo import WORDS, capitals, digit_images
from tests.training_rows import read_records

SPLITS = ("test", "validation", "train")
ITEM = Item("q1", "image_heavy", "Which?", "cat", ("dog", "cat"), Image.new("RGB", (2, 2)))


@pytest.mark.parametrize("name", ["demo_arith", "demo_capitals", "demo_digits"])
def test_demo_sources(name: str) -> None:
    test, validation, train = benches = [load(name, split) for split in SPLITS]
    assert len(test.items) >= 300 and len(validation.items) >= 190 and len(train.items) >= 1000
    for bench in benches:
        for item in bench.items:
            check(item, item.id)
            assert len(item.options) == 4
    names = [item.id for bench in benches for item in bench.items]
    assert len(set(names)) == len(names)
    # The gold letters are spread, or a constant answer would do.
    letters = [item.gold for item in test.items]
    assert all(0.15 < letters.count(letter) / len(letters) < 0.35 for letter in "ABCD")


def test_splits_share_no_digit_image_and_no_country() -> None:
    images = {split: {image_hash(i) for i in load("demo_digits", split).pools.images} for split in SPLITS}
    for name in ("demo_digits", "demo_arith"):
        for split in SPLITS:
            assert {image_hash(item.image) for item in load(name, split).items} <= images[split]
    seen = {split: set() for split in SPLITS}
    for split, words in seen.items():
        for item in load("demo_capitals", split).items:
            words |= {item.question, *item.options}
    for first, second in combinations(SPLITS, 2):
        assert not images[first] & images[second] and not seen[first] & seen[second]
    assert len(capitals()) >= 60


def test_answers_are_right() -> None:
    labels = {f"{index:04d}": digit for index, (_, digit) in enumerate(digit_images())}
    for item in load("demo_digits").items:
        assert item.answer == WORDS[labels[item.id[-4:]]]
    for item in load("demo_arith").items:
        addend = WORDS.index(item.question.removesuffix("?").split()[-1])
        assert WORDS.index(item.answer) == labels[item.id[-4:]] + addend
    for item in load("demo_capitals").items:
        assert capitals()[item.question.removesuffix("?").split()[-1]] == item.answer


def test_digest_follows_every_part() -> None:
    bench = Benchmark("b", "image_heavy", (ITEM,), Pools(sentences=("f",), images=()))
    digest = bench.digest(("clean",), 0)
    pixel = Image.new("RGB", (2, 2), (1, 0, 0))
    others = [
        bench.digest(("clean",), 1),
        bench.digest(("clean", "ocr_text"), 0),
        replace(bench, items=(replace(ITEM, image=pixel),)).digest(("clean",), 0),
        replace(bench, items=(replace(ITEM, question="What?"),)).digest(("clean",), 0),
        replace(bench, pools=Pools(sentences=("g",), images=())).digest(("clean",), 0),
    ]
    assert len({digest, *others}) == 6
    assert digest == replace(bench).digest(("clean",), 0)


def test_prompt() -> None:
    item = replace(ITEM, context="It rains.")
    assert user_text(item) == (
        "It rains.\nQuestion:\nWhich?\nOption:\nA: dog\nB: cat\nAnswer with the letter of one option."
    )
    assert [part["type"] for part in messages(item)[0]["content"]] == ["image", "text"]
    assert target(item) == "B"
    assert target(Item("v", "vqa", "Why?", "Because.")) == "Because."


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": ""}, "field 'id' is empty"),
        ({"family": "audio"}, "field 'type' is 'audio'"),
        ({"question": " "}, "field 'question' is empty"),
        ({"answer": ""}, "field 'answer' is empty"),
        ({"options": ()}, "field 'options' is missing"),
        ({"options": ("cat",)}, "field 'options' has 1 entries"),
        ({"options": ("cat", "cat")}, "repeats an option"),
        ({"options": ("dog", "eel")}, "field 'answer' is 'cat', not among the options"),
        ({"image": None}, "field 'image' is missing"),
    ],
)
def test_bad_items(change: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=rf"^f\.json: row 3: .*{complaint}"):
        check(replace(ITEM, **change), "f.json: row 3")


def test_unknown_source_and_split() -> None:
    with pytest.raises(InputError, match="did you mean 'demo_digits'"):
        load("demo_digit")
    with pytest.raises(InputError, match="unknown split 'dev'"):
        load("demo_digits", "dev")


def test_white_space_around_texts_is_no_part_of_them(tmp_path: Path) -> None:
    """A blank before an answer would train other tokens than those that are asked for."""
    record = {"id": "1", "type": "text_heavy", "question": " Which? ", "options": [" dog", "cat\n"], "answer": "dog "}
    record |= {"facts": {"cat\n": " Cats purr.\n"}}
    talk = {"id": "2", "type": "VQA", "question": "Why?\n", "answer": " so ", "history": [[" How? ", " thus\n"]]}
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, (record, talk))), encoding="utf-8")
    (_, item), (_, chat) = read_records(tmp_path / "rows.jsonl")
    assert (item.question, item.options, item.answer) == ("Which?", ("dog", "cat"), "dog")
    assert item.facts == {"cat": "Cats purr."} and item.gold == "A"
    assert (chat.question, chat.answer, chat.history) == ("Why?", "so", (("How?", "thus"),))


def test_an_option_of_white_space_is_refused(tmp_path: Path) -> None:
    record = {"id": "1", "type": "text_heavy", "question": "Which?", "options": ["dog", " "], "answer": "dog"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=r"rows.jsonl.* row 1: field 'options' .*an empty option"):
        list(read_records(tmp_path / "rows.jsonl"))
