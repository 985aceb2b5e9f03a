"""All nine tasks, on the fixtures, answered by the shipped base and by tiny checkpoints of eight families."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmi_plugin.harness.launcher import main
from mmi_plugin.results.runs import read_run
from mmi_plugin.sources import load
from mmi_plugin.sources.local import ROOT
from mmi_plugin.studies.demo import base_folder
from tests import families
from tests.harness_runs import OUR_MODEL, arguments
from tests.suite import DATA, ITEMS

EIGHT = ("llava", "llava_next", "instructblip_llama", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "gemma3")


@pytest.mark.parametrize("name", ["shipped base", *(pytest.param(name, marks=pytest.mark.long) for name in EIGHT)])
def test_every_task_is_answered_in_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT, str(DATA))
    load.cache_clear()
    checkpoint = base_folder() if name == "shipped base" else families.save(name, tmp_path / "model", spread=0.4)
    flags = ("--gen_kwargs", "max_new_tokens=1", "--batch_size", "8")
    assert main([*OUR_MODEL, *arguments(checkpoint, "mmi_all", tmp_path / "out", *flags, limit=None)]) == 0
    found = read_run(tmp_path / "out")
    assert set(found) == {f"mmi_{task}" for task in ITEMS}
    for task, result in found.items():
        assert len(result.records) == ITEMS[task.removeprefix("mmi_")] * len(result.conditions)
        for record in result.records:
            assert sum(record.probabilities) <= 1 + 1e-6
            assert min(record.probabilities) >= 0
    answers = {record.raw for result in found.values() for record in result.records}
    assert len(answers) > 1, "answers must depend on the prompt"
