"""Every answer on disk as soon as it is given, so that an evaluation which was killed can go on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, unwrap_generation_output
from loguru import logger

from mmi_plugin.errors import InputError
from mmi_plugin.harness.answer import Counts
from mmi_plugin.harness.failures import failure_of
from mmi_plugin.harness.flags import key_values
from mmi_plugin.models.load import stamp
from mmi_plugin.provenance import versions

_CHUNK = 256  # requests given at once to a model that does not report its answers one by one
_SYNC_SECONDS = 5.0  # what a machine that loses power may lose
_SHAPES = {"batch_size", "max_batch_size", "limit", "offset", "requested_limit", "requested_offset", "config"}
_OUTPUT = {"output_path", "log_samples", "verbosity", "show_config", "use_cache", "hf_hub_log_args"}
_TRACKING = {"wandb_args", "wandb_log_samples", "swanlab_args", "swanlab_log_samples"}


class Journal:
    """The answers to requests of our tasks, one JSON object per line, appended by each rank to a file of its own.

    An answer is found again only by a run of the same command (see `settings_hash`) for a document
    of the same content, so an old journal can do no harm. Failures are not kept. Only with `resume`
    is read what is there. `cache` is lmms-eval's own response cache, if that is in use.
    """

    def __init__(
        self, folder: Path, tasks: Mapping[str, Any], rank: int = 0, resume: bool = False, cache: Any = None
    ) -> None:
        self._tasks, self._cache = tasks, cache
        self._found = dict(_read(folder)) if resume else {}
        self._file = _open(folder / f"rank{rank}.jsonl")
        self._synced = time.monotonic()
        self._open_keys: dict[int, str] = {}

    def execute(self, model: Any, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """Return one answer per request: those found, and those that `model` gives now.

        lmms-eval calls this where it would call its response cache. Raises RuntimeError when the
        model gives another number of answers than it was asked for.
        """
        keys = list(self._keys(requests)) if kind == "generate_until" else [None] * len(requests)
        answers = [self._found.get(key) for key in keys]
        missing = [index for index, answer in enumerate(answers) if answer is None]
        if self._found:
            logger.info(f"--resume: {len(requests) - len(missing)} answers found, {len(missing)} to ask for")
        self._open_keys = {id(requests[index]): keys[index] for index in missing if keys[index]}
        model.set_cache_hook(self)
        step = max(1, len(missing)) if getattr(model, "reports_answers", False) else _CHUNK
        for start in range(0, len(missing), step):
            chunk = missing[start : start + step]
            for index, answer in zip(chunk, self._ask(model, kind, [requests[i] for i in chunk]), strict=True):
                answers[index] = answer
                self.add_partial(kind, requests[index], answer)
        return answers

    def _ask(self, model: Any, kind: str, requests: list[Instance]) -> list[Any]:
        answers = self._cache.execute(model, kind, requests) if self._cache else getattr(model, kind)(requests)
        if len(answers) != len(requests):
            raise RuntimeError(f"the model gave {len(answers)} answers to {len(requests)} requests")
        return answers

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Write one answer, once. Models call it, as lmms-eval's cache hook, when they have one."""
        key = self._open_keys.pop(id(request), None)
        if key is None:
            return
        text, counts = unwrap_generation_output(answer)
        if failure_of(text):
            return
        line = {"key": key, "text": text, "counts": None if counts is None else asdict(counts)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # a killed process loses nothing
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _keys(self, requests: Sequence[Instance]) -> Iterator[str | None]:
        """Yield what identifies each request of ours; None for one of another package's task."""
        seen: Counter[str] = Counter()
        for request in requests:
            task = self._tasks.get(request.task_name)
            if task is None:
                yield None
                continue
            settings = next((argument for argument in request.args if isinstance(argument, dict)), {})
            document = task.test_docs()[request.doc_id]
            read = task.config.reasoning_tags  # on which the probabilities depend
            content = _digest([request.task_name, task.config.metadata["content_hash"], document, settings, read])
            seen[content] += 1  # with --repeats a request occurs several times
            yield f"{content}-{seen[content]}"


def settings_hash(args: Namespace) -> str:
    """Return a name for everything but the documents that decides the answers of a run.

    That is the whole command line but for what only shapes batches, output and the choice of
    items; the contents of every checkpoint among the model's arguments; software and device.
    """
    options = key_values(args, "model_args")
    command = {key: value for key, value in vars(args).items() if key not in _SHAPES | _OUTPUT | _TRACKING}
    stamps = {key: stamp(value, options.get("revision")) for key, value in options.items() if isinstance(value, str)}
    return _digest([command, stamps, versions(), str(torch.accelerator.current_accelerator())])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _open(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        if file.tell() and not _ends_a_line(file):
            file.write(b"\n")
        file.close()
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from error


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _read(folder: Path) -> Iterator[tuple[str, GenerationResult]]:
    """Yield (key, answer) of every whole line; the last one of a killed process may be torn."""
    for path in sorted(folder.glob("rank*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                counts = entry["counts"] and Counts(**entry["counts"])
                yield entry["key"], GenerationResult(entry["text"], counts or None)
            except (ValueError, KeyError, TypeError):
                logger.warning(f"{path}: a line is not whole; its request is asked again")
