"""The demonstration: diagnose the base, mitigate, diagnose again; table, demo.json and page."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from mmi_plugin.demo.base import WEIGHTS, base_folder, file_hash
from mmi_plugin.demo.rows import TASKS, TRAINED, VANILLA, Job, Row
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.provenance import versions
from mmi_plugin.report.examples import Example, pick_examples
from mmi_plugin.report.page import write_page
from mmi_plugin.report.table import table
from mmi_plugin.sources import load

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
