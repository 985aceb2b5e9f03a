"""What a card does at best, by its maker's data sheet; what a decoder costs, by torch's own count of FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from mmi_plugin.models.devices import Arithmetic, card_of, peak_flops, peak_memory, reset_peak_memory

# Names as drivers give them; dense bf16 TFLOP/s as data sheets do, where they state sparse ones half of those.
SHEETS = {
    "NVIDIA H100 80GB HBM3": 1979 / 2,
    "NVIDIA H100 PCIe": 1513 / 2,
    "NVIDIA H100 NVL": 1671 / 2,
    "NVIDIA H200": 1979 / 2,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA A10": 125,
    "NVIDIA L40S": 733 / 2,
    "NVIDIA L4": 242 / 2,
    "NVIDIA GeForce RTX 4090": 330.4 / 2,
    "NVIDIA RTX 6000 Ada Generation": 728.5 / 2,
}


@pytest.mark.parametrize("card", SHEETS)
def test_a_card_does_what_its_sheet_says(card: str) -> None:
    assert peak_flops(card, torch.bfloat16) == pytest.approx(SHEETS[card] * 1e12, rel=0.02)
    assert peak_flops(card, torch.float32) is None


def test_of_an_unknown_card_nothing_is_claimed() -> None:
    assert peak_flops("NVIDIA H1000", torch.bfloat16) is None
    assert peak_flops("NVIDIA GeForce GTX 1080", torch.float16) is None
    cpu = torch.device("cpu")
    reset_peak_memory(cpu)
    assert card_of(cpu) is None and peak_memory(cpu) is None


def test_a_forward_costs_what_torch_counts() -> None:
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, attn_implementation="eager",
    )  # fmt: skip
    decoder = LlamaForCausalLM(config).get_decoder()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(inputs_embeds=torch.randn(2, 7, 64))
    # Its plain attention multiplies every token with every other of the row, what comes after it too.
    assert Arithmetic.of(decoder).flops(2 * 7, 2 * 7 * 7) == counter.get_total_flops()
