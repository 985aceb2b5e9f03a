"""Results and samples in, whole files in their places out, or one line that says why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmms_eval.loggers import EvaluationTracker
from loguru import logger

from mmi_plugin.disk import NotWritten, is_full, writing
from mmi_plugin.results.reading import RESULTS


class ResultsLast(EvaluationTracker):
    """Writes what lmms-eval's tracker does, but the results file last and at once.

    Whoever finds one finds all its samples.
    """

    date: str | None = None
    """The second that is this run's alone, where upstream would take any."""
    stage: Path | None = None
    """A folder of this run alone, on the disk of the results: where they are written until they are whole."""
    _given: dict[str, Any] | None = None

    def save_results_aggregated(self, results: dict[str, Any], samples: Any, datetime_str: str) -> None:
        results["date"] = datetime_str = self.date or datetime_str
        self.date_id = datetime_str.replace(":", "-")
        self._given = {"results": results, "samples": samples, "datetime_str": datetime_str}
        if self.push_results_to_hub or not self.output_path:
            self.publish()

    def save_results_samples(self, task_name: str, samples: Any) -> None:
        if not self.output_path:
            return super().save_results_samples(task_name, samples)
        with self._beside(f"the samples of {task_name}") as unfinished:
            super().save_results_samples(task_name, samples)
            whole = sum(path.read_bytes().count(b"\n") for path in unfinished.rglob("*.jsonl")) == len(samples)
            _check_whole(whole)

    def publish(self) -> None:
        """Write the results file, if there is one to write."""
        given, self._given = self._given, None
        if given is None:
            return
        if not self.output_path:
            return super().save_results_aggregated(**given)
        with self._beside("the results") as unfinished:
            super().save_results_aggregated(**given)
            _check_whole(any(_is_json(path) for path in unfinished.rglob(f"*{RESULTS}")))

    @contextmanager
    def _beside(self, what: str) -> Iterator[Path]:
        """Within, files are written in a folder of its own, from where they move to their place at the end.

        Raises NotWritten where upstream, which only warns, could not write them.
        """
        final, said = self.output_path, []
        folder = Path(final, self.general_config_tracker.model_name_sanitized)
        sink = logger.add(said.append, level="INFO", format="{message}", filter="lmms_eval.loggers")
        try:
            with writing(folder, what):
                folder.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(prefix=".unfinished-", dir=self.stage or folder) as unfinished:
                    self.output_path = unfinished
                    try:
                        yield Path(unfinished)
                    except _Torn as torn:
                        full = is_full(folder, "".join(said))
                        reason = "no space left on the disk" if full else str(said[-1]).strip() if said else "torn"
                        raise NotWritten(f"{folder}: {what} cannot be written: {reason}") from torn
                    for path in sorted(Path(unfinished).rglob(f"{self.date_id}_*")):
                        path.replace(folder / path.name)
        finally:
            self.output_path = final
            logger.remove(sink)


class _Torn(Exception):
    """A file is not whole."""


def _check_whole(whole: bool) -> None:
    if not whole:
        raise _Torn


def _is_json(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes()))
    except ValueError:
        return False
