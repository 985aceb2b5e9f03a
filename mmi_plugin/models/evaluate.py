"""Items in, records out: the one evaluator for a model in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from mmi_plugin.answers import read
from mmi_plugin.conditions import get
from mmi_plugin.items import LETTERS, Item, image_hash, messages, user_text
from mmi_plugin.models.answer import Scorer
from mmi_plugin.models.generate import Answer, Row
from mmi_plugin.results import Record
from mmi_plugin.sources import Benchmark


class Request(NamedTuple):
    """What the order of a request depends on. `image`: what its images are known by, or None."""

    settings: str
    image: str | None
    length: int


def served(requests: Sequence[Request]) -> set[str]:
    """Return the images that more than one request shows."""
    counts = Counter(request.image for request in requests if request.image is not None)
    return {image for image, count in counts.items() if count > 1}


def batches(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Yield indices of at most `size` requests of equal settings, the longest first.

    Requests that share images come in blocks of at most `size` images, so that what is kept of
    these serves all their requests, and within a block those of similar length go together.
    """
    shared = served(requests)

    def image(index: int) -> str:
        own = requests[index].image
        return own if own in shared else ""

    def settings(index: int) -> str:
        return requests[index].settings

    order = sorted(range(len(requests)), key=lambda index: (settings(index), image(index), -requests[index].length))
    for _, alike in groupby(order, key=settings):
        groups = [(name, list(members)) for name, members in groupby(alike, key=image)]
        for block in _blocks(groups, size):
            rows = sorted(block, key=lambda index: -requests[index].length)
            yield from _cut(rows, requests, size)


def _blocks(groups: Sequence[tuple[str, list[int]]], size: int) -> Iterator[list[int]]:
    """Yield the members of `size` images at a time, and of all unshared requests at once."""
    yield from (members for name, members in groups if not name)
    kept = [members for name, members in groups if name]
    for start in range(0, len(kept), size):
        yield [index for members in kept[start : start + size] for index in members]


def _cut(rows: Sequence[int], requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Yield batches; where images are shared, padding is most of what is computed for a row of half the length."""
    batch: list[int] = []
    for index in rows:
        short = batch and requests[index].image is not None and 2 * requests[index].length < requests[batch[0]].length
        if len(batch) == size or short:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def dealt(images: Sequence[str | None], ranks: int) -> list[int]:
    """Return an order of rows in which dealing them out in turn gives each rank whole images.

    lmms-eval gives row i to rank i mod `ranks`. At most `ranks` - 1 images end up on two of them.
    """
    order = sorted(range(len(images)), key=lambda row: images[row] or "")
    sizes = [len(range(rank, len(images), ranks)) for rank in range(ranks)]
    starts = [sum(sizes[:rank]) for rank in range(ranks)]
    return [order[starts[row % ranks] + row // ranks] for row in range(len(images))]


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
    requests = [Request("", _image_key(item), len(user_text(item))) for item in items]
    shared = served(requests)
    answers: dict[int, Answer] = {}
    for batch in batches(requests, batch_size):
        rows = [
            Row(
                messages(items[place]),
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
