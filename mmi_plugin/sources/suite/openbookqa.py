"""OpenBookQA: elementary science facts; the text alone decides."""

from __future__ import annotations

from mmi_plugin.items import Item
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

TABLE = Table(
    name="openbookqa",
    family="text_heavy",
    hub="allenai/openbookqa",
    config="main",
    splits={"train": "train", "validation": "validation", "test": "test"},
    columns={"id": "key", "question_stem": "text", "choices": "choices", "answerKey": "text"},
)


@source
def openbookqa(split: str, *, path: str | None = None, from_split: str | None = None) -> Benchmark:
    """One item per question."""
    return TABLE.benchmark(split, lambda _: _item, path, from_split)


def _item(row: Row) -> Item:
    options = row.choices("choices")
    answer = row.lettered("answerKey", options)
    name = f"{TABLE.name}-{row.text('id')}"
    return Item(name, TABLE.family, row.text("question_stem"), answer, tuple(options.values()))
