"""Food-101: 101 dishes, unseen by the published training; the hub's validation split is its test set."""

from __future__ import annotations

from mmi_plugin.sources.classification import quiz_maker
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Table

QUESTION = "What food is shown in the picture?"
TABLE = Table(
    name="food101",
    family="image_heavy",
    hub="ethz/food101",
    config=None,
    splits={"train": "train", "test": "validation"},
    columns={"image": "image", "label": "class"},
)


@source
def food101(
    split: str, *, path: str | None = None, from_split: str | None = None, options: int = 4, hard: bool = False
) -> Benchmark:
    """One question per image."""
    return TABLE.benchmark(split, quiz_maker(TABLE.name, split, QUESTION, options, hard), path, from_split)
