"""Answers in, a journal of them out: what a killed run leaves, and a later one goes on from."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, unwrap_generation_output
from lmms_eval.loggers import EvaluationTracker
from lmms_eval.utils import get_datetime_str
from loguru import logger

from mmi_plugin.conditions import FLOOR
from mmi_plugin.disk import locked, writing
from mmi_plugin.documents import from_outside
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import json_hash, versions
from mmi_plugin.harness.compat import Counts, failure_of
from mmi_plugin.harness.flags import is_ours, key_values
from mmi_plugin.harness.published import ResultsLast
from mmi_plugin.models.decode import Decoding
from mmi_plugin.models.load import stamp
from mmi_plugin.results.reading import RESULTS

_CHUNK = 256  # requests given at once to a model that does not report its answers one by one
_SYNC_SECONDS = 5.0  # what a machine that loses power may lose
_SHAPES = {"batch_size", "max_batch_size", "limit", "offset", "requested_limit", "requested_offset", "config"}
_OUTPUT = {"output_path", "log_samples", "verbosity", "show_config", "use_cache", "hf_hub_log_args"}
_SECOND = re.compile(r"\d{8}_\d{6}")
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
        self._tasks, self._cache, self._folder = tasks, cache, folder
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
        with writing(self._folder, "an answer"):
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
            asked = [request.task_name, task.config.metadata["content_hash"], document, settings, read]
            content = json_hash(asked)[:32]
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
    return json_hash([command, stamps, versions(), str(torch.accelerator.current_accelerator())])[:32]


def _open(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
        if file.tell():
            file.write("\n")  # after what a killed process was writing
        return file
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from error


def _read(folder: Path) -> Iterator[tuple[str, GenerationResult]]:
    """Yield (key, answer) of every whole line; the last one of a killed process may be torn."""
    for path in sorted(folder.glob("rank*.jsonl")):
        for line in filter(None, path.read_bytes().splitlines()):
            try:
                entry = json.loads(line)
                counts = entry["counts"] and Counts(**entry["counts"])
                yield entry["key"], GenerationResult(entry["text"], counts or None)
            except (ValueError, KeyError, TypeError):
                logger.warning(f"{path}: a line is not whole; its request is asked again")


@dataclass
class Evaluation:
    """One evaluation of the tasks `own` with the command `args`, which is the first or a later try."""

    args: Namespace
    own: Mapping[str, Any]
    resume: bool
    trackers: list[ResultsLast] = field(default_factory=list)
    journal: Path | None = None
    _done: bool = False
    _held: ExitStack = field(default_factory=ExitStack)

    def tracker(self, **options: Any) -> ResultsLast:
        """Return what writes the results; called in place of lmms-eval's class.

        Raises InputError for an option of `--hf_hub_log_args` that it does not have.
        """
        known = inspect.signature(EvaluationTracker).parameters
        for name in options:
            if name not in known:
                raise InputError(f"--hf_hub_log_args: no option {name!r}: {nearest(name, known)}")
        self.trackers.append(ResultsLast(**options))
        return self.trackers[-1]

    def evaluate(self, theirs: Callable[..., dict[str, Any] | None], **options: Any) -> dict[str, Any] | None:
        """Run lmms-eval's function of this name on the loaded model; called in its place.

        Answers are kept in a journal next to the results, if there is a place for them. The results also name the
        records that failed, and say how the model was asked.
        """
        model = options["lm"]
        self._agree_on_thoughts(model)
        half = getattr(model, "record", {}).get("dtype") in ("bfloat16", "float16")
        if half and not any(FLOOR in task.selection.conditions for task in self.own.values()):
            logger.info("in half precision an answer can depend on its batch: --floor measures how many do")
        if self.args.output_path:
            if is_ours(type(model)):
                model.folder = Path(self.args.output_path)
            # Only now: the model is loaded, so that the commit of a hub id is known.
            self.journal = Path(self.args.output_path) / f".journal-{settings_hash(self.args)}"
            if self.resume and not self.journal.exists():
                logger.warning(f"--resume: no answers of this command in {self.args.output_path}; it starts anew")
            rank, cache = int(os.environ.get("RANK", 0)), options.get("response_cache")
            if rank == 0:
                self._held.enter_context(locked(self.journal, "another evaluation by this command"))
                date = self._claim_second(self.journal)
                for tracker in self.trackers:
                    tracker.date, tracker.stage = date, self.journal
            options["response_cache"] = Journal(self.journal, self.own, rank, self.resume, cache)
        results = theirs(**options)
        if results is not None:
            results["failed"] = [
                {"task": name, "item_id": record.item_id, "condition": record.condition, "failure": record.failure}
                for name, task in self.own.items()
                for record in task.failed
            ]
            results["mmi"] = self._setup(model)
        return results

    def _claim_second(self, journal: Path) -> str:
        """Return the time that names the files of this run, of a second that no other run into the folder has."""
        folder = journal.parent
        with locked(folder, "another evaluation", ".names"):
            while True:
                date = get_datetime_str(self.args.timezone)
                name = date.replace(":", "-")
                if not any(folder.glob(f"*/{name}_*")) and not any(folder.glob(f".journal-*/{name}")):
                    (journal / name).touch()
                    return date
                time.sleep(0.1)

    def _agree_on_thoughts(self, model: Any) -> None:
        """Let our model look for the end of a thought where the tasks do. Raises InputError when these differ."""
        for task in self.own.values():
            task.args = self.args
        tags = {tuple(task.thoughts()) for task in self.own.values()}
        if len(tags) > 1:
            raise InputError("key 'reasoning_tags' differs from task to task: ask for one of them at a time")
        if tags and is_ours(type(model)):
            model.thoughts = tags.pop()

    def _setup(self, model: Any) -> dict[str, Any]:
        """Return how the model was asked: what it says itself, the settings of each task's answers, and what it asks.

        What it took is `run`. It and the first two are empty for models that say nothing, as those of lmms-eval.
        """
        asked = self.own.items() if is_ours(type(model)) else ()
        baseline = getattr(model, "baseline", None)
        by = {} if baseline is None else {"baseline": baseline.to_dict()}
        decoding = {name: {**Decoding.parse(task.config.generation_kwargs).to_dict(), **by} for name, task in asked}
        prompts = getattr(model, "prompts", None)
        tasks = {
            name: {
                "settings": task.selection.materials.to_dict(),
                "content_hash": task.config.metadata["content_hash"],
                "condition_versions": task.config.metadata["condition_versions"],
                "plugins": from_outside(task.selection.source, task.selection.conditions, prompts),
                **({"doubts": task.doubts} if task.doubts else {}),
            }
            for name, task in self.own.items()
        }
        run = getattr(model, "run", {})
        return {"model": getattr(model, "record", {}), "decoding": decoding, "tasks": tasks, "run": run}

    def publish(self) -> None:
        """Write the results file, after all the samples."""
        for tracker in self.trackers:
            tracker.publish()

    def forget(self) -> None:
        """Remove the journal, once the results are known to be whole, and samples of earlier tries that had none."""
        self._done = True
        if self.journal is None or not self.journal.is_dir():
            return
        out = self.journal.parent
        dates = [path.name for path in self.journal.iterdir() if _SECOND.fullmatch(path.name)]  # see _claim_second
        for date in dates:
            if not any(out.glob(f"*/{date}{RESULTS}")):
                for path in out.glob(f"*/{date}_samples_*.jsonl"):
                    path.unlink(missing_ok=True)
        shutil.rmtree(self.journal, ignore_errors=True)

    def close(self) -> None:
        """Let others write the journal."""
        self._held.close()

    def kept(self) -> str:
        """Return what there is to go on from, for someone whose evaluation has ended early."""
        keys = {key for key, _ in _read(self.journal)} if self.journal else ()
        if self._done:
            return "all results are written"
        return f"{len(keys)} answers are kept: the same command with --resume goes on" if keys else "no answer is kept"
