"""How often a micro-batch waits for its device, counted on a CPU that stands in for one."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmi_plugin.models import devices, layout
from mmi_plugin.trainers import forward, inner, trainer, vision
from mmi_plugin.trainers.forward import ForwardPass
from tests import training
from tests.test_trainers_inner import STEP

# What has to know numbers before it can go on: on a GPU, each waits for all that was asked of it before.
READS = ("_local_scalar_dense", "nonzero", "bincount", "_unique2", "unique_dim", "masked_select", "equal")
WAITS = 3
"""Of the whole micro-batch: two are LLaVA's own, one asks whether the loss is a number."""


class Waits(TorchDispatchMode):
    """Notes each operation that would wait for a device, where `there` are the tensors that it holds.

    What is computed from something on the device is there, too.
    """

    def __init__(self, there: list[torch.Tensor]) -> None:
        super().__init__()
        self.found: list[str] = []
        self._held: dict[int, Any] = {}
        for tensor in there:
            self.put(tensor)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr():  # an empty tensor has none
            self._held[storage.data_ptr()] = storage  # held, so that no other is put in its place
        return tensor

    def is_there(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(map(self.is_there, inputs)):
            name = func.overloadpacket.__name__
            by_mask = name in ("index", "index_put", "index_put_") and any(
                isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1])
            )
            sent = name == "copy_" and True in args[2:] and not self.is_there(args[0])  # to the host, in its own time
            if name in READS or by_mask:
                where = [f for f in traceback.extract_stack() if "site-packages/torch" not in f.filename][-2]
                self.found.append(f"{name} at {Path(where.filename).name}:{where.lineno}")
            for leaf in () if sent else tree_leaves(made):
                if isinstance(leaf, torch.Tensor):
                    self.put(leaf)
        return made


def waits(run: trainer.MMITrainer, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Where a micro-batch waits, and where in the passes of the model with the inner loop alone."""
    batch = run.data_collator(training.step_groups(run))
    batch = {n: v.clone() if torch.is_tensor(v) else v for n, v in batch.items()}  # the plan's own stay on the host
    there = [*run.model.parameters(), *run.model.buffers(), *(v for v in batch.values() if torch.is_tensor(v))]
    mode = Waits(there)

    def on_device(part: Any, device: torch.device) -> Any:
        moved = devices.replace(part) if not torch.is_tensor(part) else mode.put(part.clone())
        if not torch.is_tensor(part):
            for name in (f.name for f in devices.fields(part)):
                if torch.is_tensor(getattr(part, name)):
                    object.__setattr__(moved, name, mode.put(getattr(part, name).clone()))
        return moved

    for module in (forward, inner, trainer, vision):
        monkeypatch.setattr(module, "on_device", on_device)
    monkeypatch.setattr(layout.Layout, "to", lambda self, device: on_device(self, device))
    run_pass = ForwardPass.run
    inside: list[str] = []

    def watched(self: ForwardPass, names: Any) -> Any:
        begun = len(mode.found)
        made = run_pass(self, names)
        inside.extend(mode.found[begun:])
        return made

    monkeypatch.setattr(ForwardPass, "run", watched)
    run.model.train()
    with mode:
        run.compute_loss(run.model, batch).backward()
    return mode.found, inside


def test_a_wait_is_counted() -> None:
    host, there = torch.ones(3), torch.ones(3)
    with Waits([there]) as mode:
        host.sum().item(), host[host > 0], host.nonzero()
        assert mode.found == []
        doubled = there * 2
        doubled.sum().item(), doubled[doubled > 0], (there + host).nonzero(), torch.bincount(there.long())
        host.copy_(there, non_blocking=True)
        host.sum().item()
    assert [name.split()[0] for name in mode.found] == ["_local_scalar_dense", "index", "nonzero", "bincount"]


def test_a_micro_batch_hardly_waits(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training.trainer(training.config(tiny_llava, tmp_path, inner_tokens=100, **STEP))
    whole, inside = waits(run, monkeypatch)
    # LLaVA itself checks twice that features fill their places. On a CPU, noise is drawn inside the mask alone.
    own = [where for where in inside if "modeling_llava" not in where and "import_utils" not in where]
    assert [where for where in own if "noise" not in where] == [] and len(inside) - len(own) == 2
    assert len([where for where in whole if "noise" not in where]) <= WAITS, whole
