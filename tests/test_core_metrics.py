import random

import pytest

from mmi_plugin.errors import InputError
from mmi_plugin.results import Record, group_by_item, summarise

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
    found = summarise(records, "image_heavy", CONDITIONS)
    assert found.items == 4
    assert found.accuracy == {"clean": 0.75, "unrelated_text": 0.5, "misleading_text": 0.5, "ocr_text": 0.5}
    assert found.flip_rate == {"unrelated_text": 0.25, "misleading_text": 0.25, "ocr_text": 0.25}
    assert (found.worst_case, found.worst_case_seen) == (0.0, 0.25)
    assert found.unparseable == 1 / 16


def test_an_incomplete_item_is_named_and_left_out() -> None:
    records = [record("x", c, "A") for c in CONDITIONS] + [record("y", "clean", "B")]
    found = summarise(records, "image_heavy", CONDITIONS)
    assert (found.items, found.incomplete) == (1, ("y",))
    assert found.accuracy["clean"] == 1.0


def test_a_pair_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="item x: condition 'clean' is recorded twice"):
        group_by_item([record("x", "clean", "A"), record("x", "clean", "A")])
