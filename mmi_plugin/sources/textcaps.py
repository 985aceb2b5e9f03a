"""TextCaps: captions of photographs with text in them; training data of the VQA family."""

from __future__ import annotations

from mmi_plugin.items import Item
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

QUESTION = "Describe the picture in one sentence, with the text that can be read in it."
TABLE = Table(
    name="textcaps",
    family="vqa",
    hub="lmms-lab/TextCaps",
    config=None,
    splits={"train": "train", "validation": "val"},
    columns={"image": "image", "caption_str": "texts"},
)


@source
def textcaps(split: str, *, path: str | None = None, from_split: str | None = None) -> Benchmark:
    """One item per image, answered by the first of its captions; free-form, so nothing for an evaluation."""

    def make(row: Row) -> Item:
        caption = row.texts("caption_str")[0]
        return Item(
            f"{TABLE.name}-{split}-{row.number:06d}", TABLE.family, QUESTION, caption, image=row.picture("image")
        )

    return TABLE.benchmark(split, lambda _: make, path, from_split)
