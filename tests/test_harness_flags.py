"""Every flag of lmms-eval's command line on our tasks: it acts, or it is refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from lmms_eval import __main__ as upstream

from mmi_plugin.harness import flags
from mmi_plugin.harness.launcher import main
from mmi_plugin.harness.results import read_run
from tests.harness_runs import OUR_MODEL, arguments, save_varied

TASK = "mmi_demo_arith"
SHORT = ("--gen_kwargs", "max_new_tokens=3")


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_varied(tmp_path_factory.mktemp("varied"))


@pytest.fixture(scope="module")
def plain(varied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the task without further flags."""
    out = tmp_path_factory.mktemp("plain")
    assert main([*OUR_MODEL, *arguments(varied, TASK, out, *SHORT, limit=4)]) == 0
    return out


def refusal(capsys: pytest.CaptureFixture[str], command: Sequence[str]) -> str:
    """Return the one line on stderr of a command that must exit with 2."""
    assert main(command) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    assert len(errors) == 1 and errors[0].startswith("error: ")
    return errors[0].removeprefix("error: ")


def test_the_table_holds_every_flag_of_upstreams_parser_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lmms-eval"])
    parser, _ = upstream.parse_eval_args()
    theirs = sorted(action.dest for action in parser._actions if action.dest != "help")
    assert sorted([*flags.ACTS, *flags.NEEDS, *flags.REFUSED, *flags.REFUSED_BY_OURS]) == theirs


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--num_fewshot", "2"], "--num_fewshot: items are asked without examples: --num_fewshot 0"),
        (["--apply_chat_template"], "--apply_chat_template: a chat model always applies its own template"),
        (["--fewshot_as_multiturn", "--apply_chat_template"], "--apply_chat_template: "),
        (["--fewshot_as_multiturn"], "--fewshot_as_multiturn: "),
        (["--cache_requests", "true"], "--cache_requests: it would bring back prompts of an older benchmark"),
        (["--cache_requests", "delete"], "--cache_requests: "),
        (["--check_integrity"], "--check_integrity: lmms-eval has no tests of these tasks"),
        (["--launcher_args", "name=sglang,tp=8"], "--launcher_args: no answer is judged"),
        (["--log_samples_suffix", "x"], "--log_samples_suffix: lmms-eval does not read it"),
        (["--predict_only"], "--predict_only: every answer is scored: --log_samples"),
        (["--process_with_media"], "--process_with_media: "),
        (["-n", "3"], "--repeats: of several answers to one prompt lmms-eval scores the first"),
        (["--baseline", "x.jsonl"], "`mmi leaderboard A=OUT1 B=OUT2 --baseline A` does by item"),
        (["--trust_remote_code"], "--model_args trust_remote_code=True"),
        (["--agentic_trace_mode", "full"], "--agentic_trace_mode: every item is asked in one round"),
        (["--max_batch_size", "8"], "--max_batch_size: mmi_hf halves"),
        (["--max_tokens", "100"], "--gen_kwargs max_new_tokens=N"),
        (["--seed", "1"], "--seed: mmi_hf draws nothing: `seed` in a task's dataset_kwargs"),
        (["--force_simple"], "--force_simple: mmi_hf is a chat model only"),
        (["--wandb_log_samples"], "--wandb_log_samples needs --wandb_args"),
        (["--swanlab_log_samples"], "--swanlab_log_samples needs --swanlab_args"),
        (["--alpha", "0.1"], "--alpha needs --power-analysis"),
        (["--effect-size", "0.1"], "--effect-size needs --power-analysis"),
        (["--timezone", "Europe/Berlln"], "--timezone: no zone 'Europe/Berlln': did you mean 'Europe/Berlin'?"),
        (["--hf_hub_log_args", "hub_repo_nam=x"], "no option 'hub_repo_nam': did you mean 'hub_repo_name'?"),
        (["--gen_kwargs", "bogus_arg=3"], "--gen_kwargs: no setting 'bogus_arg'"),
        (["--gen_kwargs", "num_beams=2"], "mmi_hf decodes greedily: num_beams=1"),
        (["--gen_kwargs", "max_new_tokens"], "--gen_kwargs 'max_new_tokens': not of the form KEY=VALUE"),
        (["--model_args", "tiny"], "--model_args 'tiny': not of the form KEY=VALUE"),
        (["--reasoning_tags", "[<think>]"], "--reasoning_tags '[<think>]': not a JSON list of [start, end] pairs"),
        (["--reasoning_tags", '["<think>", "</think>"]'], "not a JSON list of [start, end] pairs"),
    ],
)
def test_a_flag_without_effect_is_refused_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    """A model folder that is not there would be said otherwise."""
    assert said in refusal(capsys, [*OUR_MODEL, *arguments(tmp_path / "nowhere", TASK, tmp_path, *given)])


def test_a_logger_that_is_not_installed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Upstream warns, with a page of traceback, and goes on without it."""
    assert main([*OUR_MODEL, *arguments(tmp_path / "nowhere", TASK, tmp_path, "--swanlab_args", "project=x")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --swanlab_args: the package swanlab is not")


def test_what_asks_for_the_default_is_no_request(varied: Path, plain: Path, tmp_path: Path) -> None:
    same = ("--num_fewshot", "0", "--repeats", "1", "--seed", "0,1234,1234,1234", "--agentic_trace_mode", "basic")
    assert main([*OUR_MODEL, *arguments(varied, TASK, tmp_path, *SHORT, *same, limit=4)]) == 0
    assert read_run(tmp_path)[TASK].records == read_run(plain)[TASK].records
