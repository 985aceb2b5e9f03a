"""The scorer against plain generation, one row at a time, for tiny checkpoints of many families."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from loguru import logger
from PIL import Image
from transformers import AutoModelForImageTextToText, GenerationConfig

from mmi_plugin.conditions import get
from mmi_plugin.item import LETTERS, messages
from mmi_plugin.models import prefix
from mmi_plugin.models.evaluate import Scorer
from mmi_plugin.models.families import prompts_of, side_by_side
from mmi_plugin.models.generate import Query, Reply
from mmi_plugin.models.load import load_processor
from mmi_plugin.sources import load
from tests import families

STEPS = 4
SHARING = ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "gemma3"]
WHOLE = ["instructblip_llama", "paligemma"]  # features that depend on the text; text that is not causal
ASKED = {
    "demo_digits": ("clean", "unrelated_text", "misleading_text", "ocr_text"),
    "demo_capitals": ("black", "white", "random_pixels"),
}


class Case(NamedTuple):
    name: str
    model: Any
    processor: Any
    rows: list[Query]
    expected: list[Reply]


def _rows() -> list[Query]:
    rows = []
    for source, conditions in ASKED.items():
        bench = load(source, "test")
        for name in conditions:
            for item in bench.items[:3]:
                chat = messages(get(name)(item, 0, bench.pools))
                rows.append(Query(chat, tuple(LETTERS[: len(item.options)]), shared=True))
    return rows


def _inputs(processor: Any, chat: list[dict[str, Any]]) -> dict[str, Any]:
    """The prompt of one row, straight from the processor."""
    if processor.chat_template:
        return processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    (turn,) = chat
    image, text = (part[part["type"]] for part in turn["content"])
    return processor(images=image, text=text, return_tensors="pt")


@torch.inference_mode()
def _slow(model: Any, processor: Any, row: Query, choices: list[list[int]]) -> Reply:
    """Generate for a single row; and for each choice, run prompt and choice through the model as a whole."""
    inputs = dict(_inputs(processor, row.chat))
    ids = inputs["input_ids"]
    output = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[:, ids.shape[1] :]
    heads = [tokens[0] for tokens in choices]
    shares = []
    for tokens in choices:
        tokens = tokens if heads.count(tokens[0]) > 1 else tokens[:1]
        share = 1.0
        for end, token in enumerate(tokens):
            added = torch.tensor([tokens[:end]], dtype=torch.long)
            longer = {**inputs, "input_ids": torch.cat([ids, added], 1)}
            for name in ("attention_mask", "mm_token_type_ids", "token_type_ids"):
                if name in inputs:
                    fill = torch.full_like(added, int(name == "attention_mask"))
                    longer[name] = torch.cat([inputs[name], fill], 1)
            share *= model(**longer).logits[0, -1].double().softmax(-1)[token].item()
        shares.append(share)
    return Reply(processor.tokenizer.decode(output[0], skip_special_tokens=True), 0, tuple(shares))


def _choices(processor: Any, row: Query) -> list[list[int]]:
    """The tokens of the letters: as they are after the template, and without one as a suffix is encoded or, where
    the processor knows none, after a blank."""
    if type(processor).__name__ == "PaliGemmaProcessor":
        image, text = (part[part["type"]] for part in row.chat[0]["content"])
        whole = [processor(images=image, text=text, suffix=choice, return_tensors="pt") for choice in row.choices]
        return [own["labels"][0][own["labels"][0] != -100].tolist()[:-1] for own in whole]
    blank = "" if processor.chat_template else " "
    return [processor.tokenizer(blank + choice, add_special_tokens=False)["input_ids"] for choice in row.choices]


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = families.save(request.param, tmp_path_factory.mktemp(request.param), spread=0.4)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = load_processor(str(folder))
    rows = _rows()
    expected = [_slow(model, processor, row, _choices(processor, row)) for row in rows]
    return Case(request.param, model, processor, rows, expected)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING", format="{message}")
    yield said
    logger.remove(sink)


def _answers(case: Case, size: int, ranks: int = 1) -> list[Reply]:
    """Score in batches that mix images, conditions and lengths, each rank its own share of the rows."""
    found = {}
    for rank in range(ranks):
        scorer = Scorer(case.model, prompts_of(case.processor))
        order = [index for start in range(5) for index in range(start, len(case.rows), 5)][rank::ranks]
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            answers = scorer.answer([case.rows[index] for index in batch], {"max_new_tokens": STEPS})
            found.update(zip(batch, answers, strict=True))
    return [found[index] for index in range(len(case.rows))]


def _assert_equal(found: list[Reply], expected: list[Reply]) -> None:
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    at_once = [pair for pair in zip(found, expected, strict=True) if not re.search(r".\W[a-dA-D]\b", pair[1].text)]
    assert len(at_once) > len(expected) / 2, "most answers name no letter after other words"
    for answer, wanted in at_once:
        assert answer.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
        assert answer.probabilities == pytest.approx(wanted.probabilities, rel=2e-3, abs=1e-9), "small ones too"


@pytest.mark.parametrize("case", [*SHARING, *WHOLE], indirect=True, scope="module")
def test_answers_and_probabilities_are_those_of_single_rows(case: Case, warnings: list[str]) -> None:
    assert len({answer.text for answer in case.expected}) > 2, "answers must depend on the prompt"
    for size, ranks in ((1, 1), (4, 1), (16, 1), (4, 2)):
        warnings.clear()
        _assert_equal(_answers(case, size, ranks), case.expected)
        assert len(warnings) == ranks * (case.name in WHOLE), "said once by those that cannot share, by no other"


@pytest.mark.parametrize("case", ["llava"], indirect=True)
def test_each_image_is_encoded_once(case: Case) -> None:
    encoded = []
    hook = case.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, call: encoded.append(len((*args, *call.values())[0])), with_kwargs=True
    )
    order = sorted(case.rows, key=lambda row: row.chat[0]["content"][0]["image"].tobytes())
    scorer = Scorer(case.model, prompts_of(case.processor))
    for start in range(0, len(order), 4):
        scorer.answer(order[start : start + 4], {"max_new_tokens": STEPS})
    hook.remove()
    images = {row.chat[0]["content"][0]["image"].tobytes() for row in order}
    first = 2 + 1  # one prompt, asked twice to see whether it looks ahead, and another whose logits are compared, too
    assert sum(encoded) == len(images) + first


@pytest.mark.parametrize("case", ["llava"], indirect=True)
@pytest.mark.parametrize("shared", [True, False])
def test_choices_that_begin_alike_are_scored_whole(case: Case, shared: bool) -> None:
    pairs = [f"B{letter}" for letter in LETTERS]
    tokens = {text: case.processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in [*pairs, "C"]}
    texts = (*[text for text in pairs if len(tokens[text]) == 2][:3], "C")
    assert len(texts) == 4
    choices = [tokens[text] for text in texts]
    rows = [Query(row.chat, texts, shared) for row in case.rows[:6]]
    expected = [_slow(case.model, case.processor, row, choices) for row in rows]
    found = Scorer(case.model, prompts_of(case.processor)).answer(rows, {"max_new_tokens": STEPS})
    _assert_equal(found, expected)


@pytest.mark.parametrize("case", ["qwen2_5_vl"], indirect=True)
def test_a_model_that_goes_on_wrongly_is_found_out(
    case: Case, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = prefix._compute

    def shifted(*args: Any) -> list[prefix.Prefix]:
        prefixes = compute(*args)
        for one in prefixes:
            one.position += 3
        return prefixes

    monkeypatch.setattr(prefix, "_compute", shifted)
    _assert_equal(_answers(case, 4), case.expected)
    assert len(warnings) == 1 and "differ" in warnings[0]


@pytest.mark.parametrize("case", ["llava"], indirect=True)
def test_what_is_kept_is_bounded(case: Case) -> None:
    scorer = Scorer(case.model, prompts_of(case.processor))
    for start in range(0, len(case.rows), 2):
        scorer.answer(case.rows[start : start + 2], {"max_new_tokens": STEPS})
        assert len(scorer._prefixes._kept) <= 2


@pytest.mark.parametrize("case", ["instructblip_llama"], indirect=True)
def test_several_images_are_joined_where_a_prompt_takes_one(case: Case, warnings: list[str]) -> None:
    left, right = Image.new("RGB", (10, 20), "red"), Image.new("L", (30, 10), 255)
    whole = side_by_side([left, right])
    assert whole.size == (70, 20)
    assert [whole.getpixel(at) for at in ((0, 0), (9, 19), (10, 0), (69, 19))] == [(255, 0, 0)] * 2 + [(255,) * 3] * 2
    text = {"type": "text", "text": "Which?"}
    chats = [
        [{"role": "user", "content": [*({"type": "image", "image": image} for image in images), text]}]
        for images in ((left, right), (whole,))
    ]
    scorer = Scorer(case.model, prompts_of(case.processor))
    two, one = (scorer.answer([Query(chat, ("A", "B"))], {"max_new_tokens": STEPS}) for chat in chats)
    assert two == one
    assert [message for message in warnings if "side by side" in message] != []
    scorer.answer([Query(chats[0])], {"max_new_tokens": 1})
    assert len([message for message in warnings if "side by side" in message]) == 1


HOSTILE = {
    "do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "num_beams": 2,
    "min_length": 400, "guidance_scale": 3.0, "max_time": 1e-9, "max_length": 500, "suppress_tokens": [5, 6, 7],
}  # fmt: skip


@pytest.mark.parametrize("case", ["llava"], indirect=True)
def test_settings_of_the_checkpoint_do_not_act(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = case.model.generation_config
    own = GenerationConfig(**HOSTILE, eos_token_id=kept.eos_token_id, pad_token_id=kept.pad_token_id)
    monkeypatch.setattr(case.model, "generation_config", own)
    _assert_equal(_answers(case, 4), case.expected)
    assert case.model.generation_config is own, "and are there afterwards"


@pytest.mark.parametrize("case", ["llava"], indirect=True)
@pytest.mark.parametrize(
    "settings",
    [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 4}],
)
def test_settings_of_the_task_act_as_in_transformers_on_single_rows(case: Case, settings: dict[str, Any]) -> None:
    steps = {"max_new_tokens": 8}
    for shared in (True, False):
        rows = [Query(row.chat, row.choices, shared) for row in case.rows]
        scorer = Scorer(case.model, prompts_of(case.processor))
        found = [
            answer
            for start in range(0, len(rows), 8)
            for answer in scorer.answer(rows[start : start + 8], {**steps, **settings})
        ]
        assert [answer.text for answer in found] != [answer.text for answer in case.expected]
        for row, answer in zip(rows, found, strict=True):
            inputs = dict(_inputs(case.processor, row.chat))
            own = case.model.generate(**inputs, **steps, **settings, do_sample=False)
            new = own[0, inputs["input_ids"].shape[1] :]
            assert answer.text == case.processor.tokenizer.decode(new, skip_special_tokens=True)
    at_once = {tuple(round(p, 6) for p in answer.probabilities) for answer in found if answer.probabilities}
    plain = {tuple(round(p, 6) for p in answer.probabilities) for answer in case.expected}
    assert len(at_once & plain) > len(plain) / 2, "probabilities are the model's own"


@pytest.mark.parametrize("case", ["paligemma", "llava", "gemma3"], indirect=True)
def test_a_prompt_that_attends_to_what_comes_later_shares_nothing_in_half_precision(
    case: Case, warnings: list[str]
) -> None:
    model = copy.deepcopy(case.model).to(torch.bfloat16)
    scorer = Scorer(model, prompts_of(case.processor))
    for start in range(0, len(case.rows), 4):
        scorer.answer(case.rows[start : start + 4], {"max_new_tokens": 1})
    said = [line for line in warnings if "cannot share images" in line]
    assert len(said) == (case.name == "paligemma")
    assert all("attends to what comes later" in line for line in said)
    assert bool(scorer._prefixes._kept) == (case.name != "paligemma")


@pytest.mark.parametrize("case", ["instructblip_llama"], indirect=True)
def test_a_q_former_reads_what_it_has_positions_for(case: Case, warnings: list[str]) -> None:
    """Its own tokenizer, told to truncate, says what is left of a long prompt."""
    reader = case.processor.qformer_tokenizer
    before = reader.model_max_length, reader.truncation_side
    text = {"type": "text", "text": "how many words are there " * 200 + "in all?"}
    chat = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (20, 20))}, text]}]
    try:
        reader.model_max_length = 512
        for side in ("left", "right"):
            reader.truncation_side = side
            inputs = prompts_of(case.processor).inputs([chat])
            own = reader(text["text"], truncation=True, return_tensors="pt")["input_ids"]
            assert inputs["qformer_input_ids"].tolist() == own.tolist() and own.shape == (1, 512)
            assert inputs["input_ids"].shape[1] > 800, "the decoder reads all of it"
    finally:
        reader.model_max_length, reader.truncation_side = before
    assert any("the Q-Former reads 512 tokens of a prompt" in line for line in warnings)
