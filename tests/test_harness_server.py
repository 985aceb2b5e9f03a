"""Other models of lmms-eval on our tasks: its client of OpenAI-compatible servers, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmi_plugin.documents import perturbed
from mmi_plugin.harness.launcher import main
from mmi_plugin.results import TaskResult
from mmi_plugin.results.runs import read_run
from mmi_plugin.sources import load
from tests.harness_runs import OUR_MODEL, arguments, save_varied
from tests.server import Chat, Server, serving

TOKENS = ("--gen_kwargs", "max_new_tokens=6")
TASKS = ("mmi_demo_digits", "mmi_demo_capitals", "mmi_demo_arith")


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_varied(tmp_path_factory.mktemp("varied"))


@pytest.fixture(scope="module")
def expected(varied: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskResult]:
    """What `mmi_hf` answers."""
    out = tmp_path_factory.mktemp("expected")
    assert main([*OUR_MODEL, *arguments(varied, "mmi_demo", out, *TOKENS, "--batch_size", "16", limit=20)]) == 0
    return read_run(out)


@pytest.fixture
def server(varied: Path) -> Iterator[Server]:
    with serving(varied) as running:
        yield running


def _run(server: Server, out: Path, *more: str) -> int:
    options = f"model=tiny,base_url={server.url},api_key=none,httpx_trust_env=False,max_retries=1,num_concurrent=2"
    flags = ["--model", "openai", *arguments(Path(), "mmi_demo", out, *TOKENS, *more, limit=20)]
    flags[flags.index("--model_args") + 1] = options
    return main(flags)


def _decisions(result: TaskResult) -> list[Any]:
    """Every field of every record but the probabilities, which a server does not give."""
    return [replace(record, probabilities=None) for record in result.records]


def _sent(chat: Chat) -> tuple[str, tuple[bytes, ...]]:
    """Return the text and the pixels of a chat as the server received it."""
    parts = chat[0]["content"]
    images = tuple(part["image"].convert("RGB").tobytes() for part in parts if part["type"] == "image")
    return "".join(part["text"] for part in parts if part["type"] == "text"), images


def test_a_server_is_asked_the_same_and_answers_the_same(
    server: Server, expected: dict[str, TaskResult], tmp_path: Path
) -> None:
    assert _run(server, tmp_path) == 0
    found = read_run(tmp_path)
    assert set(found) == set(TASKS)
    asked = set(map(_sent, server.chats))
    for task, result in found.items():
        assert _decisions(result) == _decisions(expected[task])
        assert result.numbers == pytest.approx(expected[task].numbers, nan_ok=True)
        assert all(record.probabilities is None for record in result.records)
        bench = load(task.removeprefix("mmi_"), "test")
        items = {item.id: item for item in bench.items}
        for record, prompt in zip(result.records, result.prompts, strict=True):
            item = perturbed(bench, items[record.item_id], record.condition, record.seed)
            assert (prompt, tuple(image.convert("RGB").tobytes() for image in item.images)) in asked


def test_a_request_that_the_server_refuses_is_a_failed_record(
    server: Server,
    expected: dict[str, TaskResult],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """lmms-eval's client answers with a text of its own, which must not be taken for a wrong answer."""
    task = "mmi_demo_arith"
    bad, prompt = expected[task].records[2], expected[task].prompts[2]
    server.refuses = lambda chat: _sent(chat)[0] == prompt
    assert _run(server, tmp_path) == 1
    assert f"error: {task}: item {bad.item_id} (clean) failed: Error code: 400" in capsys.readouterr().err
    numbers = read_run(tmp_path)[task].numbers
    assert (numbers["items"], numbers["incomplete"]) == (19, 1)
    server.chats.clear()
    server.refuses = lambda chat: False
    assert _run(server, tmp_path, "--resume") == 0
    assert len(server.chats) == 1, "the others are known"
    found = read_run(tmp_path)
    assert all(_decisions(found[name]) == _decisions(expected[name]) for name in TASKS)
