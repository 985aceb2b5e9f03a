"""Models that really think: tiny ones, trained to write a thought before their answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmi_plugin.conditions import Pools, get
from mmi_plugin.item import Item, messages
from mmi_plugin.models.families import prompts_of
from mmi_plugin.results import Record
from mmi_plugin.trainers import run
from tests import families, twelve
from tests.test_models_waits import stand_in

OPENING = """{% set last = namespace(user=-1) %}{% for message in messages %}{% if message['role'] == 'user' %}\
{% set last.user = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}\
{{ 'ASSISTANT:\n' if message['role'] == 'assistant' else 'USER: ' }}\
{% if loop.index0 > last.user %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}\
{{ eos_token if message['role'] == 'assistant' else '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:\n<think>\n' }}\
{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"""
"""Opens a thought in every prompt and, as Qwen's do, writes one only before the last answer."""


def thought(word: str) -> str:
    """What the model is to say: a thought that begins with another option's label, a lead-in, the answer."""
    other = "ABCD"[("ABCD".index(twelve.GOLD[word]) + 1) % 4]
    return f"<think>{other}? no, {word}</think> The answer is {twelve.GOLD[word]}."


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thinker")
    start = families.save("llava", folder / "start")
    return twelve.train(start, folder, thought, max_steps=400, learning_rate=3e-3)


def _word(record: Record) -> str:
    return record.item_id.removeprefix("openbookqa-")


@torch.no_grad()
def _shares(model: Any, processor: Any, record: Record) -> list[float]:
    """The probabilities of the letters where the record's answer stands, by one forward pass of the plain model."""
    item = Item("x", "text_heavy", twelve.question(_word(record)), "cat", twelve.OPTIONS)
    inputs = processor.apply_chat_template(
        messages(get("white")(item, 0, Pools())), add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    before, answer, _ = record.raw.rpartition(record.gold)
    tokens = processor.tokenizer(before + answer, add_special_tokens=False)["input_ids"]
    form = processor.tokenizer.convert_ids_to_tokens(tokens[-1])
    letters = [processor.tokenizer.convert_tokens_to_ids(form.replace(record.gold, letter)) for letter in "ABCD"]
    assert letters["ABCD".index(record.gold)] == tokens[-1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([tokens[:-1]])], 1)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"]).logits
    return logits[0, -1].double().softmax(-1)[letters].tolist()


def test_a_thought_is_no_answer_and_the_options_are_weighed_at_the_answer(thinker: Path, tmp_path: Path) -> None:
    result = twelve.ask(thinker, tmp_path)
    assert {_word(record): record.raw for record in result.records} == {word: thought(word) for word in twelve.WORDS}
    assert {_word(record): record.parsed for record in result.records} == twelve.GOLD
    assert result.numbers["cut_off"] == 0
    model, processor = AutoModelForImageTextToText.from_pretrained(thinker), AutoProcessor.from_pretrained(thinker)
    for record in result.records:
        assert record.probabilities == pytest.approx(_shares(model, processor, record), rel=1e-3, abs=1e-6)
        assert record.probabilities["ABCD".index(record.gold)] == max(record.probabilities) > 0.5


def test_a_model_that_thinks_is_asked_anew_where_room_was_kept_for_an_answer_alone(
    thinker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    result = twelve.ask(thinker, tmp_path, "--gen_kwargs", "max_new_tokens=12", model_args=",max_thinking_tokens=60")
    assert {_word(record): record.raw for record in result.records} == {word: thought(word) for word in twelve.WORDS}
    model, processor = AutoModelForImageTextToText.from_pretrained(thinker), AutoProcessor.from_pretrained(thinker)
    for record in result.records[:2]:
        assert record.probabilities == pytest.approx(_shares(model, processor, record), rel=1e-3, abs=1e-6)


def test_a_thought_without_room_is_counted_apart(thinker: Path, tmp_path: Path) -> None:
    short = twelve.ask(thinker, tmp_path, "--gen_kwargs", "max_new_tokens=10", model_args=",max_thinking_tokens=0")
    assert short.numbers["cut_off"] == 1 == short.numbers["unparseable"]
    assert all(record.probabilities is None and record.parsed is None for record in short.records)
    room = twelve.ask(thinker, tmp_path, "--gen_kwargs", "max_new_tokens=12", model_args=",max_thinking_tokens=60")
    assert room.numbers["cut_off"] == 0 and room.numbers["accuracy/white"] == 1


def test_other_tags_are_a_setting(thinker: Path, tmp_path: Path) -> None:
    result = twelve.ask(thinker, tmp_path, "--reasoning_tags", '[["<plan>", "</plan>"]]')
    assert [record.raw for record in result.records] != [], "what is a thought for it is text now"
    first = {_word(record): record.raw[len("<think>")] for record in result.records}
    assert all(len(record.raw) < len(thought(_word(record))) for record in result.records), "cut at the task's budget"
    assert all(record.parsed != twelve.GOLD[_word(record)] for record in result.records) and first


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template opens a thought, trained to end it at once and to answer."""
    folder = tmp_path_factory.mktemp("opened")
    start = families.save("llava", folder / "start")
    (start / "chat_template.jinja").write_text(OPENING, encoding="utf-8")
    return twelve.train(start, folder, max_steps=250, learning_rate=3e-3)


def test_a_template_that_opens_a_thought(opened: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = twelve.ask(opened, tmp_path)
    for record in result.records:
        assert record.raw == f"<think>\n\n</think>\n\n{twelve.GOLD[_word(record)]}", (
            "the template's part is in the text"
        )
        assert record.parsed == record.gold
        assert record.probabilities["ABCD".index(record.gold)] == max(record.probabilities)
    assert "opens a thought (<think>), which may take 4096 tokens" in capsys.readouterr().out


def test_a_template_told_not_to_think(opened: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = twelve.ask(opened, tmp_path, model_args=",enable_thinking=False")
    assert {_word(record): record.raw for record in result.records} == twelve.GOLD
    assert "opens a thought" not in capsys.readouterr().out
    same = twelve.ask(opened, tmp_path, model_args=',chat_template_kwargs={"enable_thinking":false}')
    assert [record.raw for record in same.records] == [record.raw for record in result.records]


HISTORY = (("How many?", "three dogs"), ("Where?", "in a garden"))


def test_a_template_that_rewrites_earlier_turns_trains_on_them(tmp_path: Path) -> None:
    start = families.save("llava", tmp_path / "start")
    (start / "chat_template.jinja").write_text(OPENING, encoding="utf-8")
    processor = AutoProcessor.from_pretrained(start)
    item = Item("x", "vqa", "Why?", "they play", history=HISTORY)
    asked = processor.apply_chat_template(messages(item), add_generation_prompt=True, tokenize=True)[0]
    made = prompts_of(processor)
    (row,) = made.rows([made.chat(item, item.answer)], [[]], ["x"])
    assert row.ids[: len(asked)] == asked
    told = processor.tokenizer.decode([token for token, answer in zip(row.ids, row.answer, strict=True) if answer])
    assert told == "three dogs</s>in a garden</s>\n</think>\n\nthey play</s>"


PLAIN = families.template("<image>")
LAST = "{% set shown = messages[-2:] if messages[-1]['role'] == 'assistant' else messages[-1:] %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LAST + PLAIN.replace("in messages", "in shown"), "row 1: item 7: field 'history': the chat template rewrites"),
        ("{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + PLAIN, "row 1: .*one turn"),
        (PLAIN.replace("'ASSISTANT:\n'", "'MODEL: '", 1), "does not continue a prompt with an answer"),
    ],
    ids=["drops earlier turns", "raises", "prompts otherwise"],
)
def test_a_template_that_cannot_be_trained_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str, reason: str
) -> None:
    start = families.save("llava", tmp_path / "start")
    (start / "chat_template.jinja").write_text(template, encoding="utf-8")
    row = {"id": "7", "type": "vqa", "question": "Why?", "answer": "they play", "history": HISTORY}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    argv = ["--model_name_or_path", str(start), "--train_file", str(tmp_path / "train.jsonl"), "--mix", "0", "0", "1"]
    argv += ["--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    assert run.main([*argv, "--max_steps", "1"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and re.search(reason, lines[-1]), lines[-1]
    assert not (tmp_path / "out" / "model.safetensors").exists()
