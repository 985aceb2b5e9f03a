import random

import pytest

from mmi_plugin.errors import InputError
from mmi_plugin.results import Record, group_by_item
from mmi_plugin.results.measures import incomplete, task_numbers

CONDITIONS = ("clean", "unrelated_text", "misleading_text", "ocr_text")


def record(item: str, condition: str, parsed: str | None, gold: str = "A") -> Record:
    return Record(item, condition, 0, gold, parsed, parsed or "?")


def test_by_hand() -> None:
    answers = {"x": "ABAA", "y": "AACA", "z": "BBBB", "w": "AAA-"}
    records = [
        record(item, condition, None if letter == "-" else letter)
        for item, row in answers.items()
        for condition, letter in zip(CONDITIONS, row, strict=True)
    ]
    random.Random(0).shuffle(records)
    found = task_numbers(records, "image_heavy", CONDITIONS)
    assert found == {
        "items": 4,
        "incomplete": 0,
        **{"accuracy/clean": 0.75, "accuracy/unrelated_text": 0.5},
        **{"accuracy/misleading_text": 0.5, "accuracy/ocr_text": 0.5},
        **{"flip_rate/unrelated_text": 0.25, "flip_rate/misleading_text": 0.25, "flip_rate/ocr_text": 0.25},
        **{"worst_case": 0.0, "worst_case_seen": 0.25},
        **{"unparseable": 1 / 16, "cut_off": 0.0},
    }


def test_an_incomplete_item_is_named_and_left_out() -> None:
    records = [record("x", c, "A") for c in CONDITIONS] + [record("y", "clean", "B")]
    found = task_numbers(records, "image_heavy", CONDITIONS)
    assert (found["items"], found["incomplete"], incomplete(records, CONDITIONS)) == (1, 1, ("y",))
    assert found["accuracy/clean"] == 1.0


def test_a_pair_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="item x: condition 'clean' is recorded twice"):
        group_by_item([record("x", "clean", "A"), record("x", "clean", "A")])
