"""Our configs: the values of the paper, and a step of each on a tiny model of its family."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from mmi_plugin.trainers import run
from mmi_plugin.trainers.config import MMIConfig
from tests import families

CONFIGS = Path(str(resources.files("mmi_plugin.configs")))
ROWS = ("vanilla", "d_vqa", "d_aug", "kl", "js", "mse", "rg", "adv", "kl_adv", "js_adv", "lora", "recommended")
# Folder: checkpoint, tiny family, rate, rate of kl and js, weights of kl and js, eps, PGD steps: kl_adv, js_adv, adv.
MODELS = {
    "llava-1.5-7b": ("llava-hf/llava-1.5-7b-hf", "llava", 2e-5, 2e-5, 0.01, 0.01, 1e-3, 2, 1, 2),
    "llava-1.5-13b": ("llava-hf/llava-1.5-13b-hf", "llava", 2e-5, 2e-5, 0.01, 0.01, 1e-3, 2, 1, 2),
    "instructblip-vicuna-7b": (
        *("Salesforce/instructblip-vicuna-7b", "instructblip_llama"),
        *(2e-5, 1e-5, 0.01, 0.01, 5e-2, 4, 4, 1),
    ),
    "instructblip-vicuna-13b": (
        *("Salesforce/instructblip-vicuna-13b", "instructblip_llama"),
        *(2e-5, 1e-5, 0.01, 0.01, 5e-2, 4, 4, 1),
    ),
    "qwen2.5-vl-3b": ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl", 1e-5, 1e-5, 1e-3, 1e-3, 1e-2, 2, 2, 2),
    "qwen2.5-vl-7b": ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", 1e-5, 1e-5, 0.01, 1e-3, 1e-3, 2, 1, 2),
}
STEPPED = (
    "llava-1.5-7b",
    "instructblip-vicuna-7b",
    "qwen2.5-vl-3b",
    "qwen2.5-vl-7b",
)  # the 13B configs are the 7B ones
EVERY = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "weight_decay": 1e-4,
    "adam_epsilon": 1e-6,
    "bf16": True,
    "freeze": "vision",
    "adv_weight": 1.0,
}


def expected(model: str, row: str) -> dict[str, object]:
    """The fields of a run, from the table."""
    hub, _, rate, paired_rate, kl, js, eps, *steps = MODELS[model]
    kind = {"kl": "kl", "kl_adv": "kl", "js": "js", "js_adv": "js", "mse": "mse", "lora": "kl", "recommended": "kl"}
    fields = {"model_name_or_path": hub, "learning_rate": rate, "mix": [2, 2, 4], "per_device_train_batch_size": 8}
    fields |= EVERY | {"num_train_epochs": 0 if row == "vanilla" else 1, "lora_r": 0, "temperature": 1.0}
    fields |= {"adversary": "none", "consistency": kind.get(row, "none")}
    if fields["consistency"] != "none":
        fields["consistency_weight"] = {"mse": 0.1, "lora": 1e-4}.get(row, js if row.startswith("js") else kl)
    if row in ("adv", "kl_adv", "js_adv"):
        fields |= {"adversary": "pgd", "step_rule": "raw", "step_size": 0.1, "eps": eps, "eps_mode": "absolute"}
        fields["pgd_steps"] = dict(zip(("kl_adv", "js_adv", "adv"), steps, strict=True))[row]
    special = {
        "d_vqa": {"mix": [0, 0, 1]},
        "kl": {"learning_rate": paired_rate},
        "js": {"learning_rate": paired_rate},
        "mse": {"learning_rate": 1e-5},
        "rg": {"adversary": "rg", "sigma": 0.05, "eps_mode": "absolute"},
        "lora": {"learning_rate": 2e-6, "lora_r": 128, "lora_alpha": 256, "temperature": 0.5},
        "recommended": {"adversary": "pgd", "step_rule": "sign", "eps_mode": "relative"},
    }
    fields |= special.get(row, {})
    if model.startswith("qwen"):
        fields |= {"processor_kwargs": {"min_pixels": 50176, "max_pixels": 200704}, "max_length": 900}
        if row.startswith("js"):
            three = {"mix": [2, 2, 6], "per_device_train_batch_size": 10, "learning_rate": 1e-6}
            fields |= three if model.endswith("3b") else {"mix": [1, 1, 6]}
    return fields


def parsed(model: str, row: str, **fields: object) -> MMIConfig:
    path = CONFIGS / model / f"{row}.yaml"
    argv = [part for name, value in {"use_cpu": "true", **fields}.items() for part in (f"--{name}", str(value))]
    return run.parse(["--config", str(path), *argv])


def test_there_is_one_config_per_model_and_row() -> None:
    found = {(path.parent.name, path.stem) for path in CONFIGS.glob("*/*.yaml") if path.parent.name in MODELS}
    assert found == {(model, row) for model in MODELS for row in ROWS}
    for model, row in found:
        first = (CONFIGS / model / f"{row}.yaml").read_text().splitlines()[0]
        assert first.startswith(f"# accelerate launch trainers/train.py --config configs/{model}/{row}.yaml ")


@pytest.mark.parametrize("model", MODELS)
def test_the_configs_hold_the_published_values(model: str, tmp_path: Path) -> None:
    for row in ROWS:
        args = parsed(model, row, output_dir=tmp_path)
        for name, value in expected(model, row).items():
            assert getattr(args, name) == value, (row, name)
        assert args.adversary != "pgd" or args.eps_mode == "relative" or args.step_rule == "raw"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file with a few rows of each family."""
    folder = tmp_path_factory.mktemp("data")
    Image.effect_noise((40, 30), 80).convert("RGB").save(folder / "a.png")
    listed = {"question": "Which?\nA: cat\nB: dog", "answer": "B"}
    rows = [{"id": f"i{i}", "type": "image_heavy", "image": "a.png", **listed} for i in range(2)]
    rows += [{"id": f"t{i}", "type": "text_heavy", **listed} for i in range(2)]
    rows += [
        {"id": f"v{i}", "type": "VQA", "image": "a.png", "question": "What?", "answer": "Grey noise."} for i in range(4)
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    return folder / "train.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: families.save(name, tmp_path_factory.mktemp(name)) for _, name, *_ in MODELS.values()}
    for folder in found.values():  # as the real templates do, end before the space that belongs to the answer's token
        template = folder / "chat_template.jinja"
        if template.is_file():
            template.write_text(template.read_text().replace("ASSISTANT: {% end", "ASSISTANT:{% end"))
    return found


@pytest.mark.parametrize("size", ["llava-1.5", "instructblip-vicuna"])
def test_13b_is_trained_as_7b(size: str) -> None:
    for row in ROWS:
        texts = [(CONFIGS / f"{size}-{billions}" / f"{row}.yaml").read_text() for billions in ("7b", "13b")]
        fields = [yaml.safe_load(text) for text in (texts[0].replace("-7b", "-13b"), texts[1])]
        assert fields[0] == fields[1], row


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("model", STEPPED)
def test_every_config_trains_a_step(model: str, row: str, tiny: dict[str, Path], data: Path, tmp_path: Path) -> None:
    checkpoint = tiny[MODELS[model][1]]
    fields = {"model_name_or_path": checkpoint, "train_file": data, "output_dir": tmp_path, "bf16": "false"}
    fields |= {"report_to": "none", "disable_tqdm": "true", "save_strategy": "no"}
    trained = run.train(parsed(model, row, **fields, **({} if row == "vanilla" else {"max_steps": 1})))
    parts = {key for log in trained.state.log_history for key in log}
    wanted = expected(model, row)
    assert trained.state.global_step == (row != "vanilla")
    assert ("loss_adv" in parts) == (wanted["adversary"] != "none")
    assert ("loss_consistency" in parts) == (wanted["consistency"] != "none")
    if row == "vanilla":
        before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path))
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
