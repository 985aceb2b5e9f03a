"""Examples picked from records of the embedded benchmark."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError
from mmi_plugin.item import user_text
from mmi_plugin.report.items import pick_examples
from mmi_plugin.results import Record
from mmi_plugin.sources import Benchmark, load

Judge = Callable[[int, str], bool]


def benchmark(name: str, items: int = 12) -> Benchmark:
    whole = load(name)
    return replace(whole, items=whole.items[:items])


def records(bench: Benchmark, is_right: Judge, seed: int = 0) -> list[Record]:
    """A record per item and condition: the gold letter where `is_right(index, condition)`, else another."""
    found = []
    for index, item in enumerate(bench.items):
        for name in bench.conditions:
            wrong = item.letter(item.wrong_options[0])
            parsed = item.gold if is_right(index, name) else wrong
            found.append(Record(item.id, name, seed, item.gold, parsed, f"{parsed}."))
    return found


def test_the_mended_item_that_the_condition_misled_is_picked() -> None:
    bench = benchmark("demo_digits")
    # Items 3 and 7 are mended; only item 7 was right when undisturbed.
    before = records(bench, lambda index, name: index not in (3, 7) or (index == 7 and name == "clean"))
    after = records(bench, lambda index, name: True)
    examples = pick_examples(bench, before, after)
    assert [example.condition for example in examples] == ["unrelated_text", "misleading_text", "ocr_text"]
    assert {example.item.id for example in examples} == {bench.items[7].id}
    for example in examples:
        wrong = bench.items[7].letter(bench.items[7].wrong_options[0])
        assert (example.before.raw, example.before.parsed) == (f"{wrong}.", wrong)
        assert example.after.parsed == example.before.gold


def test_an_example_shows_exactly_what_the_model_was_asked() -> None:
    bench = benchmark("demo_digits")
    for example in pick_examples(bench, records(bench, lambda i, c: False, 5), records(bench, lambda i, c: True, 5)):
        item = next(item for item in bench.items if item.id == example.item.id)
        changed = get(example.condition)(item, 5, bench.pools)
        assert user_text(example.item) == user_text(changed)
        assert example.item.context == changed.context and user_text(example.item).startswith(changed.context)
        assert example.item.image.tobytes() == changed.image.tobytes()
        assert example.before.gold == item.gold and example.item.options == item.options


def test_text_heavy_examples_carry_the_irrelevant_image() -> None:
    bench = benchmark("demo_capitals")
    examples = pick_examples(bench, records(bench, lambda i, c: False), records(bench, lambda i, c: True))
    assert [example.condition for example in examples] == [
        *("black", "white", "irrelevant_image", "screenshot", "misleading_image")
    ]
    assert (
        examples[0].item.image.getextrema() == ((0, 0),) * 3
        and examples[1].item.image.getextrema() == ((255, 255),) * 3
    )
    assert len({example.item.id for example in examples}) == 5, "one item per condition while there are others"


def test_the_pick_does_not_depend_on_the_order_of_the_records() -> None:
    bench = benchmark("demo_digits")
    before, after = records(bench, lambda i, c: i % 2 == 0), records(bench, lambda i, c: i % 3 == 0)
    picked = pick_examples(bench, before, after, per_condition=3)
    random.Random(1).shuffle(before)
    random.Random(2).shuffle(after)
    again = pick_examples(bench, before, after, per_condition=3)
    identity = [(example.condition, example.item.id) for example in picked]
    assert identity == [(example.condition, example.item.id) for example in again]
    assert len(set(identity)) == 9


def test_any_item_will_do_where_nothing_was_mended() -> None:
    bench = benchmark("demo_arith", 3)
    same = records(bench, lambda i, c: True)
    (example,) = pick_examples(bench, same, same)
    assert example.condition == "clean" and example.before == example.after


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r[:-1], "is in one of the two runs only"),
        (lambda r: [replace(r[0], seed=9), *r[1:]], "is in one of the two runs only"),
        (lambda r: [*r, r[0]], "is recorded twice"),
    ],
)
def test_runs_that_do_not_pair_are_refused(spoil: Callable[[list[Record]], list[Record]], message: str) -> None:
    bench = benchmark("demo_arith", 3)
    whole = records(bench, lambda i, c: True)
    with pytest.raises(InputError, match=message):
        pick_examples(bench, whole, spoil(whole))


def test_records_of_another_benchmark_are_refused() -> None:
    bench, other = benchmark("demo_arith", 3), benchmark("demo_digits", 3)
    strange = [record for record in records(other, lambda i, c: True) if record.condition == "clean"]
    with pytest.raises(InputError, match=r"digits-.* is in the records and not in the benchmark"):
        pick_examples(bench, strange, strange)
