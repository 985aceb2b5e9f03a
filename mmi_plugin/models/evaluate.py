"""Items in, records out: the one evaluator for a model in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmi_plugin import prompts
from mmi_plugin.answers import read
from mmi_plugin.conditions import get
from mmi_plugin.items import LETTERS, Item, image_hash
from mmi_plugin.metrics import Record
from mmi_plugin.models.answer import Scorer
from mmi_plugin.models.generate import Answer, Row
from mmi_plugin.models.order import Request, batches, served
from mmi_plugin.sources import Benchmark


def evaluate(
    scorer: Scorer,
    bench: Benchmark,
    conditions: Sequence[str],
    settings: Mapping[str, Any],
    batch_size: int,
    limit: int | None = None,
    seed: int = 0,
) -> list[Record]:
    """Ask the first `limit` items of a benchmark under all `conditions`, drawn with `seed`; a record for each answer,
    the conditions of an item next to each other. settings: see `Scorer.answer`."""
    drawn = [(name, get(name)(item, seed, bench.pools)) for item in bench.items[:limit] for name in conditions]
    answers = ask(scorer, [item for _, item in drawn], settings, batch_size)
    return [_record(item, name, seed, answer) for (name, item), answer in zip(drawn, answers, strict=True)]


def _record(item: Item, condition: str, seed: int, answer: Answer) -> Record:
    reading = read(answer.text, item.options)
    return Record(
        item_id=item.id,
        condition=condition,
        seed=seed,
        gold=item.gold,
        parsed=reading.letter,
        raw=answer.text,
        named=item.named and item.letter(item.named),
        probabilities=answer.probabilities,
        cut_off=reading.cut_off,
    )


def ask(scorer: Scorer, items: Sequence[Item], settings: Mapping[str, Any], batch_size: int) -> list[Answer]:
    """Return the answer to each item, whose images are shared where several items show the same."""
    requests = [Request("", _image_key(item), len(prompts.user_text(item))) for item in items]
    shared = served(requests)
    answers: dict[int, Answer] = {}
    for batch in batches(requests, batch_size):
        rows = [
            Row(
                prompts.messages(items[place]),
                tuple(LETTERS[: len(items[place].options)]),
                requests[place].image in shared,
                items[place].options,
            )
            for place in batch
        ]
        answers.update(zip(batch, scorer.answer(rows, settings), strict=True))
    return [answers[place] for place in range(len(items))]


def _image_key(item: Item) -> str | None:
    return "-".join(map(image_hash, item.pictures)) or None
