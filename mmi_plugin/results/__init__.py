"""Results: records of answers in; values per item, estimates with intervals, comparisons out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmi_plugin.answers.agreement import HALF, agreement, same
from mmi_plugin.errors import InputError


@dataclass(frozen=True)
class Record:
    """One answer: an item under one condition. `parsed` and `named` are letters or None;
    `probabilities` of the options, in their order, where the model gave them; `failure` says why
    there is no answer where the model failed; `cut_off`: it ran out of tokens within a thought;
    `options`: the texts that the letters stand for, which old results do not hold; `cluster`: equal for items that
    share an image or a passage; `attack`: of an answer under an adversary what that took and saw, see
    `results.attacks`.

    `group`: equal for items that count together, None where the item stands for itself. Of a free-form question `named`
    is a text, `gold` one of the `answers` that count, `parsed` the answer that was read, and `metric` says how well
    they agree."""

    item_id: str
    condition: str
    seed: int
    gold: str
    parsed: str | None
    raw: str
    named: str | None = None
    probabilities: Sequence[float] | None = None
    failure: str | None = None
    cut_off: bool = False
    options: Sequence[str] | None = None
    attack: Mapping[str, Any] | None = None
    answers: Sequence[str] | None = None
    metric: str | None = None
    cluster: str | None = None
    group: str | None = None

    @property
    def score(self) -> float:
        """From 0 to 1: of a choice, whether it is the right one; of a free-form answer, what its metric says."""
        if self.metric is None:
            return float(self.parsed == self.gold)
        return agreement(self.metric, self.parsed, tuple(self.answers or ()))

    @property
    def right(self) -> bool:
        return self.score >= HALF

    @property
    def follows(self) -> bool:
        """Whether the answer is the one that is named."""
        if self.named is None or self.parsed is None:
            return False
        return self.parsed == self.named if self.metric is None else same(self.metric, self.parsed, self.named)

    def flipped(self, reference: Record) -> bool:
        """Whether the answer is another one than that under the reference condition. Free-form answers are the same
        where both are right, or the metric takes the one for the other."""
        if self.metric is None or self.parsed is None or reference.parsed is None:
            return self.parsed != reference.parsed
        return not (self.right and reference.right) and not same(self.metric, self.parsed, reference.parsed)

    @property
    def wanted(self) -> str:
        """What would be right, as one text: the letter, or the metric and all answers that count."""
        return self.gold if self.metric is None else "\x1f".join((self.metric, *(self.answers or ())))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        found = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; those of free-form answers and of groups only of such a one."""
        found = asdict(self)
        none = (*(() if self.metric else ("answers", "metric")), *(() if self.group else ("group",)))
        return {name: value for name, value in found.items() if name not in none}


@dataclass(frozen=True)
class TaskResult:
    """One task of a run. `options` are the task's `dataset_kwargs`; `numbers` are the harness's own,
    by the names of `measures.task_numbers`; `content_hash` identifies items, conditions and seed, of which
    `condition_versions` (empty in old results) names a part; `setup` holds what is known of `SETUP`;
    `records` and their `prompts` are in the order written; `read_anew`: how many of their letters, read anew from
    the answers, are others than logged."""

    task: str
    family: str
    options: dict[str, Any]
    split: str
    conditions: tuple[str, ...]
    seed: int
    content_hash: str
    condition_versions: dict[str, int]
    numbers: dict[str, float]
    setup: dict[str, Any]
    records: tuple[Record, ...]
    prompts: tuple[str, ...]
    read_anew: int = 0


def group_by_item(records: Iterable[Record], conditions: Sequence[str] = ()) -> dict[str, dict[str, Record]]:
    """Return item id -> condition -> record: joined by id, never by position.

    Raises InputError when a pair occurs twice, or an item lacks one of `conditions`.
    """
    groups: dict[str, dict[str, Record]] = {}
    for record in records:
        group = groups.setdefault(record.item_id, {})
        if record.condition in group:
            raise InputError(f"item {record.item_id}: condition {record.condition!r} is recorded twice")
        group[record.condition] = record
    for item, group in groups.items():
        for name in conditions:
            if name not in group:
                raise InputError(f"item {item}: condition {name!r} has no record; run it to its end")
    return groups
