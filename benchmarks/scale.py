"""What grows with the data set, and what must not: peak memory and the seconds from command to first request.

    python benchmarks/scale.py [--items 100 400 1600]

Runs lmms_eval with the shipped base on local data sets of each size: OpenBookQA's schema as jsonl, and a folder
of photographs of 224 px. Prints per run the prompts, the seconds to the first request, those in all, and the peak
memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from mmi_plugin.studies.demo import base_folder

FIRST = b"Model Responding"  # mmi_hf's progress bar, shown with the first request
TASKS = {"mmi_openbookqa": 6, "mmi_mini_imagenet": 6}  # and their conditions


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100, 400, 1600], help="sizes of the data sets")
    sizes = parser.parse_args(arguments).items
    print(f"{'task':20}{'items':>8}{'prompts':>9}{'first s':>9}{'all s':>8}{'peak MiB':>10}")
    failed = 0
    for task, conditions in TASKS.items():
        for size in sizes:
            with TemporaryDirectory() as folder:
                root = Path(folder)
                write(root / task.removeprefix("mmi_"), task, size)
                status, first, whole, peak = run(root, task)
            failed += status != 0
            print(f"{task:20}{size:8}{size * conditions:9}{first:9.1f}{whole:8.1f}{peak:10.0f}", flush=True)
    return 1 if failed else 0


def write(folder: Path, task: str, size: int) -> None:
    """Write `size` test items of the task."""
    rng = np.random.default_rng(0)
    if task == "mmi_openbookqa":
        folder.mkdir(parents=True)
        letters = ["A", "B", "C", "D"]
        rows = [
            {
                "id": str(n),
                "question_stem": f"Which of these numbers is {n}?",
                "choices": {"text": [str(n + k) for k in range(4)], "label": letters},
                "answerKey": "A",
            }
            for n in range(size)
        ]
        (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return
    names = ["ant", "cup", "dome", "lion", "piano", "vase"]
    for n in range(size):
        place = folder / "test" / names[n % len(names)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(place / f"{n}.jpg")


def run(root: Path, task: str) -> tuple[int, float, float, float]:
    """Return exit status, seconds to the first request and to the end, and the peak memory in MiB."""
    command = [sys.executable, "-m", "mmi_plugin.harness", "--model", "mmi_hf", "--tasks", task, "--log_samples"]
    command += ["--model_args", f"pretrained={base_folder()}", "--batch_size", "16", "--output_path", str(root / "out")]
    command += ["--gen_kwargs", "max_new_tokens=2"]
    environment = os.environ | {"MMI_DATA_ROOT": str(root), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    seen, first = b"", float("nan")
    while piece := process.stderr.read1():
        seen = (seen + piece)[-4096:]
        if first != first and FIRST in seen:
            first = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(seen.decode(errors="replace"), file=sys.stderr)
    return process.returncode, first, time.perf_counter() - start, usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
