"""`mmi convert`: a checkpoint in pickled files, `.bin` or DeepSpeed's shards, in; one in safetensors out.

Pickles can run programs. These are read with `weights_only`, so that no name in them is looked up but those of tensors;
objects of DeepSpeed's become empty ones. Everything else of the package reads safetensors alone.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import save_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals
from tqdm import tqdm
from transformers import AutoConfig

from mmi_plugin.disk import writing
from mmi_plugin.errors import InputError
from mmi_plugin.files import write_whole
from mmi_plugin.models.load import ADAPTER_WEIGHTS, ADAPTERS, PICKLED, ZERO, load_processor, zero_folder

SHARD = 5 * 10**9  # bytes of a file, at most, unless one weight has more
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_KEPT = (".json", ".jinja", ".txt", ".model")  # configuration, and the parts of a processor


@dataclass(frozen=True)
class Weight:
    """A weight that is put together when it is asked for: `read` gives it, (N, ...) as `shape` says."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def size(self) -> int:
        """In bytes."""
        return prod(self.shape) * self.dtype.itemsize


def convert(source: Path, out: Path, like: str | None = None, dtype: str | None = None) -> int:
    """Write the checkpoint in the folder `source` as safetensors into the new folder `out`; return how many weights.

    like: a folder or hub id with the configuration and processor, where `source` has none. dtype: of the weights, a
    key of DTYPES; None keeps that of the files, which of DeepSpeed's is float32.

    Raises InputError that names the file for what cannot be read, is no checkpoint, or has a part missing; NotWritten.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is there already; give a new folder")
    zero = zero_folder(source)
    weights = zero_weights(zero) if zero else bin_weights(source)
    if dtype is not None:
        weights = {name: _cast(weight, DTYPES[dtype]) for name, weight in weights.items()}
    whole = source.parent if zero == source else source
    if like is None and not any((whole / name).is_file() for name in ("config.json", ADAPTERS)):
        raise InputError(f"{whole}: has no config.json; give --like FOLDER_OR_HUB_ID, the model it was trained from")
    started = out.with_name(f"{out.name}.started")
    shutil.rmtree(started, ignore_errors=True)
    with writing(out.parent, "the checkpoint"):
        started.mkdir(parents=True)
        _copy_rest(whole, started, like)
        adapters = (started / ADAPTERS).is_file() and not zero
        _write(weights, started, ADAPTER_WEIGHTS if adapters else "model.safetensors")
        started.replace(out)
    return len(weights)


class _Empty:
    """Stands for an object of DeepSpeed's."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_pickled(file: Path) -> Any:
    """Return what a file of `torch.save` holds, of tensors and plain values alone.

    Raises InputError for what is no such file, and for one that names anything else.
    """
    try:
        today = is_zipfile(file)  # as torch.save writes since 1.6
        named = get_unsafe_globals_in_checkpoint(file) if today else ()
        with safe_globals([(_Empty, name) for name in named if name.startswith("deepspeed.")]):
            return torch.load(file, map_location="cpu", mmap=today, weights_only=True)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())
        unsafe = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", reason)
        said = f"it names {unsafe[1]}, which is no weight" if unsafe else reason[:100] or type(error).__name__
        raise InputError(f"{file}: cannot be read as weights alone: {said}") from error


def bin_weights(folder: Path) -> dict[str, Weight]:
    """Return the weights of `.bin` files. Raises InputError when there are none or one of the index is missing."""
    files = sorted(file for pattern in PICKLED for file in folder.glob(pattern))
    if not files:
        raise InputError(f"{folder}: holds neither .bin files nor DeepSpeed's shards ({', '.join(ZERO)})")
    listed: set[str] = set()
    for index in folder.glob("*.bin.index.json"):
        with suppress(ValueError, KeyError, AttributeError):
            listed |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if missing := sorted(listed - {file.name for file in files}):
        raise InputError(f"{folder / missing[0]}: missing")
    return {name: _weight(tensor) for file in files for name, tensor in _tensors(read_pickled(file), file).items()}


def _weight(tensor: torch.Tensor) -> Weight:
    return Weight(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _cast(weight: Weight, dtype: torch.dtype) -> Weight:
    if not weight.dtype.is_floating_point:
        return weight
    return Weight(weight.shape, dtype, lambda: weight.read().to(dtype))


def _tensors(content: Any, where: Any) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise InputError(f"{where}: is no map from names to weights")
    return dict(content)


def zero_weights(folder: Path) -> dict[str, Weight]:
    """Return the weights of DeepSpeed's shards in `folder`, one file of each kind per process (ZeRO 3) or one with
    the model in all (ZeRO 1 and 2): the optimizer's own in float32, and of those that did not learn what was saved.

    A group of weights lies flat, one after the other, and is cut into a piece for each process: whole (1, 2), or each
    weight by itself, filled up to a multiple of the processes (3).
    """
    states = [_optimizer(file) for file in _numbered(folder, ZERO[0])]
    models = [read_pickled(file) for file in _numbered(folder, ZERO[1])]
    with _as_left_by_deepspeed(folder):
        stage, processes = 3 if "fp32_flat_groups" in states[0] else 2, states[0]["partition_count"]
        processes = max(processes) if isinstance(processes, list) else processes
        if processes != len(states):
            raise InputError(f"{folder}: {len(states)} of {processes} files *_optim_states.pt are there")
        if stage == 3 and len(models) != processes:
            raise InputError(f"{folder}: {len(models)} of {processes} files *_model_states.pt are there")
        first = models[0]
        found = {name: _weight(first["module"][name]) for name in first["buffer_names"] if name in first["module"]}
        found |= _frozen(models, stage)
        found |= (_of_three if stage == 3 else _of_two)(states, first["param_shapes"])
        for name, other in first["shared_params"].items():
            if other in found:
                found[name] = found[other]
    return found


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Return files in the order of the numbers in their names."""
    files = list(folder.glob(pattern))
    if not files:
        raise InputError(f"{folder}: no {pattern}")
    return sorted(files, key=lambda file: [int(number) for number in re.findall(r"\d+", file.name)])


def _optimizer(file: Path) -> Any:
    content, name = read_pickled(file), "optimizer_state_dict"
    if not isinstance(content, Mapping) or not isinstance(content.get(name), Mapping):
        raise InputError(f"{file}: has no part {name!r}, so it is none of DeepSpeed's shards")
    return content[name]


@contextmanager
def _as_left_by_deepspeed(folder: Path) -> Iterator[None]:
    """Within, what is not there or of another kind raises an InputError that names the folder."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise InputError(f"{folder}: not as DeepSpeed leaves it: {type(error).__name__}: {error}") from error


def _frozen(models: list[Any], stage: int) -> dict[str, Weight]:
    shapes = models[0].get("frozen_param_shapes") or {}
    if stage < 3:
        return {name: _weight(models[0]["frozen_param_fragments"][name]) for name in shapes}

    def whole(name: str, shape: torch.Size) -> torch.Tensor:
        return torch.cat([model["frozen_param_fragments"][name] for model in models])[: shape.numel()].view(shape)

    kinds = {name: fragment.dtype for name, fragment in models[0]["frozen_param_fragments"].items()}
    return {name: Weight(tuple(shape), kinds[name], partial(whole, name, shape)) for name, shape in shapes.items()}


def _of_two(states: list[Any], groups: list[Mapping[str, torch.Size]]) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    paddings = states[0].get("param_alignment_paddings")
    for number, shapes in enumerate(groups):
        flat = torch.cat([state["single_partition_of_fp32_groups"][number] for state in states])
        start = 0
        for place, (name, shape) in enumerate(shapes.items()):
            if start + prod(shape) > len(flat):
                raise RuntimeError(f"{name} is cut off")
            found[name] = _weight(flat[start : start + prod(shape)].view(shape))
            start += prod(shape) + (paddings[number][place] if paddings is not None else 0)
    return found


def _of_three(states: list[Any], groups: list[Mapping[str, torch.Size]]) -> dict[str, Weight]:
    pieces = [Pieces(state["fp32_flat_groups"]) for state in states]
    found: dict[str, Weight] = {}
    start = 0
    for shapes in groups:
        for name, shape in shapes.items():
            share = -(-prod(shape) // len(states))
            if start + share > pieces[0].length:
                raise RuntimeError(f"{name} is cut off")

            def whole(start: int = start, share: int = share, shape: torch.Size = shape) -> torch.Tensor:
                return torch.cat([piece[start : start + share] for piece in pieces])[: prod(shape)].view(shape)

            found[name] = Weight(tuple(shape), pieces[0].dtype, whole)
            start += share
    return found


class Pieces:
    """Flat tensors of one process, one after the other, as if they were one."""

    def __init__(self, parts: list[torch.Tensor]) -> None:
        self._parts, self.dtype = parts, parts[0].dtype
        self.length = sum(map(len, parts))

    def __getitem__(self, cut: slice) -> torch.Tensor:
        """Return the elements from `cut.start` to `cut.stop`, (stop - start,)."""
        found, before = [], 0
        for part in self._parts:
            found.append(part[max(0, cut.start - before) : max(0, cut.stop - before)])
            before += len(part)
        return torch.cat(found)


def _copy_rest(source: Path, out: Path, like: str | None) -> None:
    """Copy what is beside the weights; configuration and processor come from `like`, where that is given."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name.endswith(_KEPT) and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)
    if like is not None:
        try:
            AutoConfig.from_pretrained(like).save_pretrained(out)
        except (OSError, ValueError) as error:
            raise InputError(f"--like {like}: {' '.join(str(error).split())[:200]}") from error
        load_processor(like).save_pretrained(out)


def _shards(weights: Mapping[str, Weight]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, weight in weights.items():
        if names and size + weight.size > SHARD:
            yield names
            names, size = [], 0
        names.append(name)
        size += weight.size
    yield names


def _write(weights: Mapping[str, Weight], out: Path, name: str) -> None:
    shards = list(_shards(weights))
    stem, many = name.removesuffix(".safetensors"), len(shards)
    files = [name] if many == 1 else [f"{stem}-{i + 1:05}-of-{many:05}.safetensors" for i in range(many)]
    for file, names in zip(files, tqdm(shards, desc="writing", unit="file", disable=many == 1), strict=True):
        content = {one: weights[one].read().clone().contiguous() for one in names}  # safetensors shares no memory
        save_file(content, out / file, {"format": "pt"})
    if many > 1:
        places = {one: file for file, names in zip(files, shards, strict=True) for one in names}
        size = sum(weight.size for weight in weights.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        write_whole(out / f"{name}.index.json", json.dumps(index, indent=1) + "\n")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what there is now; return 0. Raises as `convert`."""
    count = convert(args.source, args.out, args.like, args.dtype)
    print(f"{args.out}: {count} weights in safetensors")
    return 0
