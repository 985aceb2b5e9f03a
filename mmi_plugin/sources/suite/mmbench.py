"""MMBench-EN: image and text decide together. Its test labels are hidden: the dev split is the test.

The hub's table holds every question up to four times, its options rotated, under index + k * 10^6
(CircularEval). Those copies are no further items, and are left out.
"""

from __future__ import annotations

from mmi_plugin.items import Item
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

LETTERS = "ABCD"
ROTATED = 1_000_000
TABLE = Table(
    name="mmbench",
    family="vqa",
    hub="lmms-lab-encoder/MMBench",
    config="en",
    splits={"test": "dev"},
    columns={
        "index": "index",
        "image": "image",
        "question": "text",
        "hint": "text",
        **dict.fromkeys(LETTERS, "text"),
        "answer": "text",
    },
)


@source
def mmbench(split: str, *, path: str | None = None, from_split: str | None = None) -> Benchmark:
    """One item per question, its hint before it; options that are not there read "nan"."""
    return TABLE.benchmark(split, lambda _: _item, path, from_split)


def _item(row: Row) -> Item | None:
    if row.values["index"] >= ROTATED:
        return None
    options = {letter: row.text(letter) for letter in LETTERS if not row.absent(letter)}
    answer = row.lettered("answer", options)
    name = f"{TABLE.name}-{row.text('index')}"
    question = row.hinted("question", "hint")
    return Item(name, TABLE.family, question, answer, tuple(options.values()), row.picture("image"))
