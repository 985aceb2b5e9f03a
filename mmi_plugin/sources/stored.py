"""Rows of a training set in, items out of one Arrow file, which is mapped: 700,000 of them take little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.item import Item, first_turn, image_hash, item_hash
from mmi_plugin.pictures import Picture, Size
from mmi_plugin.sources.rows import WITHIN, Distinct, Row, TrainingSet, repeats_option
from mmi_plugin.sources.shards import SCHEMA, TEXT, texts_of

_TEXTS = [column for column in SCHEMA if column.name != "image"]
_STAMP = {"bytes": pa.int64(), "changed": pa.int64()}
_OF_FILE = {"place": TEXT, "image": TEXT, **_STAMP, "answer_place": pa.int32(), "hash": pa.binary(32)}
ROWS = pa.schema([*_TEXTS, *pa.schema(_OF_FILE)])
"""Of a row: its texts, where it was read, name and stamp of its image, the item's `place`; the item's hash, unless its
image has none."""
SIZES = pa.schema({"width": pa.int32(), "height": pa.int32(), "fault": TEXT})
"""Of its image, if it has one: the size, or why it does not decode."""

Named = tuple[str, int, int]
"""An image's name and stamp."""


class Part:
    """Rows that were read: a batch of those that are right, and of the others what is wrong and their images.

    turns: `all` of a conversation, or the `first` alone.
    """

    def __init__(self, rows: TrainingSet, turns: str, part: Any) -> None:
        found = [(row, row.item) for row in rows.rows(part)]
        right = [(row, first_turn(item) if turns == "first" else item) for row, item in found if isinstance(item, Item)]
        self._digests = [_digest(item) for _, item in right]
        values = [_values(row, item, image) for (row, item), image in zip(right, self._digests, strict=True)]
        self._batch, self.extent = pa.RecordBatch.from_pylist(values, ROWS), rows.extent(part)
        self._repeats = [repeats_option(item) for _, item in right]
        wrong = [(row, item) for row, item in found if isinstance(item, InputError)]
        self._faults = [str(item) for _, item in wrong]
        self._images = [(row.image, *row.stamp) for row, _ in wrong if row.image and row.stamp != WITHIN]

    def distinct(self, seen: Distinct, bad: BadRows) -> tuple[pa.RecordBatch, list[Named]]:
        """Return the batch, where ids are as `seen` says, and the files of images of rows that are bad.

        Raises InputError for the first of these, unless `bad` skips them.
        """
        bad.hear(self._faults)
        batch, cells = self._batch, {name: self._batch.column(name).to_pylist() for name in ("id", "hash")}
        for number, (name, repeats) in enumerate(zip(batch.column("id").to_pylist(), self._repeats, strict=True)):
            cells["id"][number] = new = seen.add(name, repeats)
            if new != name:
                item = _item({**batch.slice(number, 1).to_pylist()[0], "id": new}, None)
                cells["hash"][number] = _hash(item, self._digests[number])
        for name, own in cells.items():
            at, column = ROWS.get_field_index(name), ROWS.field(name)
            batch = batch.set_column(at, column, pa.array(own, column.type))
        return batch, self._images


def _values(row: Row, item: Item, image: str | None) -> dict[str, Any]:
    values: dict[str, Any] = {**texts_of(item), "place": row.where, "image": row.image, "answer_place": item.place}
    return values | dict(zip(_STAMP, row.stamp, strict=True)) | {"hash": _hash(item, image)}


def _digest(item: Item) -> str | None:
    """Return the hash of the item's image; None where it does not decode, which is said when all are looked at."""
    with suppress(InputError):
        return image_hash(item.picture)
    return None


def _hash(item: Item, image: str | None) -> bytes | None:
    """Return the hash of an item with an image of the hash `image`, if that is known."""
    return None if image is None else bytes.fromhex(item_hash(item, image))


def _item(values: dict[str, Any], picture: Picture | None) -> Item:
    """Return the item of a row of ROWS."""
    return Item(
        id=values["id"],
        family=values["type"],
        question=values["question"],
        answer=values["answer"],
        options=tuple(values["options"]),
        image=picture,
        facts={fact["option"]: fact["text"] for fact in values["facts"]},
        history=tuple((turn["question"], turn["answer"]) for turn in values["history"]),
        place=values["answer_place"],
    )


class StoredItems(Sequence[Item]):
    """Items of an Arrow file of ROWS: made when they are asked for, and held by nobody.

    rows: where they were read, which has their images. sizes: a file of SIZES with as many rows. picked: which of the
    rows these are, by default all of them.

    Raises:
        InputError: a file that is not of ROWS, or not of SIZES.
    """

    def __init__(
        self, rows: TrainingSet, file: Path, sizes: Path | None = None, picked: np.ndarray | None = None
    ) -> None:
        self._rows, self.file, self._sizes_file = rows, file, sizes
        self._batches = _batches(file, ROWS)
        self._ends = np.cumsum([len(batch) for batch in self._batches])
        every = int(self._ends[-1]) if len(self._ends) else 0
        self._picked = np.arange(every, dtype=np.int32) if picked is None else picked
        self._sizes = _batches(sizes, SIZES) if sizes else None
        if self._sizes is not None and list(map(len, self._sizes)) != list(map(len, self._batches)):
            raise InputError(f"{sizes}: holds other rows than {file}")

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredItems, (self._rows, self.file, self._sizes_file, self._picked)

    def __len__(self) -> int:
        return len(self._picked)

    def __getitem__(self, number: int) -> Item:
        batch, place = self._at(number)
        values = self._batches[batch].slice(place, 1).to_pylist()[0]
        return _item(values, self._picture(values, batch, place))

    def place(self, number: int) -> str:
        """Return what an error about an item begins with."""
        batch, place = self._at(number)
        return self._batches[batch].column("place")[place].as_py()

    def pick(self, numbers: np.ndarray) -> StoredItems:
        """Return some of these items."""
        return StoredItems(self._rows, self.file, self._sizes_file, self._picked[numbers])

    def family(self, name: str) -> StoredItems:
        """Return those of a family."""
        named = [batch.column("type").to_numpy(zero_copy_only=False) == name for batch in self._batches]
        return self.pick(np.flatnonzero(np.concatenate([*named, np.zeros(0, bool)])[self._picked]).astype(np.int32))

    def measured(self, sizes: Path) -> StoredItems:
        """Return these items, whose images are not decoded for their size, which is in a file of SIZES."""
        return StoredItems(self._rows, self.file, sizes, self._picked)

    def column(self, name: str) -> Iterator[Any]:
        """Yield the cells of a column of ROWS."""
        for batch, places in self._by_batch():
            yield from batch.column(name).take(pa.array(places)).to_pylist()

    @property
    def hashes(self) -> Hashes:
        """The item_hash of each."""
        return Hashes(self)

    def images(self) -> Iterator[Named]:
        """Yield name and stamp of every image that has a file of its own."""
        for named in zip(*map(self.column, ("image", *_STAMP)), strict=True):
            if named[0] is not None and named[1:] != WITHIN:
                yield named

    def parts(self) -> list[range]:
        """Return the items of each batch, where these are all of the file."""
        return [range(int(end) - len(batch), int(end)) for batch, end in zip(self._batches, self._ends, strict=True)]

    def sizes_of(self, numbers: range) -> pa.RecordBatch:
        """Return SIZES of items, whose images are decoded for it."""
        return pa.RecordBatch.from_pylist([self._measure(number) for number in numbers], SIZES)

    def _measure(self, number: int) -> dict[str, Any]:
        batch, place = self._at(number)
        picture, known = self[number].picture, self._batches[batch].column("hash")[place].is_valid
        if picture is None:
            return {}
        try:
            width, height = picture.size
            if not known:
                picture.digest()
        except InputError as error:
            return {"fault": str(error)}
        return {"width": width, "height": height}

    def _at(self, number: int) -> tuple[int, int]:
        row = int(self._picked[number])
        batch = int(np.searchsorted(self._ends, row, side="right"))
        return batch, row - int(self._ends[batch]) + len(self._batches[batch])

    def _by_batch(self) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        starts = self._ends - [len(batch) for batch in self._batches]
        for batch, start, end in zip(self._batches, starts, self._ends, strict=True):
            low, high = np.searchsorted(self._picked, (start, end))
            if high > low:
                yield batch, self._picked[low:high] - start

    def _picture(self, values: dict[str, Any], batch: int, place: int) -> Picture | None:
        if values["image"] is None:
            return None
        return self._rows.picture(values["image"], values["place"], self._size(batch, place))

    def _size(self, batch: int, place: int) -> Size | InputError | None:
        if self._sizes is None:
            return None
        width, height, fault = (self._sizes[batch].column(name)[place].as_py() for name in SIZES.names)
        return (width, height) if fault is None else InputError(fault)


def ids_of(items: Sequence[Item]) -> Iterator[str]:
    """Yield the id of each item, where they are stored without making it."""
    return items.column("id") if isinstance(items, StoredItems) else (item.id for item in items)


class Hashes(Sequence[str]):
    """The hashes of stored items."""

    def __init__(self, items: StoredItems) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> str:
        return next(iter(self._items.pick(np.array([number])).hashes))

    def __iter__(self) -> Iterator[str]:
        return ((digest or b"").hex() for digest in self._items.column("hash"))


def _batches(file: Path, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Return the batches of an Arrow file, mapped. Raises InputError."""
    try:
        with pa.memory_map(str(file)) as mapped:
            reader = pa.ipc.open_file(mapped)
            if reader.schema != schema:
                raise InputError(f"{file}: holds other columns")
            return [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
