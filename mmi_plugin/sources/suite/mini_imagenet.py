"""Mini-ImageNet: 100 classes, whole photographs; 50 test images per class."""

from __future__ import annotations

from mmi_plugin.sources.classification import quiz_maker
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Table

QUESTION = "What is shown in the picture?"
TABLE = Table(
    name="mini_imagenet",
    family="image_heavy",
    hub="timm/mini-imagenet",
    config=None,
    splits={"train": "train", "validation": "validation", "test": "test"},
    columns={"image": "image", "label": "class"},
)


@source
def mini_imagenet(
    split: str, *, path: str | None = None, from_split: str | None = None, options: int = 4, hard: bool = False
) -> Benchmark:
    """One question per image; WordNet ids are said in words."""
    return TABLE.benchmark(split, quiz_maker(TABLE.name, split, QUESTION, options, hard), path, from_split)
