"""Every demonstration config resolves and trains a step."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import yaml

from mmi_plugin.trainers import run
from mmi_plugin.trainers.config import OWN_FIELDS, MMIConfig

DEMO = Path(str(resources.files("mmi_plugin.configs"))) / "demo"
ROWS = {
    "d_vqa": ("none", "none"),
    "d_aug": ("none", "none"),
    "kl": ("none", "kl"),
    "js": ("none", "js"),
    "rg": ("rg", "none"),
    "adv": ("pgd", "none"),
    "ours": ("pgd", "js"),
    "published": ("pgd", "kl"),
    "robust": ("pgd", "js"),
}


def test_there_is_one_config_per_row_of_the_ablation() -> None:
    assert {path.stem for path in DEMO.glob("*.yaml")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_config_trains_a_step(tiny_llava: Path, tmp_path: Path, name: str) -> None:
    path = DEMO / f"{name}.yaml"
    text = path.read_text()
    assert text.startswith(f"# accelerate launch trainers/train.py --config configs/demo/{name}.yaml")
    fields = {"model_name_or_path": tiny_llava, "output_dir": tmp_path, "max_steps": 1, "disable_tqdm": True}
    argv = [part for key, value in fields.items() for part in (f"--{key}", str(value))]
    args = run.parse(["--config", str(path), *argv])
    for key, value in yaml.safe_load(text).items():
        if key not in fields:
            assert getattr(args, key) == value, key
    trained = run.train(args)
    log = trained.state.log_history[-2 if len(trained.state.log_history) > 1 else -1]
    adversary, consistency = ROWS[name]
    assert (args.adversary, args.consistency) == (adversary, consistency)
    parts = {key for log in trained.state.log_history for key in log}
    assert ("loss_adv" in parts) == (adversary != "none"), log
    assert trained.state.global_step == 1


def test_every_own_field_has_help() -> None:
    for name in OWN_FIELDS:
        assert MMIConfig.__dataclass_fields__[name].metadata["help"], name
