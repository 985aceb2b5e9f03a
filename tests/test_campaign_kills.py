"""30 evaluations and 15 trainings ended at random moments and gone on with: what comes out is what was never ended."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmi_plugin.results.runs import read_run
from tests.campaign_runs import ENDS
from tests.harness_runs import assert_same_records, remains

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def ended(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what became of each run, as tests/campaign_runs.py says it."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "tests.campaign_runs", name, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=3500)
    assert done.returncode == 0, done.stderr[-3000:]
    yield from map(json.loads, done.stdout.splitlines())


def check_end(run: dict[str, Any], kept: str) -> None:
    """Check how a run ended, and what it said then if it could say anything."""
    expected = {"moment": -9, "change": -9, "write": -25, "SIGTERM": 128 + 15, "SIGINT": 128 + 2}
    assert run["status"] == expected[run["how"]]
    assert not run["torn"]
    if run["how"].startswith("SIG"):
        lines = [line for line in run["said"].splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in run["said"]
        assert lines[0].startswith(f"error: stopped by {'Ctrl-C' if run['how'] == 'SIGINT' else run['how']}")
        assert re.search(kept, lines[0])
    assert run["again"] == 0 and "Traceback" not in run["then"]


def same_records(out: Path, whole: Path) -> None:
    found, expected = read_run(out), read_run(whole)
    assert found.keys() == expected.keys() and len(found) == 3
    for task, result in expected.items():
        assert_same_records(found[task].records, result.records, rel=1e-4)  # logits are rounded at 1e-5
        assert found[task].numbers == pytest.approx(result.numbers, nan_ok=True)
    assert not remains(out)


def same_weights(out: Path, whole: Path) -> None:
    files = [path.relative_to(whole) for path in whole.rglob("*.safetensors")]
    assert len(files) == 3  # at the end, and in two checkpoints
    for path in files:
        assert (out / path).read_bytes() == (whole / path).read_bytes(), path
    found, expected = (json.loads((folder / "training.json").read_text()) for folder in (out, whole))
    assert [found[part] for part in ("seeds", "data", "start")] == [
        expected[part] for part in ("seeds", "data", "start")
    ]
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize(
    ("name", "number", "compare", "kept"),
    [("evaluations", 30, same_records, "answer|anything|results"), ("trainings", 15, same_weights, "checkpoint")],
    ids=["evaluations", "trainings"],
)
def test_what_is_ended_and_gone_on_with_is_what_was_never_ended(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    number: int,
    compare: Callable[[Path, Path], None],
    kept: str,
) -> None:
    tried, held, faults = Counter(), Counter(), []
    for run in ended(name, tmp_path):
        tried[run["how"]] += 1
        try:
            check_end(run, kept)
            compare(Path(run["out"]), Path(run["whole"]))
            held[run["how"]] += 1
        except (AssertionError, ValueError, OSError) as fault:
            faults.append(f"{run['how']} at {run['where']}, {run['out']}: {fault}")
    with capsys.disabled():
        print(f"\n{name}:", ", ".join(f"{how} {held[how]} of {tried[how]}" for how in tried))
    assert tried == ENDS[name] and sum(tried.values()) == number
    assert not faults, "\n".join(faults)
