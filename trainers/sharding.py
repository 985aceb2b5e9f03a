"""Parts of a model called outside of its forward, where FSDP2, which gathers weights for that alone, shards them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn
from torch.distributed.fsdp import FSDPModule

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shards:
    """FSDP2 modules in whose forward other forward and backward passes run; none where FSDP2 is not used."""

    modules: tuple[FSDPModule, ...]

    def gather(self) -> None:
        """Gather their weights again: the end of a backward pass drops those of all modules."""
        for module in self.modules:
            module.unshard()


def shards_around(model: nn.Module, part: nn.Module) -> Shards:
    """Return those of `model`'s modules that contain `part`, or are it."""
    sharded = (module for module in model.modules() if isinstance(module, FSDPModule))
    return Shards(tuple(module for module in sharded if any(inner is part for inner in module.modules())))


def within_forward(model: nn.Module, work: Callable[[], Result]) -> Result:
    """Return work(), which calls `model` or its parts, run as the forward of `model` (forward redirection)."""
    if not isinstance(model, FSDPModule):
        return work()
    replaced = vars(model).get("forward")

    def restore() -> None:
        if replaced is None:
            vars(model).pop("forward", None)
        else:
            model.forward = replaced

    def forward(*_: Any, **__: Any) -> Result:
        restore()  # work may call the model itself
        return work()

    model.forward = forward
    try:
        return model()
    finally:
        restore()
