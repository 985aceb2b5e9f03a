"""One row of the ablation table: a checkpoint, trained or not, and what the harness says of it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mmi_plugin.configs
import mmi_plugin.trainers
from mmi_plugin.demo.base import WEIGHTS, file_hash
from mmi_plugin.demo.command import run
from mmi_plugin.harness.results import TaskResult, read_run
from mmi_plugin.metrics import Summary, summarise
from mmi_plugin.provenance import versions
from mmi_plugin.sources import load

TASKS = ("mmi_demo_digits", "mmi_demo_capitals", "mmi_demo_arith")
VANILLA = "vanilla"
TRAINED = ("d_vqa", "d_aug", "kl", "js", "rg", "adv", "ours")
LAUNCH = ("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


@dataclass(frozen=True)
class Row:
    """What `demo.json` says of one run; shares in [0, 1], keyed by task or task/condition."""

    name: str
    seed: int
    seconds: float
    accuracy: dict[str, float]
    flip_rate: dict[str, float]
    worst_case: dict[str, float]
    worst_case_seen: dict[str, float]
    unparseable: dict[str, float]
    n: dict[str, int]
    hashes: dict[str, str]


@dataclass(frozen=True)
class Job:
    """One row to make below `out`, from the checkpoint `base`; options are added to the two commands."""

    name: str
    seed: int
    base: Path
    out: Path
    train_options: tuple[str, ...] = ()
    evaluate_options: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.out / f"{self.name}-{self.seed}"

    @property
    def config(self) -> Path:
        return Path(next(iter(mmi_plugin.configs.__path__))) / "demo" / f"{self.name}.yaml"

    @property
    def checkpoint(self) -> Path:
        return self.base if self.name == VANILLA else self.folder / "checkpoint"

    @property
    def key(self) -> dict[str, object]:
        """Everything that decides the row; a finished row is used again only under the same key."""
        benches = [load(task.removeprefix("mmi_")) for task in TASKS]
        return {
            "base": file_hash(self.base / WEIGHTS),
            "config": None if self.name == VANILLA else file_hash(self.config),
            "options": [*self.train_options, *self.evaluate_options],
            "data": [bench.digest(bench.conditions, 0) for bench in benches],
            "seed": self.seed,
            "versions": versions(),
        }

    def make(self, threads: int, show: bool) -> Row:
        """Train, evaluate and return the row, or return the finished one of an earlier run."""
        done = self.folder / "row.json"
        key = json.loads(json.dumps(self.key))
        if done.is_file() and (saved := json.loads(done.read_text()))["key"] == key:
            return Row(**saved["row"])
        if self.folder.exists():
            shutil.rmtree(self.folder)
        start = time.perf_counter()
        if self.name != VANILLA:
            self._train(threads, show)
        self._evaluate(threads, show)
        row = as_row(self.name, self.seed, time.perf_counter() - start, self.results())
        done.write_text(json.dumps({"key": key, "row": asdict(row)}, indent=1))
        return row

    def results(self) -> dict[str, TaskResult]:
        return read_run(self.folder / "evaluation")

    def _train(self, threads: int, show: bool) -> None:
        script = Path(next(iter(mmi_plugin.trainers.__path__))) / "train.py"
        command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, str(script)]
        command += ["--config", str(self.config), "--model_name_or_path", str(self.base)]
        command += ["--output_dir", str(self.checkpoint), "--seed", str(self.seed), *self.train_options]
        run(command, self.folder / "train.log", f"train {self.name}", threads, show)

    def _evaluate(self, threads: int, show: bool) -> None:
        command = [sys.executable, "-m", "mmi_plugin.harness", "--model", "mmi_hf", "--tasks", ",".join(TASKS)]
        command += ["--model_args", f"pretrained={self.checkpoint}", "--batch_size", "32", "--log_samples"]
        command += ["--output_path", str(self.folder / "evaluation"), *self.evaluate_options]
        run(command, self.folder / "evaluate.log", f"evaluate {self.name}", threads, show)


def as_row(name: str, seed: int, seconds: float, results: dict[str, TaskResult]) -> Row:
    """Gather the paired metrics of all tasks of one run."""
    summaries = {task: summarise(result.records, result.family, result.conditions) for task, result in results.items()}
    hashes = {task: result.content_hash for task, result in results.items()}
    return Row(name=name, seed=seed, seconds=round(seconds, 1), **numbers_of(summaries), hashes=hashes)


def numbers_of(summaries: Mapping[str, Summary]) -> dict[str, dict[str, Any]]:
    """Return the numbers of a run as JSON files hold them: shares in [0, 1], by task or task/condition."""
    return {
        "accuracy": {f"{task}/{c}": share for task, s in summaries.items() for c, share in s.accuracy.items()},
        "flip_rate": {f"{task}/{c}": share for task, s in summaries.items() for c, share in s.flip_rate.items()},
        "worst_case": {task: s.worst_case for task, s in summaries.items()},
        "worst_case_seen": {task: s.worst_case_seen for task, s in summaries.items()},
        "unparseable": {task: s.unparseable for task, s in summaries.items()},
        "n": {task: s.items for task, s in summaries.items()},
    }
