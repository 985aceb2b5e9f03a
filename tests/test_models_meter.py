"""What calls took, and the size of batches that is found by trial."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mmi_plugin.harness.launcher import main
from mmi_plugin.models import meter
from mmi_plugin.models.evaluate import Scorer
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query
from mmi_plugin.models.load import load_processor
from mmi_plugin.results.runs import read_run
from tests import families
from tests.harness_runs import OUR_MODEL, arguments, raw_answers, save_varied

CPU = torch.device("cpu")


def test_tokens_and_arithmetic_are_those_that_the_decoder_computes(tmp_path: Path) -> None:
    """By hand, from the lengths of the prompts and the shape of the decoder: 2 layers of 2 heads of 16, hidden 32."""
    families.save("llava", tmp_path)
    model, processor = AutoModelForImageTextToText.from_pretrained(tmp_path).eval(), load_processor(str(tmp_path))
    image = Image.new("RGB", (30, 30), "red")
    texts = ["Which?", "Which digit is shown, and why?"]
    chats = [[{"role": "user", "content": [{"type": "image", "image": image}, _text(text)]}] for text in texts]
    scorer = Scorer(model, prompts_of(processor))
    scorer.answer([Query(chat, (), True) for chat in chats], {"max_new_tokens": 3})  # compares ways, too
    before = scorer.meter.tokens, scorer.meter.flops
    scorer.answer([Query(chat, (), True) for chat in chats], {"max_new_tokens": 3, "min_new_tokens": 3})

    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    ids = [processor.apply_chat_template(chat, **options)["input_ids"][0].tolist() for chat in chats]
    prefix = max(place for place, token in enumerate(ids[0]) if token == model.config.image_token_id) + 1
    rests = [len(one) - prefix for one in ids]
    tokens = sum(rests) + 2 * len(rests)  # the image is at hand; the third token is not fed back
    weights = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)
    assert scorer.meter.tokens - before[0] == tokens
    linear, attention = 2 * weights * tokens, 2 * 2 * 2 * 2 * 16
    pairs = sum(rest * prefix + rest * (rest + 1) // 2 for rest in rests)
    pairs += sum(len(rests) * (prefix + sum(rests) + step * len(rests)) for step in (1, 2))
    assert scorer.meter.flops - before[1] == linear + attention * pairs
    record = scorer.meter.to_dict()
    assert record["tokens_per_second"] == pytest.approx(scorer.meter.tokens / scorer.meter.seconds, rel=1e-3)
    assert "peak_share" not in record and "card" not in record, "a CPU has no data sheet here"


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("free", "rates", "most", "found"),
    [
        (1e9, [1, 2, 4, 8, 8.1, 8.2], None, 32),  # twice the rows are no longer faster
        (1e9, [1, 2, 4, 8, 5], None, 32),  # slower: back to what was best
        (1000, [1, 2, 4, 8, 16], None, 16),  # no room for 32 rows at 30 bytes each and what is spared
        (1e9, [1, 2, 4, 8, 16, 32], 24, 16),
        (1e9, [1, 2], 3, 3),
    ],
)
def test_a_size_doubles_while_there_is_room_and_it_pays(
    monkeypatch: pytest.MonkeyPatch, free: float, rates: list[float], most: int | None, found: int
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(meter, "room", lambda device: int(free))
    monkeypatch.setattr(meter, "_held", lambda device: 100)
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    size = meter.BatchSize(CPU, None, most)
    counts = SimpleNamespace(tokens=1000, peak_of_batch=lambda: None)
    for rate in rates:
        rows = size.now
        monkeypatch.setattr(meter, "_highest", lambda rows=rows: 100 + 30 * rows)
        with size.trial(rows, counts):
            counts.tokens += int(1000 * rate)
    assert size.now == found
    with size.trial(size.now, counts):
        counts.tokens += 10**9
    assert size.now == found, "what is found stays"


def test_a_size_that_is_given_stays_and_memory_that_ran_out_ends_the_trial() -> None:
    counts = SimpleNamespace(tokens=0, peak_of_batch=lambda: None)
    given = meter.BatchSize(CPU, 7)
    with given.trial(7, counts):
        counts.tokens += 5
    assert given.now == 7
    size = meter.BatchSize(CPU)
    with size.trial(size.now, counts):
        size.limit(2)
    assert size.now == 2
    assert 1e6 < meter.room(CPU) < 1e14


def test_auto_answers_as_any_other_size_and_says_what_it_found(tmp_path: Path) -> None:
    checkpoint, runs = save_varied(tmp_path / "model"), {}
    for name, more in {"one": ["1"], "auto": ["auto", "--max_batch_size", "16"]}.items():
        run = [*OUR_MODEL, *arguments(checkpoint, "mmi_demo_digits", tmp_path / name, "--batch_size", *more)]
        assert main(run) == 0
        runs[name] = raw_answers(read_run(tmp_path / name)["mmi_demo_digits"])
    assert runs["auto"] == runs["one"]
    written = {name: json.loads(next((tmp_path / name).rglob("*_results.json")).read_text()) for name in runs}
    assert written["one"]["mmi"]["run"]["batch_size"] == 1
    found = written["auto"]["mmi"]["run"]
    assert 4 <= found["batch_size_sharing_images"] <= 16 and found["tokens_per_second"] > 0 and found["tflops"] > 0
    assert written["auto"]["config"]["batch_size"] == "auto"
