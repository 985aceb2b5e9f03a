"""lmms-eval's own models of its simple kind on our tasks, from our command line and from the stock one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from mmi_plugin.documents import perturbed
from mmi_plugin.harness.launcher import main
from mmi_plugin.results import TaskResult
from mmi_plugin.results.runs import read_run
from mmi_plugin.sources import load
from tests import families
from tests.harness_runs import TASKS, arguments, only_letters, process

TASK = "mmi_demo_digits"
TOKENS = ("--gen_kwargs", "max_new_tokens=4", "--device", "cpu")
BLIP = ("--model", "instructblip", "--device", "cpu")


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An InstructBLIP that answers with letters."""
    folder = families.save("instructblip_llama", tmp_path_factory.mktemp("blip"), seed=1, spread=0.3)
    only_letters(InstructBlipForConditionalGeneration.from_pretrained(folder), folder)
    return folder


@torch.inference_mode()
def expected(folder: Path, result: TaskResult, before: str = "") -> list[str]:
    """What transformers' plain generation answers to the images and texts of the records, `before` in front."""
    model = InstructBlipForConditionalGeneration.from_pretrained(folder).eval()
    processor = InstructBlipProcessor.from_pretrained(folder)
    bench = load("demo_digits", "test")
    items, said = {item.id: item for item in bench.items}, []
    for record, prompt in zip(result.records, result.prompts, strict=True):
        assert prompt.startswith(before)
        images = list(perturbed(bench, items[record.item_id], record.condition, record.seed).images)
        inputs = processor(images=images, text=prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        said.append(processor.tokenizer.batch_decode(output, skip_special_tokens=True)[0].strip())
    return said


def test_a_simple_model_is_asked_each_image_and_text(blip: Path, tmp_path: Path) -> None:
    """lmms-eval's instructblip gives the prompt, with its letters, back before the answer."""
    assert main([*BLIP, *arguments(blip, TASK, tmp_path, "--gen_kwargs", "max_new_tokens=1", limit=16)]) == 0
    result = read_run(tmp_path)[TASK]
    letters = [
        answer.removeprefix(prompt)[0] for answer, prompt in zip(expected(blip, result), result.prompts, strict=True)
    ]
    assert [record.raw for record in result.records] == [
        p + letter for p, letter in zip(result.prompts, letters, strict=True)
    ]
    assert [record.parsed for record in result.records] == letters
    assert len(set(letters)) > 1


def test_a_system_instruction_stands_before_the_question_of_a_simple_model(blip: Path, tmp_path: Path) -> None:
    said = "Look twice. "
    assert main([*BLIP, *arguments(blip, TASK, tmp_path, *TOKENS, "--system_instruction", said, limit=8)]) == 0
    result = read_run(tmp_path)[TASK]
    assert [record.raw for record in result.records] == expected(blip, result, before=said)


@pytest.mark.parametrize(
    ("model", "family", "more"),
    [("qwen2_vl", "qwen2_vl", ()), ("gemma3", "gemma3", ()), ("llava_hf", "llava", ("--force_simple",))],
)
def test_others_run_too(tmp_path: Path, model: str, family: str, more: Sequence[str]) -> None:
    pytest.importorskip("decord")  # which some of them import, and lmms-eval does not declare
    folder = families.save(family, tmp_path / family, spread=0.2)
    run = arguments(folder, TASK, tmp_path / "out", *TOKENS, *more, limit=8)
    run[run.index("--model_args") + 1] += ",device_map=cpu"
    assert main(["--model", model, *run]) == 0
    result = read_run(tmp_path / "out")[TASK]
    assert (result.numbers["items"], len(result.records)) == (2, 8)
    assert len({record.raw for record in result.records}) > 1


def test_a_key_that_a_model_does_not_read_is_refused(
    blip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--gen_kwargs", "repetition_penalty=50")
    assert main([*BLIP, *arguments(blip, TASK, tmp_path, *flags, limit=8)]) == 2
    assert "--gen_kwargs: instructblip does not read 'repetition_penalty': valid: " in capsys.readouterr().err


def test_a_batch_of_several_tasks_is_refused(blip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """lmms-eval's simple models look up the images of a whole batch in the task of its first row."""
    assert main([*BLIP, *arguments(blip, "mmi_demo", tmp_path, "--batch_size", "4", limit=8)]) == 2
    assert "would take the images of a batch from one task for another" in capsys.readouterr().err


def test_errors_that_a_model_goes_on_from_fail_the_run(
    blip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """lmms-eval's instructblip catches what generation raises, and answers with an empty text."""
    run = [*BLIP, *arguments(blip, TASK, tmp_path, "--gen_kwargs", "num_beams=0", limit=8)]
    assert main(run) == 1
    assert "error: the model went on from 8 errors, the first: Error " in capsys.readouterr().err
    assert not list(tmp_path.glob(".journal-*")), "empty answers are none to go on from"


def stock(*command: str) -> tuple[int, list[str]]:
    """Return status and error lines of lmms-eval's own command line."""
    done = process([sys.executable, "-m", "lmms_eval", "--include_path", str(TASKS), *command])
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_the_stock_command_line_runs_simple_models(blip: Path, tmp_path: Path) -> None:
    assert stock(*BLIP, *arguments(blip, TASK, tmp_path, *TOKENS, limit=8)) == (0, [])
    result = read_run(tmp_path)[TASK]
    assert [record.raw for record in result.records] == expected(blip, result)


def test_the_stock_command_line_that_fails_leaves_with_1(blip: Path, tmp_path: Path) -> None:
    """Three evaluations, as a list in `--config`: one that succeeds, one whose model errs, one that is refused."""
    common = {"model": "instructblip", "model_args": f"pretrained={blip}", "device": "cpu", "tasks": TASK, "limit": 4}
    runs = [{"gen_kwargs": "max_new_tokens=2"}, {"gen_kwargs": "num_beams=0"}, {"num_fewshot": 2}]
    config = [{**common, "include_path": str(TASKS), **run} for run in runs]
    (tmp_path / "runs.yaml").write_text(json.dumps(config), encoding="utf-8")
    status, errors = stock("--config", str(tmp_path / "runs.yaml"))
    assert status == 1 and len(errors) == 2
    assert errors[0].startswith("error: the model went on from 4 errors, the first: Error ")
    assert errors[1] == f"error: {TASK}: not evaluated to its end"
