"""SEED-Bench, the questions about one image: image and text decide together."""

from __future__ import annotations

from mmi_plugin.items import Item
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

LETTERS = "ABCD"
TABLE = Table(
    name="seedbench",
    family="vqa",
    hub="lmms-lab-encoder/SEED-Bench",
    config=None,
    splits={"test": "test"},
    columns={
        "question_id": "key",
        "data_type": "text",
        "image": "images",
        "question": "text",
        **{f"choice_{letter.lower()}": "text" for letter in LETTERS},
        "answer": "text",
    },
)


@source
def seedbench(split: str, *, path: str | None = None, from_split: str | None = None) -> Benchmark:
    """One item per question about an image; the questions about videos are no part of it."""
    return TABLE.benchmark(split, lambda _: _item, path, from_split)


def _item(row: Row) -> Item | None:
    if row.text("data_type") != "image":
        return None
    options = {letter: row.text(f"choice_{letter.lower()}") for letter in LETTERS}
    answer = row.lettered("answer", options)
    name = f"{TABLE.name}-{row.text('question_id')}"
    return Item(name, TABLE.family, row.text("question"), answer, tuple(options.values()), row.picture("image"))
