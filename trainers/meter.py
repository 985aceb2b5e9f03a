"""What a run measures between two logs: parts of the loss, tokens and arithmetic per second, memory; and a profile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmi_plugin.models.devices import Arithmetic, card_of, peak_flops, peak_memory, reset_peak_memory
from mmi_plugin.models.meter import Trace, pairs_of

Ratio = tuple[torch.Tensor | float, torch.Tensor | float]
RATES = ("rows_per_second", "tokens_per_second", "tflops")


class Meter:
    """Means and rates over the steps between two logs.

    Adds up numerators and denominators where they are, on the device or not; only a log waits for the device. Every
    process adds the same names in the same order; a name whose denominator stays 0 is left out.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._names: tuple[str, ...] = ()
        self._known: torch.Tensor | None = None
        self._sums: dict[tuple[int, int], torch.Tensor] = {}

    def add(self, ratios: Mapping[str, Ratio]) -> None:
        """Add one batch: name -> (numerator, denominator), scalars () or numbers."""
        if self._known is None or self._names != tuple(ratios):
            self._names, self._known, self._sums = tuple(ratios), torch.zeros(len(ratios), 2), {}
        for place, ratio in enumerate(ratios.values()):
            for side, value in enumerate(ratio):
                if isinstance(value, torch.Tensor):
                    value = value.detach().float()
                    self._sums[place, side] = self._sums[place, side] + value if (place, side) in self._sums else value
                else:
                    self._known[place, side] += value

    def read(self, reduce: Callable[[torch.Tensor], torch.Tensor], rates: tuple[str, ...]) -> dict[str, float]:
        """Return the means since the last read, and start anew; `rates` are sums per second instead.

        reduce: adds a tensor (names, 2) up over the processes.
        """
        if self._known is None:
            return {}
        whole = self._known
        if self._sums:
            places, values = list(self._sums), torch.stack(list(self._sums.values()))
            whole = whole.to(values.device)
            rows, columns = zip(*places, strict=True)
            whole[list(rows), list(columns)] += values
        sums = dict(zip(self._names, reduce(whole).tolist(), strict=True))
        now = time.perf_counter()
        means = {name: above / below for name, (above, below) in sums.items() if below and name not in rates}
        speeds = {name: sums[name][0] / (now - self._since) for name in rates}
        self._known, self._sums, self._since = None, {}, now
        return means | speeds


class Speed:
    """Counts what the decoder computes, by the shapes of its calls. FLOPs are those of its matrices and attention, not
    of what checkpointing computes again; the vision encoder's and the head's are left out.

    decoder: whose calls are counted. device: that it runs on. dtype: that it computes in.
    """

    def __init__(self, decoder: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._decoder, self._arithmetic, self._flops = decoder, Arithmetic.of(decoder), 0
        self._device, card = device, card_of(device)
        self._peak = peak_flops(card, dtype) if card else None

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Within, calls of the decoder count."""
        handle = self._decoder.register_forward_hook(self._count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, decoder: nn.Module, args: tuple[Any, ...], call: Mapping[str, Any], output: Any) -> None:
        rows, length, _ = call["inputs_embeds"].shape if call.get("inputs_embeds") is not None else (0, 0, 0)
        pairs = pairs_of(call, rows, length)
        # The inner loop, in evaluation mode, spares the gradients of weights.
        gradient = torch.is_grad_enabled()
        self._flops += self._arithmetic.flops(rows * length, pairs, gradient, gradient and decoder.training)

    def take(self) -> float:
        """Return the TFLOPs since the last call."""
        flops, self._flops = self._flops, 0
        return flops / 1e12

    def facts(self, tflops: float | None, processes: int) -> dict[str, float]:
        """Return what a log says of the device: the share of what `processes` like it do at best, memory at most."""
        memory, found = peak_memory(self._device), {}
        if self._peak and tflops is not None:
            found["peak_share"] = tflops * 1e12 / (self._peak * processes)
        if memory is not None:
            found["peak_memory_gb"] = memory / 1e9
            reset_peak_memory(self._device)
        return found


class Profile(TrainerCallback):
    """Writes a trace of five steps into the output folder."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._trace = Trace(folder, device, "steps")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trace.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._trace.end()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trace.close()
