"""lmms-eval's table has standard errors, and wandb, trackio and TensorBoard get what the results files hold."""

from __future__ import annotations

import json
import math
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmi_plugin.harness.launcher import main
from mmi_plugin.results.runs import newest_results
from tests.harness_runs import OUR_MODEL, arguments, save_varied
from tests.leaderboard_boards import samples

TASK = "mmi_demo_digits"


class Trackio(ModuleType):
    """What trackio 0.43 offers of wandb's API; it is not installed for tests."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = ModuleSpec("trackio", None)
        self.options: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []

    def init(self, project: str, name: str | None = None) -> Trackio:
        self.options = {"project": project, "name": name}
        return self

    def log(self, metrics: dict[str, Any]) -> None:
        self.logged.append(metrics)

    def finish(self) -> None:
        self.logged.append({})

    @staticmethod
    def Table(dataframe: pd.DataFrame) -> pd.DataFrame:
        return dataframe


class Run:
    """One run that logs to all three places: `out`, what they got, and what the terminal showed."""

    def __init__(self, folder: Path) -> None:
        checkpoint = save_varied(folder / "model", letters_only=True)
        self.out, self.trackio, self.wandb, self.printed = folder / "out", Trackio(), [], ""
        flags = ["--gen_kwargs", "max_new_tokens=1", "--batch_size", "16", "--wandb_log_samples"]
        places = ["--wandb_args", f"project=p,mode=offline,dir={folder}", "--trackio_args", "project=p,name=n"]
        places.append(f"--tensorboard_args=log_dir={folder / 'board'}")
        theirs = wandb.sdk.wandb_run.Run.log
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "trackio", self.trackio)
            patch.setattr(
                wandb.sdk.wandb_run.Run,
                "log",
                lambda run, data, *rest, **more: (self.wandb.append(dict(data)), theirs(run, data, *rest, **more)),
            )
            patch.setattr("builtins.print", lambda *parts, **_: setattr(self, "printed", self.printed + str(parts)))
            self.status = main([*OUR_MODEL, *arguments(checkpoint, TASK, self.out, *flags, *places, limit=240)])
        self.board = EventAccumulator(str(folder / "board")).Reload()
        results = newest_results(self.out)
        self.results = json.loads(results.read_text(encoding="utf-8"))["results"][TASK]
        self.rows = samples(self.out, TASK)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("tracked"))


def test_the_table_shows_the_standard_error_of_each_share(run: Run) -> None:
    assert run.status == 0
    for condition in ("clean", "misleading_text", "ocr_text"):
        hits = [row["parsed"] == row["gold"] for row in run.rows if row["condition"] == condition]
        share, n = sum(hits) / len(hits), len(hits)
        expected = math.sqrt(share * (1 - share) / n)  # of a mean of n independent items
        found = run.results[f"accuracy/{condition}_stderr,none"]
        assert n == 60 and found == pytest.approx(expected, rel=0.08) and expected > 0
        assert re.search(rf"accuracy/{condition} *\|↑ *\| *{share:.4f}\|± *\|{found:.4f}\|", run.printed)
    assert run.results["items_stderr,none"] == run.results["incomplete_stderr,none"] == "N/A"


def _expected(run: Run) -> dict[str, float]:
    return {
        f"{TASK}/{name.removesuffix(',none')}": value
        for name, value in run.results.items()
        if name != "alias" and value != "N/A"
    }


def test_every_place_gets_the_numbers_of_the_results(run: Run) -> None:
    expected = _expected(run)
    assert len(expected) > 20 and f"{TASK}/accuracy/clean_stderr" in expected
    assert run.trackio.options == {"project": "p", "name": "n"} and run.trackio.logged[-1] == {}
    assert run.trackio.logged[0] == expected
    assert {name: value for name, value in run.wandb[0].items() if name in expected} == expected
    board = {name: run.board.Scalars(name)[0].value for name in run.board.Tags()["scalars"]}
    assert board == pytest.approx(expected)


def test_every_place_gets_the_samples(run: Run) -> None:
    name = f"{TASK}_eval_results"
    (table,) = [logged[name] for logged in run.trackio.logged if name in logged]
    (other,) = [logged[name] for logged in run.wandb if name in logged]
    assert list(other.columns) == list(table.columns)
    wanted = [
        [row[key] for key in ("item_id", "condition", "input", "gold", "parsed", "raw", "named")] for row in run.rows
    ]
    assert table[["item_id", "condition", "input", "gold", "parsed", "raw", "named"]].values.tolist() == wanted
    assert json.loads(table["options"][0]) == run.rows[0]["options"]
    text = run.board.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.count("\n| ") == len(run.rows) + 1 and run.rows[-1]["item_id"] in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trackio_args", "project=p"], "--trackio_args: the package trackio is not installed"),
        (["--tensorboard_args", "logdir=x"], "--tensorboard_args: no option 'logdir': did you mean 'log_dir'?"),
        (["--tensorboard_args", "x"], "--tensorboard_args 'x': not of the form KEY=VALUE"),
        (["--tensorboard_args"], "--tensorboard_args: expected one argument"),
        (["--wandb_args", "projct=p"], "--wandb_args: no option 'projct': did you mean 'project'?"),
        (["--wandb_args", "project=p,mode=online"], "--wandb_args: No API key configured"),
    ],
)
def test_a_place_that_cannot_be_logged_to_is_one_line(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where wandb keeps a login
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main([*OUR_MODEL, *arguments(tmp_path / "nowhere", TASK, tmp_path, *flags)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    assert len(errors) == 1 and errors[0].startswith(f"error: {said}")


def test_what_wandb_does_not_take_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    checkpoint = save_varied(tmp_path / "model", letters_only=True)
    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", full)
    flags = ["--gen_kwargs", "max_new_tokens=1", "--wandb_args", f"project=p,mode=offline,dir={tmp_path}"]
    assert main([*OUR_MODEL, *arguments(checkpoint, TASK, tmp_path / "out", *flags, limit=4)]) == 1
    assert "error: --wandb_args: not logged: the disk is full" in capsys.readouterr().err
