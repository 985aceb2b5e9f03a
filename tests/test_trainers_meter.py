"""Arithmetic per second by torch's own count of FLOPs, memory and shares of a peak, and the profile of a run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmi_plugin.models.meter import TRACE
from mmi_plugin.trainers import meter
from mmi_plugin.trainers.meter import Meter, Speed
from tests import training
from tests.test_trainers_inner import STEP


def test_the_flops_of_a_step_are_those_that_torch_counts(tiny_llava: Path, tmp_path: Path) -> None:
    run = training.trainer(training.config(tiny_llava, tmp_path, pack_rows=False, **STEP))
    run.model.set_attn_implementation("eager")  # the counter knows the plain products of attention alone
    batch = run.data_collator(training.step_groups(run))
    with FlopCounterMode(display=False) as counter:
        run.compute_loss(run.model.train(), batch).backward()
    kinds = counter.get_flop_counts()["Global"]
    products, attention = kinds[torch.ops.aten.mm], kinds[torch.ops.aten.bmm]
    width = batch["input_ids"].shape[1]
    # Plain attention multiplies every pair of a row, also what is masked. The head's products are among the others.
    expected = products + attention * (width + 1) / (2 * width)
    assert run._meter.read(lambda sums: sums, ())["tflops"] * 1e12 == pytest.approx(expected, rel=0.03)
    assert run._speed.take() == 0.0


def test_a_log_has_rates_and_on_a_known_card_the_share_of_its_peak(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "card_of", lambda _: "NVIDIA H200")
    monkeypatch.setattr(meter, "peak_memory", lambda _: 5_000_000_000)
    run = training.trainer(training.config(tiny_llava, tmp_path, bf16=True, **STEP))
    run.train()
    log = next(log for log in run.state.log_history if "tflops" in log)
    assert log["tflops"] > 0 and log["peak_memory_gb"] == 5.0
    assert log["peak_share"] == pytest.approx(log["tflops"] / 989.4)
    assert log["tokens_per_second"] > log["rows_per_second"] > 0


def test_of_an_unknown_card_no_share_is_claimed() -> None:
    decoder = torch.nn.Linear(1, 1)
    decoder.config = type("Config", (), {"hidden_size": 4, "num_attention_heads": 1, "num_hidden_layers": 1})
    assert Speed(decoder, torch.device("cpu"), torch.bfloat16).facts(1.0, 1) == {}


def test_a_meter_means_what_it_is_given() -> None:
    one = Meter()
    for above, below in ((1.0, 2), (torch.tensor(5.0), torch.tensor(4))):
        one.add({"mean": (above, below), "rate": (3, 1), "none": (0.0, 0)})
    read = one.read(lambda sums: sums, ("rate",))
    assert read["mean"] == 1.0 and read["rate"] > 0 and "none" not in read
    assert one.read(lambda sums: sums, ("rate",)) == {}


def test_a_trace_of_five_steps_is_written(tiny_llava: Path, tmp_path: Path) -> None:
    training.trainer(training.config(tiny_llava, tmp_path, trace=True, max_steps=9)).train()
    with gzip.open(tmp_path / TRACE, "rt") as file:
        names = [event.get("name", "") for event in json.load(file)["traceEvents"]]
    assert sum(name.startswith("Optimizer.step#AdamW") for name in names) == 5
