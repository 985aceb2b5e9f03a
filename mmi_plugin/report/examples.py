"""Items that show what a training row changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from mmi_plugin.conditions import REFERENCE, get
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item, user_text
from mmi_plugin.results import Record, group_by_item
from mmi_plugin.seeding import stream
from mmi_plugin.sources import Benchmark


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and the letter that was read from it (None: no option)."""

    raw: str
    parsed: str | None


@dataclass(frozen=True)
class Example:
    """An item under one condition with two answers.

    `prompt` is the whole user turn, `context` the part of it that the condition put in front;
    `gold` is a letter, `named` the letter of the wrong option that the context asserts.
    """

    task: str
    item_id: str
    condition: str
    image: Image.Image | None
    prompt: str
    context: str
    options: tuple[str, ...]
    gold: str
    named: str | None
    before: Answer
    after: Answer


def pick_examples(
    benchmark: Benchmark,
    before_records: Sequence[Record],
    after_records: Sequence[Record],
    per_condition: int = 1,
) -> list[Example]:
    """Return `per_condition` items of each perturbed condition, the same ones every time.

    Items that were wrong before and are right after come first, and among them those that were
    right under the reference condition, so that the condition alone misled the model. A benchmark
    whose records have the reference condition only gives examples of that one.

    Raises:
        InputError: an item is not in the benchmark, a condition was recorded twice, or the two
            runs do not share items, conditions and seeds.
    """
    before, after = group_by_item(before_records), group_by_item(after_records)
    items = {item.id: item for item in benchmark.items}
    _check_pairs(benchmark.name, items, before, after)
    reference = REFERENCE[benchmark.family]
    recorded = {record.condition for record in before_records}
    conditions = [name for name in benchmark.conditions if name in recorded and name != reference]
    used: set[str] = set()
    examples = []
    for condition in conditions or [reference]:
        having = [item_id for item_id in before if condition in before[item_id]]

        def rank(item_id: str, condition: str = condition) -> tuple[bool, bool, bool, float]:
            old, new = before[item_id][condition], after[item_id][condition]
            origin = before[item_id].get(reference)
            mended = not old.right and new.right
            misled = origin is not None and origin.right
            return not mended, not misled, item_id in used, stream(item_id, condition).random()

        for item_id in sorted(having, key=rank)[:per_condition]:
            used.add(item_id)
            records = before[item_id][condition], after[item_id][condition]
            examples.append(_example(benchmark, items[item_id], *records))
    return examples


_Groups = dict[str, dict[str, Record]]


def _check_pairs(name: str, items: dict[str, Item], before: _Groups, after: _Groups) -> None:
    pairs_before = {(r.item_id, r.condition, r.seed) for group in before.values() for r in group.values()}
    pairs_after = {(r.item_id, r.condition, r.seed) for group in after.values() for r in group.values()}
    for item_id, condition, seed in sorted(pairs_before ^ pairs_after):
        raise InputError(f"{name}: item {item_id}: {condition!r} with seed {seed} is in one of the two runs only")
    for item_id in before:
        if item_id not in items:
            raise InputError(f"{name}: item {item_id} is in the records and not in the benchmark")


def _example(benchmark: Benchmark, item: Item, old: Record, new: Record) -> Example:
    changed = get(old.condition)(item, old.seed, benchmark.pools)
    return Example(
        task=benchmark.name,
        item_id=item.id,
        condition=old.condition,
        image=changed.image,
        prompt=user_text(changed),
        context=changed.context,
        options=changed.options,
        gold=old.gold,
        named=old.named,
        before=Answer(old.raw, old.parsed),
        after=Answer(new.raw, new.parsed),
    )
