"""`mmi train` and `mmi configs`, from any folder, and an output folder that holds a training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml

from mmi_plugin.cli import main
from mmi_plugin.errors import InputError
from mmi_plugin.harness.launcher import main as evaluate
from mmi_plugin.studies import ablation
from mmi_plugin.studies.demo import base_folder
from mmi_plugin.studies.jobs import Job
from mmi_plugin.trainers.config import arguments, parse
from mmi_plugin.trainers.named import configs, find_config

ROOT = Path(__file__).parents[1]
SHORT = ["--max_steps", "1", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true", "--use_cpu"]


def train(out: Path, *more: str) -> int:
    return main(
        ["train", "demo/d_aug", "--model_name_or_path", str(base_folder()), "--output_dir", str(out), *SHORT, *more]
    )


def test_a_bundled_config_trains_from_any_folder_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(Path("out")) == 0
    record = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    written = yaml.safe_load((ROOT / "configs" / "demo" / "d_aug.yaml").read_text(encoding="utf-8"))
    assert record["config"]["mix"] == written["mix"] and record["config"]["max_steps"] == 1
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()

    capsys.readouterr()
    assert train(Path("out"), "--seed", "1") == 2
    assert capsys.readouterr().err == (
        "error: field 'output_dir': out holds a finished training, without a checkpoint to go on from: "
        "--overwrite_output_dir true replaces it\n"
    )
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    assert train(Path("out"), "--seed", "1", "--overwrite_output_dir", "true") == 0
    assert json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))["config"]["seed"] == 1


def test_checkpoints_of_an_earlier_training_are_neither_mixed_with_nor_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "checkpoint-900"
    old.mkdir()
    (old / "model.safetensors").touch()
    assert train(tmp_path) == 2 and old.is_dir()
    said = "holds checkpoints: --resume_from_checkpoint true goes on from the last, --overwrite_output_dir true repl"
    assert said in capsys.readouterr().err
    assert train(tmp_path, "--overwrite_output_dir", "true") == 0 and not old.is_dir()


def test_configs_lists_every_training_config_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    files = {
        str(file.relative_to(ROOT / "configs").with_suffix(""))
        for file in (ROOT / "configs").rglob("*.yaml")
        if "learning_rate" in yaml.safe_load(file.read_text(encoding="utf-8"))
    }
    assert set(listed) >= files and len(files) > 50
    assert listed["demo/ours"].startswith("Ours: D_AUG with PGD")


@pytest.mark.parametrize("name", ["demo/ours", "demo/ours.yaml", "configs/demo/ours.yaml"])
def test_a_config_is_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == configs()["demo/ours"]
    assert find_config("configs/data/paper.yaml", "data") == ROOT / "configs" / "data" / "paper.yaml"
    with pytest.raises(InputError, match=r"--axes: configs/nothing.yaml is no .*: valid: ablation/axes, ablation/"):
        find_config("configs/nothing.yaml", "ablation", "--axes")


def test_a_file_goes_before_a_bundled_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "ours").write_text("mix: [1, 1, 1]", encoding="utf-8")
    assert find_config("demo/ours") == Path("demo/ours")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("demo/owrs", "did you mean 'demo/ours'?"), ("nothing/at/all.json", "`mmi configs` lists them")],
)
def test_an_unknown_config_is_one_line(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", name]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.rstrip().endswith(hint)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--output_dir", "out"], "error: fields 'sources' and 'train_file' are both empty: no data to train on\n"),
        (["--config", "demo/owrs"], "did you mean 'demo/ours'?\n"),
        (["--max_steps", "1", "demo/ours"], "error: command line: unknown field 'demo/ours'"),
    ],
)
def test_a_value_of_a_field_is_no_config(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *given]) == 2
    assert said in capsys.readouterr().err


def test_help_shows_the_methods_fields_first_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    parts = ("data:", "--train_file", "adapters:", "--lora_r", "\nadversary:", "--pgd_steps", "\nconsistency:")
    places = [text.index(part) for part in (*parts, "--temperature", "--freeze", "fields of TRL's SFTConfig:")]
    assert places == sorted(places) and text.index("--learning_rate") > places[-1]
    assert "--reference" not in text
    assert "true: go on from the last" in text and text.index("--resume_from_checkpoint") < text.index("adversary:\n")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (["--report_to", "wandb"], "wandb knows no user: `wandb login` first, or WANDB_MODE=offline"),
        (["--report_to", "tensorboard", "nowhere"], "nowhere is not supported"),
        (["--fp16", "true"], "field 'fp16' is true, and there is no GPU"),
        (["--eval_strategy", "steps"], "field 'eval_strategy': no rows are evaluated"),
    ],
)
def test_what_this_machine_cannot_do_is_one_line_before_the_model_is_loaded(
    fields: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available() and "--fp16" in fields:
        pytest.skip("there is a GPU")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    assert main(["train", "demo/ours", "--model_name_or_path", "no-such-folder/at/all", *fields]) == 2
    message = capsys.readouterr().err
    assert message.splitlines()[-1].startswith("error:") and said in message.splitlines()[-1]


def test_logs_go_to_several_places(tmp_path: Path) -> None:
    assert parse(["--report_to", "tensorboard", "--output_dir", str(tmp_path)]).report_to == ["tensorboard"]
    (tmp_path / "config.yaml").write_text("report_to: [tensorboard, trackio]", encoding="utf-8")
    with pytest.raises(InputError, match="trackio"):  # is not installed here
        parse(["--config", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path)])


def test_a_device_that_is_not_here_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "mmi_hf", "--model_args", f"pretrained={base_folder()}", "--tasks", "mmi_demo_arith"]
    assert evaluate([*flags, "--limit", "2", "--device", "gpu"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: --device gpu: cannot be used here (cpu can):")


def test_a_call_says_what_a_file_says(tmp_path: Path) -> None:
    fields = {"mix": [1, 1, 2], "chat_template_kwargs": {"enable_thinking": False}, "max_length": None, "lora_r": 4}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    out = ["--output_dir", str(tmp_path)]
    of_file = parse(["--config", str(tmp_path / "config.yaml"), *out])
    of_call = parse([*arguments({**fields, "mix": (1, 1, 2)}, "train"), *out])
    assert of_call.to_dict() == of_file.to_dict() and of_call.chat_template_kwargs == {"enable_thinking": False}
    with pytest.raises(InputError, match="train: unknown field 'epss': did you mean 'eps'"):
        arguments({"epss": 1}, "train")


OUTPUTS = [
    ["demo", "--out"],
    ["sweep-train", "--out"],
    ["eval", "--data", "none.csv", "--family", "vqa", "--model_args", "pretrained=none", "--out"],
    ["sweep", "mmi_demo_digits", "unrelated_text@sentences=0,1", "--model_args", "pretrained=none", "--out"],
    ["attack", "mmi_demo_digits", "--eps", "0.1", "--model_args", "pretrained=none", "--out"],
    ["baselines", "mmi_demo_digits", "--model_args", "pretrained=none", "--out"],
    ["preview", "mmi_demo_arith", "--html"],
    ["leaderboard", "none", "--plots"],
    ["leaderboard", "none", "--latex"],
    ["data", "build", "--config", "none.yaml", "--out"],
    ["data", "facts", "mmi_demo_digits", "--model", "none", "--out"],
    ["convert", "none"],
    ["train", "demo/d_aug", "--model_name_or_path", "none", "--train_file", "none.jsonl", *SHORT, "--output_dir"],
]


@pytest.mark.parametrize("command", OUTPUTS, ids=lambda command: command[0])
def test_a_place_of_results_that_cannot_be_written_is_named_before_anything_is_read(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([*command, str(tmp_path / "file" / "x")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'file' / 'x'}: cannot be written (Not a directory)\n" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_an_existing_file_is_no_folder_and_a_folder_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert train(tmp_path / "file") == 2
    said = f"error: field 'output_dir': {tmp_path / 'file'}: cannot be written (Not a directory)\n"
    assert capsys.readouterr().err == said
    assert main(["leaderboard", "none", "--csv", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: cannot be written (Is a directory)\n"


def test_a_sweep_of_trainings_finds_its_config_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Job] = []
    monkeypatch.setattr(ablation, "make_all", lambda jobs, *_: (seen.extend(jobs), ({}, {"all": "left out"}))[1])
    assert main(["sweep-train", "--only", "eps", "--seeds", "1"]) == 1
    config = (ROOT / "configs" / "demo" / "ours.yaml").read_bytes()
    assert {job.key["config"] for job in seen} == {hashlib.sha256(config).hexdigest()}
