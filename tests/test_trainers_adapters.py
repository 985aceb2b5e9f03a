"""Adapters: a run is decided by its seed, and adapters merge where several processes train."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from transformers import AutoModelForImageTextToText

from mmi_plugin.errors import InputError
from mmi_plugin.harness.launcher import main
from mmi_plugin.models.load import load_model
from mmi_plugin.results.runs import read_run
from mmi_plugin.trainers import run as run_
from mmi_plugin.trainers.saving import finish
from tests import training
from tests.harness_runs import OUR_MODEL, arguments


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """This process as one of a group, as a launcher makes it."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_the_seed_decides_where_adapters_begin(tiny_llava: Path, tmp_path: Path) -> None:
    """And not what was drawn before, as with trl up to 1.14."""
    begun = []
    for before, seed in ((1, 0), (2, 0), (2, 3)):
        torch.manual_seed(before)
        run = training.trainer(training.config(tiny_llava, tmp_path, lora_r=4, seed=seed))
        begun.append({name: value for name, value in training.weights(run).items() if "lora_A" in name})
    assert len(begun[0]) == 8
    assert training.largest_difference(*begun[:2]) == 0.0
    assert training.largest_difference(*begun[1:]) > 1e-3


def test_adapters_merge_in_one_of_several_processes(
    tiny_llava: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Where peft up to 0.19 looks for parts of transformers that are no longer there."""
    args = training.config(tiny_llava, tmp_path / "run", lora_r=4, learning_rate=1e-2, merge_lora=True)
    run = training.trainer(args)
    run.train()
    run.save_model(str(tmp_path / "adapters"))
    start = dict(training.weights(training.trainer(training.config(tiny_llava, tmp_path))))
    request.getfixturevalue("process_group")
    merged = finish(args, tmp_path / "adapters").state_dict()
    trained = dict(run.model.merge_and_unload().state_dict())
    assert training.largest_difference(merged, trained) < 1e-6
    assert training.largest_difference(merged, start) > 1e-3


@pytest.fixture(scope="module")
def adapters(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapters of a short run, and how the model that was trained answers."""
    out = tmp_path_factory.mktemp("adapters")
    fields = {"lora_r": 4, "learning_rate": 5e-2, **training.OURS}
    trained = run_.train(training.config(tiny_llava, out, **fields))
    torch.save(logits(trained.model), out / "logits.pt")
    return out


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 25)[None], attention_mask=torch.ones(1, 20).long()).logits


def test_a_folder_of_adapters_is_evaluated(adapters: Path, tiny_llava: Path, tmp_path: Path) -> None:
    expected = torch.load(adapters / "logits.pt")
    assert (logits(load_model(str(adapters))) - expected).abs().max() < 1e-5
    assert (logits(load_model(str(tiny_llava))) - expected).abs().max() > 1e-2
    flags = ["--gen_kwargs", "max_new_tokens=1", "--batch_size", "8"]
    assert main([*OUR_MODEL, *arguments(adapters, "mmi_demo_digits", tmp_path, *flags, limit=8)]) == 0
    assert len(read_run(tmp_path)["mmi_demo_digits"].records) == 8


def test_adapters_are_trained_further(adapters: Path, tiny_llava: Path, tmp_path: Path) -> None:
    """From where they ended, on the same base, so that no step leaves them as they are."""
    args = training.config(adapters, tmp_path / "same", lora_r=4, learning_rate=0.0, **training.OURS)
    run_.train(args)
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (adapters, tmp_path / "same"))
    assert training.largest_difference(one, two) == 0.0
    assert json.loads((tmp_path / "same" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tiny_llava
    )
    run_.train(training.config(adapters, tmp_path / "on", lora_r=4, learning_rate=1e-2, **training.OURS))
    assert training.largest_difference(one, load_file(tmp_path / "on" / "adapter_model.safetensors")) > 1e-3


@pytest.mark.parametrize("fields", [{"lora_r": 0}, {"lora_r": 4, "merge_lora": True}], ids=["all-weights", "adapters"])
def test_adapters_become_a_model(adapters: Path, tmp_path: Path, fields: dict) -> None:
    run_.train(training.config(adapters, tmp_path, learning_rate=0.0, **fields, **training.OURS))
    assert not (tmp_path / "adapter_config.json").exists()
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert (logits(merged) - torch.load(adapters / "logits.pt")).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: missing"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "not a readable safetensors file"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json: not JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "'base_model_name_or_path' is None"),
        (lambda folder: edit(folder, base_model_name_or_path="/no/such/base"), "/no/such/base: no such checkpoint"),
        (lambda folder: edit(folder, target_modules=["q_proj"]), "adapters and model do not fit"),
    ],
    ids=["no weights", "torn weights", "torn config", "no base", "base is gone", "other modules"],
)
def test_adapters_that_do_not_load_are_named(
    adapters: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = shutil.copytree(adapters, tmp_path / "adapters")
    spoil(folder)
    with pytest.raises(InputError, match=words):
        load_model(str(folder))


def edit(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_other_adapters_than_those_of_the_folder_are_refused(adapters: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="field 'lora_r' is 8, and 4 in"):
        run_.train(training.config(adapters, tmp_path, lora_r=8))


def test_the_card_says_that_these_are_adapters(adapters: Path, tiny_llava: Path) -> None:
    card = " ".join((adapters / "README.md").read_text().split())
    assert f"`{tiny_llava}`, which must still be what it was, is loaded" in card and "--lora_r 4" in card
