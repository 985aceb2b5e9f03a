"""Training sets read plainly, row after row, in one process: what is read in parts and kept is held against it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.item import Item
from mmi_plugin.sources.rows import Distinct, TrainingSet, check_any, record_file, repeats_option
from mmi_plugin.sources.shards import BuiltFolder


def read_rows(rows: TrainingSet, bad: BadRows | None = None) -> list[tuple[str, Item]]:
    """Return (what errors about it begin with, item) of every row, as `Distinct` says of ids.

    Raises:
        InputError: the first bad row, with file, row (from 1) and field; with `bad`, as that says.
    """
    bad = bad or BadRows()
    distinct = Distinct(bad.counts)
    found: list[tuple[str, Item]] = []
    for part in rows.parts():
        for row in rows.rows(part):
            with bad.watch():
                if isinstance(row.item, InputError):
                    raise row.item
                name, item = distinct.add(row.item.id, repeats_option(row.item)), row.item
                found.append((row.where, item if name == item.id else replace(item, image=item.picture, id=name)))
    check_any(len(found), rows.path, bad)
    return found


def read_records(
    path: str | Path, images: str | Path | None = None, bad: BadRows | None = None
) -> list[tuple[str, Item]]:
    """The same of a file of records, each image checked; see `RecordFile`."""
    return read_rows(record_file(path, images), bad)


def read_built(folder: str | Path) -> list[tuple[str, Item]]:
    """The same of every row of a `BuiltFolder`."""
    return read_rows(BuiltFolder(folder))
