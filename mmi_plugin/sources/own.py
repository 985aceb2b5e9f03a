"""A user's own table and the names of its columns in, a Benchmark out: jsonl, parquet, CSV, hub, folders of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmi_plugin.answers import LONGEST
from mmi_plugin.answers.agreement import METRICS, check_metric
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import FAMILIES, Family, Item
from mmi_plugin.sources.classification import Classes
from mmi_plugin.sources.facts import fact_map, template_facts
from mmi_plugin.sources.records import option_of
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

NAME = "records"
CLASS_QUESTION = "What is shown in the picture?"
BRIEF = "Answer the question using a single word or phrase."
OPTIONS = "options"
FORMATS = (".jsonl", ".json", ".parquet", ".csv")  # which no name of a data set of the hub ends with


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
    option_columns: str | None = None,
    answer_column: str = "answer",
    image_column: str = "image",
    label_column: str | None = None,
    cluster_column: str | None = None,
    metric: str | None = None,
) -> Benchmark:
    """Your own questions, a row each, under the conditions of a family.

    path: a .jsonl, .parquet or .csv file, a folder of them by split (also SPLIT/CLASS/*.jpg), a published .json file,
    or a data set of the hub, with `config`. family: image_heavy, text_heavy or vqa. images: where paths of images
    start, by default beside the file. option_columns: one column with a list of texts (`options`), or several, a comma
    between them. An answer is a letter, an option, or a number that counts from 0. A column `facts` maps options to
    sentences. label_column: of a table of images and their classes, which are asked among four; a folder of images has
    `label`. cluster_column: equal for questions that belong together (a passage, a template), which intervals and tests
    then keep together; without it, those with the same image do. metric: of questions without options: exact_match,
    anls or vqa_accuracy; the answer is a text or a list of all texts that count. Rows without an id are known by their
    number. Raises InputError that names file, row and column.
    """
    _check(path, family, metric, {"option_columns": option_columns, "label_column": label_column})
    place = path if Path(path).exists() else None
    where: dict[str, Any] = {"hub": path, "config": config, "splits": {split: from_split or split}, "images": images}
    if label_column is not None:
        columns = {image_column: "image", label_column: "class"}
        asked = Classes(NAME, family, **where, columns=columns, question=CLASS_QUESTION, label=label_column)
        return asked(split, path=place, from_split=from_split)
    listed = {} if metric else _options(OPTIONS if option_columns is None else option_columns)
    kinds = {question_column: "text", **listed, answer_column: "answers" if metric else "key"}
    kinds |= {} if family == "text_heavy" else {image_column: "image"}
    kinds |= {} if cluster_column is None else {cluster_column: "key"}
    item_of = _Columns(id_column, question_column, tuple(listed), answer_column, metric or "", cluster_column).item
    try:
        bench = Table(NAME, family, **where, columns=kinds, item_of=item_of)(split, path=place, from_split=from_split)
    except InputError as error:
        hint = f"; key 'metric' asks questions without options: {', '.join(METRICS)}"
        unasked = option_columns is None and f"column {OPTIONS!r} is missing" in str(error)
        raise InputError(f"{error}{hint * unasked}") from error
    return _free(bench, metric) if metric else bench


def _free(bench: Benchmark, metric: str) -> Benchmark:
    """Return a benchmark of free-form questions, each with a line that asks for a short answer."""
    if any(item.options for item in bench.items):
        raise InputError(f"source {NAME!r}: key 'metric' is for questions without options, and the data holds others")
    return replace(bench, metric=metric, pools=replace(bench.pools, form=replace(bench.pools.form, brief=BRIEF)))


def _check(path: str | None, family: str | None, metric: str | None, others: Mapping[str, str | None]) -> None:
    """Raise InputError for keys that are missing, have no such value, or do not go together."""
    if path is None:
        raise InputError(f"source {NAME!r} needs the key 'path': a file, a folder or a data set of the hub")
    if Path(path).suffix in FORMATS and not Path(path).exists():
        raise InputError(f"{path}: no such file")
    if family not in FAMILIES:
        raise InputError(f"source {NAME!r}: key 'family' is {family!r}: {nearest(str(family), FAMILIES)}")
    if others["label_column"] is not None and family != "image_heavy":
        raise InputError(f"source {NAME!r}: key 'label_column' is for image_heavy, not {family}")
    if metric is None:
        return
    if metric not in METRICS:
        raise InputError(f"source {NAME!r}: key 'metric' is {metric!r}: {nearest(metric, METRICS)}")
    for key, value in others.items():
        if value is not None:
            raise InputError(
                f"source {NAME!r}: key {key!r} is for questions with options, and 'metric' for those without"
            )


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
    metric: str
    cluster: str | None = None

    def item(self, row: Row) -> Item:
        """Return the item of a row, whose columns are those that a user named."""
        given = row.values.get(self.key)
        key = "" if given is None else str(given)
        made = self._free(row, key) if self.metric else self._choice(row, key)
        shared = None if self.cluster is None else row.values.get(self.cluster)
        return made if shared is None else replace(made, image=made.picture, cluster=str(shared))

    def _free(self, row: Row, key: str) -> Item:
        """Return a free-form item, whose answer is the one that was given most often."""
        value = row.values[self.answer]
        answers = row.texts(self.answer) if isinstance(value, list) else (row.text(self.answer),)
        check_metric(self.metric, answers, row.where)
        if long := next((answer for answer in answers if len(answer) > LONGEST), None):
            raise InputError(f"{row.where}: field {self.answer!r} has {len(long):,} characters, more than {LONGEST:,}")
        return row.item(row.text(self.question), (), Counter(answers).most_common(1)[0][0], key, answers=answers)

    def _choice(self, row: Row, key: str) -> Item:
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
        return row.item(row.text(self.question), options, right, key, facts)
