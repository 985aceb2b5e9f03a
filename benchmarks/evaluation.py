"""How much sharing images saves: `mmi_hf` against lmms-eval's own `llava_hf`, one row at a time.

    python benchmarks/evaluation.py [--items 4 20] [--batch_size 16] [--max_new_tokens 2]

Both answer the same items through lmms-eval's command line with the same random LLaVA of 100 M
parameters and 576 image tokens. Prints prompts per second and FLOPs, checks that the answers agree.
`--items`: image-heavy and text-heavy items. An answer of 2 tokens is a letter and its end.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import yaml
from lmms_eval.models import get_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.base.architecture import build_model, build_processor, build_tokenizer
from mmi_plugin.conditions import get
from mmi_plugin.harness.launcher import main as lmms_eval
from mmi_plugin.harness.task_manager import tasks_folder
from mmi_plugin.items import user_text
from mmi_plugin.results.runs import read_run
from mmi_plugin.sources import load

TASKS = {
    "image_heavy": {
        "source": "demo_digits",
        "conditions": [
            *("clean", "unrelated_text", "misleading_text", "ocr_text"),
            *("instructed_unrelated_text", "instructed_misleading_text"),
        ],
    },
    "text_heavy": {
        "source": "demo_capitals",
        "conditions": ["random_pixels", "black", "white", "irrelevant_image"],
        "draws": 2,  # of noise images and of photographs: 6 images in all
    },
}
MODELS = {"stock": "llava_hf", "ours": "mmi_hf"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs=2, default=[4, 20], metavar=("IMAGE_HEAVY", "TEXT_HEAVY"))
    parser.add_argument("--batch_size", type=int, default=16, help="of mmi_hf")
    parser.add_argument("--max_new_tokens", type=int, default=2)
    chosen = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        print(f"{save_model(work / 'model') / 1e6:.0f} M parameters, {torch.get_num_threads()} threads")
        equal = True
        for task, items in zip(TASKS, chosen.items, strict=True):
            save_task(work / "tasks", task)
            runs = {name: run(work, name, task, items, chosen) for name in MODELS}
            equal &= report(task, runs["stock"], runs["ours"])
    return 0 if equal else 1


def save_model(folder: Path) -> int:
    """Save the checkpoint and return how many parameters it has."""
    torch.manual_seed(0)
    texts = []
    for task in TASKS.values():
        bench = load(task["source"], "train")
        rows = [get(name)(item, 0, bench.pools) for item in bench.items[:50] for name in task["conditions"]]
        texts += map(user_text, rows)
    tokenizer = build_tokenizer(texts, 4000)
    model = build_model(tokenizer, 336, 14, vision=(320, 6, 5), text=(768, 14, 12), max_length=2048)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)  # answers that vary with the prompt
    model.save_pretrained(folder)
    build_processor(tokenizer, 336, 14).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def save_task(folder: Path, name: str) -> None:
    """Write a task of the embedded benchmark into `folder`."""
    folder.mkdir(exist_ok=True)
    for file in ("_mmi_base", "utils.py"):
        shutil.copy(Path(tasks_folder(), file), folder)
    task = {"include": "_mmi_base", "task": f"benchmark_{name}", "dataset_kwargs": TASKS[name]}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def run(work: Path, name: str, task: str, items: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Evaluate and return seconds and FLOPs of the model's `generate_until`, and the answers."""
    owner = get_model(MODELS[name])
    measured: dict[str, Any] = {}
    answer = owner.generate_until

    def watched(self: Any, requests: Sequence[Any]) -> Any:
        counter, start = FlopCounterMode(display=False), time.perf_counter()
        with counter:
            answers = answer(self, requests)
        measured.update(seconds=time.perf_counter() - start, flops=counter.get_total_flops(), prompts=len(requests))
        return answers

    options = f"pretrained={work / 'model'}" + (",device_map=cpu" if name == "stock" else "")
    command = [
        "--model",
        MODELS[name],
        "--model_args",
        options,
        "--include_path",
        str(work / "tasks"),
        "--device",
        "cpu",
    ]
    command += ["--tasks", f"benchmark_{task}", "--limit", str(items * len(TASKS[task]["conditions"])), "--log_samples"]
    command += ["--batch_size", str(chosen.batch_size if name == "ours" else 1)]
    command += ["--gen_kwargs", f"max_new_tokens={chosen.max_new_tokens}", "--output_path", str(work / name / task)]
    with patch.object(owner, "generate_until", watched):
        if lmms_eval(command):
            raise SystemExit(f"{name} failed on {task}")
    records = read_run(work / name / task)[f"benchmark_{task}"].records
    return {**measured, "answers": {(record.item_id, record.condition): record.raw for record in records}}


def report(task: str, stock: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Print the comparison and return whether the answers agree."""
    for name, measured in (("stock", stock), ("ours", ours)):
        rate, flops = measured["prompts"] / measured["seconds"], measured["flops"] / 1e12
        print(f"{task:12} {name:6} {measured['prompts']:4} prompts {rate:7.2f}/s {flops:8.3f} TFLOP")
    faster, fewer = stock["seconds"] / ours["seconds"], stock["flops"] / ours["flops"]
    print(f"{task:12} {faster:.2f} times as fast, {fewer:.2f} times fewer FLOPs")
    different = [key for key, raw in stock["answers"].items() if ours["answers"].get(key) != raw]
    total, distinct = len(stock["answers"]), len(set(stock["answers"].values()))
    print(f"{task:12} {total - len(different)} of {total} answers are equal, {distinct} distinct", flush=True)
    return not different


if __name__ == "__main__":
    sys.exit(main())
