"""Files of training records in, rows out: checked items, or what is wrong with each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.files import file_hash, file_lines, json_list, parse_json, stamp
from mmi_plugin.item import Item
from mmi_plugin.pictures import Picture, Size
from mmi_plugin.sources.records import is_within, item_of, picture_at, picture_of

PART = 1000  # rows that are read at a time
Stamp = tuple[int, int]
"""Size and time of a file, which change with it."""
WITHIN: Stamp = (-2, -2)
"""Of an image that has no file of its own."""


@dataclass(frozen=True)
class Row:
    """A row of a training set: its item, or what is wrong with it.

    where: what errors about it begin with. image: its image's name, or the image itself in base64. stamp: of the
    image's file, before it was read.
    """

    where: str
    image: str | None
    stamp: Stamp
    item: Item | InputError


@dataclass(frozen=True)
class RecordFile:
    """A `.json` list or a `.jsonl` file of records, whose image paths are relative to `folder`.

    A record is {"id", "type", "image"?, "question", "options"?, "answer", "facts"?, "history"?}:
    `type` is image_heavy, text_heavy or VQA; `image` is a path relative to the folder `images`, by
    default that of the file, or the image in base64; `facts` maps wrong options to sentences; `history` lists the
    [question, answer] turns before a free-form one. Image- and text-heavy records without
    `options` list them in the question, and their answer may be a letter, as in the published file.
    """

    path: Path
    folder: Path
    unit = 200  # bytes of a short row

    def parts(self) -> Iterator[list[tuple[int, Any]]]:
        """Yield (row from 1, record) in lists, where a record of a .jsonl file is still bytes.

        Raises InputError where no further row can be read.
        """
        part: list[tuple[int, Any]] = []
        try:
            for record in _records(self.path):
                part.append(record)
                if len(part) == PART:
                    yield part
                    part = []
        except InputError:
            yield part  # rows before one that cannot be read are heard first
            raise
        yield part

    def rows(self, part: Sequence[tuple[int, Any]]) -> Iterator[Row]:
        """Yield the rows of a part, each with its image read and found to be one."""
        for number, content in part:
            where, image, seen = f"{self.path}, row {number}", None, WITHIN
            try:
                record = parse_json(content, where) if isinstance(content, bytes) else content
                picture = picture_of(record, where, self.folder) if isinstance(record, dict) else None
                if picture:
                    image, seen = record["image"], self.stamp(record["image"])
                    picture.digest()
                yield Row(where, image, seen, item_of(record, where, picture))
            except InputError as error:
                yield Row(where, image, seen, error)

    def picture(self, image: str, where: str, size: Size | InputError | None = None) -> Picture:
        """Return the picture that a row at `where` names."""
        return picture_at(image, where, self.folder, size)

    def extent(self, part: Sequence[tuple[int, Any]] | None = None) -> int:
        """Return how much there is to be read, or how much a part of it is, in bytes, about."""
        if part is None:
            return max(0, stamp(self.path)[0])
        return sum(len(one) + 1 if isinstance(one, bytes) else len(str(one)) for _, one in part)

    def stamp(self, image: str) -> Stamp:
        """Return the stamp of an image's file; (-1, -1) where there is none."""
        return WITHIN if is_within(image) else stamp(self.folder / image)

    def state(self) -> dict[str, Any]:
        """Return what, beside the images, decides what is read. Raises InputError where there is no such file."""
        try:
            content = file_hash(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error}") from error
        return {"path": str(self.path), "images": str(self.folder), "content": content}


class TrainingSet(Protocol):
    """Where rows are read from, a part of them at a time, in any process."""

    path: Path
    unit: int

    def parts(self) -> Iterator[Any]: ...

    def rows(self, part: Any) -> Iterator[Row]: ...

    def picture(self, image: str, where: str, size: Size | InputError | None = None) -> Picture: ...

    def stamp(self, image: str) -> Stamp: ...

    def extent(self, part: Any = None) -> int: ...

    def state(self) -> dict[str, Any]: ...


def record_file(path: str | Path, images: str | Path | None = None) -> RecordFile:
    """Return the file of records at `path`, whose images are in the folder `images`, by default that of the file."""
    return RecordFile(Path(path), Path(images) if images else Path(path).parent)


class Distinct:
    """The ids of the rows that were read so far.

    As the published code does, rows with an id of an earlier one or with options that repeat are kept: the id gets a
    number, the answer is the option of its letter. `counts` are raised by them.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._next = dict[str, int]()  # of each id, the number that its next row gets, if it is free

    def add(self, name: str, repeats_option: bool) -> str:
        """Return the id of a row that has `name`."""
        self._counts["repeated options"] += repeats_option
        if name not in self._next:
            self._next[name] = 2
            return name
        self._counts["repeated ids"] += 1
        new = next(number for number in count(self._next[name]) if f"{name}#{number}" not in self._next)
        self._next |= {name: new + 1, f"{name}#{new}": 2}
        return f"{name}#{new}"


def repeats_option(item: Item) -> bool:
    """Whether an option is there twice."""
    return len(set(item.options)) < len(item.options)


def check_any(rows: int, path: Path, bad: BadRows) -> None:
    """Raise InputError if no row is left."""
    if not rows:
        raise InputError(f"{path}: no rows" + (f" but {len(bad.lines)} bad ones" if bad.lines else ""))


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (row from 1, record), where a record of a .jsonl file is still bytes."""
    if path.suffix.lower() != ".jsonl":
        yield from enumerate(json_list(path), start=1)
        return
    try:
        yield from file_lines(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
