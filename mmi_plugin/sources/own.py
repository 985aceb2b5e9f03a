"""A user's own table and the names of its columns in, a Benchmark out: jsonl, parquet, CSV, hub, folders of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import FAMILIES, Family, Item
from mmi_plugin.sources.classification import Classes
from mmi_plugin.sources.facts import fact_map, template_facts
from mmi_plugin.sources.records import option_of
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

NAME = "records"
CLASS_QUESTION = "What is shown in the picture?"


@source
def records(
    split: str,
    *,
    path: str | None = None,
    family: str | None = None,
    images: str | None = None,
    config: str | None = None,
    from_split: str | None = None,
    id_column: str = "id",
    question_column: str = "question",
    option_columns: str = "options",
    answer_column: str = "answer",
    image_column: str = "image",
    label_column: str | None = None,
) -> Benchmark:
    """Your own questions, a row each, under the conditions of a family.

    path: a .jsonl, .parquet or .csv file, a folder of them by split (also SPLIT/CLASS/*.jpg), a published .json file,
    or a data set of the hub, with `config`. family: image_heavy, text_heavy or vqa. images: where paths of images
    start, by default beside the file. option_columns: one column with a list of texts, or several, a comma between
    them. An answer is a letter, an option, or a number that counts from 0. A column `facts` maps options to sentences.
    label_column: of a table of images and their classes, which are asked among four; a folder of images has `label`.
    Rows without an id are known by their number. Raises InputError that names file, row and column.
    """
    if path is None:
        raise InputError(f"source {NAME!r} needs the key 'path': a file, a folder or a data set of the hub")
    if family not in FAMILIES:
        raise InputError(f"source {NAME!r}: key 'family' is {family!r}: {nearest(str(family), FAMILIES)}")
    place = path if Path(path).exists() else None
    where: dict[str, Any] = {"hub": path, "config": config, "splits": {split: from_split or split}, "images": images}
    if label_column is not None:
        if family != "image_heavy":
            raise InputError(f"source {NAME!r}: key 'label_column' is for image_heavy, not {family}")
        columns = {image_column: "image", label_column: "class"}
        asked = Classes(NAME, family, **where, columns=columns, question=CLASS_QUESTION, label=label_column)
        return asked(split, path=place, from_split=from_split)
    kinds = {question_column: "text", answer_column: "key"} | _options(option_columns)
    kinds |= {} if family == "text_heavy" else {image_column: "image"}
    mapping = _Columns(id_column, question_column, tuple(_options(option_columns)), answer_column)
    return Table(NAME, family, **where, columns=kinds, item_of=mapping.item)(split, path=place, from_split=from_split)


def _options(columns: str) -> dict[str, str]:
    """Return the columns of the options with their kinds: a list of texts, or texts of their own."""
    names = [name.strip() for name in columns.split(",") if name.strip()]
    if not names:
        raise InputError(f"source {NAME!r}: key 'option_columns' is {columns!r}, and names no column")
    return {names[0]: "texts"} if len(names) == 1 else dict.fromkeys(names, "key")


@dataclass(frozen=True)
class _Columns:
    key: str
    question: str
    options: tuple[str, ...]
    answer: str

    def item(self, row: Row) -> Item:
        """Return the item of a row, whose columns are those that a user named."""
        several = [row.text(name) for name in self.options if not row.absent(name)] if len(self.options) > 1 else ()
        options = tuple(several) or row.texts(self.options[0])
        answer = row.values[self.answer]
        chosen = row.at(self.answer, options) if isinstance(answer, int) else row.text(self.answer)
        right = chosen if isinstance(answer, int) else option_of(chosen, options, row.where)
        family: Family = row.table.family
        facts = fact_map(row.values.get("facts") or {}, row.where, padded=True)
        if astray := sorted(set(facts) - set(options)):
            raise InputError(f"{row.where}: field 'facts' has {astray[0]!r}: {nearest(astray[0], options)}")
        if family == "image_heavy" and not facts:
            facts = template_facts(options, right)
        key = row.values.get(self.key)
        return row.item(row.text(self.question), options, right, "" if key is None else str(key), facts)
