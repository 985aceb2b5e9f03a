"""`mmi_hf` through the real command line: batches, ranks, the stock model, errors."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmi_plugin.documents import documents
from mmi_plugin.harness.launcher import main
from mmi_plugin.models.evaluate import evaluate
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.results.runs import read_run
from mmi_plugin.sources import load
from tests import families
from tests.harness_runs import (
    OUR_MODEL,
    SCRIPT,
    TASKS,
    arguments,
    assert_same_records,
    process,
    raw_answers,
    save_varied,
)

Answers = dict[str, dict[tuple[str, str], str]]


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_varied(tmp_path_factory.mktemp("varied"))


@pytest.fixture(scope="module")
def single_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("single")


@pytest.fixture(scope="module")
def single(varied: Path, single_run: Path) -> Answers:
    """The answers of all three tasks, one row at a time; `single_run` holds the results."""
    return _answers(varied, single_run, "1")


def _answers(checkpoint: Path, out: Path, batch_size: str) -> Answers:
    assert main([*OUR_MODEL, *arguments(checkpoint, "mmi_demo", out, "--batch_size", batch_size)]) == 0
    return {task: raw_answers(result) for task, result in read_run(out).items()}


def _shares(out: Path) -> dict[tuple[str, str, str], tuple[float, ...]]:
    """Return (task, item id, condition) -> the probabilities of the options."""
    found = {}
    for task, result in read_run(out).items():
        found.update({(task, record.item_id, record.condition): record.probabilities for record in result.records})
    return found


def _assert_close(out: Path, reference: Path) -> None:
    found, expected = _shares(out), _shares(reference)
    assert found.keys() == expected.keys()
    for key, shares in expected.items():
        assert found[key] == pytest.approx(shares, abs=1e-5)


def test_answers_depend_on_image_and_on_text(single: Answers) -> None:
    assert len(set(single["mmi_demo_arith"].values())) > 20
    by_condition = {name: raw for (item, name), raw in single["mmi_demo_capitals"].items() if item.endswith("-0")}
    assert len(set(by_condition.values())) > 1, "the same text with other images"


@pytest.mark.parametrize("batch_size", ["4", "16"])
def test_a_batch_answers_as_single_rows_do(
    varied: Path, single: Answers, single_run: Path, tmp_path: Path, batch_size: str
) -> None:
    assert _answers(varied, tmp_path, batch_size) == single
    _assert_close(tmp_path, single_run)


def test_a_model_in_memory_gives_the_same_records(varied: Path, single: Answers, single_run: Path) -> None:
    model, processor = load_model(str(varied)), load_processor(str(varied))
    for task, result in read_run(single_run).items():
        assert raw_answers(result) == single[task]
        bench = load(task.removeprefix("mmi_"), "test")
        asked = documents(bench, result.conditions, result.seed, len(result.records) // len(result.conditions))
        for share in (True, False):
            found = evaluate(model, processor, asked, {"max_new_tokens": 16}, batch_size=8, share=share)
            assert_same_records(found, result.records)


def test_stock_llava_hf_gives_the_same_answers_item_by_item(varied: Path, single: Answers, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmms_eval", "--include_path", "tasks", "--model", "llava_hf", "--device", "cpu"]
    run = arguments(varied, "mmi_demo_digits", tmp_path)
    run[1] += ",device_map=cpu"
    done = process([*command, *run], cwd=TASKS.parent)
    assert done.returncode == 0, done.stderr
    assert raw_answers(read_run(tmp_path)["mmi_demo_digits"]) == single["mmi_demo_digits"]


def test_two_processes_give_what_one_gives(varied: Path, single: Answers, single_run: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", SCRIPT]
    done = process([*launch, *OUR_MODEL, *arguments(varied, "mmi_demo*", tmp_path, "--batch_size", "4")])
    assert done.returncode == 0, done.stderr
    assert "Running on rank 1" in done.stdout, "both processes took part"
    assert {task: raw_answers(result) for task, result in read_run(tmp_path).items()} == single
    _assert_close(tmp_path, single_run)


def _copy(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "copy"))


def _fails(capsys: pytest.CaptureFixture[str], checkpoint: Path, out: Path, *more: str) -> tuple[int, str]:
    status = main([*OUR_MODEL, *arguments(checkpoint, "mmi_demo_arith", out, *more, limit=4)])
    return status, capsys.readouterr().err.strip().splitlines()[-1]


def test_truncated_weights_are_named(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = _copy(tiny_llava, tmp_path)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    status, line = _fails(capsys, broken, tmp_path)
    assert status == 2
    assert line.startswith(f"error: {weights}: not a readable safetensors file")


def test_a_missing_weight_is_not_filled_with_noise(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = _copy(tiny_llava, tmp_path)
    weights = load_file(broken / "model.safetensors")
    name = next(key for key in weights if "projector" in key)
    del weights[name]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    status, line = _fails(capsys, broken, tmp_path)
    assert status == 2
    assert "1 weights are missing" in line and name.split(".", 1)[1] in line


def test_pickled_weights_are_refused(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = _copy(tiny_llava, tmp_path)
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    said = f"missing; {broken / 'pytorch_model.bin'} is pickled: `mmi convert {broken} OUT` makes safetensors of it"
    assert _fails(capsys, broken, tmp_path) == (2, f"error: {broken / 'model.safetensors'}: {said}")


def test_a_broken_config_and_a_missing_folder_are_named(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = _copy(tiny_llava, tmp_path)
    (broken / "config.json").write_text("{", encoding="utf-8")
    status, line = _fails(capsys, broken, tmp_path)
    assert (status, line.startswith(f"error: {broken / 'config.json'}: not JSON")) == (2, True)
    nowhere = tmp_path / "nowhere"
    assert _fails(capsys, nowhere, tmp_path) == (2, f"error: {nowhere}: no such checkpoint folder")


def test_a_processor_without_chat_template_is_refused(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = _copy(tiny_llava, tmp_path)
    (broken / "chat_template.jinja").unlink()
    for path in (broken / "tokenizer_config.json", broken / "processor_config.json"):
        assert "chat_template" not in path.read_text(encoding="utf-8")
    status, line = _fails(capsys, broken, tmp_path)
    assert status == 2
    assert line.endswith("LlavaProcessor is not supported: it has no chat template")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--batch_size", "many"), "--batch_size, a number or auto, is 'many'"),
        (("--gen_kwargs", "do_sample=True"), "mmi_hf decodes greedily"),
    ],
)
def test_what_the_model_cannot_do_is_said(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    status, line = _fails(capsys, tiny_llava, tmp_path, *flags)
    assert status == 2
    assert said in line


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (",max_pixels=784", "its processor has no setting 'max_pixels': "),
        (",pathc_size=14", "its processor has no setting 'pathc_size': did you mean 'patch_size'?"),
        (",chat_template_kwargs=3", "chat_template_kwargs is 3, not a JSON object"),
        (",enable_thinking=False", "the chat template of LlavaProcessor has no variable 'enable_thinking'"),
        (",max_thinking_tokens=-1", "max_thinking_tokens is -1.0, not an integer from 0 on"),
    ],
)
def test_an_argument_that_would_change_nothing_is_refused(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, said: str
) -> None:
    run = arguments(tiny_llava, "mmi_demo_arith", tmp_path, limit=4)
    run[1] += more
    assert main([*OUR_MODEL, *run]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_setting_of_the_processor_acts_and_is_in_the_record(tmp_path: Path) -> None:
    checkpoint = families.save("qwen2_5_vl", tmp_path / "model")
    found = {}
    for name, more in (("own", ""), ("few", ",min_pixels=2000"), ("json", ',processor_kwargs={"min_pixels":2000}')):
        run = arguments(checkpoint, "mmi_demo_digits", tmp_path / name, "--batch_size", "4", limit=4)
        run[1] += more
        assert main([*OUR_MODEL, *run]) == 0
        found[name] = read_run(tmp_path / name)["mmi_demo_digits"]
    own, few, same = (found[name].setup for name in ("own", "few", "json"))
    assert few == same and few["processor_hash"] != own["processor_hash"]
    assert {key for key in own if own[key] != few[key]} == {"processor_hash"}
    shares = [[record.probabilities for record in found[name].records] for name in ("own", "few")]
    assert shares[0] != shares[1], "the model saw other pictures"
