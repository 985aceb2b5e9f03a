"""What grows with the data set, and what must not: memory, and the seconds before the first request or step.

    python benchmarks/scale.py [--items 100 400 1600]
    python benchmarks/scale.py --rows 100000 [--processes 2]

Runs lmms_eval with the shipped base on local data sets of each size: OpenBookQA's schema as jsonl, and a folder
of photographs of 224 px. Prints per run the prompts, the seconds to the first request, those in all, and the peak
memory of the process.

With --rows, starts a training of the shipped base on a made file of so many rows, six of seven of them with a picture
of its own, twice: with nothing known of it, and with all of it checked before. Stops before the first step. Prints
per start and process the seconds and the CPU seconds (user and system, of its helpers, too) for reading, checking
and the record, and the memory (anonymous pages) that the process holds beside what it held with the model loaded:
at most, in bytes a row, and in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import numpy as np
from PIL import Image

from mmi_plugin.studies.demo import base_folder

FIRST = b"Model Responding"  # mmi_hf's progress bar, shown with the first request
TASKS = {"mmi_openbookqa": 6, "mmi_mini_imagenet": 6}  # and their conditions


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100, 400, 1600], help="sizes of the data sets")
    parser.add_argument("--rows", type=int, help="rows of a made training file, for starts of a training")
    parser.add_argument("--processes", type=int, default=2, help="of the training")
    parser.add_argument("--rank", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        return start(Path(options.rank[0]), options.rank[1])
    if options.rows:
        with TemporaryDirectory() as folder:
            return starts(Path(folder), options.rows, options.processes)
    sizes = options.items
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


WORDS = [
    "the",
    "of",
    "picture",
    "shows",
    "small",
    "large",
    "red",
    "animal",
    "near",
    "water",
    "tree",
    "house",
    "person",
    "holding",
    "two",
    "three",
    "under",
    "road",
]
PICTURES = 200  # different ones, each in many files


def write_training(folder: Path, size: int) -> Path:
    """Write a training file: of seven rows three image-heavy, one text-heavy, three VQA, one of these with history."""
    rng, encoded = np.random.default_rng(0), []
    for _ in range(PICTURES):
        file, shape = BytesIO(), tuple(rng.integers(200, 640, 2).tolist())
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        small.resize(shape, Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        encoded.append(file.getvalue())

    def said(count: int) -> str:
        return " ".join(rng.choice(WORDS, count)) + "."

    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for n in range(size):
            kind, row = n % 7, {"id": f"r{n:07d}", "question": said(12), "answer": said(20), "type": "VQA"}
            if kind != 3:
                row["image"] = f"images/{n % 100}/{n}.jpg"
                (folder / row["image"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / row["image"]).write_bytes(encoded[n % PICTURES])
            if kind < 4:
                options = [f"{word} {n + k}" for k, word in enumerate(rng.choice(WORDS, 4))]
                row |= {"type": "text_heavy" if kind == 3 else "image_heavy", "options": options, "answer": options[0]}
            if kind < 3:
                row["facts"] = {option: f"{option} is {said(12)}" for option in options}
            if kind == 6:
                row["history"] = [[said(12), said(20)] for _ in range(2)]
            file.write(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


def starts(folder: Path, size: int, processes: int) -> int:
    """Start a training twice and print what each start took; return the exit status."""
    write_training(folder, size)
    print(f"{'start':8}{'process':>8}{'read s':>9}{'check s':>9}{'record s':>9}{'CPU s':>8}{'peak MiB':>10}", end="")
    print(f"{'B/row':>8}{'end MiB':>9}")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"MMI_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name in ("first", "second"):
        done = subprocess.run(
            [*torchrun, __file__, "--rank", str(folder), name], env=environment, stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        for process in range(processes):
            *seconds, peak, end = json.loads((folder / f"{name}{process}.json").read_text())
            print(f"{name:8}{process:8}" + "".join(f"{value:9.1f}" for value in seconds[:3]), end="")
            print(f"{seconds[3]:8.1f}{peak / 2**20:10.0f}{peak / size:8.0f}{end / 2**20:9.0f}", flush=True)
    return 0


def start(folder: Path, name: str) -> int:
    """Do as a process of a training does before its first step, and write what it took."""
    from mmi_plugin.errors import BadRows
    from mmi_plugin.trainers.config import MMIConfig
    from mmi_plugin.trainers.data import check_rows, load_benchmarks, make_groups
    from mmi_plugin.trainers.record import run_record
    from mmi_plugin.trainers.saving import load_checkpoint
    from mmi_plugin.trainers.trainer import MMITrainer

    args = MMIConfig(
        output_dir=str(folder / "out"), model_name_or_path=str(base_folder()), train_file=str(folder / "rows.jsonl"),
        mix=[2, 2, 4], per_device_train_batch_size=8, num_train_epochs=1, use_cpu=True, report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    bad, (model, processor) = BadRows(), load_checkpoint(args)
    seconds, before, stop, most = [time.perf_counter()], anonymous(), Event(), [0]

    def watch() -> None:
        while not stop.wait(0.05):
            most[0] = max(most[0], anonymous())

    watching, cpu = Thread(target=watch), cpu_seconds()
    watching.start()
    benchmarks = load_benchmarks(args, bad)
    seconds.append(time.perf_counter())
    benchmarks = check_rows(args, benchmarks, processor, bad)
    seconds.append(time.perf_counter())
    run_record(args, benchmarks, bad, processor)
    groups = make_groups(args, benchmarks)
    trainer = MMITrainer(model, args, groups, processing_class=processor)
    next(iter(trainer._sampler))
    seconds.append(time.perf_counter())
    stop.set()
    watching.join()
    took = [after - before for before, after in pairwise(seconds)]
    found = [*took, cpu_seconds() - cpu, most[0] - before, anonymous() - before]
    (folder / f"{name}{args.process_index}.json").write_text(json.dumps(found))
    return 0


def anonymous() -> int:
    """Bytes of memory of this process that no file holds."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    sys.exit(main())
