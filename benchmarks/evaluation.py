"""How much sharing images saves: `mmi_hf` against lmms-eval's own `llava_hf`, one row at a time.

    python -m benchmarks.evaluation [--device cuda --shape 7b] [--items 4 20] [--batch_size 16] [--repeat 1] ...

Both answer the same items through lmms-eval's command line with the same random LLaVA: `small` has 100 M
parameters, `7b` is LLaVA-1.5-7B's shape in bf16; both 576 image tokens. Each run is a process of its own. Prints
prompts a second by the clock and by the process's own CPU time, which others on the machine disturb less, the least of
`--repeat` runs that take turns; FLOPs, peak memory (of the device, or what the process ever held), and whether the
answers agree. `--items`: image-heavy and text-heavy items. An answer of 2 tokens is a letter and its end.
`--model_args`: more of them for mmi_hf, as deterministic=True.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import yaml
from lmms_eval.models import get_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaConfig, LlavaForConditionalGeneration

from benchmarks.base.architecture import build_model, build_processor, build_tokenizer
from mmi_plugin.conditions import get
from mmi_plugin.harness import tasks_folder
from mmi_plugin.harness.launcher import main as lmms_eval
from mmi_plugin.item import user_text
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


ITEMS = {"small": (4, 20), "7b": (24, 40)}
BATCH = {"small": "16", "7b": "64"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--shape", choices=sorted(ITEMS), default="small")
    parser.add_argument("--items", type=int, nargs=2, metavar=("IMAGE_HEAVY", "TEXT_HEAVY"))
    parser.add_argument("--batch_size", help="of mmi_hf: a number or auto")
    parser.add_argument("--model_args", default="", help="of mmi_hf")
    parser.add_argument("--dtype", default="auto", help="of both models: auto (bf16 on a GPU) or float32")
    parser.add_argument("--max_new_tokens", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", choices=sorted(TASKS), nargs="+", default=list(TASKS))
    chosen = parser.parse_args(arguments)
    chosen.batch_size = chosen.batch_size or BATCH[chosen.shape]
    chosen.items = dict(zip(TASKS, chosen.items or ITEMS[chosen.shape], strict=True))
    with TemporaryDirectory() as folder:
        work = Path(folder)
        parameters = apart(save_model, work / "model", chosen)
        card = f", {torch.cuda.get_device_name()}" if chosen.device == "cuda" else ""
        print(
            f"{parameters / 1e6:.0f} M parameters, {torch.get_num_threads()} threads{card}, torch {torch.__version__}"
        )
        equal = True
        for task in chosen.only:
            save_task(work / "tasks", task)
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
            for turn in range(chosen.repeat):
                for name in MODELS:
                    runs[name].append(apart(run, work / str(turn), name, task, chosen))
            equal &= report(task, *(least(runs[name]) for name in MODELS))
    # In half precision an answer can depend on its batch.
    return 0 if equal or (chosen.device == "cuda" and chosen.dtype != "float32") else 1


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return function(*arguments), called in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def least(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first run with the least time of all."""
    return runs[0] | {key: min(one[key] for one in runs) for key in ("seconds", "cpu")}


def save_model(folder: Path, chosen: argparse.Namespace) -> int:
    """Save the checkpoint and return how many parameters it has."""
    torch.manual_seed(0)
    texts = []
    for task in TASKS.values():
        bench = load(task["source"], "train")
        rows = [get(name)(item, 0, bench.pools) for item in bench.items[:50] for name in task["conditions"]]
        texts += map(user_text, rows)
    tokenizer = build_tokenizer(texts, 4000)
    if chosen.shape == "small":
        model = build_model(tokenizer, 336, 14, vision=(320, 6, 5), text=(768, 14, 12), max_length=2048)
    else:
        model = build_7b(build_model(tokenizer, 336, 14, (32, 2, 2), (32, 1, 2), 2048).config, chosen.device)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)  # answers that vary with the prompt
    model.save_pretrained(folder)
    build_processor(tokenizer, 336, 14).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def build_7b(config: LlavaConfig, device: str) -> LlavaForConditionalGeneration:
    """Return a model of LLaVA-1.5-7B's shape with fresh weights, in bf16; config: of a small one."""
    config.text_config.update(
        {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32}
        | {"head_dim": 128, "intermediate_size": 11008, "vocab_size": 32064, "initializer_range": 4096**-0.5}
    )
    config.vision_config.update(
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        | {"projection_dim": 768}
    )
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def save_task(folder: Path, name: str) -> None:
    """Write a task of the embedded benchmark into `folder`."""
    folder.mkdir(exist_ok=True)
    for file in ("_mmi_base", "utils.py"):
        shutil.copy(Path(tasks_folder(), file), folder)
    task = {"include": "_mmi_base", "task": f"benchmark_{name}", "dataset_kwargs": TASKS[name]}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def run(work: Path, name: str, task: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Evaluate and return what the model's `generate_until` took, and the answers."""
    owner = get_model(MODELS[name])
    measured: dict[str, Any] = {}
    answer = owner.generate_until

    def watched(self: Any, requests: Sequence[Any]) -> Any:
        # Counting takes a while on the host for each operation, for which a CPU does not wait, but a GPU does.
        counter = FlopCounterMode(display=False) if chosen.device == "cpu" else nullcontext()
        start, used = time.perf_counter(), time.process_time()
        with counter:
            answers = answer(self, requests)
        measured.update(seconds=time.perf_counter() - start, cpu=time.process_time() - used, prompts=len(requests))
        measured["flops"] = counter.get_total_flops() if chosen.device == "cpu" else None
        on_device = chosen.device != "cpu"
        measured["memory"] = torch.cuda.max_memory_allocated() if on_device else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
        return answers

    model = f"pretrained={work.parent / 'model'},dtype={chosen.dtype}"
    options = model + (f",device_map={chosen.device}" if name == "stock" else f",{chosen.model_args}".rstrip(","))
    command = ["--model", MODELS[name], "--model_args", options, "--include_path", str(work.parent / "tasks")]
    limit = chosen.items[task] * len(TASKS[task]["conditions"])
    command += ["--tasks", f"benchmark_{task}", "--limit", str(limit), "--log_samples", "--device", chosen.device]
    command += ["--batch_size", chosen.batch_size if name == "ours" else "1"]
    command += ["--gen_kwargs", f"max_new_tokens={chosen.max_new_tokens}", "--output_path", str(work / name / task)]
    with patch.object(owner, "generate_until", watched), redirect_stdout(StringIO()):
        if lmms_eval(command):
            raise SystemExit(f"{name} failed on {task}")
    records = read_run(work / name / task)[f"benchmark_{task}"].records
    return {**measured, "answers": {(record.item_id, record.condition): record.raw for record in records}}


def report(task: str, stock: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Print the comparison and return whether the answers agree."""
    for name, measured in (("stock", stock), ("ours", ours)):
        rate = measured["prompts"] / measured["seconds"]
        counted = f"{measured['flops'] / 1e12:8.3f} TFLOP " if measured["flops"] else ""
        used = f"{measured['cpu']:8.1f} s of CPU {counted}{measured['memory'] / 1e9:6.2f} GB"
        print(f"{task:12} {name:6} {measured['prompts']:4} prompts {rate:7.2f}/s {used}")
    faster, less = (stock[key] / ours[key] for key in ("seconds", "cpu"))
    fewer = f", {stock['flops'] / ours['flops']:.2f} times fewer FLOPs" if ours["flops"] else ""
    print(f"{task:12} {faster:.2f} times as fast, {less:.2f} times less CPU time{fewer}")
    different = [key for key, raw in stock["answers"].items() if ours["answers"].get(key) != raw]
    total, distinct = len(stock["answers"]), len(set(stock["answers"].values()))
    print(f"{task:12} {total - len(different)} of {total} answers are equal, {distinct} distinct", flush=True)
    return not different


if __name__ == "__main__":
    sys.exit(main())
