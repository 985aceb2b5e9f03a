"""What a run asks of its devices: one GPU for each process, and no float64, which MPS does not have."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.utils import logging

from mmi_plugin.trainers.evaluation import EvaluationCallback
from tests import harness_runs, training


def test_a_process_that_sees_two_gpus_uses_one_and_says_how_to_use_both(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = training.trained(tiny_llava, tmp_path / "one", use_cpu=False)
    logging.warning_once.cache_clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # which may ask for the count
    run = training.trainer(training.config(tiny_llava, tmp_path / "two", use_cpu=False))
    run.train()
    assert not any(isinstance(module, torch.nn.DataParallel) for module in (run.model, run.model_wrapped))
    assert run.args.train_batch_size == run.args.per_device_train_batch_size
    assert training.largest_difference(one, training.weights(run)) == 0.0
    said = [message for message in caplog.messages if "GPUs" in message]
    assert len(said) == 1 and "accelerate launch --num_processes 2 " in said[0]


class Doubles(TorchDispatchMode):
    """Within, notes every operation that makes a tensor in double precision, and the line of code that asked for it.

    The CPU stands in for MPS here: what makes none on it makes none on another device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves(result)
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.double, torch.cdouble) for leaf in leaves):
            callers = [f for f in traceback.extract_stack()[:-1] if "/torch/" not in f.filename]
            self.made.add((str(func), f"{callers[-1].filename}:{callers[-1].lineno}"))
        return result


RUNS: dict[str, dict[str, Any]] = {
    "sign-js": training.OURS,
    "l2-kl": {**training.OURS, "step_rule": "l2", "consistency": "kl"},
    "raw-mse": {**training.OURS, "step_rule": "raw", "consistency": "mse", "eps_mode": "absolute"},
    "noise": {"adversary": "rg"},
    "padded": {**training.OURS, "pack_rows": False, "share_images": False, "answer_logits": False},
    "autocast-lora-asked": {
        **training.OURS,
        "bf16": True,
        "lora_r": 4,
        "eval_tasks": ["mmi_demo_digits"],
        "eval_tasks_items": 1,
        "eval_tasks_steps": 1,
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_makes_no_tensor_in_double_precision(tiny_llava: Path, tmp_path: Path, name: str) -> None:
    run = training.trainer(training.config(tiny_llava, tmp_path, **RUNS[name]))
    EvaluationCallback(run.args).attach(run)
    with Doubles() as doubles:
        run.train()
        assert not doubles.made
        run.model.lm_head.weight.double()
    assert {operation for operation, _ in doubles.made} == {"aten._to_copy.default"}  # it does look


def test_an_evaluation_makes_no_tensor_in_double_precision(tiny_llava: Path, tmp_path: Path) -> None:
    from mmi_plugin.harness.launcher import main  # imports lmms-eval, which most tests do without

    run = harness_runs.arguments(tiny_llava, "mmi_demo*", tmp_path / "out", limit=2)
    with Doubles() as doubles:
        assert main([*harness_runs.OUR_MODEL, *run]) == 0
    assert not doubles.made
