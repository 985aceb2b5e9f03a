"""How much sharing images saves: `mmi_hf` against lmms-eval's own `llava_hf`, one row at a time.

    python -m benchmarks.evaluation [--device cuda --shape 7b] [--items 4 20] [--ours batch_size=16] [--repeat 1] ...

Both answer the same items through lmms-eval's command line with the same random LLaVA: `small` has 100 M
parameters, `7b` is LLaVA-1.5-7B's shape in bf16, `thin` as many layers of 32 numbers each; all 576 image tokens. Each
run is a process of its own, which loads its model once. Prints prompts a second by the clock and by the process's own
CPU time, which others on the machine disturb less, the least of `--repeat` runs that take turns; peak memory (of the
device, or what the process ever held: of one task alone with `--only`); on a CPU FLOPs; and whether the answers agree.
`--operations`: instead of FLOPs how many operations on tensors a prompt takes, views aside, with branches that attend
as they do on a GPU. `--items`: image-heavy and text-heavy items. An answer of 2 tokens is a letter and its end.
`--ours`: the runs of mmi_hf, each its arguments with commas between, as batch_size=auto,deterministic=True.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import yaml
from lmms_eval.models import get_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.base.architecture import build_model, build_processor, build_tokenizer
from mmi_plugin.conditions import get
from mmi_plugin.harness import tasks_folder
from mmi_plugin.harness.launcher import main as lmms_eval
from mmi_plugin.item import user_text
from mmi_plugin.models import attention
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

STOCK = "llava_hf", "batch_size=1"
ITEMS = {"small": (4, 20), "thin": (24, 40), "7b": (24, 40)}
BATCH = {"small": "batch_size=16", "thin": "batch_size=64", "7b": "batch_size=64"}
SMALL = {"small": {"vision": (320, 6, 5), "text": (768, 14, 12)}, "thin": {"vision": (32, 24, 2), "text": (32, 32, 2)}}
"""Width, layers and heads."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--shape", choices=sorted(ITEMS), default="small")
    parser.add_argument("--items", type=int, nargs=2, metavar=("IMAGE_HEAVY", "TEXT_HEAVY"))
    parser.add_argument("--alone", action="store_true", help="leave out the stock model")
    parser.add_argument("--operations", action="store_true", help="count those, on a CPU")
    parser.add_argument("--ours", nargs="+", metavar="ARGS", help="runs of mmi_hf: arguments, batch_size among them")
    parser.add_argument("--checkpoint", type=Path, help="keep the model here, or take the one that is")
    parser.add_argument("--dtype", default="auto", help="of both models: auto (bf16 on a GPU) or float32")
    parser.add_argument("--max_new_tokens", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", choices=sorted(TASKS), nargs="+", default=list(TASKS))
    chosen = parser.parse_args(arguments)
    if chosen.operations and chosen.device == "cuda":
        parser.error("--operations: counted on a CPU, without --device cuda")
    chosen.items = dict(zip(TASKS, chosen.items or ITEMS[chosen.shape], strict=True))
    sides = [("mmi_hf", one) for one in chosen.ours or [BATCH[chosen.shape]]]
    sides = sides if chosen.alone else [STOCK, *sides]
    with TemporaryDirectory() as folder:
        work = Path(folder)
        chosen.checkpoint = chosen.checkpoint or work / "model"
        parameters = apart(save_model, chosen.checkpoint, chosen)
        card = f", {torch.cuda.get_device_name()}" if chosen.device == "cuda" else ""
        print(
            f"{parameters / 1e6:.0f} M parameters, {torch.get_num_threads()} threads{card}, torch {torch.__version__}",
            flush=True,
        )
        for task in chosen.only:
            save_task(work / "tasks", task)
        runs: dict[tuple[str, str], list[dict[str, Any]]] = {side: [] for side in sides}
        for turn in range(chosen.repeat):
            for number, side in enumerate(sides):
                runs[side].append(apart(run, work / f"{turn}-{number}", *side, chosen))
        equal = True
        for task in chosen.only:
            best = {side: least([turn[task] for turn in runs[side]]) for side in sides}
            for side, measured in best.items():
                say(task, " ".join(side), measured)
                equal &= side == STOCK or chosen.alone or report(best[STOCK], measured)
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
    """Save the checkpoint, unless there is one, and return how many parameters it has."""
    if (folder / "config.json").exists():
        return parameters_of(folder)
    torch.manual_seed(0)
    texts = []
    for task in TASKS.values():
        bench = load(task["source"], "train")
        rows = [get(name)(item, 0, bench.pools) for item in bench.items[:50] for name in task["conditions"]]
        texts += map(user_text, rows)
    tokenizer = build_tokenizer(texts, 4000)
    if chosen.shape in SMALL:
        model = build_model(tokenizer, 336, 14, **SMALL[chosen.shape], max_length=2048)
    else:
        model = build_7b(build_model(tokenizer, 336, 14, (32, 2, 2), (32, 1, 2), 2048).config, chosen.device)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)  # answers that vary with the prompt
    model.save_pretrained(folder)
    build_processor(tokenizer, 336, 14).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_of(folder: Path) -> int:
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in LlavaForConditionalGeneration(config).parameters())


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


class Operations(TorchDispatchMode):
    """Counts what is asked of tensors, but for views of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        alias = [one.alias_info for one in function._schema.returns]
        self.count += not any(one is not None and not one.is_write for one in alias)
        return function(*args, **(kwargs or {}))


def run(work: Path, name: str, arguments: str, chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Evaluate and return by task what the model's `generate_until` took, and the answers."""
    owner = get_model(name)
    measured: dict[str, Any] = {}
    answer = owner.generate_until

    def watched(self: Any, requests: Sequence[Any]) -> Any:
        # Counting takes a while on the host for each operation, for which a CPU does not wait, but a GPU does.
        gpu = chosen.device == "cuda"
        counting = Operations if chosen.operations else partial(FlopCounterMode, display=False)
        counter = nullcontext() if gpu else counting()
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        start, used = time.perf_counter(), time.process_time()
        with counter:
            answers = answer(self, requests)
        measured.update(seconds=time.perf_counter() - start, cpu=time.process_time() - used, prompts=len(requests))
        if gpu and name == "mmi_hf":  # once more, when all is compiled and compared
            measured["first"], start = measured["seconds"], time.perf_counter()
            answer(self, requests)
            measured["seconds"] = time.perf_counter() - start
        measured["operations"] = counter.count if chosen.operations else None
        measured["flops"] = None if gpu or chosen.operations else counter.get_total_flops()
        measured["memory"] = torch.cuda.max_memory_allocated() if gpu else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
        return answers

    given = dict(argument.split("=", 1) for argument in arguments.split(","))
    batch_size = given.pop("batch_size")
    given |= {"pretrained": str(chosen.checkpoint), "dtype": chosen.dtype}
    given |= {"device_map": chosen.device} if name == "llava_hf" else {}
    create, loaded = owner.create_from_arg_string, []

    def once(*made_of: Any) -> Any:
        """Load the model, for the first task."""
        loaded[:] = loaded or [create(*made_of)]
        return loaded[0]

    found = {}
    for task in chosen.only:
        command = ["--model", name, "--model_args", ",".join("=".join(pair) for pair in given.items())]
        command += ["--include_path", str(work.parent / "tasks"), "--tasks", f"benchmark_{task}"]
        command += ["--limit", str(chosen.items[task] * len(TASKS[task]["conditions"])), "--log_samples"]
        command += ["--batch_size", batch_size, "--device", chosen.device, "--output_path", str(work / task)]
        command += ["--gen_kwargs", f"max_new_tokens={chosen.max_new_tokens}"]
        replaced = patch.multiple(owner, generate_until=watched, create_from_arg_string=once, clean=lambda _: None)
        ways = patch.object(attention, "BY_ITSELF", () if chosen.operations else attention.BY_ITSELF)
        with replaced, ways, redirect_stdout(StringIO()):
            if lmms_eval(command):
                raise SystemExit(f"{name} failed on {task}")
        records = read_run(work / task)[f"benchmark_{task}"].records
        found[task] = {**measured, "answers": {(record.item_id, record.condition): record.raw for record in records}}
    return found


def say(task: str, name: str, measured: dict[str, Any]) -> None:
    counted = f"{measured['flops'] / 1e12:8.3f} TFLOP " if measured["flops"] else ""
    if measured["operations"]:
        counted = f"{measured['operations'] / measured['prompts']:6.0f} operations a prompt "
    once = f" (the first time {measured['first']:.1f} s)" if "first" in measured else ""
    used = f"{measured['cpu']:8.1f} s of CPU {counted}{measured['memory'] / 1e9:6.2f} GB{once}"
    rate = measured["prompts"] / measured["seconds"]
    print(f"{task:12} {name:44} {measured['prompts']:4} prompts {rate:7.2f}/s {used}")


def report(stock: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Print the comparison and return whether the answers agree."""
    faster, less = (stock[key] / ours[key] for key in ("seconds", "cpu"))
    fewer = f", {stock['flops'] / ours['flops']:.2f} times fewer FLOPs" if ours["flops"] else ""
    different = [key for key, raw in stock["answers"].items() if ours["answers"].get(key) != raw]
    total, distinct = len(stock["answers"]), len(set(stock["answers"].values()))
    print(f"{'':12} {faster:.2f} times as fast, {less:.2f} times less CPU time{fewer}; ", end="")
    print(f"{total - len(different)} of {total} answers are equal, {distinct} distinct", flush=True)
    return not different


if __name__ == "__main__":
    sys.exit(main())
