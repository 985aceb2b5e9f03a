"""What a killed run leaves behind: a journal to go on from, and no results file that is not whole."""

from __future__ import annotations

import argparse
import copy
import inspect
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmms_eval import evaluator
from lmms_eval.loggers import EvaluationTracker
from loguru import logger

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.harness.flags import is_ours
from mmi_plugin.harness.journal import Journal, settings_hash
from mmi_plugin.harness.results import RESULTS
from mmi_plugin.models.settings import Decoding


@dataclass
class Run:
    """One evaluation of the tasks `own` with the arguments `args`, which is the first or a later try."""

    args: argparse.Namespace
    own: Mapping[str, Any]
    resume: bool
    trackers: list[ResultsLast] = field(default_factory=list)
    journal: Path | None = None
    model: Any = None  # once it is loaded

    def tracker(self, **options: Any) -> ResultsLast:
        """Return what writes the results; called in place of lmms-eval's class.

        Raises InputError for an option of `--hf_hub_log_args` that it does not have.
        """
        known = inspect.signature(EvaluationTracker).parameters
        for name in options:
            if name not in known:
                raise InputError(f"--hf_hub_log_args: no option {name!r}: {nearest(name, known)}")
        self.trackers.append(ResultsLast(self, **options))
        return self.trackers[-1]

    def record(self) -> dict[str, Any]:
        """Return how the model was asked: what it says itself, and the settings of each task's answers.

        Both are empty for models that say nothing, as those of lmms-eval.
        """
        asked = self.own.items() if is_ours(type(self.model)) else ()
        decoding = {name: Decoding.parse(task.config.generation_kwargs).to_dict() for name, task in asked}
        return {"model": getattr(self.model, "record", {}), "decoding": decoding}

    @contextmanager
    def journaled(self) -> Iterator[None]:
        """Keep the answers of the evaluation within in a journal next to its results, if it has a place for them."""
        evaluate, command = evaluator.evaluate, copy.copy(self.args)

        def with_journal(**options: Any) -> Any:
            self.model = options["lm"]
            self._agree_on_thoughts(command)
            if not command.output_path:
                return evaluate(**options)
            # Only now: the model is loaded, so that the commit of a hub id is known.
            self.journal = Path(command.output_path) / f".journal-{settings_hash(command)}"
            if self.resume and not self.journal.exists():
                logger.warning(f"--resume: no answers of this command in {command.output_path}; it starts anew")
            rank = int(os.environ.get("RANK", 0))
            cache = Journal(self.journal, self.own, rank, self.resume, options.get("response_cache"))
            return evaluate(**{**options, "response_cache": cache})

        evaluator.evaluate = with_journal
        try:
            yield
        finally:
            evaluator.evaluate = evaluate

    def _agree_on_thoughts(self, command: argparse.Namespace) -> None:
        """Let our model look for the end of a thought where the tasks do. Raises InputError when these differ."""
        for task in self.own.values():
            task.args = command
        tags = {tuple(task.thoughts()) for task in self.own.values()}
        if len(tags) > 1:
            raise InputError("key 'reasoning_tags' differs from task to task: ask for one of them at a time")
        if tags and is_ours(type(self.model)):
            self.model.thoughts = tags.pop()

    def publish(self) -> None:
        """Write the results file, after all the samples."""
        for tracker in self.trackers:
            tracker.publish()

    def forget(self) -> None:
        """Remove the journal, once the results are known to be whole."""
        if self.journal is not None:
            shutil.rmtree(self.journal, ignore_errors=True)


class ResultsLast(EvaluationTracker):
    """Writes what lmms-eval's tracker does, but the results file last and at once.

    Whoever finds one finds all its samples. It also names the records that failed, and says how the model was asked.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(**options)
        self._run = run
        self._given: dict[str, Any] | None = None

    def save_results_aggregated(self, results: dict[str, Any], samples: Any, datetime_str: str) -> None:
        results["failed"] = [
            {"task": name, "item_id": row.item_id, "condition": row.condition, "failure": row.failure}
            for name, task in self._run.own.items()
            for row in task.failed
        ]
        results["mmi"] = self._run.record()
        self.date_id = datetime_str.replace(":", "-")
        self._given = {"results": results, "samples": samples, "datetime_str": datetime_str}
        if self.push_results_to_hub or not self.output_path:
            self.publish()

    def publish(self) -> None:
        """Write the results file, if there is one to write."""
        given, self._given, final = self._given, None, self.output_path
        if given is None:
            return
        if not final:
            return super().save_results_aggregated(**given)
        folder = Path(final, self.general_config_tracker.model_name_sanitized)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
            self.output_path = unfinished
            super().save_results_aggregated(**given)
            for path in Path(unfinished).rglob(f"*{RESULTS}"):
                path.replace(folder / path.name)
        self.output_path = final
