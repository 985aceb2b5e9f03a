"""A user's own table and the names of its columns in, a Benchmark out: jsonl, parquet, CSV, hub, folders of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmi_plugin.answers import LONGEST
from mmi_plugin.answers.agreement import METRICS, check_metric
from mmi_plugin.conditions import CONDITIONS
from mmi_plugin.conditions.given import PREFIX as GIVEN
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import FAMILIES, Family, Given, Item
from mmi_plugin.sources.classification import Classes
from mmi_plugin.sources.facts import fact_map, template_facts
from mmi_plugin.sources.published import say_rows
from mmi_plugin.sources.records import option_of
from mmi_plugin.sources.registry import Benchmark, source
from mmi_plugin.sources.table import Row, Table

NAME = "records"
CLASS_QUESTION = "What is shown in the picture?"
BRIEF = "Answer the question using a single word or phrase."
OPTIONS = "options"
CLEAN = "clean"
"""The version that is the item itself."""
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
    version_column: str | None = None,
    context_column: str | None = None,
    versions: str | None = None,
    metric: str | None = None,
) -> Benchmark:
    """Your own questions, a row each, under the conditions of a family.

    path: a .jsonl, .parquet or .csv file, a folder of them by split (also SPLIT/CLASS/*.jpg), a published .json file,
    or a data set of the hub, with `config`. family: image_heavy, text_heavy or vqa. images: where paths of images
    start, by default beside the file. option_columns: one column with a list of texts (`options`), or several, a comma
    between them. An answer is a letter, an option, or a number from 0. A column `facts` maps options to sentences.
    label_column: of a table of images and their classes, which are asked among four; a folder of images has `label`.
    cluster_column: equal for questions that belong together, which intervals and tests keep together; without it, those
    with the same image do. version_column: rows of one id are versions of one question, asked as `given_NAME`, with the
    text of `context_column` before it; `versions` says which value is which: "misleading=corrupted,none=clean". metric:
    of questions without options: exact_match, anls or vqa_accuracy; the answer is a text or a list of all that count.
    Rows without an id have their number. Raises InputError that names file, row and column.
    """
    _check(path, family, metric, {"option_columns": option_columns, "label_column": label_column})
    names = _names(version_column=version_column, context_column=context_column, versions=versions)
    place = path if Path(path).exists() else None
    where = {"hub": path, "config": config, "splits": {split: from_split or split}, "images": images, "family": family}
    if label_column is not None:
        return _classes(label_column, image_column, names, where)(split, path=place, from_split=from_split)
    listed = () if metric else _options(OPTIONS if option_columns is None else option_columns)
    named = (id_column, question_column, listed, answer_column, image_column)
    columns = _Columns(*named, metric or "", cluster_column, version_column, context_column)
    items_of = _Versions(columns, names).items if names else None
    asked = Table(NAME, **where, columns=columns.kinds(family), item_of=columns.item, items_of=items_of)
    try:
        bench = asked(split, path=place, from_split=from_split)
    except InputError as error:
        hint = f"; key 'metric' asks questions without options: {', '.join(METRICS)}"
        raise InputError(f"{error}{hint * (f'column {OPTIONS!r} is missing' in str(error))}") from error
    return _free(bench, metric) if metric else bench


def _classes(label: str, image: str, versions: Mapping[str, str], where: Mapping[str, Any]) -> Classes:
    """Return what asks the classes of a table of images."""
    if versions:
        raise InputError(f"source {NAME!r}: key 'version_column' is for questions, and 'label_column' for classes")
    return Classes(NAME, **where, columns={image: "image", label: "class"}, question=CLASS_QUESTION, label=label)


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


def _names(**given: str | None) -> dict[str, str]:
    """Return `version_names`, none without keys of versions. Raises InputError for a key that needs others."""
    if given["version_column"] is not None and given["versions"] is not None:
        return version_names(given["versions"])
    for key, value in given.items():
        if value is not None:
            raise InputError(f"source {NAME!r}: key {key!r} needs 'version_column' and 'versions', both")
    return {}


def version_names(versions: str) -> dict[str, str]:
    """Return what each value of the column of versions stands for: the item itself, or what follows `given_`.

    Raises InputError for another form than `VALUE=NAME,...`, and for a name that no condition has.
    """
    valid = [CLEAN, *(name.removeprefix(GIVEN) for name in CONDITIONS if name.startswith(GIVEN))]
    found = {}
    for pair in versions.split(","):
        value, _, name = (part.strip() for part in pair.rpartition("="))
        if not value:
            raise InputError(f"source {NAME!r}: key 'versions' has {pair.strip()!r}, not of the form VALUE=NAME")
        if name not in valid or name in found.values():
            raise InputError(f"source {NAME!r}: key 'versions' has {pair.strip()!r}: {nearest(name, valid)}, each once")
        found[value] = name
    return found


def _options(columns: str) -> tuple[str, ...]:
    """Return the columns of the options: one with a list of texts, or several."""
    names = tuple(name.strip() for name in columns.split(",") if name.strip())
    if not names:
        raise InputError(f"source {NAME!r}: key 'option_columns' is {columns!r}, and names no column")
    return names


@dataclass(frozen=True)
class _Columns:
    key: str
    question: str
    options: tuple[str, ...]
    answer: str
    image: str
    metric: str
    cluster: str | None
    version: str | None
    context: str | None

    def kinds(self, family: str) -> dict[str, str]:
        """Return what each column holds, by its name."""
        options = dict.fromkeys(self.options, "texts" if len(self.options) == 1 else "key")
        found = {self.question: "text", **options, self.answer: "answers" if self.metric else "key"}
        if family != "text_heavy" or self.version is not None:
            found[self.image] = "image or none" if family == "text_heavy" else "image"
        more = {self.cluster: "key", self.version: "key", self.context: "text"}
        return found | {name: kind for name, kind in more.items() if name is not None}

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


@dataclass(frozen=True)
class _Versions:
    """Rows that are versions of the question of their id. names: what stands in the column of versions -> what the
    version is for."""

    columns: _Columns
    names: Mapping[str, str]

    def items(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Item]]:
        """Yield each question that has all versions, with the row that errors about it name."""
        key, column = self.columns.key, self.columns.version
        questions: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row.values.get(key) is None:
                raise InputError(f"{row.where}: field {key!r} is missing, which versions have in common")
            if (value := row.text(column)) not in self.names:
                raise InputError(f"{row.where}: field {column!r} is {value!r}: {nearest(value, self.names)}")
            own = questions.setdefault(str(row.values[key]), {})
            if (other := own.get(self.names[value])) is not None:
                raise InputError(f"{row.where}: field {column!r} is {value!r}, as in row {other.number + 1}")
            own[self.names[value]] = row
        lacking = [one for one in questions.values() if len(one) < len(self.names)]
        numbers = [min(row.number for row in one.values()) + 1 for one in lacking]
        say_rows(NAME, numbers, "questions lack a version and are left out")
        yield from (self._item(one) for one in questions.values() if len(one) == len(self.names))

    def _item(self, rows: Mapping[str, Row]) -> tuple[Row, Item]:
        first = rows.get(CLEAN) or next(iter(rows.values()))
        item = self.columns.item(first)
        given = {name: self._given(row, item, first) for name, row in rows.items() if name != CLEAN}
        alone = CLEAN not in rows and item.family == "text_heavy"  # whose image is that of a version
        return first, replace(item, image=None if alone else item.picture, given=given)

    def _given(self, row: Row, item: Item, first: Row) -> Given:
        """Return a version of `item`, which was made of the row `first`."""
        own = self.columns.item(row)
        for name in ("options", "answer", "answers"):
            if getattr(own, name) != getattr(item, name):
                raise InputError(f"{row.where}: its {name} are not those of row {first.number + 1}, with the same id")
        column = self.columns.context
        context = "" if column is None or row.absent(column) else row.text(column)
        return Given(own.picture, "" if own.question == item.question else own.question, context)
