"""FSDP2 on two gloo processes: the gradients of one process on the same groups, however the inner loop gathers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests import fsdp2_rank, training


def test_sharded_gradients_are_those_of_one_process(tiny_llava: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "tests.fsdp2_rank", str(tiny_llava), str(tmp_path)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    found = torch.load(tmp_path / "found.pt", weights_only=True)

    whole = training.config(tiny_llava, tmp_path / "one", per_device_train_batch_size=4, **fsdp2_rank.STEP)
    run = training.trainer(whole)
    families = [group.rows[0].family for group in fsdp2_rank.step(run)]
    assert families[2:] == ["vqa", "vqa"] != families[:2]
    hidden, expected = fsdp2_rank.hidden(run), fsdp2_rank.gradients(run, slice(0, 4))
    assert (found["hidden"] - hidden).norm() <= 1e-5 * hidden.norm()
    assert len(expected) > 20
    for way in fsdp2_rank.WAYS:
        assert found[way].keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[way][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, (way, name)

    # What is sharded by itself: each layer, and the model around them, which is at hand when the loop begins.
    layers, steps = len(run.model.get_decoder().layers), fsdp2_rank.STEP["pgd_steps"]
    once, each, once_in_chunks, each_in_chunks = ([*found[f"{way}, gathers"]] for way in fsdp2_rank.WAYS)
    assert once == once_in_chunks == [layers]
    # A pass over the prefix, two in a step, after each of which the model around is gathered again, and a prefetch.
    assert each[0] >= layers + steps * (2 * layers + 1)
    assert each_in_chunks[0] >= 2 * each[0]
