"""What the documents of a task tell the model: options, and which prompts show the same image."""

from __future__ import annotations

import pytest

from mmi_plugin.documents import Selection, documents
from mmi_plugin.errors import InputError
from mmi_plugin.item import image_hash


def _selection(**options: object) -> Selection:
    return Selection.parse(options, "test", "task")


@pytest.mark.parametrize(
    "options",
    [
        {"source": "demo_digits", "conditions": ["clean", "misleading_text", "typographic", "typographic@size=40"]},
        {"source": "demo_capitals", "draws": 3},
        {"source": "demo_arith", "conditions": ["clean", "instructed_both", "both"]},
    ],
)
def test_image_keys_are_equal_where_the_images_are(options: dict[str, object]) -> None:
    selection = _selection(**options)
    bench = selection.benchmark()
    asked = documents(bench, selection.conditions, selection.seed)
    rows = asked.rows.select(range(60))
    seen: dict[str, set[str]] = {}
    for row in rows:
        changed = asked.item(row)
        content = " ".join(map(image_hash, changed.images))
        seen.setdefault(row["image_key"], set()).add(content)
        assert row["choices"] == "ABCDEFGH"[: len(changed.options)]
    assert all(len(contents) == 1 for contents in seen.values())
    assert len(set().union(*seen.values())) == len(seen)
    assert len(seen) < len(rows), "images are shared"


def test_draws_bounds_the_images_and_is_part_of_the_content() -> None:
    names = ["random_pixels", "irrelevant_image", "screenshot"]
    found = {}
    for draws in (2, 5):
        selection = _selection(source="demo_capitals", conditions=names, draws=draws)
        bench = selection.benchmark()
        assert len(set(documents(bench, selection.conditions).rows["image_key"])) == 3 * draws
        assert selection.to_dict()["draws"] == draws
        found[draws] = bench.digest(selection.conditions, selection.seed)
    assert found[2] != found[5]


@pytest.mark.parametrize(("draws", "said"), [(0, "key 'draws' is 0"), ("4", "key 'draws' is '4', not int")])
def test_draws_must_be_a_positive_integer(draws: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _selection(source="demo_capitals", draws=draws)
