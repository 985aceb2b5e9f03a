"""What the trainer's tests share: short runs on the tiny checkpoint, and a batch of it."""

from __future__ import annotations

from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmi_plugin.trainers.collator import Batch
from mmi_plugin.trainers.config import MMIConfig, Savings
from mmi_plugin.trainers.data import load_benchmarks, make_groups
from mmi_plugin.trainers.groups import Group, Groups
from mmi_plugin.trainers.saving import load_checkpoint
from mmi_plugin.trainers.trainer import MMITrainer

SAVINGS = tuple(saving.name for saving in fields_of(Savings))
SOURCES = ["demo_digits", "demo_capitals", "demo_arith"]
OURS = {"adversary": "pgd", "step_size": 0.3, "eps": 0.5, "eps_mode": "relative", "consistency": "js"}


def config(checkpoint: Path, output: Path, **fields: Any) -> MMIConfig:
    """A quiet run of two steps on one group of each family. Fields may be single savings, which a user cannot set."""
    defaults: dict[str, Any] = {
        "model_name_or_path": str(checkpoint),
        "output_dir": str(output),
        "sources": SOURCES,
        "mix": [1, 1, 1],
        "per_device_train_batch_size": 3,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 1,
    }
    savings = {name: fields.pop(name) for name in SAVINGS if name in fields}
    args = MMIConfig(**{**defaults, **fields})
    args.savings = replace(args.savings, **savings)
    return args


def groups_of(args: MMIConfig) -> Groups:
    return make_groups(args, load_benchmarks(args))


def trainer(args: MMIConfig) -> MMITrainer:
    groups = groups_of(args)
    model, processor = load_checkpoint(args)
    return MMITrainer(model, args, groups, processing_class=processor)


def step_groups(run: MMITrainer, number: int = 0) -> list[Group]:
    """The groups of one optimizer step."""
    return [run._groups[place] for place in run._sampler.step(number)]


def double(batch: Batch) -> Batch:
    floating = {name for name, value in batch.items() if torch.is_tensor(value) and value.is_floating_point()}
    return {name: value.double() if name in floating else value for name, value in batch.items()}


def weights(run: MMITrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in run.model.state_dict().items()}


def trained(checkpoint: Path, output: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """The weights after a run."""
    run = trainer(config(checkpoint, output, **fields))
    run.train()
    return weights(run)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)
