"""The rows of a data set: text at hand, images encoded until they are looked at."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mmi_plugin.errors import InputError
from mmi_plugin.pictures import Picture
from mmi_plugin.sources.contract import Columns

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Row:
    """One row without its images. `number` counts from 0; `where` begins every error."""

    values: Mapping[str, Any]
    number: int
    where: str
    pictures: Mapping[str, Picture]

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
        if not value or not value["text"] or len(value["text"]) != len(value["label"]):
            raise InputError(f"{self.where}: field {column!r} is {value}")
        return {label: text.strip() for label, text in zip(value["label"], value["text"], strict=True)}

    def absent(self, column: str) -> bool:
        """Whether a text is null, empty or "nan", which the hub's tables write for nothing."""
        return str(self.values[column] or "").strip() in ("", "nan")

    def hinted(self, question: str, hint: str) -> str:
        """Return the question, after its hint where there is one."""
        return self.text(question) if self.absent(hint) else f"{self.text(hint)}\n{self.text(question)}"

    def picture(self, column: str) -> Picture:
        return self.pictures[column]

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


def read_rows(data: Dataset, columns: Columns, where: str, folder: Path | None) -> Iterator[Row]:
    """Yield the rows of a data set whose columns were checked; image paths start from `folder`."""
    images = [name for name, kind in columns.items() if kind in ("image", "images")]
    encoded = data.select_columns(images).with_format("arrow")  # Arrow cells hold the bytes as they are
    texts = data.select_columns([name for name in data.column_names if name not in _image_columns(data)])
    hidden = None if sys.stderr.isatty() else True
    for number, values in enumerate(tqdm(texts, desc=where, total=len(data), delay=3, disable=hidden)):
        place = f"{where}, row {number + 1}"
        pictures = {
            name: Picture(partial(_bytes, encoded, number, name, folder), f"{place}: field {name!r}") for name in images
        }
        yield Row(values, number, place, pictures)


def _image_columns(data: Dataset) -> list[str]:
    return [name for name, feature in data.features.items() if "Image(" in repr(feature)]


def _bytes(encoded: Dataset, number: int, column: str, folder: Path | None) -> bytes:
    """Return the bytes of the (first) image in a cell: bytes, a path, or a list of them."""
    cell = encoded[number][column][0].as_py()
    cell = cell[0] if isinstance(cell, list) and cell else cell
    if isinstance(cell, str):
        return ((folder or Path()) / cell).read_bytes()
    if not cell or not (cell["bytes"] or cell["path"]):
        raise ValueError("there is no image")
    return cell["bytes"] or Path(cell["path"]).read_bytes()
