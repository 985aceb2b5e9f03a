"""The file or folder of a run's rows in, a file out that holds them in little memory, read once for all starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.files import file_hash, is_text, versions
from mmi_plugin.sources.rows import Distinct, TrainingSet, check_any, record_file
from mmi_plugin.sources.shards import BuiltFolder
from mmi_plugin.sources.stored import ROWS, SIZES, Part, StoredItems
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.kept import Facts, Kept, check_form, kept
from mmi_plugin.trainers.once import in_processes, processes_of
from mmi_plugin.trainers.resume import code_hash

BAR_AFTER = 3  # seconds, from which on a check shows how long it will take
ROWS_FILE, SIZES_FILE = "rows.arrow", "sizes.arrow"


def training_set(args: MMIConfig) -> TrainingSet:
    """Return `train_file` as rows that can be read. Raises InputError."""
    for name in ("train_file", "image_folder"):
        if not is_text(getattr(args, name) or ""):
            raise InputError(f"field '{name}': its name is not UTF-8")
    path = Path(str(args.train_file))
    return BuiltFolder(path) if path.is_dir() else record_file(path, args.image_folder)


def read_file(args: MMIConfig, bad: BadRows) -> Path:
    """Return the file of ROWS that holds the rows of `train_file`, read again if anything in it has changed.

    Raises InputError for the first bad row; with a `bad` that skips, these are left out.
    """
    rows = training_set(args)
    depends = {"rows": rows.state(), "turns": args.vqa_turns, "code": code_hash(), "versions": versions()}
    find = partial(_read, args, rows, depends["rows"], bad.anew())
    found = kept(depends, find, partial(_unchanged, args, rows))
    bad.hear(found.facts["lines"], found.facts["counts"])
    return found.folder / ROWS_FILE


def _read(args: MMIConfig, rows: TrainingSet, state: object, bad: BadRows, folder: Path) -> Facts:
    """Return {"lines": those about bad rows, "images": the images of these, "counts": as those of `bad`}."""
    seen, images, count = Distinct(bad.counts), [], 0
    read = partial(Part, rows, args.vqa_turns)
    with (
        pa.OSFile(str(folder / ROWS_FILE), "wb") as file,
        pa.ipc.new_file(file, ROWS) as writer,
        progress(args, f"reading {rows.path.name}", rows.extent()) as bar,
    ):
        for part in in_processes(read, rows.parts(), processes_of(args, rows.extent() // rows.unit)):
            batch, own = part.distinct(seen, bad)
            writer.write_batch(batch)
            images += own
            count += len(batch)
            bar.update(part.extent)
    check_any(count, rows.path, bad)
    if rows.state() != state:
        raise InputError(f"{rows.path}: has changed while it was read")
    return {"lines": bad.lines, "images": images, "counts": bad.counts}


def _unchanged(args: MMIConfig, rows: TrainingSet, found: Kept) -> bool:
    """Whether every image has the size and time that it had. Raises ValueError for facts of another form."""
    check_form(all(isinstance(line, str) for line in found.facts["lines"]))
    check_form(all(isinstance(number, int) for number in found.facts["counts"].values()))
    items = StoredItems(rows, found.folder / ROWS_FILE)
    with progress(args, "looking for changed images", len(items)) as bar:
        for name, *stamp in items.images():
            if rows.stamp(name) != tuple(stamp):
                return False
            bar.update()
    return all(rows.stamp(name) == tuple(stamp) for name, *stamp in found.facts["images"])


def stored(args: MMIConfig, file: Path) -> StoredItems:
    """Return the items of a file that `read_file` returned."""
    return StoredItems(training_set(args), file)


def measured(args: MMIConfig, items: StoredItems) -> tuple[Path, str]:
    """Return the file of SIZES of all items of the file that holds `items`, and its hash."""
    every = stored(args, items.file)
    depends = {"sizes": file_hash(items.file), "code": code_hash(), "versions": versions()}
    found = kept(depends, partial(_measure, args, every))
    return found.folder / SIZES_FILE, found.files[SIZES_FILE]


def _measure(args: MMIConfig, items: StoredItems, folder: Path) -> Facts:
    with (
        pa.OSFile(str(folder / SIZES_FILE), "wb") as file,
        pa.ipc.new_file(file, SIZES) as writer,
        progress(args, "checking images", len(items)) as bar,
    ):
        for batch in in_processes(items.sizes_of, items.parts(), processes_of(args, len(items))):
            writer.write_batch(batch)
            bar.update(len(batch))
    return {}


@contextmanager
def progress(args: MMIConfig, title: str, total: int) -> Iterator[tqdm]:
    """A bar with what time is left, from a few seconds on, in one process."""
    hidden = bool(args.disable_tqdm) or args.process_index > 0
    with tqdm(desc=title, total=total, unit_scale=True, delay=BAR_AFTER, disable=hidden, leave=False) as bar:
        yield bar
