"""Means and rates over the steps between two logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Ratio = tuple[torch.Tensor | float, torch.Tensor | float]


class Meter:
    """Adds up numerators and denominators on the device; only a log waits for them.

    Every process adds the same names in the same order; a name whose denominator stays 0 is left out.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: torch.Tensor | None = None
        self._since = time.perf_counter()

    def add(self, ratios: Mapping[str, Ratio], device: torch.device) -> None:
        """Add one batch: name -> (numerator, denominator), scalars."""
        pairs = [torch.stack([torch.as_tensor(x, device=device).detach().float() for x in r]) for r in ratios.values()]
        batch = torch.stack(pairs)
        self._names = tuple(ratios)
        self._sums = batch if self._sums is None else self._sums + batch

    def read(self, reduce: Callable[[torch.Tensor], torch.Tensor], rates: tuple[str, ...]) -> dict[str, float]:
        """Return the means since the last read, and start anew; `rates` are sums per second instead.

        reduce: adds a tensor up over the processes.
        """
        if self._sums is None:
            return {}
        now = time.perf_counter()
        sums = dict(zip(self._names, reduce(self._sums).tolist(), strict=True))
        means = {name: above / below for name, (above, below) in sums.items() if below and name not in rates}
        speeds = {name: sums[name][0] / (now - self._since) for name in rates}
        self._sums, self._since = None, now
        return means | speeds
