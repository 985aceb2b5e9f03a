"""The runs of a sweep: kept one JSON each, made where they are missing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmi_plugin.errors import InputError
from mmi_plugin.files import versions
from mmi_plugin.results import Summary, summarise
from mmi_plugin.results.measures import Outcomes
from mmi_plugin.studies.ask import Answers, benchmark, digests, records
from mmi_plugin.studies.demo import WEIGHTS, file_hash
from mmi_plugin.studies.plan import Setting
from mmi_plugin.studies.pool import WorkerPool

_QUIET = ("--report_to", "none", "--disable_tqdm", "true")


@dataclass(frozen=True)
class Sweep:
    """Everything that the runs of a sweep have in common. Raises InputError for a base without weights."""

    config: Path
    options: tuple[str, ...]
    base: Path
    out: Path
    limit: int | None = None

    def __post_init__(self) -> None:
        if not (self.base / WEIGHTS).is_file():
            raise InputError(f"field 'model_name_or_path': {self.base / WEIGHTS} is missing")

    @property
    def argv(self) -> list[str]:
        """The command line of the trainer, without what a setting changes."""
        return ["--config", str(self.config), "--model_name_or_path", str(self.base), *_QUIET, *self.options]

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What decides every run beside its setting and seed."""
        return {
            "base": file_hash(self.base / WEIGHTS),
            "config": file_hash(self.config),
            "options": list(self.options),
            "data": digests(),
            "limit": self.limit,
            "versions": versions(),
        }


@dataclass(frozen=True)
class Run:
    """One training and what its checkpoint answered, by task; `attack_strength` as it was last logged."""

    setting: Setting
    seed: int
    answers: dict[str, Answers]
    attack_strength: float | None
    seconds: float

    def outcomes(self, task: str) -> Outcomes:
        bench = benchmark(task)
        return Outcomes.of(task, bench.family, bench.conditions, records(self.answers[task]))

    def summary(self, task: str) -> Summary:
        bench = benchmark(task)
        return summarise(records(self.answers[task]), bench.family, bench.conditions)


@dataclass(frozen=True)
class Job:
    """One run to make, or to take from the file that an earlier sweep left."""

    sweep: Sweep
    setting: Setting
    seed: int

    @property
    def title(self) -> str:
        return f"{self.setting.name}, seed {self.seed}"

    @property
    def stem(self) -> str:
        return f"{self.setting.name.replace(':', '-')}-{self.seed}"

    @property
    def file(self) -> Path:
        return self.sweep.out / "runs" / f"{self.stem}.json"

    @property
    def log(self) -> Path:
        return self.sweep.out / "logs" / f"{self.stem}.log"

    @property
    def key(self) -> dict[str, Any]:
        """Everything that decides the run; a finished one is used again only under the same key."""
        return {**self.sweep.provenance, "setting": self.setting.name, "seed": self.seed}

    def order(self) -> dict[str, Any]:
        """Return what a worker is told."""
        argv = [*self.sweep.argv, *self.setting.argv, "--seed", str(self.seed)] if self.setting.trained else None
        work = self.sweep.out / "work" / self.stem
        paths = {"base": str(self.sweep.base), "work": str(work), "log": str(self.log)}
        return {"argv": argv, "limit": self.sweep.limit, **paths}

    def finished(self) -> Run | None:
        """Return the run of an earlier sweep with the same key, if there is one."""
        if not self.file.is_file():
            return None
        saved = json.loads(self.file.read_text(encoding="utf-8"))
        return Run(self.setting, self.seed, **saved["result"]) if saved["key"] == self.key else None

    def keep(self, result: dict[str, Any]) -> Run:
        """Write a worker's result, whole or not at all, and return the run."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"key": self.key, "result": result}), encoding="utf-8")
        partial.replace(self.file)
        return Run(self.setting, self.seed, **result)


def jobs_of(sweep: Sweep, settings: Sequence[Setting], seeds: int) -> list[Job]:
    """Return every run, seed by seed; the base is asked once."""
    return [Job(sweep, setting, seed) for seed in range(seeds) for setting in settings if setting.trained or seed == 0]


def make_all(jobs: Sequence[Job], workers: int | None) -> tuple[list[Run], dict[str, str]]:
    """Return the runs that are finished, in the order of `jobs`, and of each that failed the error by title.

    One run per core at a time, unless `workers` says how many; a failed run stops no other.
    """
    made = {index: run for index, job in enumerate(jobs) if (run := job.finished())}
    missing = [index for index in range(len(jobs)) if index not in made]
    failed: dict[str, str] = {}
    bar = tqdm(total=len(jobs), initial=len(made), unit="run", disable=not missing)
    with bar, WorkerPool(min(workers or os.cpu_count() or 1, max(1, len(missing)))) as pool:
        for place, reply in pool.replies([jobs[index].order() for index in missing]):
            job = jobs[missing[place]]
            if "error" in reply:
                failed[job.title] = f"{reply['error']} (log: {job.log})"
                tqdm.write(f"failed: {job.title}: {failed[job.title]}", file=sys.stderr)
            else:
                made[missing[place]] = job.keep(reply["result"])
                tqdm.write(f"{job.title}: {reply['result']['seconds']:.0f} s", file=sys.stderr)
            bar.update()
    return [made[index] for index in sorted(made)], failed
