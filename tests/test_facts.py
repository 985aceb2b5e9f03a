"""`mmi data facts` with a tiny model, and with an OpenAI-compatible server on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.base.architecture import build_tokenizer
from mmi_plugin.answers import mentions
from mmi_plugin.cli import main
from mmi_plugin.conditions import get
from mmi_plugin.data.facts import ATTEMPTS, sentence, with_transformers, write_facts
from mmi_plugin.documents import Selection
from mmi_plugin.errors import InputError
from mmi_plugin.item import Item
from mmi_plugin.sources.facts import FactsFile, with_facts
from mmi_plugin.sources.registry import Benchmark
from tests import tiny

PICTURE = Image.new("RGB", (4, 4))
ITEMS = (
    Item("1", "image_heavy", "What?", "cat", ("cat", "dog", "eel"), PICTURE),
    Item("2", "image_heavy", "What?", "dog", ("cat", "dog", "fox"), PICTURE),
    Item("3", "image_heavy", "What?", "eel", ("eel", "dog", "fox"), PICTURE),
)
BENCH = Benchmark("pets", "image_heavy", ITEMS)


class Model:
    """Says that a thing is no cat, until it is asked not to."""

    def __init__(self, stubborn: bool = False) -> None:
        self.prompts: list[str] = []
        self.stubborn = stubborn

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        self.prompts += prompts
        return [self._reply(prompt) for prompt in prompts]

    def _reply(self, prompt: str) -> str:
        thing = prompt.split(" sentence about ")[1].split()[1]
        if thing == "dog" and ("'cat'" not in prompt or self.stubborn):
            return '"A  dog is no cat."\nMore.'
        return f'"A {thing} is  a {thing}."\nMore.'


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_sentence_serves_every_item_but_where_it_names_the_answer(tmp_path: Path) -> None:
    path, model = tmp_path / "facts.jsonl", Model()
    assert write_facts(ITEMS, FactsFile(path), model, "m") == []
    assert rows(path) == [
        {"id": "1", "facts": {"dog": "A dog is a dog.", "eel": "A eel is a eel."}, "model": "m"},
        {"id": "2", "facts": {"cat": "A cat is a cat.", "fox": "A fox is a fox."}, "model": "m"},
        {"id": "3", "facts": {"dog": "A dog is a dog.", "fox": "A fox is a fox."}, "model": "m"},
    ]
    assert len(model.prompts) == 5, "dog twice, as its first sentence named the answer; eel, cat, fox"


def test_an_option_without_a_usable_fact_is_named(tmp_path: Path) -> None:
    path, model = tmp_path / "facts.jsonl", Model(stubborn=True)
    assert write_facts(ITEMS[:1], FactsFile(path), model, "m") == [("1", "dog")]
    assert rows(path)[0]["facts"] == {"eel": "A eel is a eel."}
    assert sum(" dog " in prompt for prompt in model.prompts) == ATTEMPTS
    misled = {
        get("misleading_text")(item, seed).context
        for item in with_facts(Benchmark("pets", "image_heavy", ITEMS[:1]), path).items
        for seed in range(9)
    }
    assert misled == {
        "This picture seems to depict a dog.",
        "This picture seems to depict an eel. A eel is a eel.",
    }


@pytest.mark.parametrize("cut", [1, 5, 40, 10_000])
def test_goes_on_after_a_kill_at_any_byte(tmp_path: Path, cut: int) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "facts.jsonl"
    write_facts(ITEMS, FactsFile(whole), Model(), "m")
    content = whole.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    model = Model()
    write_facts(ITEMS, FactsFile(path), model, "m")
    assert path.read_bytes() == content
    assert (model.prompts == []) == (cut <= 40), "what earlier lines know is not asked again"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "row 2: not JSON"),
        ('{"facts": {}}', "row 2: field 'id' is missing"),
        ('{"id": "2", "facts": {"cat": 1}}', "row 2: field 'facts' is not a map"),
        ('{"id": "1", "facts": {}}', "row 2: field 'id' '1' is there twice"),
        ('{"id": "2", "facts": {"owl": "x"}}', "item 2: 'owl' is none of its wrong options"),
        ('{"id": "2", "facts": {"dog": "x"}}', "item 2: 'dog' is none of its wrong options"),
        ('{"id": "2", "facts": {"cat": "No DOG."}}', "the fact on 'cat' names the answer 'dog': 'No DOG.'"),
        ('{"id": "2", "facts": {"cat": " "}}', "the fact on 'cat' is empty"),
        ('{"id": "2", "facts": {}}', "item 3 is missing"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(f'{{"id": "1", "facts": {{}}}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError) as error:
        with_facts(BENCH, path)
    assert str(path) in str(error.value) and said in str(error.value)


@pytest.mark.parametrize(
    ("reply", "expected"), [('\n "Dogs\tbark."\nx', "Dogs bark."), ("**\nOk", "Ok"), ("", ""), ("…", "")]
)
def test_a_reply_becomes_one_line(reply: str, expected: str) -> None:
    assert sentence(reply) == expected


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random language model for text alone, with a chat template."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = build_tokenizer(tiny.texts(), 600)
    tokenizer.chat_template = "{% for m in messages %}USER: {{ m.content }}\nASSISTANT:{% endfor %}"
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["tiny_llava", "tiny_llama"])
def test_a_model_of_transformers_replies_to_a_batch_as_to_each_prompt(
    kind: str, request: pytest.FixtureRequest
) -> None:
    write = with_transformers(str(request.getfixturevalue(kind)))
    prompts = ["Write one sentence about a dog.", "A cat?", "What is the capital of Peru and of Chile?"]
    assert write(prompts) == [write([prompt])[0] for prompt in prompts]


def test_the_command_with_a_tiny_model(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "facts.jsonl"
    command = ["data", "facts", "mmi_demo_digits", "--out", str(out), "--model", str(tiny_llava), "--limit", "3"]
    assert main(command) == 0
    first = out.read_bytes()
    assert main(command) == 0 and out.read_bytes() == first
    found = rows(out)
    bench = Selection.parse({"source": "demo_digits"}, "test", "t").benchmark()
    assert [row["id"] for row in found] == [item.id for item in bench.items[:3]]
    for row, item in zip(found, bench.items, strict=False):
        assert set(row["facts"]) <= set(item.wrong_options)
        assert not any(mentions(fact, item.answer) for fact in row["facts"].values())
    assert f"{out}: facts on 3 items" in capsys.readouterr().out


def test_errors_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(task: str, *more: str) -> str:
        assert main(["data", "facts", task, "--out", str(tmp_path / "f.jsonl"), "--model", "none/such", *more]) == 2
        return capsys.readouterr().err

    assert "did you mean 'mmi_demo_digits'?" in said("mmi_demo_digts")
    assert "mmi_demo_arith is vqa: only image-heavy tasks" in said("mmi_demo_arith")
    assert "--limit is 0" in said("mmi_demo_digits", "--limit", "0")
    (tmp_path / "f.jsonl").write_text('{"id": "zebra", "facts": {}}\n', encoding="utf-8")
    assert "item zebra is none of mmi_demo_digits" in said("mmi_demo_digits")


class Handler(BaseHTTPRequestHandler):
    """`/v1/chat/completions`: the first request of all fails for a moment, `broken` ones for good."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        if body["model"] == "broken" or len(self.server.seen) == 1:
            status, content = (404, {"error": {"message": "no such model"}}) if body["model"] == "broken" else (503, {})
        else:
            prompt = body["messages"][0]["content"]
            text = f"It has the shape of {prompt.split(' sentence about ')[1].split(' that')[0]}."
            message = {"role": "assistant", "content": text}
            status, content = 200, {
                "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }  # fmt: skip
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.seen = []
        thread = Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_the_command_with_a_server(
    server: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, url = tmp_path / "facts.jsonl", f"http://127.0.0.1:{server.server_port}/v1"
    command = ["data", "facts", "mmi_demo_digits", "--out", str(out), "--base_url", url]
    assert main([*command, "--model", "writer"]) == 0
    assert {body["model"] for body in server.seen} == {"writer"}
    assert len(server.seen) == 10 + 1, "one request a digit, and the repeated one"
    bench = Selection.parse({"source": "demo_digits", "facts": str(out)}, "test", "t").benchmark()
    assert len(bench.items) == 400
    item = bench.items[0]
    named = get("misleading_text")(item, 0).named
    article = "an" if named == "eight" else "a"
    assert get("misleading_text")(item, 0).context.endswith(f"It has the shape of {article} {named}.")
    out.unlink()
    assert main([*command, "--model", "broken"]) == 2
    assert "no such model" in capsys.readouterr().err
