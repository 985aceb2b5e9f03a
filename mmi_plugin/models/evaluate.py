"""Documents of a benchmark in, records out: the one evaluator, behind lmms-eval and for a model in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from mmi_plugin.answers import THOUGHTS, read
from mmi_plugin.documents import Documents
from mmi_plugin.items import messages
from mmi_plugin.models.answer import THINKING, OrderKey, Scorer, answer_all, shared_images
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query
from mmi_plugin.models.prompt import Chat, Prompts
from mmi_plugin.results import Record


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
