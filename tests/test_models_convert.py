"""Checkpoints as others leave them: DeepSpeed's shards, pickled files, no processor, names of older versions."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from enum import IntEnum
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from mmi_plugin.cli import main
from mmi_plugin.errors import InputError
from mmi_plugin.harness.model import MmiHf
from mmi_plugin.models import convert
from mmi_plugin.models.load import check_folder, load_model, load_processor
from tests import families, launches

WEIGHTS = "model.safetensors"


def without_weights(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    (folder / WEIGHTS).unlink()
    return folder


def same(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_model(str(folder)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def padded(flat: torch.Tensor, multiple: int) -> torch.Tensor:
    return torch.cat([flat, torch.zeros(-len(flat) % multiple)])


# An object of DeepSpeed's as its shards hold them, whether it is installed or not.
ZERO = ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.zero", "deepspeed.runtime.zero.config")
Stage = IntEnum("ZeroStageEnum", {"gradients": 2, "weights": 3}, module=ZERO[-1])


def save_pickled(content: dict[str, Any], file: Path) -> None:
    """Save as a process that has DeepSpeed: pickle imports what it names, and all packages above it."""
    modules = {name: ModuleType(name) for name in ZERO}
    modules[ZERO[-1]].ZeroStageEnum = Stage
    with patch.dict(sys.modules, modules):
        torch.save(content, file)


def save_zero(state: dict[str, torch.Tensor], folder: Path, stage: Any, processes: int) -> None:
    """Write shards as DeepSpeed's documentation and `zero_to_fp32` say; the first weights are frozen, in two groups."""
    folder.mkdir(parents=True)
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    frozen, groups = names[:3], (names[3:8], names[8:])
    three = stage == 3
    shapes = [{name: state[name].shape for name in group} for group in groups]
    kept = {name: state[name].shape for name in frozen}
    pieces: list[list[torch.Tensor]] = [[] for _ in range(processes)]
    fragments: list[dict[str, torch.Tensor]] = [{} for _ in range(processes)]
    for group in groups:
        if three:  # each weight is cut by itself
            parts = [padded(state[name].flatten(), processes).chunk(processes) for name in group]
            own = [torch.cat([part[rank] for part in parts]) for rank in range(processes)]
        else:  # the group is cut as a whole
            flat = padded(torch.cat([state[name].flatten() for name in group]), 2 * processes)
            own = list(flat.chunk(processes))
        for rank in range(processes):
            pieces[rank].append(own[rank].clone())
    for name in frozen:
        cut = padded(state[name].flatten(), processes).chunk(processes)
        for rank in range(processes):
            fragments[rank][name] = cut[rank].clone() if three else state[name]
    for rank in range(processes):
        key = "fp32_flat_groups" if three else "single_partition_of_fp32_groups"
        optimizer = {"zero_stage": stage, "partition_count": processes, key: pieces[rank]}
        save_pickled({"optimizer_state_dict": optimizer}, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        model = {
            "module": {},
            "buffer_names": [],
            "param_shapes": shapes,
            "frozen_param_shapes": kept,
            "frozen_param_fragments": fragments[rank],
            "shared_params": {},
            "ds_version": "0.19",
        }
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if three else "mp_rank_00_model_states.pt"
        torch.save(model, folder / name)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("processes", [1, 3, 12])
def test_shards_become_the_weights_that_were_cut(tiny_llava: Path, tmp_path: Path, number: int, processes: int) -> None:
    expected = load_model(str(tiny_llava)).state_dict()
    source = without_weights(tiny_llava, tmp_path / "in")
    save_zero(expected, source / "global_step9", Stage(number), processes)
    save_zero({name: tensor + 1 for name, tensor in expected.items()}, source / "global_step10", Stage(number), 2)
    with pytest.raises(
        InputError, match=r"model\.safetensors: missing; .*global_step10 holds DeepSpeed's shards: `mmi c"
    ):
        check_folder(source)
    shutil.rmtree(source / "global_step10")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    same(tmp_path / "out", expected)


def test_shards_alone_take_configuration_and_processor_from_a_model(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    expected = load_model(str(tiny_llava)).state_dict()
    save_zero(expected, tmp_path / "in" / "global_step1", Stage(3), 2)
    command = ["convert", str(tmp_path / "in" / "global_step1"), str(tmp_path / "out")]
    assert main(command) == 2
    assert "has no config.json; give --like FOLDER_OR_HUB_ID" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
    monkeypatch.setattr(convert, "SHARD", 40_000)  # several files
    assert main([*command, "--like", str(tiny_llava), "--dtype", "float16"]) == 0
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    assert load_processor(str(tmp_path / "out")).image_token == load_processor(str(tiny_llava)).image_token
    same(tmp_path / "out", {name: tensor.half() for name, tensor in expected.items()})
    assert main(command) == 2 and "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: next(folder.glob("*rank_1*optim*")).unlink(), "1 of 2 files .*optim_states.pt are there"),
        (lambda folder: next(folder.glob("*rank_1*model*")).unlink(), "1 of 2 files .*model_states.pt are there"),
        (lambda folder: [file.unlink() for file in folder.glob("*optim*")], r"no \*_optim_states.pt"),
        (lambda folder: next(folder.glob("*rank_1*optim*")).write_bytes(b"x"), "cannot be read as weights alone"),
        (lambda folder: torch.save([1], next(folder.glob("*rank_0*optim*"))), "has no part 'optimizer_state_dict'"),
    ],
    ids=["optimizer", "model", "none", "broken", "other"],
)
def test_shards_that_are_not_whole_are_named(tiny_llava: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    source = without_weights(tiny_llava, tmp_path / "in")
    save_zero(load_model(str(tiny_llava)).state_dict(), source / "global_step1", Stage(3), 2)
    spoil(source / "global_step1")
    with pytest.raises(InputError, match=rf"^{source}.*{said}"):
        convert.convert(source, tmp_path / "out")


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def test_a_pickle_that_runs_a_program_is_refused_and_does_not_run(tiny_llava: Path, tmp_path: Path) -> None:
    source = without_weights(tiny_llava, tmp_path / "in")
    torch.save({"x": torch.ones(1), "y": Evil(tmp_path / "ran")}, source / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: cannot be read as weights alone: it names \S*system"):
        convert.convert(source, tmp_path / "out")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("files", [1, 2])
def test_pickled_weights(tiny_llava: Path, tmp_path: Path, files: int) -> None:
    source, expected = without_weights(tiny_llava, tmp_path / "in"), load_file(tiny_llava / WEIGHTS)
    names = [f"pytorch_model-0000{i + 1}-of-00002.bin" for i in range(2)] if files == 2 else ["pytorch_model.bin"]
    places = {name: names[i % files] for i, name in enumerate(expected)}
    for file in names:
        part = {name: expected[name] for name, place in places.items() if place == file}
        torch.save(part, source / file, _use_new_zipfile_serialization=file != names[-1])  # the last as before 1.6
    if files == 2:
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(
        InputError, match=rf"model\.safetensors: missing; .*{names[0]} is pickled: `mmi convert {source} O"
    ):
        load_model(str(source))
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    same(tmp_path / "out", load_model(str(tiny_llava)).state_dict())
    if files == 2:
        (source / names[1]).unlink()
        with pytest.raises(InputError, match=f"{names[1]}: missing"):
            convert.convert(source, tmp_path / "other")


def test_pickled_adapters(tiny_llava: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_model(str(tiny_llava)), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_llava)
    adapted.save_pretrained(tmp_path / "in")
    file = tmp_path / "in" / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "in" / "adapter_model.bin")
    expected = load_model(str(tmp_path / "in")).state_dict()
    file.unlink()
    with pytest.raises(InputError, match=r"adapter_model\.bin is pickled: `mmi convert "):
        load_model(str(tmp_path / "in"))
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    same(tmp_path / "out", expected)


def test_weights_without_a_processor_take_another_ones(tiny_llava: Path, tmp_path: Path) -> None:
    bare, processor = tmp_path / "bare", tmp_path / "processor"
    shutil.copytree(tiny_llava, processor)
    for file in (WEIGHTS, "config.json"):
        (processor / file).unlink()
    bare.mkdir()
    for file in (WEIGHTS, "config.json"):
        shutil.copy(tiny_llava / file, bare)
    with pytest.raises(InputError, match="bare: has no processor; copy one there, or give mmi_hf processor="):
        MmiHf(pretrained=str(bare))
    made, whole = MmiHf(pretrained=str(bare), processor=str(processor)), MmiHf(pretrained=str(tiny_llava))
    assert made.record == whole.record


# What transformers before 4.52 wrote, in place of today's: beginnings of names of weights.
OLD = {
    "llava": {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
    "qwen2_5_vl": {"model.language_model.": "model.", "model.visual.": "visual."},
}


@pytest.mark.parametrize("name", OLD)
def test_older_names_and_half_precision_load(name: str, tmp_path: Path) -> None:
    folder = families.save(name, tmp_path / "new")
    expected = {key: tensor.half() for key, tensor in load_model(str(folder)).state_dict().items()}
    old = {}
    for key, tensor in expected.items():
        first = next((new for new in OLD[name] if key.startswith(new)), "")
        old[OLD[name].get(first, "") + key.removeprefix(first)] = tensor.clone()
    assert any(key.startswith(("language_model.", "visual.")) for key in old)
    save_file(old, folder / WEIGHTS, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["AClassOfTheirOwn"], "torch_dtype": "float16"}
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config))
    found = load_model(str(folder), dtype="auto")
    assert found.dtype == torch.float16
    assert {key: tensor.shape for key, tensor in found.state_dict().items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.state_dict().items())


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
@pytest.mark.parametrize("number", ["2", "3"])
def test_shards_of_deepspeed_become_what_its_own_script_makes_of_them(
    tiny_llava: Path, tmp_path: Path, number: str
) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    from tests.test_trainers_deepspeed import settings

    fields = {**launches.FIELDS, "model_name_or_path": str(tiny_llava), "output_dir": str(tmp_path / "run")}
    fields |= {"train_file": str(launches.write_data(tmp_path)), "save_strategy": "steps", "save_steps": 1}
    fields |= {"deepspeed": settings(f"zero{number}", tmp_path), "max_steps": 1}
    launches.launch(2, tmp_path, fields, {"DS_ACCELERATOR": "cpu"})
    source = tmp_path / "run" / "checkpoint-1"
    theirs = get_fp32_state_dict_from_zero_checkpoint(str(source))
    (source / WEIGHTS).unlink()
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert found.keys() == theirs.keys() and sum(prod(tensor.shape) for tensor in found.values()) > 50_000
    assert all(torch.equal(found[name], theirs[name].contiguous()) for name in found)
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and model is not None
