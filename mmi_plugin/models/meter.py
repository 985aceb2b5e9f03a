"""Calls of a model in, what they took out: arithmetic a second, memory; and how many rows the next may have."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from mmi_plugin.models.compat import kept_tokens
from mmi_plugin.models.devices import Arithmetic, card_of, free_memory, peak_flops, peak_memory, reset_peak_memory

TRACED, TRACE = range(3, 8), "profile.json.gz"
_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_FIRST, _MOST = 4, 1024
_SPARE = 1.2  # of what the double of a batch is expected to take
_FASTER = 1.05  # what twice the rows must bring to be worth their memory
logger = logging.get_logger(__name__)


class Meter:
    """Counts what a model's decoder computes within `running`, and for how long.

    tokens: positions computed, padding included, which is computed too. flops: of the decoder's products of matrices;
    nothing of a model whose decoder is not told apart or not a plain one.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._decoder = model, model.get_decoder()
        plain = all(hasattr(self._decoder.config, name) for name in _SHAPE)
        apart = self._decoder not in (model, model.base_model)
        self._arithmetic = Arithmetic.of(self._decoder) if apart and plain else None
        self.tokens, self.flops, self.seconds = 0, 0, 0.0
        self._peak = 0
        reset_peak_memory(model.device)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, calls of the decoder count, and the time does."""
        handle, start = self._decoder.register_forward_hook(self._count, with_kwargs=True), time.perf_counter()
        try:
            yield
        finally:
            handle.remove()
            self.seconds += time.perf_counter() - start

    def _count(self, module: nn.Module, args: tuple[Any, ...], call: dict[str, Any], output: Any) -> None:
        if self._arithmetic is None or not hasattr(output, "last_hidden_state"):
            return
        rows, new = output.last_hidden_state.shape[:2]
        self.tokens += rows * new
        self.flops += self._arithmetic.flops(rows * new, pairs_of(call, rows, new))

    def peak(self) -> int | None:
        """Return the most bytes that tensors took since this was made; None on a CPU."""
        now = peak_memory(self._model.device)
        return now if now is None else max(now, self._peak)

    def peak_of_batch(self) -> None:
        """Let `peak_memory` be that of what follows."""
        self._peak = self.peak() or 0
        reset_peak_memory(self._model.device)

    def to_dict(self) -> dict[str, Any]:
        """Return the record of a run, without what this device cannot say."""
        card, per_second = card_of(self._model.device), self.flops / max(self.seconds, 1e-9)
        best = peak_flops(card, self._model.dtype) if card else None
        peak = self.peak()
        found = {
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens / max(self.seconds, 1e-9), 1),
            "tflops": round(per_second / 1e12, 4),
            "card": card,
            "peak_share": None if best is None else round(per_second / best, 4),
            "peak_memory_gb": None if peak is None else round(peak / 1e9, 3),
        }
        return {name: value for name, value in found.items() if value is not None}


class Trace:
    """A profile of five rounds, steps of a training or batches of an evaluation: the fourth to the eighth, as the first
    ones compile and fill caches. chrome://tracing and Perfetto show what it writes.

    folder: where it is written, as TRACE. device: that the rounds run on. rounds: what they are called.
    """

    def __init__(self, folder: Path, device: torch.device, rounds: str) -> None:
        self._path, self._device, self._rounds = folder / TRACE, device, rounds
        self._begun = 0
        self._profiler: torch.profiler.profile | None = None

    def begin(self) -> None:
        """A round begins."""
        if self._begun == TRACED.start:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if self._device.type == "cuda" else []
            self._profiler = torch.profiler.profile(activities=kinds, profile_memory=True, record_shapes=True)
            self._profiler.start()
        self._begun += 1

    def end(self) -> None:
        """A round ends."""
        if self._begun == TRACED.stop:
            self._write()

    @contextmanager
    def round(self) -> Iterator[None]:
        """Within, a round runs, under its name in the profile."""
        self.begin()
        with torch.profiler.record_function(self._rounds):
            yield
        self.end()

    def close(self) -> None:
        """The last round has ended."""
        self._write()
        if self._begun <= TRACED.start:
            first = f"it begins with number {TRACED.start + 1} of the {self._rounds}"
            logger.warning(f"no profile: {first}, and this run had {self._begun}")

    def _write(self) -> None:
        if self._profiler is None:
            return
        self._profiler.stop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._profiler.export_chrome_trace(str(self._path))
        self._profiler = None


def pairs_of(call: Mapping[str, Any], rows: int, new: int) -> int:
    """Return how many pairs of a token and one that it attends to a call of a decoder has, for `rows` of `new` tokens:
    what a layout says, else all before it, of which a cache may hold some, and itself."""
    if (told := call.get("trees") or call.get("steps")) is not None:
        return told.pairs
    before = max(0, kept_tokens(call) - new)
    return rows * (new * before + new * (new + 1) // 2)


class BatchSize:
    """How many rows the next batch has: `fixed`, or found by trial.

    From batch to batch it doubles, up to `most`, while memory has room for the double of what the last one took, and
    while the double is faster, token by token; then it stays.
    """

    def __init__(self, device: torch.device, fixed: int | None = None, most: int | None = None) -> None:
        self._device, self._most = device, most or _MOST
        self.now = fixed or min(_FIRST, self._most)
        self._trying = fixed is None
        self._rate: float | None = None  # tokens a second at half of `now`

    @contextmanager
    def trial(self, rows: int, meter: Meter) -> Iterator[None]:
        """Within, a batch of `rows` is answered."""
        if not self._trying or rows < self.now:
            yield
            return
        meter.peak_of_batch()
        free, held = room(self._device), _held(self._device)
        tokens, start, warm = meter.tokens, time.perf_counter(), meter.tokens > 0
        yield
        if self._trying:  # unless memory ran out meanwhile
            took = max(0, (peak_memory(self._device) or _highest()) - held)
            self._grow((meter.tokens - tokens) / (time.perf_counter() - start) if warm else 0.0, took, free)

    def _grow(self, rate: float, took: int, free: int) -> None:
        if self._rate and rate < self._rate * _FASTER:
            self._trying, self.now = False, self.now // 2
        elif 2 * took * _SPARE > free or 2 * self.now > self._most:
            self._trying = False
        else:
            self._rate, self.now = rate, 2 * self.now

    def limit(self, most: int) -> None:
        """Take `most` rows at most from here on: there was no room for more."""
        self.now, self._trying = min(self.now, most), False


def room(device: torch.device) -> int:
    """Return how many bytes more tensors could take on a device; of a CPU, what neither its machine nor its container
    has given away."""
    if (found := free_memory(device)) is not None:
        return found
    free = psutil.virtual_memory().available
    most, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if most.is_file() and (limit := most.read_text().strip()).isdecimal():
        free = min(free, int(limit) - int(used.read_text()))
    return max(0, free)


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def _highest() -> int:
    """Return the most bytes that this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
