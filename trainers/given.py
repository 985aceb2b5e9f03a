"""What a caller hands to the trainer in, a checked start of a run out: model, processor, groups and record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.item import FAMILIES, Item, first_turn
from mmi_plugin.models.load import load_processor
from mmi_plugin.pictures import Picture
from mmi_plugin.sources import Benchmark
from mmi_plugin.sources.local import decoded_rows
from mmi_plugin.sources.records import item_of, of_arrow, picture_of
from mmi_plugin.sources.rows import Distinct, check_any, repeats_option
from mmi_plugin.sources.table import image_bytes
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.data import check_rows, load_benchmarks, make_groups
from mmi_plugin.trainers.groups import Groups
from mmi_plugin.trainers.record import run_record
from mmi_plugin.trainers.saving import load_checkpoint

NAME = "train_dataset"
Records = Dataset | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Start:
    """What a run begins with; `record` is None where groups were made elsewhere."""

    model: PreTrainedModel
    processor: ProcessorMixin
    groups: Groups
    record: dict[str, Any] | None


def start(
    model: PreTrainedModel | str,
    args: MMIConfig,
    train_dataset: Groups | Records | None,
    eval_dataset: object,
    processor: ProcessorMixin | None,
) -> Start:
    """Return what a run begins with, its rows checked as those of a file are. Raises InputError."""
    if eval_dataset is not None:
        raise InputError("eval_dataset: a training asks tasks, not rows: eval_tasks=['mmi_demo_digits'] in MMIConfig")
    loaded = isinstance(model, str)
    args.model_name_or_path = model if loaded else args.model_name_or_path or model.name_or_path or "a given model"
    if isinstance(train_dataset, Groups):
        model, processor = _loaded(model, args, processor)
        return Start(model, processor, train_dataset, None)
    bad = BadRows(args.on_bad_row == "skip")
    if train_dataset is None:
        benchmarks = load_benchmarks(args, bad)
    elif args.sources or args.train_file:
        raise InputError(f"{NAME} is given, and field {'sources' if args.sources else 'train_file'!r}, too: give one")
    else:
        benchmarks = benchmarks_of(train_dataset, args, bad)
    model, processor = _loaded(model, args, processor)
    benchmarks = check_rows(args, benchmarks, processor, bad)
    record = run_record(args, benchmarks, bad, processor, None if loaded else model)
    return Start(model, processor, make_groups(args, benchmarks), record)


def _loaded(
    model: PreTrainedModel | str, args: MMIConfig, processor: ProcessorMixin | None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    if isinstance(model, str):
        found, own = load_checkpoint(args)
        return found, processor or own
    return model, processor or load_processor(model.name_or_path, **(args.processor_kwargs or {}))


def benchmarks_of(rows: Records, args: MMIConfig, bad: BadRows) -> list[Benchmark]:
    """Return rows in the training schema as items by family.

    Raises InputError that names the first bad row; with a `bad` that skips, these are left out."""
    found: dict[str, list[Item]] = {family: [] for family in FAMILIES}
    seen, places = Distinct(bad.counts), dict[str, str]()
    for where, record, picture in _records(rows, Path(args.image_folder or "")):
        with bad.watch():
            if isinstance(picture, InputError):
                raise picture
            item = item_of(record, where, picture)
            if isinstance(picture, Picture):
                picture.digest()  # that it can be read is said of this row
            item = replace(item, image=item.picture, id=seen.add(item.id, repeats_option(item)))
            places[item.id] = where
            found[item.family].append(first_turn(item) if args.vqa_turns == "first" else item)
    check_any(len(places), Path(NAME), bad)
    return [
        args.over(Benchmark(f"{NAME}:{family}", family, tuple(items), places=places))
        for family, items in found.items()
        if items
    ]


def _records(rows: Records, folder: Path) -> Iterator[tuple[str, Any, Picture | Image.Image | InputError | None]]:
    """Yield where a row stands, its record, and its image. Raises InputError for what holds no rows."""
    if isinstance(rows, Dataset):
        yield from _of_dataset(rows, folder)
        return
    if isinstance(rows, DatasetDict):
        raise InputError(f"{NAME} has the splits {', '.join(rows)}: give one, as data[{next(iter(rows))!r}]")
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Sequence):
        kind = type(rows).__name__
        raise InputError(f"{NAME} is {kind}, not a datasets.Dataset, a list of rows or Groups; a file is 'train_file'")
    for number, record in enumerate(rows, start=1):
        where = f"{NAME}, row {number}"
        plain = of_arrow(record) if isinstance(record, Mapping) else record
        yield where, plain, _image(plain, where, folder) if isinstance(plain, dict) else None


def _of_dataset(rows: Dataset, folder: Path) -> Iterator[tuple[str, Any, Picture | Image.Image | InputError | None]]:
    """Yield the rows of a Dataset, whose images stay in it until they are looked at."""
    rows = rows.with_format(None)
    held = isinstance(rows.features.get("image"), ImageFeature)
    encoded = rows.select_columns(["image"]).with_format("arrow") if held else None
    texts = rows.remove_columns("image") if held else rows
    for number, record in enumerate(decoded_rows(texts, NAME)):
        where, plain = f"{NAME}, row {number + 1}", of_arrow(record)
        if encoded is None:
            yield where, plain, _image(plain, where, folder)
        elif encoded[number]["image"].is_valid()[0].as_py():
            yield (
                where,
                plain,
                Picture(partial(image_bytes, encoded, number, "image", folder), f"{where}: field 'image'"),
            )
        else:
            yield where, plain, None


def _image(record: dict[str, Any], where: str, folder: Path) -> Picture | Image.Image | InputError | None:
    """Return the image of a record, which may hold it as PIL has it, or what is wrong with it."""
    if isinstance(image := record.get("image"), Image.Image):
        return image
    try:
        return picture_of(record | {"image": str(image)} if isinstance(image, Path) else record, where, folder)
    except InputError as error:
        return error
