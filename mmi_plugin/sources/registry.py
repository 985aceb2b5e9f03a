"""Sources by name, what a source gives, and where its rows come from: a local copy, else the hub."""

from __future__ import annotations

import glob
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmi_plugin.conditions import Pools, for_family, get
from mmi_plugin.conditions.registry import folder_photos
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import is_text, json_lines, parse_json, read_bytes
from mmi_plugin.items import Item, item_hash
from mmi_plugin.pictures import Picture

if TYPE_CHECKING:
    from datasets import Dataset

ROOT = "MMI_DATA_ROOT"
PUBLISHED = "multiple_choice_data_{}.json"
# What `load_dataset` raises, besides its own errors, at files that are damaged, empty or of no one type.
UNREADABLE = (OSError, ValueError, TypeError, LookupError, RuntimeError, NotImplementedError, StopIteration)
_READERS = {".parquet": "parquet", ".jsonl": "json"}


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
    found = Path(root) / name
    return found if found.exists() else None


def published_file(place: Path, splits: Sequence[str]) -> Path | None:
    """Return the published evaluation JSON that `place` is or holds for one of `splits`."""
    if place.suffix.lower() == ".json":
        return place
    files = [place / PUBLISHED.format(split) for split in splits]
    return next((file for file in files if file.is_file()), None)


def from_local(name: str, place: Path, config: str | None, splits: Sequence[str]) -> tuple[Dataset, Path]:
    """Return the rows of the first of `splits` at `place`, and the file or folder that holds them.

    `place` is a .parquet or .jsonl file, or a folder laid out in one of these ways, where CONFIG
    is the hub's configuration and may be left out, and data/ may stand before it or after it:
        CONFIG/SPLIT-*.parquet (a hub snapshot), CONFIG/SPLIT.parquet, CONFIG/SPLIT/*.parquet
        CONFIG/SPLIT.jsonl, with image paths relative to it
        SPLIT/CLASS/*.jpg or SPLIT/metadata.jsonl with images (imagefolder)

    Raises:
        InputError: nothing of the kind is there, or it cannot be read.
    """
    if place.is_file():
        if place.suffix.lower() not in _READERS:
            raise InputError(f"{name}: {place}: not a .parquet, .jsonl or .json file")
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
            if (base / f"{split}.jsonl").is_file():
                return _read(name, "json", [base / f"{split}.jsonl"]), base / f"{split}.jsonl"
            if (base / split).is_dir():
                return _read(name, "imagefolder", [base / split / "**"]), base / split
    raise InputError(
        f"{name}: {place} holds no split {' or '.join(map(repr, splits))} as parquet, jsonl or folder of images"
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
        record = parse_json(line, where)
        if not isinstance(record, dict):
            raise InputError(f"{where}: is {type(record).__name__}, not a record")
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


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Items of one family, checked, with ids that stay the same from run to run.

    places: item id -> where it was read, for items that a user wrote. hashes: the item_hash of each, where known.
    """

    name: str
    family: str
    items: Sequence[Item]
    pools: Pools = field(default_factory=Pools.default)
    places: Mapping[str, str] = field(default_factory=dict)
    hashes: Sequence[str] | None = None

    @property
    def conditions(self) -> tuple[str, ...]:
        """All conditions of the family, its reference first."""
        return for_family(self.family)

    def place(self, item: Item) -> str:
        """Return what an error about `item` begins with."""
        return self.places.get(item.id, f"{self.name}, item {item.id}")

    def digest(self, conditions: Sequence[str], seed: int) -> str:
        """SHA-256 of every item, the pools, the conditions with their versions, and the seed."""
        versions = [f"{name}@{get(name).version}" for name in conditions]
        hashes = map(item_hash, self.items) if self.hashes is None else self.hashes
        state = hashlib.sha256(self.name.encode())
        for part in chain(hashes, [self.pools.digest(), *versions, str(seed)]):
            state.update(f"\x1f{part}".encode())
        return state.hexdigest()


Source = Callable[..., Benchmark]
SOURCES: dict[str, Source] = {}


def source(load_split: Source) -> Source:
    """Register a function `(split, *, options of its own) -> Benchmark` under its own name."""
    SOURCES[load_split.__name__] = load_split
    return load_split


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of a source's own options. Raises InputError with the nearest source."""
    if name not in SOURCES:
        raise InputError(f"unknown source {name!r}: {nearest(name, SOURCES)}")
    parameters = inspect.signature(SOURCES[name]).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


@lru_cache(maxsize=32)
def load(name: str, split: str = "test", **options: str | int | None) -> Benchmark:
    """Return the benchmark `name`, or raise an InputError with the nearest valid name.

    Loaded once per process: after a change of files or of MMI_DATA_ROOT, `load.cache_clear()`.
    """
    known = options_of(name)
    for key in options:
        if key not in known:
            raise InputError(f"source {name!r} takes no option {key!r}: {nearest(key, known)}")
    return SOURCES[name](split, **options)


def pool_images(where: str) -> Sequence[Image.Image | Picture]:
    """Return irrelevant photographs: those in the folder `where`, or those of the source `where`.

    Raises InputError when it is neither, or holds no image.
    """
    if Path(where).is_dir():
        return folder_photos(where)
    if where not in SOURCES:
        raise InputError(f"pool {where!r} is neither a folder nor a source: {nearest(where, SOURCES)}")
    images = tuple(item.picture for item in load(where).items if item.picture is not None)
    if not images:
        raise InputError(f"pool {where!r}: the source has no images")
    return images
