"""What a run asks of its devices: one GPU for each process, and no float64, which MPS does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from tests import training


def test_a_process_that_sees_two_gpus_uses_one_and_says_how_to_use_both(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = training.trained(tiny_llava, tmp_path / "one", use_cpu=False)
    logging.warning_once.cache_clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run = training.trainer(training.config(tiny_llava, tmp_path / "two", use_cpu=False))
    run.train()
    assert not any(isinstance(module, torch.nn.DataParallel) for module in (run.model, run.model_wrapped))
    assert run.args.train_batch_size == run.args.per_device_train_batch_size
    assert training.largest_difference(one, training.weights(run)) == 0.0
    said = [message for message in caplog.messages if "GPUs" in message]
    assert len(said) == 1 and "accelerate launch --num_processes 2 " in said[0]
