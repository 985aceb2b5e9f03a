"""ARC-Challenge: grade-school science, unseen by the published training; the text alone decides."""

from __future__ import annotations

from mmi_plugin.items import Item
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

TABLE = Table(
    name="arc_challenge",
    family="text_heavy",
    hub="allenai/ai2_arc",
    config="ARC-Challenge",
    splits={"train": "train", "validation": "validation", "test": "test"},
    columns={"id": "key", "question": "text", "choices": "choices", "answerKey": "text"},
)


@source
def arc_challenge(split: str, *, path: str | None = None, from_split: str | None = None) -> Benchmark:
    """One item per question; labels 1 to 5, which some have, become letters."""
    return TABLE.benchmark(split, lambda _: _item, path, from_split)


def _item(row: Row) -> Item:
    options = row.choices("choices")
    answer = row.lettered("answerKey", options)
    name = f"{TABLE.name}-{row.text('id')}"
    return Item(name, TABLE.family, row.text("question"), answer, tuple(options.values()))
