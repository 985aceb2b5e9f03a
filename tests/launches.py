"""Runs of the launch script in several processes, as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

TRAIN = Path(str(resources.files("mmi_plugin.trainers"))) / "train.py"
# The mixed rows go to micro-batches vqa, image, text, vqa: with two processes and one item each, one
# of them always has a VQA item alone, which nothing attacks, and half of those have no image.
FIELDS: dict[str, Any] = {
    "mix": [1, 1, 2],
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "max_steps": 2,
    "optim": "sgd",  # an Adam step would hide a wrong scale
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "adversary": "pgd",
    "step_rule": "l2",  # a sign would turn rounding into a whole step
    "step_size": 0.3,
    "eps": 0.5,
    "eps_mode": "relative",
    "consistency": "js",
    "consistency_weight": 1e3,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "logging_steps": 1,
}
ALONE = {"gradient_accumulation_steps": 4}  # the same global batch on one process


def write_data(folder: Path, items: int = 6) -> Path:
    """Write a training file whose answers differ in length and whose VQA items have no image at times."""
    generator, rows = np.random.default_rng(0), []
    for i in range(items):
        Image.fromarray(generator.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        options = {"options": ["one", "two"], "answer": ("one", "two")[i % 2]}
        facts = {"facts": {"one": "One is odd.", "two": "Two is even."}, "image": f"{i}.png"}
        rows.append({"id": f"i{i}", "type": "image_heavy", "question": "Which digit?", **options, **facts})
        rows.append({"id": f"t{i}", "type": "text_heavy", "question": f"Which is number {i}?", **options})
    for i in range(2 * items):
        image = {"image": f"{i // 2}.png"} if i % 4 == 0 else {}
        answer = "no" if i % 2 else "well, that is a longer answer"
        rows.append({"id": f"v{i}", "type": "VQA", "question": f"Say {i}?", "answer": answer, **image})
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path


def launch(
    processes: int, cwd: Path, fields: dict[str, Any], environment: dict[str, str] | None = None, script: Path = TRAIN
) -> list[dict[str, float]]:
    """Run the launch script by torchrun; return what it logged. Raises AssertionError with the end of its output."""
    path = cwd / f"{Path(fields['output_dir']).name}.json"
    path.write_text(json.dumps(fields))  # JSON is YAML
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    known = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*torchrun, str(script), "--config", str(path)]
    done = subprocess.run(
        command, cwd=cwd, env={**known, **(environment or {})}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    state = Path(fields["output_dir"]) / "training.json"
    assert state.is_file()
    lines = [line for line in done.stdout.splitlines() if line.startswith("{'loss'")]
    return [{key: float(value) for key, value in json.loads(line.replace("'", '"')).items()} for line in lines]


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a saved model, read by plain transformers."""
    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return dict(model.state_dict())
