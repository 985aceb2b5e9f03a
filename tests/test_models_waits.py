"""How often the decoding of whole prompts waits for its device, counted on a CPU that stands in for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmi_plugin.models import generate
from mmi_plugin.models.decode import ThoughtBudget
from mmi_plugin.models.evaluate import Scorer
from mmi_plugin.models.families import prompts_of
from tests.test_models_trees import _load, _rows
from tests.test_trainers_waits import Waits


class Event:
    """Of a CPU, which has none."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CPU be decoded on as a device is."""
    monkeypatch.setattr(generate, "waits_less", lambda model: True)
    monkeypatch.setattr(torch, "Event", Event)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "instructblip_opt"])
@torch.no_grad()
def test_a_token_is_not_waited_for(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = _load(family, tmp_path)
    scorer, rows = Scorer(model, prompts_of(processor), share=False), _rows()
    expected = scorer.answer(rows, {"max_new_tokens": 12})
    inputs = scorer._plain(rows)

    def waits(tokens: int) -> int:
        there = [*model.parameters(), *model.buffers(), *(v for v in inputs.values() if torch.is_tensor(v))]
        with Waits(there) as mode:
            scorer._generator._speak(inputs, tokens, [])
        return len(mode.found)

    before = waits(12) - waits(2)
    stand_in(monkeypatch)
    assert before >= 10 and waits(12) == waits(2)
    assert scorer.answer(rows, {"max_new_tokens": 12}) == expected


@pytest.fixture
def budget() -> Callable[[int], ThoughtBudget]:
    """A budget over tokens that are characters."""
    return lambda answer: ThoughtBudget(lambda new: "".join(map(chr, new)), answer, 0, [("<", ">")])


@pytest.mark.parametrize("answer", [3, 10])
def test_thoughts_end_where_they_end_however_seldom_that_is_looked_for(
    budget: Callable[[int], ThoughtBudget], answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"<{'o' * thought}>{'a' * 80}" for thought in range(12, 40)]
    ids = torch.tensor([list(map(ord, text[:80])) for text in texts])
    limit, reads, tolist = budget(answer), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(len(self)) or tolist(self))
    over = torch.stack([limit(ids[:, :step], None) for step in range(1, 81)])
    monkeypatch.undo()
    for row, text in enumerate(texts):
        assert int(over[:, row].int().argmax()) + 1 == text.index(">") + 1 + answer
    assert len(reads) <= 80 / min(answer, 8)
