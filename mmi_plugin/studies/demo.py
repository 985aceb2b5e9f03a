"""`mmi demo`: diagnose the base, mitigate, diagnose again; table, demo.json and page."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import IO, Any

import yaml
from tqdm import tqdm

import mmi_plugin.configs
import mmi_plugin.trainers
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import versions
from mmi_plugin.report.examples import Example, pick_examples
from mmi_plugin.report.page import write_page
from mmi_plugin.report.table import table
from mmi_plugin.results import Summary, summarise
from mmi_plugin.results.files import TaskResult, read_run
from mmi_plugin.sources import load

WEIGHTS = "model.safetensors"


def base_folder() -> Path:
    """Return the folder of the shipped checkpoint. Raises InputError where it is missing."""
    folder = Path(str(resources.files("mmi_plugin.studies"))) / "base"
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS}: missing; build it with `python -m benchmarks.base.build`")
    return folder


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_BAR = re.compile(r"(\d+)/(\d+) \[[^\]]*\]")


class CommandFailed(RuntimeError):
    """A command of the demonstration ended with another status than 0."""


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that works offline, with so many threads."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run(command: Sequence[str], log: Path, title: str, threads: int, show: bool) -> None:
    """Run `command` with all output in `log`; with `show`, repeat its progress bar on stderr.

    Raises CommandFailed that names the log and repeats the command's last line.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file, _started(command, environment(threads)) as process:
        assert process.stdout is not None
        for chunk in _pieces(process.stdout):
            file.write(chunk)
            bar = _BAR.search(chunk.decode(errors="replace"))
            if show and bar:
                print(f"\r{title}: {bar.group(0)}\033[K", end="", file=sys.stderr, flush=True)
    if show:
        print("\r\033[K", end="", file=sys.stderr)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise CommandFailed(f"{title} failed with status {process.returncode}: {lines[-1]} (log: {log})")


def _started(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(list(command), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what a stream gives, cut at line ends and at the carriage returns of progress bars."""
    held = b""
    while chunk := stream.read1(4096):
        *done, held = re.split(rb"(?<=[\r\n])", held + chunk)
        yield from done
    if held:
        yield held


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


DEFAULT_ROWS = ("ours",)


def demo(
    out: Path,
    rows: Sequence[str],
    seeds: int,
    base: Path | None = None,
    train_options: tuple[str, ...] = (),
    evaluate_options: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Make every row, write `out`/demo.json and `out`/report.html, print the table.

    Rows that an earlier run finished with the same base, configuration and versions are kept.
    Raises InputError for an unknown row, CommandFailed when a training or an evaluation fails.
    """
    for name in rows:
        if name not in TRAINED:
            raise InputError(f"unknown row {name!r}: {nearest(name, TRAINED)}")
    base = base or base_folder()
    names = [(VANILLA, 0)] + [(name, seed) for seed in range(seeds) for name in TRAINED if name in rows]
    jobs = [Job(name, seed, base, out, train_options, evaluate_options) for name, seed in names]
    made = _make_all(jobs)
    results = {
        "rows": [asdict(row) for row in made],
        "versions": versions(),
        "config": {job.name: yaml.safe_load(job.config.read_text()) for job in jobs if job.name != VANILLA},
        "hashes": made[0].hashes,
        "base": file_hash(base / WEIGHTS),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    (out / "demo.json").write_text(json.dumps(results, indent=1))
    write_page(results, _examples(jobs), out / "report.html")
    print(table(results["rows"]))
    print(f"report: {out / 'report.html'}")
    return results


def _make_all(jobs: list[Job]) -> list[Row]:
    """Make the rows of `jobs`, one job per core at a time.

    One job alone gets all cores; beside others each gets one, which is faster for a small model, and
    a seed's longest rows, its last, come first, so that no core waits long for the other at the end.
    """
    cores = os.cpu_count() or 1
    workers = min(cores, len(jobs)) if len(jobs) > 2 else 1
    order = sorted(range(len(jobs)), key=lambda i: i if workers == 1 else (jobs[i].seed, -i))
    made: dict[int, Row] = {}
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(jobs[i].make, max(1, cores // workers), workers == 1): i for i in order}
        try:
            for future in tqdm(as_completed(waiting), total=len(jobs), unit="row", disable=workers == 1):
                index = waiting[future]
                made[index] = future.result()
                tqdm.write(f"{jobs[index].name}, seed {jobs[index].seed}: {made[index].seconds:.0f} s", file=sys.stderr)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [made[i] for i in range(len(jobs))]


def _examples(jobs: list[Job]) -> list[Example]:
    """Items of every condition with the answers of the base and of the last named row's first seed."""
    after = next(job for job in reversed(jobs) if job.seed == 0)
    before_results, after_results = jobs[0].results(), after.results()
    found = []
    for task in TASKS:
        benchmark = load(task.removeprefix("mmi_"), "test")
        found += pick_examples(benchmark, before_results[task].records, after_results[task].records)
    return found
