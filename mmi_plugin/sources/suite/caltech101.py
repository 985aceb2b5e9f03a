"""Caltech-101: 101 kinds of objects. The hub has one split, which we cut: a fifth is for testing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmi_plugin.items import Item
from mmi_plugin.seeding import stream
from mmi_plugin.sources.classification import quiz_maker
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

if TYPE_CHECKING:
    from datasets import Dataset

QUESTION = "What is shown in the picture?"
WORDS = {
    "airplanes": "airplane",
    "car_side": "car",
    "cellphone": "cell phone",
    "faces": "face",
    "faces_easy": "face",  # the same photographs, cropped
    "leopards": "leopard",
    "motorbikes": "motorbike",
    "water_lilly": "water lily",
    "yin_yang": "yin and yang symbol",
}
TABLE = Table(
    name="caltech101",
    family="image_heavy",
    hub="flwrlabs/caltech101",
    config=None,
    splits={"train": "train", "test": "train"},
    columns={"image": "image", "label": "class"},
)


@source
def caltech101(
    split: str, *, path: str | None = None, from_split: str | None = None, options: int = 4, hard: bool = False
) -> Benchmark:
    """One question per image. With `from_split` that split is taken whole, as it is."""
    ask = quiz_maker(TABLE.name, split, QUESTION, options, hard, WORDS)

    def maker(data: Dataset) -> Callable[[Row], Item | None]:
        make, tested = ask(data), test_rows(len(data))
        return lambda row: make(row) if (row.number in tested) == (split == "test") else None

    return TABLE.benchmark(split, ask if from_split else maker, path, from_split)


def test_rows(rows: int) -> frozenset[int]:
    """Return the rows, from 0, that are held out for testing."""
    return frozenset(stream(TABLE.name, "split").sample(range(rows), max(1, rows // 5)))
