"""Items as rows of parquet files, each of which is there whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmi_plugin.items import Item
from mmi_plugin.pictures import Picture

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
    count, rows = 0, []
    with pq.ParquetWriter(started, SCHEMA) as writer:
        for item in items:
            rows.append(_row(item))
            count += 1
            if len(rows) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    if count:
        started.replace(file)
    else:
        started.unlink()
    return count


def file_hash(file: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


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
