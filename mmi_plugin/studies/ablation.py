"""`mmi sweep-train`: a config with one field changed at a time, trained over seeds; sweep.json, document and figure."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mmi_plugin.conditions import get
from mmi_plugin.cores import cores
from mmi_plugin.documents import documents
from mmi_plugin.errors import InputError, complain
from mmi_plugin.files import file_hash, versions, write_whole
from mmi_plugin.report.figures import save_figures
from mmi_plugin.results import Record
from mmi_plugin.results.measures import task_numbers
from mmi_plugin.studies.analysis import Trial, analyse
from mmi_plugin.studies.demo import TASKS, VALIDATION, WEIGHTS, base_folder, benchmark, numbers_of
from mmi_plugin.studies.document import TITLE, Made, document, sweep_figure
from mmi_plugin.studies.jobs import Job, make_all, offline
from mmi_plugin.studies.plan import AXES, Plan, Setting, make_plan, parsed, read_axes
from mmi_plugin.trainers.named import find_config

SEED = 0  # of the conditions, as in the tasks
BATCH_SIZE = 32
_QUIET = ("--report_to", "none", "--disable_tqdm", "true")


@dataclass(frozen=True)
class Common:
    """Everything that the trials of an ablation have in common. Raises InputError for a base without weights."""

    config: Path
    fields: tuple[str, ...]
    base: Path
    out: Path
    limit: int | None = None
    asks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.base / WEIGHTS).is_file():
            raise InputError(f"field 'model_name_or_path': {self.base / WEIGHTS} is missing")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What decides every trial beside its setting and seed."""
        benches = {f"{task}/{split}": benchmark(task, split) for task in TASKS for split in ("train", VALIDATION)}
        return {
            "base": file_hash(self.base / WEIGHTS),
            "config": file_hash(self.config),
            "options": list(self.fields),
            "data": {name: bench.digest(bench.conditions, SEED) for name, bench in benches.items()},
            "limit": self.limit,
            "versions": versions(),
            **({"asks": list(self.asks)} if self.asks else {}),
        }

    def job(self, setting: Setting, seed: int) -> Job:
        stem = f"{setting.name.replace(':', '-')}-{seed}"
        given = ["--config", str(self.config), "--model_name_or_path", str(self.base), *_QUIET, *self.fields]
        arguments = {
            "fields": [*given, *setting.argv, "--seed", str(seed)] if setting.trained else None,
            "base": str(self.base),
            "work": str(self.out / "work" / stem),
            "limit": self.limit,
            "asks": list(self.asks),
        }
        key = {**self.provenance, "setting": setting.name, "seed": seed}
        file, log = self.out / "runs" / f"{stem}.json", self.out / "logs" / f"{stem}.log"
        return Job(f"{setting.name}, seed {seed}", f"{__name__}:train_and_ask", arguments, file, key, log)


def train_and_ask(
    fields: Sequence[str] | None, base: str, work: str, limit: int | None, asks: Sequence[str] = ()
) -> dict[str, Any]:
    """Train with `fields` of the trainer's command line below `work`, or take `base` as it is, and ask the benchmark,
    under `asks`, too.

    Returns answers by task, the last logged attack strength (None without an adversary) and seconds.
    """
    start, folder, strength = time.perf_counter(), Path(work), None
    if fields is not None:
        from mmi_plugin.trainers.run import parse, train

        if folder.exists():
            shutil.rmtree(folder)
        trainer = train(parse([*fields, "--output_dir", str(folder)]))
        strengths = [log["attack_strength"] for log in trainer.state.log_history if "attack_strength" in log]
        strength = strengths[-1] if strengths else None
    answers = ask_checkpoint(folder if fields is not None else Path(base), limit, asks)
    if fields is not None:
        shutil.rmtree(folder)
    return {"answers": answers, "attack_strength": strength, "seconds": round(time.perf_counter() - start, 1)}


def ask_checkpoint(
    folder: Path, limit: int | None, asks: Sequence[str] = (), split: str = VALIDATION
) -> dict[str, dict[str, Any]]:
    """Return by task what a checkpoint answers to the first `limit` items of a split under all conditions, and those of
    `asks` that its family has, greedily.

    JSON: `items` (ids), `gold` (letters) and, by condition, `parsed` (letters or None), in one order.
    """
    import torch

    from mmi_plugin.models.evaluate import SETTINGS, evaluate
    from mmi_plugin.models.load import load_model, load_processor

    model, processor = load_model(str(folder), dtype=torch.float32), load_processor(str(folder))
    found = {}
    for task in TASKS:
        bench = benchmark(task, split)
        more = [name for name in asks if bench.family in get(name).families and name not in bench.conditions]
        asked = documents(bench, (*bench.conditions, *more), SEED, limit)
        found[task] = _answers(evaluate(model, processor, asked, SETTINGS, BATCH_SIZE))
    return found


def _answers(records: Sequence[Record]) -> dict[str, Any]:
    gold = {record.item_id: record.gold for record in records}
    parsed: dict[str, list[str | None]] = {}
    for record in records:
        parsed.setdefault(record.condition, []).append(record.parsed)
    return {"items": list(gold), "gold": list(gold.values()), "parsed": parsed}


def run(
    config: Path,
    fields: Sequence[str],
    axes: Path | None,
    out: Path,
    seeds: int,
    only: Sequence[str] | None = None,
    docs: Path | None = None,
    limit: int | None = None,
    workers: int | None = None,
    title: str | None = None,
    command: str = "",
) -> int:
    """Make the trials that are missing, write sweep.json, and unless one failed document and figure.

    `fields` of the trainer's command line go to every training; `command`: what was typed, for the document, whose
    head is `title`.
    Returns 1 when a trial failed. Raises InputError for bad input.
    """
    config = find_config(str(config))
    given = ["--config", str(config), *fields]
    plan = make_plan(read_axes(find_config(str(axes or AXES), "ablation", "--axes")), given, only)
    base = parsed(given).model_name_or_path
    common = Common(config, tuple(fields), Path(base) if base else base_folder(), out, limit, plan.asks)
    for name in plan.left_out:
        print(f"axis {name!r} is left out: it changes nothing in this config", file=sys.stderr)
    wanted = [(one, seed) for seed in range(seeds) for one in plan.settings if one.trained or seed == 0]
    made, failed = make_all([common.job(*one) for one in wanted], workers or cores(), offline(threads=1))
    trials = [Trial(*wanted[index], **made[index]) for index in sorted(made)]
    _write(Made(command, str(config), seeds, common.provenance, title or TITLE), plan, trials, failed, out, docs)
    for title, error in failed.items():
        complain(f"{title}: {error}")
    return 1 if failed else 0


def _write(
    made: Made, plan: Plan, trials: Sequence[Trial], failed: Mapping[str, str], out: Path, docs: Path | None
) -> None:
    analysis = analyse(trials)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "command": made.command,
        "seeds": made.seeds,
        **made.provenance,
        "fields": yaml.safe_load(Path(made.config).read_text(encoding="utf-8")),
        "axes": [asdict(axis) for axis in plan.axes],
        "runs": [_as_json(one) for one in trials],
        **analysis.as_json(),
        "failed": failed,
    }
    write_whole(out / "sweep.json", json.dumps(content, indent=1))
    print(f"numbers: {out / 'sweep.json'}")
    if failed or not plan.axes:
        return
    for file in dict.fromkeys([out / "ablations.md", docs or out / "ablations.md"]):
        save_figures({file.stem: sweep_figure(plan.axes, analysis)}, file.parent)
        write_whole(file, document(plan.axes, analysis, trials, made, f"{file.stem}.png"))
        print(f"document: {file}")


def _as_json(trial: Trial) -> dict[str, Any]:
    """Return one trial as `sweep.json` holds it."""
    numbers = {
        task: task_numbers(trial.records(task), benchmark(task).family, trial.conditions(task)) for task in TASKS
    }
    return {
        "setting": trial.setting.name,
        "field": trial.setting.field,
        "value": trial.setting.value,
        "seed": trial.seed,
        **numbers_of(numbers),
        "attack_strength": trial.attack_strength,
        "seconds": trial.seconds,
    }
