"""Documents of a benchmark in, records out: the one evaluator, behind lmms-eval and for a model in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from transformers import PreTrainedModel, ProcessorMixin

from mmi_plugin.answers import THOUGHTS, read
from mmi_plugin.documents import Documents
from mmi_plugin.items import messages
from mmi_plugin.models.answer import THINKING, Scorer
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query
from mmi_plugin.models.prompt import Chat, Prompts
from mmi_plugin.results import Record

Found = TypeVar("Found")


def evaluate(
    model: PreTrainedModel,
    processor: ProcessorMixin | Prompts,
    documents: Documents,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    share: bool = True,
    thoughts: Sequence[tuple[str, str]] = THOUGHTS,
    thinking: int = THINKING,
) -> list[Record]:
    """Ask a model, in evaluation mode, all `documents`; return a record for each, in their order.

        bench = load("demo_digits", "test")
        records = evaluate(model, processor, documents(bench, bench.conditions, limit=20))

    settings: of the decoding, as `max_new_tokens`, see `Decoding.parse`. share: compute what prompts with one image
    have in common once, where the model allows it. thoughts, thinking: see `Generator`. Raises InputError for
    settings that are not greedy, and for a processor from which no prompts can be made.
    """
    prompts = processor if isinstance(processor, Prompts) else prompts_of(processor)
    scorer = Scorer(model, prompts, batch_size if share else 0, thoughts, thinking)
    rows = list(documents.rows)
    keys = [OrderKey("", row["image_key"], len(row["prompt"])) for row in rows]
    shared = shared_images(keys)

    def answer(places: list[int]) -> list[Record]:
        asked = [query_of(rows[place], messages(documents.item(rows[place])), shared) for place in places]
        replies = zip(places, scorer.answer(asked, settings or {}), strict=True)
        return [record_of(rows[place], reply.text, reply.probabilities, thoughts) for place, reply in replies]

    return answer_all(keys, batch_size, answer)


def query_of(document: Mapping[str, Any], chat: Chat, shared: set[str]) -> Query:
    """Return a document as the model is asked it. shared: the images that other prompts show, too."""
    labels, options = tuple(document["choices"]), tuple(document["options"])
    return Query(chat, labels, document["image_key"] in shared, options)


def record_of(
    document: Mapping[str, Any],
    raw: str,
    probabilities: Sequence[float] | None = None,
    thoughts: Sequence[tuple[str, str]] = THOUGHTS,
    failure: str | None = None,
    said: str | None = None,
) -> Record:
    """Return the record of what a model answered to a document.

    said: what is read of `raw`, by default all. failure: why there is no answer in it.
    """
    reading = read(raw if said is None else said, document["options"], thoughts)
    return Record(
        item_id=document["item_id"],
        condition=document["condition"],
        seed=document["seed"],
        gold=document["gold"],
        parsed=None if failure else reading.letter,
        raw=raw,
        named=document["named"],
        failure=failure,
        probabilities=probabilities,
        cut_off=not failure and reading.cut_off,
    )


class OrderKey(NamedTuple):
    """What the order of a prompt depends on. image: what its images are known by, or None. length: in characters."""

    settings: str
    image: str | None
    length: int


def answer_all(
    keys: Sequence[OrderKey],
    size: int,
    answer: Callable[[list[int]], Sequence[Found]],
    report: Callable[[int, Found], None] | None = None,
) -> list[Found]:
    """Return what `answer` gives for each key, in their order. It gets the places of keys, `size` at most at once.

    report: called with the place and the answer, as they come.
    """
    found: dict[int, Found] = {}
    for batch in batches(keys, size):
        for place, one in zip(batch, answer(batch), strict=True):
            found[place] = one
            if report is not None:
                report(place, one)
    return [found[place] for place in range(len(keys))]


def shared_images(keys: Sequence[OrderKey]) -> set[str]:
    """Return the images that more than one prompt shows."""
    counts = Counter(key.image for key in keys if key.image is not None)
    return {image for image, count in counts.items() if count > 1}


def batches(keys: Sequence[OrderKey], size: int) -> Iterator[list[int]]:
    """Yield the places of at most `size` prompts of equal settings, the longest first.

    Prompts that share images come in blocks of at most `size` images, so that what is kept of
    these serves all their prompts, and within a block those of similar length go together.
    """
    shared = shared_images(keys)

    def image(place: int) -> str:
        own = keys[place].image
        return own if own in shared else ""

    def settings(place: int) -> str:
        return keys[place].settings

    order = sorted(range(len(keys)), key=lambda place: (settings(place), image(place), -keys[place].length))
    for _, alike in groupby(order, key=settings):
        groups = [(name, list(members)) for name, members in groupby(alike, key=image)]
        for block in _blocks(groups, size):
            yield from _cut(sorted(block, key=lambda place: -keys[place].length), keys, size)


def _blocks(groups: Sequence[tuple[str, list[int]]], size: int) -> Iterator[list[int]]:
    """Yield the members of `size` images at a time, and of all unshared prompts at once."""
    yield from (members for name, members in groups if not name)
    kept = [members for name, members in groups if name]
    for start in range(0, len(kept), size):
        yield [place for members in kept[start : start + size] for place in members]


def _cut(places: Sequence[int], keys: Sequence[OrderKey], size: int) -> Iterator[list[int]]:
    """Yield batches; where images are shared, padding is most of what is computed for a prompt of half the length."""
    batch: list[int] = []
    for place in places:
        short = batch and keys[place].image is not None and 2 * keys[place].length < keys[batch[0]].length
        if len(batch) == size or short:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
