"""In half precision: the same answers, to the bit, in whatever batch; and that they are not so otherwise."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mmi_plugin.harness.launcher import main
from mmi_plugin.models.evaluate import Scorer
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query, Reply
from mmi_plugin.models.load import load_processor
from mmi_plugin.models.meter import TRACE
from tests import families
from tests.harness_runs import OUR_MODEL, arguments, save_varied


def _rows() -> list[Query]:
    images = [Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1 + index), 20).convert("RGB") for index in range(3)]
    texts = ["Which?", "Which one is it? " * 4, "A or B, or perhaps none of these? " * 7]
    return [
        Query([{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}])
        for image in images
        for text in texts
    ]


def _answers(model: Any, processor: Any, deterministic: bool, shared: bool, order: list[int]) -> list[Reply]:
    rows = [Query(row.chat, ("A", "B"), shared) for row in _rows()]
    scorer = Scorer(model, prompts_of(processor), shared, deterministic=deterministic)
    size = 1 if order == list(range(len(rows))) else 4
    found: dict[int, Reply] = {}
    for start in range(0, len(order), size):
        part = order[start : start + size]
        found.update(zip(part, scorer.answer([rows[place] for place in part], {"max_new_tokens": 3}), strict=True))
    return [found[place] for place in range(len(rows))]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("shared", [True, False])
def test_no_bit_of_an_answer_depends_on_its_batch(name: str, shared: bool, tmp_path: Path) -> None:
    families.save(name, tmp_path, spread=0.4)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    processor = load_processor(str(tmp_path))
    single, mixed = list(range(9)), [8, 0, 4, 2, 6, 1, 5, 3, 7]
    for deterministic in (True, False):
        one, other = (_answers(model, processor, deterministic, shared, order) for order in (single, mixed))
        equal = [a.probabilities == b.probabilities for a, b in zip(one, other, strict=True)]
        if deterministic:
            assert one == other and all(equal)
        elif name == "llava":
            assert not all(equal), "without it, some differ: the test can fail"


def test_what_is_no_truth_value_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = arguments(save_varied(tmp_path / "model"), "mmi_demo_digits", tmp_path / "out")
    run[1] += ",deterministic=perhaps"
    assert main([*OUR_MODEL, *run]) == 2
    assert "deterministic is 'perhaps', not True or False" in capsys.readouterr().err


def test_a_trace_of_five_batches_is_written_beside_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = arguments(save_varied(tmp_path / "model"), "mmi_demo_digits", tmp_path / "out", limit=12)
    run[1] += ",trace=True"
    assert main([*OUR_MODEL, *run]) == 0
    with gzip.open(tmp_path / "out" / TRACE, "rt") as file:
        events = json.load(file)["traceEvents"]
    within = [(event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == "batches"]
    said = [event["ts"] for event in events if event.get("name") == "aten::argmax"]
    assert len(within) == 5 and all(any(start < at < stop for at in said) for start, stop in within)
    place = run.index("--output_path")
    assert main([*OUR_MODEL, *run[:place], *run[place + 3 :]]) == 2
    assert "trace=True needs --output_path" in capsys.readouterr().err
