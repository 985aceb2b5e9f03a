"""One rank of two: its half of a step on a model that FSDP2 shards. Run by torchrun, from test_trainers_fsdp2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmi_plugin.trainers.compat import within_forward
from mmi_plugin.trainers.groups import Group
from mmi_plugin.trainers.inner import Budget
from mmi_plugin.trainers.trainer import MMITrainer
from tests import gathers, training

STEP: dict[str, Any] = {
    "mix": [1, 1, 2],
    "adversary": "pgd",
    "step_rule": "l2",  # a sign would turn rounding into a whole step
    "step_size": 0.3,
    "eps": 0.5,
    "eps_mode": "relative",
    "pgd_steps": 2,
    "consistency": "js",
    "consistency_weight": 1e3,
}

WAYS: dict[str, tuple[int | None, bool | None]] = {  # inner_tokens, inner_gather
    "once": (None, None),
    "each pass": (None, False),
    "once in chunks": (20, None),
    "each pass in chunks": (20, False),
}


def step(run: MMITrainer) -> list[Group]:
    """The groups of the first step, those of VQA last."""
    return sorted(training.step_groups(run), key=lambda group: group.rows[0].family == "vqa")


def gradients(run: MMITrainer, part: slice) -> dict[str, torch.Tensor]:
    """Gradients of the first step on this process's part of its groups; whole tensors where they are sharded."""
    batch = run.data_collator(step(run)[part])
    run.model.train()
    (batch,), counts = run.get_batch_samples(iter([batch]), 1, run.args.device)
    run.compute_loss(run.model, batch, num_items_in_batch=counts).backward()
    found = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    return {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in found.items()}


def hidden(run: MMITrainer) -> torch.Tensor:
    """What the decoder, called outside of the model's own forward, makes of some embeddings."""
    decoder = run.model.get_decoder()
    embeds = torch.linspace(-1, 1, 5 * decoder.config.hidden_size).reshape(1, 5, -1)
    with torch.no_grad():
        return within_forward(run.model, lambda: decoder(inputs_embeds=embeds).last_hidden_state)


def main(checkpoint: Path, out: Path) -> None:
    run = training.trainer(training.config(checkpoint, out, per_device_train_batch_size=2, **STEP))
    assert run.accelerator.num_processes == 2
    for layer in run.model.get_decoder().layers:
        fully_shard(layer)
    fully_shard(run.model)
    rank = dist.get_rank()
    found: dict[str, Any] = {"hidden": hidden(run)}
    for way, budget in WAYS.items():
        run.model.zero_grad()
        run._budget = Budget(*budget)
        with gathers.counted() as counts:
            # The second rank has VQA items alone, which nothing attacks.
            found[way] = gradients(run, slice(2 * rank, 2 * rank + 2))
        found[f"{way}, gathers"] = counts
    if rank == 0:
        torch.save(found, out / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
