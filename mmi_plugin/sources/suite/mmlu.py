"""MMLU: 57 subjects; the text alone decides. Its training split is the hub's auxiliary_train."""

from __future__ import annotations

from mmi_plugin.items import Item
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

TABLE = Table(
    name="mmlu",
    family="text_heavy",
    hub="cais/mmlu",
    config="all",
    splits={"train": "auxiliary_train", "validation": "validation", "test": "test"},
    columns={"question": "text", "subject": "text", "choices": "texts", "answer": "index"},
)


@source
def mmlu(split: str, *, path: str | None = None, from_split: str | None = None) -> Benchmark:
    """One item per question."""

    def make(row: Row) -> Item:
        options = row.texts("choices")
        answer = row.at("answer", options)
        return Item(f"{TABLE.name}-{split}-{row.number:06d}", TABLE.family, row.text("question"), answer, options)

    return TABLE.benchmark(split, lambda _: make, path, from_split)
