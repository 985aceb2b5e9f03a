"""A device and what ran on it in, how much of what it can do that was out: arithmetic per second, memory at most.

And the way of tensors to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import nn

# Dense bf16 with sums in fp32, TFLOP/s, of the makers' data sheets (half of what they state with sparsity); the first
# name whose words are all in the device's own is its card.
PEAKS: dict[str, float] = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.4,
    "H200 NVL": 835.5,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.5,
    "H100": 989.4,
    "H800": 989.4,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "MI300X": 1307.4,
}
HALF = (torch.bfloat16, torch.float16)
Part = TypeVar("Part")


def on_device(part: Part, device: torch.device) -> Part:
    """Return a tensor, or a dataclass whose fields that are tensors, (R, L) or any other shape, are on a device, which
    is not waited for."""
    if isinstance(part, torch.Tensor):
        pinned = part.pin_memory() if device.type == "cuda" and part.is_cpu else part
        return pinned.to(device, non_blocking=True)
    tensors = {f.name: getattr(part, f.name) for f in fields(part)}
    return replace(part, **{n: on_device(t, device) for n, t in tensors.items() if isinstance(t, torch.Tensor)})


def peak_flops(card: str, dtype: torch.dtype) -> float | None:
    """Return how many FLOPs a second a card does at best in 16 bits; None for another dtype and an unknown card.

    card: its name as torch.cuda.get_device_name gives it.
    """
    words = set(re.split(r"[\s\-]+", card.lower()))
    peak = next((peak for name, peak in PEAKS.items() if words >= set(name.lower().split())), None)
    return peak * 1e12 if peak is not None and dtype in HALF else None


def card_of(device: torch.device) -> str | None:
    """Return the name of a device's card; None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes that tensors took on a device since `reset_peak_memory`; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that tensors could still take on a device; None for a CPU."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@dataclass(frozen=True)
class Arithmetic:
    """What one forward of a decoder costs, by its products of matrices alone.

    weights: how many multiplications a token takes. width: how many, in all layers, a pair of a token and one that it
    attends to takes: query with key, and weight with value. features: how many numbers of a token go into and come
    out of its matrices.
    """

    weights: int
    width: int
    features: int

    @staticmethod
    def of(decoder: nn.Module) -> Arithmetic:
        """Read a decoder, sharded or not: its matrices but for the table of embeddings, and its attention."""
        tables = {id(part.weight) for part in decoder.modules() if isinstance(part, nn.Embedding)}
        matrices = [p for p in decoder.parameters() if len(_shape(p)) == 2 and id(p) not in tables]
        config = decoder.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = 2 * config.num_hidden_layers * config.num_attention_heads * size
        return Arithmetic(sum(_shape(p).numel() for p in matrices), width, sum(sum(_shape(p)) for p in matrices))

    @property
    def activations(self) -> int:
        """The bytes that a token keeps for a gradient, in 16 bits: what its matrices take and give, and half as much
        for what stands between them. Measured of a LLaMA of 7B: 6.9 MB, and this says 7.5."""
        return 3 * self.features

    def flops(self, tokens: int, pairs: int, gradient: bool = False, weights: bool = False) -> int:
        """Return the FLOPs of a pass over `tokens`, of which `pairs` of one with another attend: of its forward, with
        its `gradient` and with that of its `weights`."""
        return 2 * (self.weights * tokens * (1 + gradient + weights) + self.width * pairs * (3 if gradient else 1))


def _shape(parameter: torch.Tensor) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)  # DeepSpeed keeps an empty tensor for what is elsewhere
