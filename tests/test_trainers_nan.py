"""A loss that is no number stops the run, says where, and leaves a state to look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmi_plugin.trainers import run, trainer
from mmi_plugin.trainers.data import sampler_of
from mmi_plugin.trainers.losses import answer_losses
from tests import training


def arguments(checkpoint: Path, out: Path, *more: str) -> list[str]:
    fields = {"model_name_or_path": checkpoint, "output_dir": out, "max_steps": 4, "mix": "1 1 1", **training.OURS}
    fields |= {"sources": " ".join(training.SOURCES), "per_device_train_batch_size": 3, "save_strategy": "no"}
    argv = [part for name, value in fields.items() for part in (f"--{name}", *str(value).split())]
    return [*argv, "--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true", *more]


def test_the_item_the_part_and_the_step_are_named(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adversarial rows of the text-heavy item are broken in step 2; the state before it can be resumed."""
    groups = training.groups_of(training.config(tiny_llava, tmp_path))
    args = training.config(tiny_llava, tmp_path)
    ids = [groups.ids[index] for index, _ in sampler_of(args, groups).step(1)]
    calls = []

    def broken(logits: torch.Tensor, tokens: trainer.AnswerTokens) -> torch.Tensor:
        losses = answer_losses(logits, tokens)
        calls.append(len(tokens.mask))
        adversarial = tokens.row >= 8 + 3  # 3 + 4 + 1 clean rows, then those of the image-heavy item
        return losses.masked_fill(adversarial, float("nan")) if len(calls) == 2 else losses

    monkeypatch.setattr(trainer, "answer_losses", broken)
    out = tmp_path / "out"
    assert run.main(arguments(tiny_llava, out)) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert f"step 2: loss_adv not finite; items: {ids[1]};" in line and str(out / "checkpoint-1") in line
    assert calls == [15, 15]
    facts = json.loads((out / "checkpoint-1" / "nonfinite.json").read_text())
    assert facts == {"step": 2, "parts": ["loss_adv"], "items": [ids[1]]}
    assert not (out / "model.safetensors").exists()
    monkeypatch.undo()
    assert run.main(arguments(tiny_llava, out, "--resume_from_checkpoint", "true")) == 0
    assert run.main(arguments(tiny_llava, tmp_path / "whole")) == 0
    files = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "whole")]
    assert files[0] == files[1]


def test_weights_that_overflow_stop_the_run(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    more = ("--optim", "sgd", "--learning_rate", "1e38", "--max_grad_norm", "0")
    assert run.main(arguments(tiny_llava, tmp_path / "out", *more)) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "step 2: loss_sft and loss_adv and loss_consistency not finite" in line
    assert (tmp_path / "out" / "checkpoint-1" / "trainer_state.json").is_file()
