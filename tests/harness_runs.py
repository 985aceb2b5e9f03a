"""Run the real command lines, and checkpoints whose answers vary from prompt to prompt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from mmi_plugin.results import Record, TaskResult
from tests import tiny

TASKS = Path(__file__).parents[1] / "tasks"
SCRIPT = str(Path(sys.executable).with_name("lmms_eval"))
OUR_MODEL = ["--model", "mmi_hf"]


def save_varied(folder: Path, seed: int = 0, letters_only: bool = False) -> Path:
    """Save a random LLaVA that answers with text of its own for every prompt, or with letters A to D."""
    tiny.save_llava(folder, seed, spread=0.4)
    if letters_only:
        only_letters(LlavaForConditionalGeneration.from_pretrained(folder), folder)
    return folder


def only_letters(model: PreTrainedModel, folder: Path) -> None:
    """Save `model` in `folder`, which has its tokenizer, so that one of A to D has the highest score in every state.

    All other tokens score 0, and of these four two are the opposite of the other two.
    """
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    head = model.get_output_embeddings()
    one, two = head.weight.data[:2].clone()
    head.weight = torch.nn.Parameter(torch.zeros_like(head.weight))
    for letter, row in zip("ABCD", (one, -one, two, -two), strict=True):
        head.weight.data[vocabulary[letter]] = row
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    model.save_pretrained(folder)


def arguments(checkpoint: Path, tasks: str, out: Path, *more: str, limit: float | None = 40) -> list[str]:
    """Return the flags that every run here has in common."""
    flags = ["--model_args", f"pretrained={checkpoint}", "--tasks", tasks, "--output_path", str(out), "--log_samples"]
    return [*flags, *([] if limit is None else ["--limit", str(limit)]), *more]


def process(command: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command line as a user would, on the CPU and offline."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300, check=False)


def raw_answers(result: TaskResult) -> dict[tuple[str, str], str]:
    """Return (item id, condition) -> the model's text."""
    return {(record.item_id, record.condition): record.raw for record in result.records}


def assert_same_records(found: Sequence[Record], expected: Sequence[Record], rel: float = 1e-5) -> None:
    """Compare all fields; probabilities up to what a batch of other rows rounds differently."""
    for record, other in zip(found, expected, strict=True):
        assert (record.probabilities is None) == (other.probabilities is None)
        assert (record.probabilities or ()) == pytest.approx(other.probabilities or (), rel=rel)
        assert replace(record, probabilities=None) == replace(other, probabilities=None)


def remains(out: Path) -> list[str]:
    """Return the files and hidden folders below `out` that no results file accounts for."""
    dates = {path.name.removesuffix("_results.json") for path in out.glob("*/[!.]*_results.json")}
    known = tuple(f"{date}_{kind}" for date in dates for kind in ("results.json", "samples_"))
    paths = [path for path in out.rglob("*") if path.is_file() or path.name.startswith(".")]
    return sorted(path.name for path in paths if path.name != ".names" and not path.name.startswith(known))
