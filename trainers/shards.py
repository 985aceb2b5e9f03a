"""A wrapped model in, what of it FSDP2 and ZeRO-3 keep elsewhere out: how large it is, and all of it at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from mmi_plugin.trainers.compat import gathered, gathered_dtype, partitioned, unshard

STATES = 3
"""Of a weight that is trained: its gradient and the two moments of Adam, which FSDP2's first step makes."""


class Shards:
    """The weights of a decoder and a head, without the table of embeddings, as far as they are sharded.

    model: as wrapped for training, with both in it.
    """

    def __init__(self, model: nn.Module, decoder: nn.Module, head: nn.Module) -> None:
        parts = [*decoder.modules(), *head.modules()]
        sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
        inside = {id(part) for part in parts}
        self._around = [module for module in sharded if any(part is decoder for part in module.modules())]
        self._inside = [m for m in sharded if id(m) in inside and all(m is not one for one in self._around)]
        own = (p for part in parts if not isinstance(part, nn.Embedding) for p in part.parameters(recurse=False))
        self._weights = list({id(weight): weight for weight in own}.values())
        self._partitioned, self._model = partitioned(self._weights), model

    def __bool__(self) -> bool:
        return bool(self._around or self._inside or self._partitioned)

    @property
    def size(self) -> int:
        """How many bytes they take when all of them are here."""
        half = next(map(gathered_dtype, [*self._around, *self._inside]), None)
        sizes = ((getattr(w, "ds_numel", w.numel()), (half or w.dtype).itemsize) for w in self._weights)
        return sum(number * each for number, each in sizes)

    @property
    def later(self) -> int:
        """How many bytes the first optimizer step will take on this process."""
        if not self._around:
            return 0
        trained = (weight for weight in self._model.parameters() if weight.requires_grad)
        return STATES * sum(w.numel() * w.dtype.itemsize for w in trained) // torch.distributed.get_world_size()

    def gather(self) -> None:
        """Gather what FSDP2 shards around the decoder: it does so for a module's own forward alone, and drops those of
        all modules at the end of every backward pass, also of one inside a forward."""
        for module in self._around:
            unshard(module)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, all of them are here, gathered once, whatever passes come."""
        with gathered([*self._around, *self._inside], self._partitioned):
            yield
        self.gather()
