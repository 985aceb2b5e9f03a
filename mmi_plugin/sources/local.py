"""The name of a data set in, its rows out: from a local copy in one of several layouts, else from the hub."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmi_plugin.errors import InputError
from mmi_plugin.files import as_record, is_text, json_lines, parse_json, read_bytes
from mmi_plugin.sources.registry import SOURCES

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

ROOT = "MMI_DATA_ROOT"
PUBLISHED = "multiple_choice_data_{}.json"
PUBLISHED_WHOLE = "multiple_choice_data.json"  # of data sets that are for testing alone
ALSO = {"mmbench": "MMBench-EN", "seedbench": "SEED-Bench-Img", "llava_instruct": "LLaVa-Instruct-665K"}
"""Name -> what its folder is called in the published tree, where that is not the name in another spelling."""
WITHIN = "VQADatasets"  # a folder of the published tree that holds further data sets
OTHERS = ("published", WITHIN, "infoseek")
# What `load_dataset` raises, besides its own errors, at files that are damaged, empty or of no one type.
UNREADABLE = (OSError, ValueError, TypeError, LookupError, RuntimeError, NotImplementedError, StopIteration)
_READERS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}


def local_copy(name: str, path: str | None) -> Path | None:
    """Return `path`, else `$MMI_DATA_ROOT/<name>` if it is there, else None: the hub.

    Raises InputError when `path` or the folder that MMI_DATA_ROOT names is missing.
    """
    if path is not None:
        if not Path(path).exists():
            raise InputError(f"{name}: path {path!r} does not exist")
        return Path(path)
    root = os.environ.get(ROOT)
    if not root:
        return None
    if not Path(root).is_dir():
        raise InputError(f"{name}: {ROOT} is {root!r}, not a folder")
    return _in_root(name, Path(root))


def _in_root(name: str, root: Path) -> Path | None:
    """Return the folder of a data set below `root`, in whatever spelling; None where it has only other data sets.

    Raises InputError that names what `root` holds where that is of no known data set, so that a folder with another
    name is not passed over for the hub.
    """
    if (root / name).exists():
        return root / name
    folders = [path for base in (root, root / WITHIN) if base.is_dir() for path in sorted(base.iterdir())]
    folders = [path for path in folders if path.is_dir() and not path.name.startswith(".")]
    found = [path for path in folders if _plain(path.name) in _names(name)]
    if len(found) > 1:
        raise InputError(f"{name}: {ROOT} holds {found[0].name!r} and {found[1].name!r}: leave one, or give `path`")
    if found:
        return found[0]
    known = {_plain(other) for other in OTHERS}.union(*map(_names, (*SOURCES, *ALSO)))
    unknown = [path.name for path in folders if path.parent == root and _plain(path.name) not in known]
    if unknown:
        raise InputError(
            f"{name}: {ROOT} ({root}) holds nothing of that name, but {', '.join(map(repr, unknown[:8]))}, which is no"
            f" known data set: rename it {name!r} if it is this one, or else move it elsewhere"
        )
    log.warning("%s: %s (%s) holds no copy, so it is loaded from the hub", name, ROOT, root)
    return None


def _names(name: str) -> set[str]:
    return {_plain(name), _plain(ALSO.get(name, name))}


def _plain(name: str) -> str:
    """Return a name of a folder without case, blanks and punctuation."""
    return re.sub(r"[\W_]", "", name).lower()


def published_file(place: Path, splits: Sequence[str]) -> Path | None:
    """Return the published evaluation JSON that `place` is or holds for one of `splits`."""
    if place.suffix.lower() == ".json":
        return place
    files = [place / PUBLISHED.format(split) for split in splits]
    files += [place / PUBLISHED_WHOLE] if "test" in splits else []
    return next((file for file in files if file.is_file()), None)


def from_local(name: str, place: Path, config: str | None, splits: Sequence[str]) -> tuple[Dataset, Path]:
    """Return the rows of the first of `splits` at `place`, and the file or folder that holds them.

    `place` is a .parquet, .jsonl or .csv file, or a folder laid out in one of these ways, where CONFIG
    is the hub's configuration and may be left out, and data/ may stand before it or after it:
        CONFIG/SPLIT-*.parquet (a hub snapshot), CONFIG/SPLIT.parquet, CONFIG/SPLIT/*.parquet
        CONFIG/SPLIT.jsonl or .csv, with image paths relative to it
        SPLIT/CLASS/*.jpg or SPLIT/metadata.jsonl with images (imagefolder)

    Raises:
        InputError: nothing of the kind is there, or it cannot be read.
    """
    if place.is_file():
        if place.suffix.lower() not in _READERS:
            raise InputError(f"{name}: {place}: not a .parquet, .jsonl, .csv or .json file")
        return _read(name, _READERS[place.suffix.lower()], [place]), place
    if not place.is_dir():
        raise InputError(f"{name}: {place}: neither a regular file nor a folder")
    for base in _bases(place, config):
        for split in splits:
            named = glob.escape(split)
            patterns = (f"{named}-*.parquet", f"{named}/*.parquet", f"{named}.parquet")
            shards = [file for pattern in patterns for file in base.glob(pattern) if file.is_file()]
            if shards:
                return _read(name, "parquet", sorted(shards)), shards[0]
            for suffix in (".jsonl", ".csv"):
                if (file := base / f"{split}{suffix}").is_file():
                    return _read(name, _READERS[suffix], [file]), file
            if (base / split).is_dir():
                return _read(name, "imagefolder", [base / split / "**"]), base / split
    raise InputError(
        f"{name}: {place} holds no split {' or '.join(map(repr, splits))} as parquet, jsonl, csv or folder of images"
        f" (found: {', '.join(sorted(file.name for file in place.iterdir())[:8]) or 'nothing'})"
    )


def _bases(place: Path, config: str | None) -> Iterator[Path]:
    names = [f"{config}", f"data/{config}", f"{config}/data"] if config else []
    yield from (place / name for name in [*names, "data", "."] if (place / name).is_dir())


def _read(name: str, reader: str, files: Sequence[Path]) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    # A .jsonl file is read in one piece: the types of a column are those of all its rows.
    options = {"chunksize": min(_check_lines(name, files[0]), 1 << 30)} if reader == "json" else {}
    options |= {"keep_default_na": False} if reader == "csv" else {}  # an option may be called "None" or "NA"
    try:
        return load_dataset(reader, data_files={"train": list(map(data_file, files))}, split="train", **options)
    except (*UNREADABLE, DatasetsError) as error:
        raise InputError(f"{name}: {files[0]}: cannot be read: {first_cause(error)}") from error


def data_file(path: Path) -> str:
    """Return what `load_dataset` takes for this one path, which may have brackets and stars in it; a last part
    `**` stands for all that is below."""
    whole = path.absolute()
    return str(Path(glob.escape(str(whole.parent))) / whole.name) if whole.name == "**" else glob.escape(str(whole))


def _check_lines(name: str, file: Path) -> int:
    """Return the bytes of a .jsonl file. Raises InputError with the row of what `load_dataset` refuses without it,
    or reads as something else."""
    try:
        data = read_bytes(file)
    except OSError as error:
        raise InputError(f"{name}: {file}: cannot be read: {error}") from error
    for number, line in json_lines(data):
        where = f"{name}: {file}, row {number}"
        record = as_record(parse_json(line, where), where)
        if b"\\u" in line and not is_text(json.dumps(record, ensure_ascii=False)):
            raise InputError(f"{where}: a text has a lone surrogate")
        if any(isinstance(value, int) and value.bit_length() > 63 for value in record.values()):
            raise InputError(f"{where}: an integer of more than 64 bits")
    return max(len(data), 1)


def decoded_rows(data: Dataset, where: str, number: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the rows. Raises InputError with the row (from 1) whose text is not UTF-8, which Parquet does not check.

    number: how many rows at `where` stand before these.
    """
    try:
        for values in data:
            number += 1
            yield values
    except UnicodeDecodeError as error:
        raise InputError(f"{where}, row {number + 1}: a text is not UTF-8: {error}") from error


def from_hub(name: str, hub: str, config: str | None, split: str) -> Dataset:
    """Return a split of a hub data set. Raises InputError that says how to do without the hub."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(hub, config, split=split)
    except (*UNREADABLE, DatasetsError) as error:
        raise InputError(
            f"{name}: cannot load {hub!r} from the hub: {first_cause(error)}; a local copy goes to ${ROOT}/{name}"
        ) from error


def first_cause(error: BaseException) -> str:
    """The first line of what first went wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, StopIteration):
        return "it holds no row"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
