"""Every flag of lmms-eval's command line on our tasks: it acts, or it is refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from lmms_eval import __main__ as upstream

from mmi_plugin.harness import flags
from mmi_plugin.harness.launcher import main
from mmi_plugin.results import TaskResult
from mmi_plugin.results.runs import newest_results, read_run
from mmi_plugin.sources import load
from tests.harness_runs import OUR_MODEL, arguments, process, raw_answers, save_varied
from tests.server import Server, serving

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
        (["--max_batch_size", "8"], "--max_batch_size is for --batch_size auto"),
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
        (["--model_args", "tiny"], "not of the form KEY=VALUE,KEY=VALUE: --model_args pretrained=tiny?"),
        (["--reasoning_tags", "[<think>]"], "--reasoning_tags '[<think>]': not a JSON list of [start, end] pairs"),
        (["--reasoning_tags", '["<think>", "</think>"]'], "not a JSON list of [start, end] pairs"),
    ],
)
def test_a_flag_without_effect_is_refused_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    """A model folder that is not there would be said otherwise."""
    assert said in refusal(capsys, [*OUR_MODEL, *arguments(tmp_path / "nowhere", TASK, tmp_path, *given)])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tasks", "mmi_demo_digit"], "did you mean 'mmi_demo_digits'?"),
        (["--tasks", "mmi_nothing*"], "the pattern matches nothing"),
        ([], "--tasks is missing"),
        (["--tasks", "mmi_demo", "--model", "mmi_hff"], "did you mean 'mmi_hf'?"),
        (["--tasks", "mmi_demo", "--limit", "0"], "--limit is 0"),
        (["--tasks", "mmi_demo", "--offset", "99999"], "leaves none"),
        (["--tasks", "mmi_demo", "--log_samples"], "--log_samples needs --output_path"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    tiny_llava: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main([*OUR_MODEL, "--model_args", f"pretrained={tiny_llava}", *flags]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: ") and said in errors[-1]
    assert not any("Traceback" in line for line in errors)


def test_a_folder_that_cannot_be_written_is_said_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("", encoding="utf-8")
    assert main([*OUR_MODEL, *arguments(tmp_path / "nowhere", "mmi_demo_arith", occupied, limit=4)]) == 2
    assert f"error: --output_path {occupied}: cannot be written" in capsys.readouterr().err


def test_a_logger_that_is_not_installed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Upstream warns, with a page of traceback, and goes on without it."""
    assert main([*OUR_MODEL, *arguments(tmp_path / "nowhere", TASK, tmp_path, "--swanlab_args", "project=x")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --swanlab_args: the package swanlab is not")


def test_what_asks_for_the_default_is_no_request(varied: Path, plain: Path, tmp_path: Path) -> None:
    same = ("--num_fewshot", "0", "--repeats", "1", "--seed", "0,1234,1234,1234", "--agentic_trace_mode", "basic")
    assert main([*OUR_MODEL, *arguments(varied, TASK, tmp_path, *SHORT, *same, limit=4)]) == 0
    assert read_run(tmp_path)[TASK].records == read_run(plain)[TASK].records


@pytest.mark.parametrize("command", [["tasks", "--resume"], ["--help", "--resume"]])
def test_our_own_flag_is_for_evaluations(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert refusal(capsys, command) == "--resume goes on with an evaluation: it needs --model and --tasks"


@pytest.mark.parametrize("command", [["--help"], ["eval", "--help"]])
def test_help_names_our_own_flags_too(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: lmms") and all(flag in said for flag in ("--resume ", "--floor ", "--trackio_args "))


@pytest.mark.long
def test_upstreams_script_fails_where_it_is_asked_for_our_tasks(tmp_path: Path) -> None:
    """It would say that there are none, and leave with 0."""
    script = Path(sys.executable).with_name("lmms-eval")
    done = process([str(script), *OUR_MODEL, *arguments(tmp_path / "nowhere", "mmi_demo_arith", tmp_path)])
    said = "error: --tasks: no task 'mmi_demo_arith': `lmms-eval` knows it with --include_path "
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(said)


def test_flags_of_the_output_act(varied: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = ("--show_config", "--write_out", "--timezone", "Pacific/Kiritimati", "--process_docs_parallel", "1")
    assert main([*OUR_MODEL, *arguments(varied, TASK, tmp_path, *SHORT, *shown, limit=2)]) == 0
    said = capfd.readouterr().out
    assert '"resolved_cli_args": {' in said and "What is the digit in the picture plus" in said
    east = datetime.now(timezone(timedelta(hours=14)))
    assert newest_results(tmp_path).name[:8] in {f"{east:%Y%m%d}", f"{east - timedelta(minutes=2):%Y%m%d}"}


def test_subcommands_know_our_tasks(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "list"]) == 0
    assert {"mme", "mmi_demo_digits", "mmi_all"} <= set(capfd.readouterr().out.split())
    for command in (["power", "--tasks", "mmi_demo_digits"], ["--power-analysis", "--tasks", "mmi_demo_digits"]):
        assert main(command) == 0
        items = len(load("demo_digits", "test").items)
        assert f"Sample size:         n = {items}\n" in capfd.readouterr().out
    assert main(["power", "--tasks", "mmi_demo_digit"]) == 2
    capfd.readouterr()
    assert main(["models"]) == 0
    listed = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["mmi_hf", "chat"] in listed and ["llava_hf", "chat+simple"] in listed


def ask(server: Server, out: Path, *more: str) -> TaskResult:
    """Evaluate a server with lmms-eval's client."""
    model = f"model=tiny,base_url={server.url},api_key=none,httpx_trust_env=False,max_retries=1,num_concurrent=1"
    run = arguments(Path(), TASK, out, *SHORT, *more, limit=4)
    run[run.index("--model_args") + 1] = model
    assert main(["--model", "openai", *run]) == 0
    return read_run(out)[TASK]


def test_the_system_instruction_is_the_system_turn(varied: Path, plain: Path, tmp_path: Path) -> None:
    """Held against a server, which renders what it is sent by the processor's own template."""
    said = ("--system_instruction", "Look twice, then answer.")
    with serving(varied) as server:
        sent = ask(server, tmp_path / "server", *said)
        assert [turn["role"] for chat in server.chats for turn in chat] == ["system", "user"] * 4
        assert {chat[0]["content"][0]["text"] for chat in server.chats} == {said[1]}
    assert main([*OUR_MODEL, *arguments(varied, TASK, tmp_path / "ours", *SHORT, *said, limit=4)]) == 0
    ours, without = read_run(tmp_path / "ours")[TASK], read_run(plain)[TASK]
    assert raw_answers(ours) == raw_answers(sent)
    assert raw_answers(ours) != raw_answers(without)
    assert (ours.setup["system_instruction"], without.setup["system_instruction"]) == (said[1], None)


def test_settings_of_the_decoding_act_and_are_in_the_record(varied: Path, plain: Path, tmp_path: Path) -> None:
    more = ("--gen_kwargs", "max_new_tokens=3,repetition_penalty=0.02")
    assert main([*OUR_MODEL, *arguments(varied, TASK, tmp_path, *more, limit=4)]) == 0
    found, without = read_run(tmp_path)[TASK], read_run(plain)[TASK]
    assert raw_answers(found) != raw_answers(without)
    assert (found.setup["decoding"]["repetition_penalty"], without.setup["decoding"]["repetition_penalty"]) == (0.02, 1)
    assert found.setup["decoding"]["max_new_tokens"] == 3


@pytest.mark.parametrize(
    ("raw", "tags", "expected"),
    [
        ("<think>It is A.</think>B", (), ("B", False)),
        ("<analysis>It is A.", (), (None, True)),
        ("<think>The answer is A", (), (None, True)),
        ("<think>The answer is A", ("--reasoning_tags", "none"), ("A", False)),
        ("<hm>The answer is A", (), ("A", False)),
        ("<hm>The answer is A", ("--reasoning_tags", '[["<hm>", "</hm>"]]'), (None, True)),
        ("<hm>The answer is A</hm> C", ("--reasoning_tags", '[["<hm>", "</hm>"]]'), ("C", False)),
    ],
)
def test_thoughts_stand_between_the_tags_that_are_given(
    varied: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raw: str,
    tags: tuple[str, ...],
    expected: tuple[str | None, bool],
) -> None:
    monkeypatch.setattr(Server, "generate", lambda *_: raw)
    with serving(varied) as server:
        result = ask(server, tmp_path, *tags)
    assert {(record.parsed, record.cut_off) for record in result.records} == {expected}
    assert {record.raw for record in result.records} == {raw}
    assert (result.numbers["cut_off"], result.numbers["unparseable"]) == (expected[1], expected[0] is None)
