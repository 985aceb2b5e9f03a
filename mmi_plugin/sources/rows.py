"""Files of training records in, rows out: checked items, or what is wrong with each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.files import file_hash, file_lines, json_list, parse_json, stamp
from mmi_plugin.items import Item
from mmi_plugin.pictures import Picture, Size
from mmi_plugin.sources.records import item_of, picture_at, picture_of

PART = 1000  # rows that are read at a time
Stamp = tuple[int, int]
"""Size and time of a file, which change with it."""


@dataclass(frozen=True)
class Row:
    """A row of a training set: its item, or what is wrong with it.

    where: what errors about it begin with. image: its image's name. stamp: of the image's file, before it was read.
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
    default that of the file; `facts` maps wrong options to sentences; `history` lists the
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
            where, image, seen = f"{self.path}, row {number}", None, (0, 0)
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
        return stamp(self.folder / image)

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


def read_rows(rows: TrainingSet, bad: BadRows | None = None) -> list[tuple[str, Item]]:
    """Return (what errors about it begin with, item) of every row.

    Raises:
        InputError: the first bad row, with file, row (from 1) and field; with `bad`, as that says.
    """
    bad, distinct = bad or BadRows(), Distinct(rows.path)
    found: list[tuple[str, Item]] = []
    for part in rows.parts():
        for row in rows.rows(part):
            with bad.watch():
                if isinstance(row.item, InputError):
                    raise row.item
                distinct.add(row.item.id, row.where)
                found.append((row.where, row.item))
    check_any(len(found), rows.path, bad)
    return found


def read_records(
    path: str | Path, images: str | Path | None = None, bad: BadRows | None = None
) -> list[tuple[str, Item]]:
    """The same of a file of records, each image checked; see `RecordFile`."""
    return read_rows(record_file(path, images), bad)


def record_file(path: str | Path, images: str | Path | None = None) -> RecordFile:
    """Return the file of records at `path`, whose images are in the folder `images`, by default that of the file."""
    return RecordFile(Path(path), Path(images) if images else Path(path).parent)


class Distinct:
    """The ids of the rows that were read from `path`."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, dict[str, str]()

    def add(self, name: str, where: str) -> None:
        """Note the id of the row at `where`. Raises InputError where an earlier row has it."""
        if name in self._rows:
            raise InputError(f"{where}: field 'id' {name!r} is already in {self._rows[name]}")
        self._rows[name] = where.removeprefix(f"{self._path}, ")


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
