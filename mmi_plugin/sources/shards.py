"""Training sets on disk: items as rows of parquet files, each whole or not there, and a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmi_plugin.errors import InputError
from mmi_plugin.files import open_regular, parse_json, read_text
from mmi_plugin.items import Item
from mmi_plugin.pictures import Picture
from mmi_plugin.sources.local import UNREADABLE, data_file, decoded_rows, first_cause
from mmi_plugin.sources.records import item_of

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
        while rows := [_row(item) for item in islice(items, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            count += len(rows)
    if count:
        started.replace(file)
    else:
        started.unlink()
    return count


def _row(item: Item) -> dict[str, Any]:
    return {
        "id": item.id,
        "type": item.family,
        "image": item.picture.encoded() if isinstance(item.picture, Picture) else None,
        "question": item.question,
        "options": list(item.options),
        "answer": item.answer,
        "facts": [{"option": option, "text": text} for option, text in item.facts.items()],
        "history": [{"question": question, "answer": answer} for question, answer in item.history],
    }


MANIFEST = "manifest.json"


def read_built(folder: str | Path) -> list[tuple[str, Item]]:
    """Return (what errors about it begin with, item) of every row; images stay in the files until looked at.

    Raises:
        InputError: no manifest, as the build was not finished; a shard that is missing or has not the
            rows that the manifest says; a row that is no record.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: no {MANIFEST}, so this is no finished build; run mmi data build again")
    shards = _shards(folder / MANIFEST)
    for shard in shards:
        _check_shard(folder / shard["file"], shard["rows"])
    files = [data_file(folder / shard["file"]) for shard in shards]
    try:
        data = load_dataset("parquet", data_files={"train": files}, split="train")
    except (*UNREADABLE, DatasetsError) as error:
        raise InputError(f"{folder}: cannot be read: {first_cause(error)}") from error
    places = [f"{folder / shard['file']}, row {row}" for shard in shards for row in range(1, shard["rows"] + 1)]
    encoded = data.select_columns(["image"]).with_format("arrow")
    texts = data.remove_columns("image")
    present = encoded.data.column("image").is_valid().to_pylist()
    return [
        (where, _item(values, where, encoded, number if present[number] else None))
        for number, (where, values) in enumerate(zip(places, decoded_rows(texts, str(folder)), strict=True))
    ]


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


def _item(values: dict[str, Any], where: str, encoded: Dataset, image: int | None) -> Item:
    picture = None if image is None else Picture(partial(_bytes, encoded, image), f"{where}: field 'image'")
    record = {
        **values,
        "facts": {fact["option"]: fact["text"] for fact in values["facts"] or ()},
        "history": [[turn["question"], turn["answer"]] for turn in values["history"] or ()],
    }
    return item_of(record, where, picture)


def _bytes(encoded: Dataset, number: int) -> bytes:
    return encoded[number]["image"][0].as_py()
