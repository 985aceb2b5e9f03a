"""The lmms-eval task: one benchmark under all its conditions, scored in pairs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, ItemsView, Mapping, Sequence
from functools import partial
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableMessagesTask
from loguru import logger
from PIL import Image

from mmi_plugin.answers import parse_letter
from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError
from mmi_plugin.harness.answer import probabilities_of
from mmi_plugin.harness.documents import Selection, documents, perturbed
from mmi_plugin.harness.failures import failure_of
from mmi_plugin.harness.numbers import flatten, higher_is_better
from mmi_plugin.harness.order import dealt
from mmi_plugin.metrics import Record, Summary, summarise


class Scored(dict[str, Any]):
    """What `process_results` returns for one document.

    lmms-eval copies the mapping into the sample log and aggregates what `.items()` gives. So the
    log gets the fields of the record once, and every metric gets the record.
    """

    def __init__(self, record: Record, metrics: Sequence[str]) -> None:
        super().__init__(record.to_dict())
        self._scores = dict.fromkeys(metrics, record)

    def items(self) -> ItemsView[str, Any]:
        return self._scores.items()


class InterferenceTask(ConfigurableMessagesTask):
    """A benchmark of `mmi_plugin.sources` as a task for chat and for simple models.

    YAML: `test_split`, and `dataset_kwargs` with `source`, `conditions` (default: those
    published for the family), `seed` (default 0), `pool` (a folder of images or a source: irrelevant photographs)
    and the source's own options, as `path`. Raises InputError for anything else in there.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Build the documents; lmms-eval calls this once, from its constructor."""
        split = self.config.test_split
        selection = Selection.parse(dataset_kwargs or {}, split, self.config.task)
        self.selection = selection
        self.bench = selection.benchmark()
        self.items = {item.id: item for item in self.bench.items}
        self.dataset = {split: documents(self.bench, selection)}
        self.dataset_no_image = self.dataset
        # Both go into the results file, and into the key of lmms-eval's response cache.
        self.config.dataset_kwargs = selection.to_dict()
        self.config.metadata = {
            **(self.config.metadata or {}),
            "family": self.bench.family,
            "condition_versions": {name: get(name).version for name in selection.conditions},
            "content_hash": self.bench.digest(selection.conditions, selection.seed),
        }
        self.metrics = tuple(flatten(self.summarise(())))
        self._probabilities: dict[tuple[str, str], tuple[float, ...] | None] = {}
        self.failed: list[Record] = []  # of all ranks, once aggregated

    @property
    def expected_items(self) -> int:
        """How many items the documents make."""
        return len(self.test_docs()) // len(self.selection.conditions)

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
            kept = kept.select(dealt(kept["image_key"], ranks))
        self.dataset = self.dataset_no_image = {self.config.test_split: kept}
        self.task_docs = kept

    def build_all_requests(self, *, cache_requests: bool = False, **options: Any) -> None:
        if cache_requests:
            raise InputError("--cache_requests would bring back prompts of an older benchmark; leave it out")
        super().build_all_requests(cache_requests=False, **options)

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        return doc["prompt"]

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        return doc["gold"]

    def doc_to_visual(self, doc: Mapping[str, Any]) -> list[Image.Image]:
        item = perturbed(self.bench, self.items[doc["item_id"]], doc["condition"], doc["seed"])
        return list(item.images)

    def doc_to_messages(self, doc: Mapping[str, Any], **_: Any) -> list[dict[str, Any]]:
        return self._build_user_turn(self.doc_to_visual(doc), self.doc_to_text(doc))

    def apply_filters(self) -> list[Instance] | None:
        """Note the probabilities that came with the answers.

        Raises RuntimeError for a request without an answer, which lmms-eval would take as an empty one.
        """
        for request in self.instances:
            doc = self.test_docs()[request.doc_id]
            if not request.resps:
                raise RuntimeError(f"{self.task_name}: item {doc['item_id']} ({doc['condition']}) has no answer")
            self._probabilities[doc["item_id"], doc["condition"]] = probabilities_of(request.token_counts[0])
        return super().apply_filters()

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str], full_docs: Any = None) -> Scored:
        """Return the record of one document."""
        raw = results[0]
        failure = failure_of(raw)
        record = Record(
            item_id=doc["item_id"],
            condition=doc["condition"],
            seed=doc["seed"],
            gold=doc["gold"],
            parsed=None if failure else parse_letter(raw, self.items[doc["item_id"]].options),
            raw=raw,
            named=doc["named"],
            failure=failure,
            probabilities=self._probabilities.get((doc["item_id"], doc["condition"])),
        )
        return Scored(record, self.metrics)

    def summarise(self, records: Sequence[Record]) -> Summary:
        return summarise(records, self.bench.family, self.selection.conditions)

    def aggregation(self) -> dict[str, Callable[[Sequence[Record]], float]]:
        return {name: partial(self._number, name) for name in self.metrics}

    def higher_is_better(self) -> dict[str, bool | None]:
        return {name: higher_is_better(name) for name in self.metrics}

    def _number(self, name: str, records: Sequence[Record]) -> float:
        summary = self.summarise(records)
        if name == "incomplete" and summary.incomplete:
            self.failed = [record for record in records if record.failure]
            first = ", ".join(summary.incomplete[:5])
            logger.warning(
                f"{self.task_name}: {len(summary.incomplete)} items lack a condition and are in no number: {first}"
            )
        return flatten(summary)[name]
