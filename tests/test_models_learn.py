"""A model of every family learns twelve items by heart, and says so when lmms-eval asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmi_plugin.models.load import fingerprint, load_processor
from tests import families, real_families, twelve

LARGE = {"processor_kwargs": '{"size":{"longest_edge":364}}'}  # or a picture has thousands of tokens
SLOWLY = {"learning_rate": 3e-3, "max_steps": 300}
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("real-idefics3", "real-smolvlm"), LARGE),
    **dict.fromkeys(("real-internvl3", "real-llava_onevision", "real-pixtral"), SLOWLY),
}
QUICK = ("real-instructblip", "real-llava15", "real-qwen25vl")
CASES = [
    *families.cases(),
    *(case if case.values[0] in QUICK else pytest.param(*case.values, marks=[*case.marks, pytest.mark.long])
      for case in real_families.CASES),
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_was_learned_is_what_is_asked_and_scored(name: str, tmp_path: Path) -> None:
    save = real_families.save if name.startswith("real-") else families.save
    model = twelve.train(save(name, tmp_path / "start"), tmp_path, **SETTINGS.get(name, {}))
    result = twelve.ask(model, tmp_path)
    assert {record.item_id.removeprefix("openbookqa-"): record.parsed for record in result.records} == twelve.GOLD
    assert result.numbers["accuracy/white"] == 1 and result.numbers["unparseable"] == 0
    hashes = json.loads((model / "training.json").read_text(encoding="utf-8"))["processor"]
    assert hashes.items() <= result.setup.items(), "both halves name the processor that they used"
    if SETTINGS.get(name) is not LARGE:
        assert fingerprint(load_processor(str(tmp_path / "start"))) == hashes, "which training leaves as it was"
    for record in result.records:
        shares = dict(zip("ABCD", record.probabilities, strict=True))
        assert max(shares, key=shares.get) == record.gold
        assert 0.5 < sum(shares.values()) <= 1 + 1e-6
