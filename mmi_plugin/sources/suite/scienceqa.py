"""ScienceQA, the questions with an image: image and text decide together."""

from __future__ import annotations

from mmi_plugin.items import Item
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

TABLE = Table(
    name="scienceqa",
    family="vqa",
    hub="lmms-lab-encoder/ScienceQA",
    config="ScienceQA-IMG",
    splits={"train": "train", "validation": "validation", "test": "test"},
    columns={"image": "image", "question": "text", "choices": "texts", "answer": "index", "hint": "text"},
)


@source
def scienceqa(split: str, *, path: str | None = None, from_split: str | None = None) -> Benchmark:
    """One item per question, its hint before it."""

    def make(row: Row) -> Item:
        options = row.texts("choices")
        answer = row.at("answer", options)
        question = row.hinted("question", "hint")
        name = f"{TABLE.name}-{split}-{row.number:06d}"
        return Item(name, TABLE.family, question, answer, options, row.picture("image"))

    return TABLE.benchmark(split, lambda _: make, path, from_split)
