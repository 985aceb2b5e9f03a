"""A run and what an earlier one left in, the checkpoint to go on from out: a whole one, and of this very run."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mmi_plugin
from mmi_plugin.disk import sampled_hash
from mmi_plugin.errors import InputError, plain
from mmi_plugin.trainers.config import MMIConfig

RECORD = "training.json"
FIELD = "field 'resume_from_checkpoint'"
NAMED = 3  # differences that an error lists

# What a field decides that is not among these can be seen in the weights. Of data and start, content is compared.
_LOGS = "disable_tqdm report_to run_name project debug skip_memory_metrics include_num_input_tokens_seen do_train"
_PLACES = "output_dir overwrite_output_dir resume_from_checkpoint model_name_or_path train_file image_folder on_bad_row"
_FILES = "pool unrelated_texts system_text closing_text include_path"
_KEPT = "gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs"
_COSTS = f"{_KEPT} torch_empty_cache_steps local_rank ddp_timeout"
_COSTS += " inner_tokens inner_gather layout_attention trace"
_END = "merge_lora base_share"  # of what is saved when all steps are done
_NAMES = "profile"  # of values that are compared
FREE = frozenset(f"{_LOGS} {_PLACES} {_COSTS} {_END} {_NAMES} {_FILES}".split())
FREE_GROUPS = (
    "logging_",
    "log_",
    "save_",
    "hub_",
    "push_to_hub",
    "trackio_",
    "eval_tasks",
    "dataloader_",
    "dataset_num",
)
STEADY = "constant"  # a learning rate that does not depend on how many steps there are
LENGTHS = ("max_steps", "num_train_epochs")
ROOMS = ("", "answers", "attacks", "conditions", "models", "sources", "trainers")  # whose code decides what is learnt


@cache
def code_hash() -> str:
    """Return a hash of the code that decides what is learnt."""
    root, state = Path(mmi_plugin.__file__).parent, hashlib.sha256()
    for room in ROOMS:
        folder = Path(__file__).parent if room == "trainers" else root / room
        for path in sorted(path for path in folder.iterdir() if path.suffix in (".py", ".txt", ".tsv")):
            state.update(f"{room}/{path.name}\n".encode() + path.read_bytes())
    return state.hexdigest()[:16]


def seal(folder: Path, record: Mapping[str, Any]) -> None:
    """Write into a checkpoint, last of all, what made it and which files it has."""
    files = {str(path.relative_to(folder)): sampled_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    text = json.dumps({**record, "files": files}, indent=2, sort_keys=True, default=str)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def flaw(folder: Path) -> str | None:
    """Return what a checkpoint lacks to be gone on from; None when it is whole."""
    if not folder.is_dir():
        return "no such folder"
    if not (folder / RECORD).is_file():
        return f"{RECORD} is missing"
    try:
        record = _read(folder / RECORD)
    except ValueError:
        return f"{RECORD} is torn"
    if not isinstance(record, dict) or not all(isinstance(record.get(part), dict) for part in ("files", "config")):
        return f"{RECORD} is not that of a checkpoint"
    if record["config"].get("save_only_model"):
        return "it was saved with save_only_model, without the optimizer"
    for name, content in record["files"].items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sampled_hash(folder / name) != content:
            return f"{name} is not what was saved"
    return None


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def begin(args: MMIConfig, record: Mapping[str, Any], given: str | bool | None = None) -> Path | None:
    """Return the checkpoint that a run goes on from, or make room for it. given: goes before `resume_from_checkpoint`.

    Raises InputError for a checkpoint that is not whole or is of another run, and for a folder that holds a training.
    """
    resume = checkpoint_to_resume(args, given)
    if resume:
        check_same(resume, record)
        return resume
    check_free(args)
    if args.process_index == 0:
        clear(Path(args.output_dir))
    return None


def wanted(args: MMIConfig, given: str | bool | None = None) -> str:
    """Return what is to be gone on from, as `checkpoint_to_resume` reads it; nothing for a training of its own."""
    named = str((args.resume_from_checkpoint if given is None else given) or "false")
    return "" if named.lower() == "false" else named


def checkpoint_to_resume(args: MMIConfig, given: str | bool | None = None) -> Path | None:
    """Return the checkpoint that `given`, or else `resume_from_checkpoint`, means: that of a path, or the last whole
    one of the run.

    Those that are not whole are named on stderr. Raises InputError when there is no whole one.
    """
    named = wanted(args, given)
    if not named:
        return None
    if named.lower() != "true":
        if (reason := flaw(Path(named))) is not None:
            raise InputError(f"{FIELD}: no whole checkpoint in {named}: {reason}")
        return Path(named)
    found = sorted(_checkpoints(Path(args.output_dir)), reverse=True)
    for _, folder in found:
        reason = flaw(folder)
        if reason is None:
            return folder
        if args.process_index == 0:
            print(f"{folder}: not whole, so not gone on from: {plain(reason)}", file=sys.stderr)
    whole = "whole " if found else ""
    raise InputError(f"{FIELD}: no {whole}checkpoint in {args.output_dir}")


def check_free(args: MMIConfig) -> None:
    """Raise InputError for an output folder with a training, which a new one would mix with, unless it may go."""
    out = Path(args.output_dir)
    finished, last = (out / RECORD).is_file(), last_checkpoint(out)
    if not args.overwrite_output_dir and (finished or last):
        held = "a finished training" if finished else "checkpoints"
        held += "" if last else ", without a checkpoint to go on from"
        onward = "--resume_from_checkpoint true goes on from the last, " if last else ""
        raise InputError(f"field 'output_dir': {out} holds {held}: {onward}--overwrite_output_dir true replaces it")


def clear(folder: Path) -> None:
    """Remove checkpoints and record of an earlier training, which could be taken for this one's."""
    (folder / RECORD).unlink(missing_ok=True)
    for _, checkpoint in list(_checkpoints(folder)):
        shutil.rmtree(checkpoint)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint of a run, if it saved one."""
    return max(_checkpoints(folder), default=(0, None))[1]


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("checkpoint-*"):
        step = path.name.partition("-")[2]
        if step.isdecimal() and path.is_dir():
            yield int(step), path


def check_same(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise InputError that names what of a run's record, or of a part of it, is not that of the checkpoint."""
    then = _read(folder / RECORD)
    lines = list(_differences(then, json.loads(json.dumps(record, default=str))))
    if lines:
        more = f" and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
        raise InputError(f"{FIELD}: {folder} is of another run: {'; '.join(lines[:NAMED])}{more}")


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for part, value in now.items():
        before = then.get(part)
        if part == "seeds":
            continue  # fields, too
        if part == "config":
            yield from _other_fields(before, value)
        elif not isinstance(value, dict) or not isinstance(before, dict):
            if before != value:
                yield f"{part} was {before!r} and is {value!r}"
        else:
            names = (name for name in value | before if before.get(name) != value.get(name))
            yield from (f"{part}: {name} was {before.get(name)!r} and is {value.get(name)!r}" for name in names)


def _other_fields(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    steady = then.get("lr_scheduler_type") == now.get("lr_scheduler_type") == STEADY
    free = FREE | set(LENGTHS) if steady else FREE
    for name in sorted({*then, *now}):
        if name not in free and not name.startswith(FREE_GROUPS) and then.get(name) != now.get(name):
            yield f"field {name!r} was {then.get(name)!r} and is {now.get(name)!r}"
