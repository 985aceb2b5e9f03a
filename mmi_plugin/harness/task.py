"""A task's YAML in, requests out; their answers in, numbers out: a benchmark under all its conditions, in pairs."""

from __future__ import annotations

import math
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask
from lmms_eval.models import get_model
from loguru import logger
from PIL import Image

from mmi_plugin.conditions import FLOOR, get
from mmi_plugin.documents import Selection, documents
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.harness.compat import Aggregation, Scored, attack_of, fail_stock, failure_of, probabilities_of
from mmi_plugin.harness.flags import REFUSED, check_attacks, check_flags, default_of, thought_tags
from mmi_plugin.models.evaluate import record_of
from mmi_plugin.results import Record
from mmi_plugin.results.attacks import warnings
from mmi_plugin.results.intervals import standard_error
from mmi_plugin.results.measures import APART, PerItem, higher_is_better, incomplete, numbers_of, task_values

_SHOWN = 20  # failed records; the sample log names all
_FIXED: dict[str, Any] = {"output_type": "generate_until", "num_fewshot": 0, "metric_list": []}
_KEYS = (
    *("class", "task", "task_alias", "tag", "metadata"),
    *("dataset_kwargs", "test_split", "generation_kwargs", "reasoning_tags", *_FIXED),
)


class InterferenceTask(ConfigurableMessagesTask):
    """A benchmark of `mmi_plugin.sources` as a task for chat and for simple models.

    YAML: `test_split`, and `dataset_kwargs` with `source`, `conditions` (default: those
    published for the family), `seed` (default 0), the settings of `sources.materials.Materials` or a `profile` of
    them, and the source's own options, as `path`. Raises InputError for anything else in there, and for
    what else lmms-eval's tasks can be given and would change nothing here.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        for key, value in config.items():
            if key not in _KEYS:
                raise InputError(f"{config.get('task')}: key {key!r} would change nothing: {nearest(key, _KEYS)}")
            if key in _FIXED and value != _FIXED[key]:
                raise InputError(f"{config.get('task')}: key {key!r} is {value!r}, and can only be {_FIXED[key]!r}")
        self._undone = f"{config.get('task')}: the task cannot be made"
        self.failed: list[Record] = []  # of all ranks, once aggregated
        self.doubts: list[str] = []  # of attacks, likewise
        fail_stock(lambda: [self._undone] if self._undone else self.failures())
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        self._undone = ""

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Build the documents; lmms-eval calls this once, from its constructor."""
        self._ask(Selection.parse(dataset_kwargs or {}, self.config.test_split, self.config.task))

    def ask_again(self) -> None:
        """Ask each item's reference once more: what flips then flips by arithmetic alone."""
        if FLOOR not in self.selection.conditions:
            self._ask(replace(self.selection, conditions=(*self.selection.conditions, FLOOR)))

    def _ask(self, selection: Selection) -> None:
        split, self.selection = self.config.test_split, selection
        self.bench = selection.benchmark()
        self.documents = documents(self.bench, selection.conditions, selection.seed)
        self.dataset = {split: self.documents.rows}
        self.dataset_no_image = self.dataset
        # Both go into the results file, and into the key of lmms-eval's response cache.
        self.config.dataset_kwargs = selection.to_dict()
        self.config.metadata = {
            **(self.config.metadata or {}),
            "family": self.bench.family,
            "condition_versions": {name: get(name).version for name in selection.conditions},
            "content_hash": self.bench.digest(selection.conditions, selection.seed),
        }
        self._counted: tuple[Any, ...] | None = None
        self.metrics = (*self._measured([])[0], *self._apart())
        self._answers: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.args: Namespace | None = None  # of the command line; lmms-eval sets it
        self._system_prompt: str | None = None

    @property
    def expected_items(self) -> int:
        """How many items the documents make."""
        return len(self.test_docs()) // len(self.selection.conditions)

    def failures(self) -> list[str]:
        """Return a line for each of the first records that failed, once they are counted, and one for how many did."""
        named = [f"{self.task_name}: item {row.item_id} ({row.condition}) failed: {row.failure}" for row in self.failed]
        return named[:_SHOWN] + [f"{self.task_name}: {len(named)} records failed in all"] * (len(named) > _SHOWN)

    def keep(self, limit: float | None, offset: int) -> None:
        """Keep only the items that lmms-eval's `--offset` and `--limit`, which count prompts, touch.

        An item is kept under all its conditions or not at all. With several processes the documents
        are put in the order that gives each rank whole images. Raises InputError when none is left.
        """
        docs, size = self.test_docs(), len(self.selection.conditions)
        wanted = len(docs) if limit is None else math.ceil(limit * len(docs)) if limit < 1 else int(limit)
        first, last = offset // size, math.ceil(min(offset + wanted, len(docs)) / size)
        if first >= last:
            raise InputError(f"{self.task_name}: --offset {offset} leaves none of its {len(docs)} prompts")
        kept = docs.select(range(first * size, last * size))
        if len(kept) != wanted:
            logger.warning(
                f"{self.task_name}: {wanted} prompts asked for, {len(kept)} taken, "
                f"as its items are whole under {size} conditions"
            )
        ranks = int(os.environ.get("WORLD_SIZE", 1))
        if ranks > 1:
            kept = kept.select(rank_order(kept["image_key"], ranks))
        self.dataset = self.dataset_no_image = {self.config.test_split: kept}
        self.task_docs = kept

    def build_all_requests(self, *, system_instruction: str | None = None, **options: Any) -> None:
        """Make the requests; a chat model gets `system_instruction` as its system turn, others before the question.

        Raises InputError for flags of the command line that would change nothing, and for a second system turn.
        """
        if not options.get("rank"):  # which counts the answers of all
            self._undone = f"{self.task_name}: not evaluated to its end"
        if self.args is not None:
            check_flags(self.args, self._model())
            check_attacks(self.args, self._model(), self.task_name, self.selection.conditions)
        if options.get("cache_requests"):
            raise InputError(f"--cache_requests: {REFUSED['cache_requests']}")
        own = self.bench.pools.form.system
        if own and system_instruction:
            raise InputError(f"--system_instruction: {self.task_name} has a system turn by key 'system_text'")
        self._system_prompt = system_instruction or own or None
        before = f"{own}\n" if own else system_instruction  # of simple models' questions, and in the log of all
        super().build_all_requests(system_instruction=before, **options)

    def construct_requests(self, doc_id: int, ctx: str, **options: Any) -> Instance:
        """Return a request as the model takes it: those of chat models and of simple ones are laid out differently."""
        simple = self.args is not None and self._model().is_simple
        kind = ConfigurableTask if simple else ConfigurableMessagesTask
        return kind.construct_requests(self, doc_id, ctx, **options)

    def _model(self) -> type:
        return get_model(self.args.model, self.args.force_simple)

    def thoughts(self) -> Sequence[tuple[str, str]]:
        """Return the tags of thoughts: those of the YAML or of `--reasoning_tags`, or all that are known."""
        given = self.config.reasoning_tags
        if given is None:
            given = default_of("reasoning_tags") if self.args is None else self.args.reasoning_tags
        return thought_tags(given)

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        return doc["prompt"]

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        return doc["gold"]

    def doc_to_visual(self, doc: Mapping[str, Any]) -> list[Image.Image]:
        return list(self.documents.item(doc).images)

    def doc_to_messages(self, doc: Mapping[str, Any], **_: Any) -> list[dict[str, Any]]:
        images = [{"type": "image", "url": image} for image in self.doc_to_visual(doc)]
        turn = {"role": "user", "content": [*images, {"type": "text", "text": self.doc_to_text(doc)}]}
        if self._system_prompt is None:
            return [turn]
        return [{"role": "system", "content": [{"type": "text", "text": self._system_prompt}]}, turn]

    def apply_filters(self) -> list[Instance] | None:
        """Note the answers as they came, with their probabilities: lmms-eval takes thoughts out of what it hands on.

        Raises RuntimeError for a request without an answer, which lmms-eval would take as an empty one.
        """
        for request in self.instances:
            doc = self.test_docs()[request.doc_id]
            if not request.resps:
                raise RuntimeError(f"{self.task_name}: item {doc['item_id']} ({doc['condition']}) has no answer")
            raw = request.resps[0]
            said = raw.removeprefix(request.args[0])  # lmms-eval's instructblip gives the prompt back first
            counts = request.token_counts[0]
            self._answers[doc["item_id"], doc["condition"]] = raw, said, probabilities_of(counts), attack_of(counts)
        return super().apply_filters()

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str], full_docs: Any = None) -> Scored:
        """Return the record of one document."""
        raw, said, probabilities, attack = self._answers[doc["item_id"], doc["condition"]]
        record = record_of(doc, raw, probabilities, self.thoughts(), failure_of(raw), said, attack)
        return Scored(record, self.metrics)

    def aggregation(self) -> dict[str, Aggregation]:
        return {name: Aggregation(partial(self._number, name), partial(self._error, name)) for name in self.metrics}

    def higher_is_better(self) -> dict[str, bool | None]:
        return {name: higher_is_better(name) for name in self.metrics}

    def _number(self, name: str, records: Sequence[Record]) -> float:
        self._undone = ""
        if name == "incomplete" and (lacking := incomplete(records, self.selection.conditions)):
            self.failed = [record for record in records if record.failure]
            first = ", ".join(lacking[:5])
            logger.warning(f"{self.task_name}: {len(lacking)} items lack a condition and are in no number: {first}")
        if name == "incomplete":
            self.doubts = warnings(records, self.selection.conditions)
            for doubt in self.doubts:
                logger.warning(f"{self.task_name}: {doubt}")
        return self._measured(records)[0].get(name, math.nan)  # where --limit leaves no item that has it

    def _apart(self) -> list[str]:
        """Return the names of the numbers that only data of this kind has."""
        items = self.bench.items
        there = (any(item.group for item in items), any(item.named for item in items))
        names = [name for name, is_there in zip(APART, there, strict=True) if is_there]
        return [f"{name}/{condition}" for name in names for condition in self.selection.conditions]

    def _error(self, name: str, records: Sequence[Record]) -> float | None:
        """Return the standard error of one number over items; None of a count, and with fewer than two items."""
        found = self._measured(records)[1].get(name)
        if found is None or (counted := ~np.isnan(found.values)).sum() < 2:
            return None
        return standard_error(found.values[counted], None if found.clusters is None else found.clusters[counted])

    def _measured(self, records: Sequence[Record]) -> tuple[dict[str, float], dict[str, PerItem]]:
        """Return numbers and values per item, found once: lmms-eval has a list of the same records for each number."""
        if self._counted is None or self._counted[0] != records:
            values = task_values(records, self.bench.family, self.selection.conditions)
            self._counted = records, numbers_of(values, records, self.selection.conditions), values
        return self._counted[1:]


def rank_order(images: Sequence[str | None], ranks: int) -> list[int]:
    """Return an order of documents in which each rank gets whole images.

    lmms-eval gives document i to rank i mod `ranks`. At most `ranks` - 1 images end up on two of them.
    """
    order = sorted(range(len(images)), key=lambda row: images[row] or "")
    sizes = [len(range(rank, len(images), ranks)) for rank in range(ranks)]
    starts = [sum(sizes[:rank]) for rank in range(ranks)]
    return [order[starts[row % ranks] + row // ranks] for row in range(len(images))]
