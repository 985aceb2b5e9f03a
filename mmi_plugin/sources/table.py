"""A table of the hub or a copy of it in, a Benchmark out: what its columns must be, how its rows become items."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.item import Family, Item, check
from mmi_plugin.pictures import Picture, read_picture
from mmi_plugin.sources.local import decoded_rows, from_hub, from_local, local_copy, published_file
from mmi_plugin.sources.published import read_published, say_rows
from mmi_plugin.sources.registry import LICENCES, SOURCES, Benchmark

if TYPE_CHECKING:
    from datasets import Dataset, Features

KINDS: dict[str, tuple[str, set[str]]] = {
    "text": ("text", {"text"}),
    "key": ("text or an integer", {"text", "integer"}),
    "index": ("an integer or a class label", {"integer", "class"}),
    "class": ("a class label or its name", {"text", "class"}),
    "texts": ("a list of texts", {"list of text"}),
    "answers": ("a text, an integer or a list of texts", {"text", "integer", "list of text"}),
    "choices": ("lists 'text' and 'label'", {"choices"}),
    "image": ("an image or a path", {"image", "text"}),
    "image or none": ("an image or a path", {"image", "text"}),
    "images": ("an image, a path or a list of them", {"image", "text", "list of image", "list of text"}),
}
"""Kind of a column -> what an error calls it, and which `held` it accepts."""


def held(feature: Any) -> str:
    """Return in a word or two what a feature of `datasets` holds."""
    if isinstance(feature, dict):
        columns = {held(feature.get(name)) for name in ("text", "label")}
        return "choices" if columns <= {"list of text", "list of null", "null"} else "other"
    name = type(feature).__name__
    if name == "List":
        return f"list of {held(feature.feature)}"
    if name == "Value" and feature.dtype in ("string", "large_string"):
        return "text"
    if name == "Value" and "int" in feature.dtype:
        return "integer"
    if name == "Value" and feature.dtype == "null":
        return "null"
    return {"ClassLabel": "class", "Image": "image"}.get(name, "other")


def check_columns(features: Features, columns: Mapping[str, str], where: str) -> None:
    """Raise an InputError that names the first column that is missing or of another kind.

    One that is null throughout says no kind; what must not be null is found at its row.
    """
    for name, kind in columns.items():
        if name not in features:
            raise InputError(f"{where}: column {name!r} is missing: {nearest(name, features)}")
        wanted, accepted = KINDS[kind]
        if held(features[name]) not in accepted | {"null", "list of null"}:
            raise InputError(f"{where}: column {name!r} is {features[name]}, not {wanted}")


@dataclass(frozen=True)
class Row:
    """One row of a split. `number` counts from 0; `where` begins every error; `values` are without the images."""

    table: Table
    split: str
    number: int
    where: str
    values: Mapping[str, Any]
    pictures: Mapping[str, Picture]

    def item_id(self, key: str = "") -> str:
        """Return the id of the row's item: `key`, its own within the data set, by default its split and number."""
        return f"{self.table.name}-{key or f'{self.split}-{self.number:06d}'}"

    def item(
        self,
        question: str,
        options: Iterable[str],
        answer: str,
        key: str = "",
        facts: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Item:
        """Return the row's item, with its image if there is one. `key`: as in `item_id`; more: further fields of it."""
        own = {"image": next(iter(self.pictures.values()), None), "facts": facts or {}}
        return Item(self.item_id(key), self.table.family, question, answer, tuple(options), **own | more)

    def text(self, column: str) -> str:
        """Return a text, stripped. Raises InputError when it is null."""
        value = self.values[column]
        if value is None:
            raise InputError(f"{self.where}: field {column!r} is null")
        return str(value).strip()

    def texts(self, column: str) -> tuple[str, ...]:
        """Return a list of texts, each stripped. Raises InputError when one of them is null."""
        value = self.values[column]
        if not value or None in value:
            raise InputError(f"{self.where}: field {column!r} is {value}")
        return tuple(text.strip() for text in value)

    def choices(self, column: str) -> dict[str, str]:
        """Return label -> option of a cell {"text": [...], "label": [...]}."""
        value = self.values[column]
        texts, labels = (value or {}).get("text") or (), (value or {}).get("label") or ()
        if not texts or None in texts or len(texts) != len(labels) or len(set(labels)) != len(labels):
            raise InputError(f"{self.where}: field {column!r} is {value}")
        return {label: text.strip() for label, text in zip(labels, texts, strict=True)}

    def absent(self, column: str) -> bool:
        """Whether a text is null, empty or "nan", which the hub's tables write for nothing."""
        return str(self.values[column] or "").strip() in ("", "nan")

    def hinted(self, question: str, hint: str) -> str:
        """Return the question, after its hint where there is one."""
        return self.text(question) if self.absent(hint) else f"{self.text(hint)}\n{self.text(question)}"

    def at(self, column: str, options: Sequence[str]) -> str:
        """Return the option whose index, from 0, stands in `column`. Raises InputError otherwise."""
        index = self.values[column]
        if index is None or not 0 <= index < len(options):
            raise InputError(f"{self.where}: field {column!r} is {index}, not 0 to {len(options) - 1}")
        return options[index]

    def lettered(self, column: str, options: Mapping[str, str]) -> str:
        """Return the option whose letter stands in `column`. Raises InputError otherwise."""
        letter = self.text(column)
        if letter not in options:
            raise InputError(f"{self.where}: field {column!r} is {letter!r}, not one of {', '.join(options)}")
        return options[letter]


ItemOf = Callable[[Row], Item | None]
"""From a row to its item, or to None for a row that is no question of the benchmark."""
ItemsOf = Callable[[Iterable[Row]], Iterator[tuple[Row, Item]]]
"""From all rows to the items, each with the row that errors about it name."""


def each(item_of: ItemOf) -> ItemsOf:
    """Return what makes the items of rows that are one item each."""
    return lambda rows: ((row, item) for row in rows if (item := item_of(row)) is not None)


@dataclass(frozen=True, eq=False)
class Table:
    """A data set of the hub as a source.

    splits: our name of a split -> the hub's. columns: name -> kind, a key of KINDS. images: where paths of images
    start; by default at the file or folder that holds them. items_of: where an item has several rows, or a row several
    items. metric: of free-form questions, as in Benchmark.
    """

    name: str
    family: Family
    hub: str
    config: str | None
    splits: Mapping[str, str]
    columns: Mapping[str, str]
    item_of: ItemOf | None = None
    images: str | None = None
    items_of: ItemsOf | None = None
    metric: str = ""

    def __call__(self, split: str, *, path: str | None = None, from_split: str | None = None) -> Benchmark:
        """Return the items of `split`.

        path: a local copy, in place of $MMI_DATA_ROOT/<name> and of the hub.
        from_split: the copy's own name of the split, where it is neither the hub's nor ours.

        Raises InputError that names split, file, row, column or field when something is wrong.
        """
        return self.benchmark(split, lambda _: self.item_of, path, from_split)

    def benchmark(
        self, split: str, reader: Callable[[Dataset], ItemOf], path: str | None, from_split: str | None
    ) -> Benchmark:
        """The same, where `reader` sees the whole split and returns what makes an item of a row."""
        if split not in self.splits:
            raise InputError(f"{self.name}: unknown split {split!r}: {nearest(split, self.splits)}")
        names = [from_split] if from_split else list(dict.fromkeys([self.splits[split], split]))
        place = local_copy(self.name, path)
        file = place and published_file(place, names)
        if file:
            items = read_published(file, self.name, self.family)
        else:
            data, where, folder = self._open(place, names)
            start = folder if self.images is None else Path(self.images)
            check_columns(data.features, self.columns, where)
            items_of = self.items_of or each(reader(data))
            items = list(_usable(items_of(self._rows(data, split, where, start)), where))
        if not items:
            raise InputError(f"{self.name}: {file or place or self.hub}: holds no item")
        return Benchmark(self.name, self.family, tuple(items), metric=self.metric)

    def _open(self, place: Path | None, names: list[str]) -> tuple[Dataset, str, Path | None]:
        """Return the rows, what errors about them begin with, and where image paths start."""
        if place:
            data, found = from_local(self.name, place, self.config, names)
            return data, f"{self.name}: {found}", found.parent if found.is_file() else found
        configured = f"{self.hub}/{self.config}" if self.config else self.hub
        return from_hub(self.name, self.hub, self.config, names[0]), f"{self.name}: {configured}, {names[0]}", None

    def _rows(self, data: Dataset, split: str, where: str, folder: Path | None) -> Iterator[Row]:
        """Yield the rows of a data set whose columns were checked; image paths start from `folder`."""
        images = [name for name, kind in self.columns.items() if kind in ("image", "image or none", "images")]
        encoded = data.select_columns(images).with_format("arrow")  # Arrow cells hold the bytes as they are
        texts = data.select_columns([name for name, feature in data.features.items() if "Image(" not in repr(feature)])
        rows = decoded_rows(texts, where)
        hidden = None if sys.stderr.isatty() else True
        for number, values in enumerate(tqdm(rows, desc=where, total=len(data), delay=3, disable=hidden)):
            place = f"{where}, row {number + 1}"
            pictures = {
                name: Picture(partial(image_bytes, encoded, number, name, folder), f"{place}: field {name!r}")
                for name in images
                if self.columns[name] != "image or none" or encoded[number][name][0].is_valid
            }
            yield Row(self, split, number, place, values, pictures)


def image_bytes(encoded: Dataset, number: int, column: str, folder: Path | None) -> bytes:
    """Return the bytes of the (first) image in a cell: bytes, a path, or a list of them."""
    cell = encoded[number][column][0].as_py()
    cell = cell[0] if isinstance(cell, list) and cell else cell
    if isinstance(cell, str):
        return read_picture((folder or Path()) / cell)
    if not cell or not (cell["bytes"] or cell["path"]):
        raise ValueError("there is no image")
    return cell["bytes"] or read_picture(Path(cell["path"]))


def _usable(pairs: Iterable[tuple[Row, Item]], where: str) -> Iterator[Item]:
    """Yield the checked items, but those whose options repeat.

    A few published items list an option twice, so that no single letter is right: they are
    counted, named and left out.
    """
    repeated = []
    for row, item in pairs:
        if len(set(item.options)) < len(item.options):
            repeated.append(row.number + 1)
            continue
        yield check(item, row.where)
    say_rows(where, repeated, "items repeat an option and are left out")


def table(
    family: Family, hub: str, config: str | None = None, *, splits: Mapping[str, str], columns: Mapping[str, str]
) -> Callable[[ItemOf], ItemOf]:
    """Register a function from a row to its item as a source under its own name; the rest is as in `Table`."""

    def register(item_of: ItemOf) -> ItemOf:
        name = item_of.__name__
        SOURCES[name] = Table(name, family, hub, config, splits, columns, item_of)
        return item_of

    return register


def grouped(
    family: Family, hub: str, *, splits: Mapping[str, str], columns: Mapping[str, str], metric: str = "",
    licence: str = "",
) -> Callable[[ItemsOf], ItemsOf]:  # fmt: skip
    """Register a function from all rows to the items as a source under its own name; licence: that which the page of
    the data names; the rest is as in `Table`."""

    def register(items_of: ItemsOf) -> ItemsOf:
        name = items_of.__name__
        SOURCES[name] = Table(name, family, hub, None, splits, columns, items_of=items_of, metric=metric)
        LICENCES[name] = f"{hub}, {licence}"
        return items_of

    return register
