"""Training sets on disk: items as rows of parquet files, each whole or not there, and a manifest."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmi_plugin.errors import InputError
from mmi_plugin.files import file_hash, open_regular, parse_json, read_text, stamp
from mmi_plugin.item import Item
from mmi_plugin.pictures import Picture, Size
from mmi_plugin.sources.local import UNREADABLE, data_file, decoded_rows, first_cause
from mmi_plugin.sources.records import item_of, of_arrow
from mmi_plugin.sources.rows import PART, WITHIN, Row, Stamp

if TYPE_CHECKING:
    from datasets import Dataset


TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "id": TEXT,
        "type": TEXT,
        "image": pa.binary(),
        "question": TEXT,
        "options": pa.list_(TEXT),
        "answer": TEXT,
        "facts": pa.list_(pa.struct({"option": TEXT, "text": TEXT})),
        "history": pa.list_(pa.struct({"question": TEXT, "answer": TEXT})),
    }
)
ROW_GROUP = 64  # rows that are held in memory


def write_shard(items: Iterable[Item], file: Path) -> int:
    """Write `items` to a parquet file and return how many there were; with none there is no file.

    Raises whatever `items` raise; then there is no file either.
    """
    started = file.with_suffix(".started")
    items, count = iter(items), 0
    with pq.ParquetWriter(started, SCHEMA) as writer:
        while rows := [texts_of(item) | {"image": _encoded(item)} for item in islice(items, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            count += len(rows)
    if count:
        started.replace(file)
    else:
        started.unlink()
    return count


def _encoded(item: Item) -> bytes | None:
    return item.picture.encoded() if isinstance(item.picture, Picture) else None


def texts_of(item: Item) -> dict[str, Any]:
    """Return the columns of SCHEMA but for the image."""
    return {
        "id": item.id,
        "type": item.family,
        "question": item.question,
        "options": list(item.options),
        "answer": item.answer,
        "facts": [{"option": option, "text": text} for option, text in item.facts.items()],
        "history": [{"question": question, "answer": answer} for question, answer in item.history],
    }


MANIFEST = "manifest.json"


class BuiltFolder:
    """A folder of `mmi data build`; images stay in its files until looked at.

    Raises:
        InputError: no manifest, as the build was not finished; a shard that is missing or has not the
            rows that the manifest says.
    """

    unit = 1

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        if not (self.path / MANIFEST).is_file():
            raise InputError(f"{folder}: no {MANIFEST}, so this is no finished build; run mmi data build again")
        self._shards = _shards(self.path / MANIFEST)
        for shard in self._shards:
            _check_shard(self.path / shard["file"], shard["rows"])
        self._ends = list(accumulate(shard["rows"] for shard in self._shards))

    @cached_property
    def _data(self) -> Dataset:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        files = [data_file(self.path / shard["file"]) for shard in self._shards]
        try:
            return load_dataset("parquet", data_files={"train": files}, split="train")
        except (*UNREADABLE, DatasetsError) as error:
            raise InputError(f"{self.path}: cannot be read: {first_cause(error)}") from error

    @cached_property
    def _encoded(self) -> Dataset:
        return self._data.select_columns(["image"]).with_format("arrow")

    def parts(self) -> Iterator[range]:
        """Yield rows, from 0, in ranges."""
        whole = range(len(self._data))
        yield from (whole[start : start + PART] for start in range(0, len(whole), PART))

    def rows(self, part: range) -> Iterator[Row]:
        """Yield the rows of a part. Raises InputError with the row whose text is not UTF-8."""
        texts = self._data.remove_columns("image").select(part)
        present = self._encoded.select(part).data.column("image").is_valid().to_pylist()
        rows = zip(part, present, decoded_rows(texts, str(self.path), part.start), strict=True)
        for number, has_image, values in rows:
            where, image = self._place(number), str(number) if has_image else None
            try:
                picture = self.picture(image, where) if image else None
                yield Row(where, image, WITHIN, _item(values, where, picture))
            except InputError as error:
                yield Row(where, image, WITHIN, error)

    def picture(self, image: str, where: str, size: Size | InputError | None = None) -> Picture:
        """Return the picture of the row at `where`, which is the row `image`, from 0, of the whole."""
        return Picture(partial(_bytes, self._encoded, int(image)), f"{where}: field 'image'", size)

    def extent(self, part: range | None = None) -> int:
        """Return how many rows there are, or how many in a part."""
        return self._ends[-1] if part is None else len(part)

    def stamp(self, image: str) -> Stamp:
        """Images are in the shards, whose stamps are part of `state`."""
        return WITHIN

    def state(self) -> dict[str, Any]:
        """Return what decides what is read."""
        stamps = [[shard["file"], *stamp(self.path / shard["file"])] for shard in self._shards]
        return {"path": str(self.path), "content": file_hash(self.path / MANIFEST), "shards": stamps}

    def _place(self, number: int) -> str:
        shard = bisect_right(self._ends, number)
        first = self._ends[shard - 1] if shard else 0
        return f"{self.path / self._shards[shard]['file']}, row {number - first + 1}"


def _check_shard(file: Path, rows: int) -> None:
    """Raise an InputError unless `file` is a shard as `write_shard` leaves it, of so many rows."""
    try:
        with open_regular(file) as opened:
            found = pq.ParquetFile(opened)
            schema, number = found.schema_arrow, found.metadata.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    if number != rows:
        raise InputError(f"{file}: has {number} rows, {MANIFEST} says {rows}")
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        if name not in schema.names or schema.field(name).type != kind:
            raise InputError(f"{file}: column {name!r} is missing or not {kind}")


def _shards(manifest: Path) -> list[dict[str, Any]]:
    """Return the {"file", "rows"} of every shard. Raises InputError that names the manifest."""
    content = parse_json(read_text(manifest), str(manifest))
    parts = content.get("parts") if isinstance(content, dict) else None
    entries = list(parts.values()) if isinstance(parts, dict) else [None]
    shards = [part.get("shards") if isinstance(part, dict) else None for part in entries]
    if not all(isinstance(listed, list) for listed in shards):
        raise InputError(f"{manifest}: field 'parts' is no map to lists of 'shards'")
    found = [shard for listed in shards for shard in listed]
    for shard in found:
        kinds = [type(shard.get(name)) for name in ("file", "rows")] if isinstance(shard, dict) else None
        if kinds != [str, int]:
            raise InputError(f"{manifest}: a shard is {shard!r}, not a 'file' and its 'rows'")
    if not found:
        raise InputError(f"{manifest.parent}: holds no rows")
    return found


def _item(values: dict[str, Any], where: str, picture: Picture | None) -> Item:
    return item_of(of_arrow(values), where, picture)


def _bytes(encoded: Dataset, number: int) -> bytes:
    return encoded[number]["image"][0].as_py()
