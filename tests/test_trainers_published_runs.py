"""The paper's runs as configs: each has the values of its published file, and the first trains as it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from mmi_plugin.trainers import run
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.objective import SETTINGS
from tests import official, training

CONFIGS = Path(str(resources.files("mmi_plugin.configs")))
TRAIN = Path(str(resources.files("mmi_plugin.trainers"))) / "train.py"
RUNS = Path(__file__).parents[2] / "shared" / "notes" / "published_runs.json"
FILES = sorted(CONFIGS.glob("*/published/*.yaml"))
NEW = {
    "llava-v1.5-7b/vinilla/args_lora": "llava-1.5-7b/d_aug_lora",
    "instructBlip-7b/vinilla/args_full_novqa": "instructblip-vicuna-7b/no_vqa",
}
"""Runs that are not among ours."""
FIELDS = {
    "bs": "per_device_train_batch_size",
    "warmup_ratio": "warmup_steps",  # a share, where it is below 1
    "epochs": "num_train_epochs",
    "consistency_loss_weight": "consistency_weight",
    "alpha": "step_size",
    "epsilon": "eps",
}
"""Published name -> ours, where they differ."""
NO_MIX = "the file names no mix, and its batch holds no 2:2:4"
NO_KIND = "the file names no consistency under the name that its code reads: that of its own name"
DEVIATIONS: dict[tuple[str, str], tuple[Any, str]] = {
    ("llava-1.5-7b/js", "bs"): (8, NO_MIX),
    ("llava-1.5-7b/lora", "bs"): (8, NO_MIX),
    **{(name, "mix"): ([2, 2, 4], "the file names no mix: that of the paper") for name in
       ("llava-1.5-7b/js_adv", "llava-1.5-7b/rg", "llava-1.5-7b/js", "llava-1.5-7b/lora", "llava-1.5-7b/d_aug_lora",
        "instructblip-vicuna-7b/rg")},
    ("llava-1.5-7b/mse", "mix"): ([2, 2, 6], "the file names no mix: that of the other run with 10 items"),
    ("qwen2.5-vl-7b/mse", "mix"): ([2, 2, 6], "the file names no mix: that of the other run with 10 items"),
    **{(f"{model}/{kind}", "consistency"): (kind.replace("lora", "kl"), NO_KIND) for model, kind in
       (("llava-1.5-7b", "js"), ("llava-1.5-7b", "mse"), ("llava-1.5-7b", "lora"), ("qwen2.5-vl-7b", "mse"))},
    **{(name, field): (value, "the file does not say: transformers' default")
       for name in ("llava-1.5-7b/lora", "llava-1.5-7b/d_aug_lora")
       for field, value in (("lr_scheduler_type", "linear"), ("adam_epsilon", 1e-8))},
}  # fmt: skip
"""(our file, field) -> what it has instead of the published value, or where there is none, and why."""
UNUSED = ("ours", "finetune_type", "image_resize_width", "image_resize_height")  # the pixels below


def parsed(path: Path, out: Path, **fields: object) -> MMIConfig:
    given = {"output_dir": out, "use_cpu": "true", **fields}
    return run.parse(["--config", str(path), *(part for name, v in given.items() for part in (f"--{name}", str(v)))])


def name_of(path: Path) -> str:
    return f"{path.parents[1].name}/{path.stem}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_is_of_the_profile_and_says_how_to_start_it(path: Path, tmp_path: Path) -> None:
    args = parsed(path, tmp_path)
    text = path.read_text()
    place = f"configs/{path.parents[1].name}/published/{path.name}"
    assert text.startswith(f"# accelerate launch trainers/train.py --config {place} --output_dir OUT\n")
    assert args.profile == "published" and "profile: published\n" in text
    differ = {name for name, (_, theirs) in SETTINGS.items() if getattr(args, name) != theirs}
    assert differ == ({"consistency_reduce"} if args.consistency == "mse" else set())  # one mean, see published.md


@pytest.mark.skipif(not RUNS.is_file(), reason="the table of published runs is not here")
def test_the_files_hold_the_published_values(tmp_path: Path) -> None:
    runs = json.loads(RUNS.read_text())
    assert len(runs) == 33 and {name_of(path) for path in FILES} == {r["ours"] or NEW[name] for name, r in runs.items()}
    used = set()
    for name, published in runs.items():
        home = published["ours"] or NEW[name]
        args = parsed(CONFIGS / home.replace("/", "/published/").__add__(".yaml"), tmp_path)
        wanted = {FIELDS.get(key, key): value for key, value in published.items() if key not in UNUSED}
        wanted["adversary"] = (wanted.pop("adversarial_type", None) or "none").lower()
        if (kind := wanted.pop("consistency_type", None)) is not None or "consistency_weight" not in wanted:
            wanted["consistency"] = (kind or "none").lower()
        wanted["lora_r"] = published.get("lora_r", 0)
        for (where, key), (value, reason) in DEVIATIONS.items():
            if where == home:
                assert reason and wanted.get(FIELDS.get(key, key)) != value, "no deviation"
                wanted[FIELDS.get(key, key)] = value
                used.add((where, key))
        for field, value in wanted.items():
            assert getattr(args, field) == value, (home, field)
        assert args.step_rule == "raw" and args.eps_mode == "absolute"
        if width := published.get("image_resize_width"):
            pixels = width * published["image_resize_height"]  # as many, in the image's own shape
            assert args.processor_kwargs == {"min_pixels": pixels, "max_pixels": pixels}
        elif home.startswith("qwen"):
            assert 200_704 <= args.processor_kwargs["max_pixels"] <= 313_600
    assert used == set(DEVIATIONS)


def test_schedule_and_optimizer_are_the_published_ones(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMI_DATA_ROOT", str(tmp_path))
    data = official.write(tmp_path)
    fields = {"model_name_or_path": tiny_llava, "train_file": data, "bf16": "false", "report_to": "none"}
    trainer = training.trainer(parsed(CONFIGS / "llava-1.5-7b" / "published" / "kl_adv.yaml", tmp_path, **fields))
    steps = 2_728
    assert trainer.args.get_warmup_steps(steps) == 82  # 0.03 of them, rounded up
    trainer.create_optimizer_and_scheduler(steps)
    rates = []
    for _ in range(steps + 1):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[41] == pytest.approx(1e-5) and rates[82] == pytest.approx(2e-5) and max(rates) == rates[82]
    assert rates[82 + (steps - 82) // 2] == pytest.approx(1e-5) and rates[-1] == pytest.approx(0, abs=1e-12)
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    groups = [group for group in trainer.optimizer.param_groups if group["weight_decay"]]
    assert {group["eps"] for group in trainer.optimizer.param_groups} == {1e-6}
    assert {group["weight_decay"] for group in groups} == {1e-4}


def test_the_first_config_trains_a_step_as_it_is_started(tiny_llava: Path, tmp_path: Path) -> None:
    data = official.write(tmp_path)
    fields = {"model_name_or_path": tiny_llava, "train_file": data, "output_dir": tmp_path / "out", "max_steps": 1}
    fields |= {"bf16": "false", "use_cpu": "true", "report_to": "none"}
    config = CONFIGS / "llava-1.5-7b" / "published" / "kl_adv.yaml"
    argv = ["--config", config, *(part for name, value in fields.items() for part in (f"--{name}", value))]
    command = [Path(sys.executable).parent / "accelerate", "launch", TRAIN, *argv]
    more = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MMI_DATA_ROOT": str(tmp_path)}
    done = subprocess.run(
        list(map(str, command)), env=os.environ | more, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert {name: record["config"][name] for name in SETTINGS} == {
        name: theirs for name, (_, theirs) in SETTINGS.items()
    }
    assert record["config"]["profile"] == "published" and record["data"]["repeated ids"] == 4
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| adv_rows | all |" in card and "| loss_adv |" in card
