"""Baselines without training against plain loops: one row at a time, whole prompts, the papers' formulas in fp64."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForImageTextToText
from transformers.masking_utils import eager_mask

from mmi_plugin.answers import read
from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError
from mmi_plugin.item import LETTERS, image_hash, messages, stream
from mmi_plugin.models.baselines import CONTROLS, METHODS, Baseline, kept_signal
from mmi_plugin.models.combine import vote
from mmi_plugin.models.evaluate import Scorer
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query, Reply
from mmi_plugin.models.load import load_processor
from mmi_plugin.models.tokens import to_model
from mmi_plugin.sources import load
from tests import families
from tests.test_models_answer import _choices, _inputs

STEPS = 4
SOME = ("llava", "qwen2_5_vl", "instructblip_llama", "paligemma")
ALL = [name if name in SOME else pytest.param(name, marks=pytest.mark.long) for name in families.RECIPES]
CONTRASTS = ("vcd", "m3id", "pai", "debias", "without_image", "without_text", "cut", "shift", "random_image")


class Case(NamedTuple):
    model: Any
    processor: Any
    rows: list[Query]


def _rows() -> list[Query]:
    """Items with options, image- and text-heavy, one without an image, and one to be answered in words."""
    asked = (("demo_digits", 2, "clean"), ("demo_capitals", 1, "random_pixels"), ("demo_capitals", 1, "text_only"))
    rows = []
    for source, number, condition in asked:
        bench = load(source, "test")
        item = get(condition)(bench.items[number], 0, bench.pools)
        rows.append(Query(messages(item), tuple(LETTERS[: len(item.options)])))
    return [*rows, Query(rows[0].chat)]


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = families.save(request.param, tmp_path_factory.mktemp(request.param), spread=0.4)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor, rows = load_processor(str(folder)), _rows()
    if not processor.chat_template:  # the slow prompts of these families need an image
        rows = [row for row in rows if any(part["type"] == "image" for part in row.chat[0]["content"])]
    return Case(model, processor, rows)


# --- the slow reference


def _contrast(name: str, processor: Any, chat: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the model reads of the contrast of a prompt; None where it is the prompt."""
    ((image, text),) = [
        (next((p["image"] for p in turn["content"] if p["type"] == "image"), None), turn["content"][-1]["text"])
        for turn in chat
    ]
    if image is None or name in ("cut", "shift"):
        return None
    shown: Image.Image | None = image
    if name == "random_image":
        pixels = stream("random_image", 0, image_hash(image)).randbytes(3 * image.width * image.height)
        shown = Image.frombytes("RGB", image.size, pixels)
    if name in ("m3id", "pai", "debias", "without_image"):
        shown = None
    parts = [*([{"type": "image", "image": shown}] if shown else [])]
    parts.append({"type": "text", "text": "" if name == "without_text" else text})
    inputs = _text_alone(processor, text) if shown is None else dict(_inputs(processor, _turn(parts)))
    if name == "vcd":
        betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (5e-3 - 1e-5) + 1e-5
        signal = np.prod(1 - betas[:501])
        noise = torch.Generator().manual_seed(stream("vcd", 0, image_hash(image)).getrandbits(63))
        drawn = torch.randn(inputs["pixel_values"].shape, generator=noise)
        inputs["pixel_values"] = math.sqrt(signal) * inputs["pixel_values"] + math.sqrt(1 - signal) * drawn
    return inputs


def _turn(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": parts}]


def _text_alone(processor: Any, text: str) -> dict[str, Any]:
    """A prompt without an image; those processors that have none write it as their tokenizer does."""
    if processor.chat_template:
        return dict(_inputs(processor, _turn([{"type": "text", "text": text}])))
    ids = [text, "\n"] if type(processor).__name__ == "PaliGemmaProcessor" else [text]
    start = "<s>" if len(ids) > 1 else ""
    made = processor.tokenizer(start + "".join(ids), return_tensors="pt", add_special_tokens=True)
    made = {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
    return {**made, "token_type_ids": torch.zeros_like(made["input_ids"])} if start else made


@contextmanager
def _raised(model: Any, token: int, ids: torch.Tensor, alpha: float, start: int) -> Iterator[None]:
    """PAI's attention, row by row of whole matrices: every query from the last of the prompt `ids` (L,) on was the
    last once, so that in layers from `start` on its logits on images are w + alpha |w|."""
    decoder, shown = model.get_decoder(), ids == token

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **call: Any) -> tuple[torch.Tensor, None]:
        heads, (_, _, length, _) = [], query.shape
        for head in range(query.shape[1]):
            group = head * key.shape[1] // query.shape[1]
            logits = query[0, head].double() @ key[0, group].double().T * call["scaling"]
            if module.layer_idx >= start:
                for row in range(len(ids) - 1, length):
                    for column in shown.nonzero()[:, 0].tolist():
                        logits[row, column] += alpha * abs(logits[row, column])
            if mask is None:
                logits = logits.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            else:
                logits = logits + mask[0, 0]
            heads.append(logits.softmax(-1).to(value.dtype) @ value[0, group])
        return torch.stack(heads, 1)[None], None

    AttentionInterface.register("slow_pai", attend)
    AttentionMaskInterface.register("slow_pai", eager_mask)
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("slow_pai")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Any], said: list[int]) -> torch.Tensor:
    added = torch.tensor([said], dtype=torch.long)
    longer = {**inputs, "input_ids": torch.cat([inputs["input_ids"], added], 1)}
    longer.pop("labels", None)  # which PaliGemma makes of every prompt
    for name in longer.keys() & {"qformer_input_ids", "qformer_attention_mask"}:
        longer[name] = longer[name].long()  # of an empty text they are floats
    longer = to_model(longer, model)
    for name in ("attention_mask", "mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            apart = name == "token_type_ids" and "PaliGemma" in type(model).__name__  # what is said is causal there
            fill = torch.full_like(added, int(apart or name == "attention_mask"))
            longer[name] = torch.cat([inputs[name], fill], 1)
    if "pixel_values" not in inputs and "InstructBlip" in type(model).__name__:  # the language model is all there is
        return model.language_model(longer["input_ids"]).logits[0, -1].double()
    return model(**longer).logits[0, -1].double()


def _formula(name: str, own: torch.Tensor, other: torch.Tensor | None, step: int, options: list[int]) -> torch.Tensor:
    """The papers' equations; step: 1 for the first token. options: those that may be said at it."""
    if other is None:  # there is nothing to take away
        found = own.clone()
    elif name in ("vcd", "without_image", "without_text", "random_image"):
        found = 2 * own - other
    elif name == "m3id":
        gamma = math.exp(-0.02 * step)
        found = own + (1 - gamma) / gamma * (own - other)
    elif name == "pai":
        found = 1.1 * own - 0.1 * other  # as (2) of the paper has it, and its code cuts
    elif name == "debias":
        found = own.log_softmax(-1) - other.log_softmax(-1)
    else:
        found = own.clone()
    if name == "shift" and options:
        found[options[0]] += 1.0
    if name == "debias" and options and step == 1:
        possible = torch.zeros_like(own, dtype=torch.bool)
        possible[options] = True
        return found.masked_fill(~possible, -torch.inf)
    if name in ("vcd", "pai", "debias", "without_image", "without_text", "random_image", "cut"):
        chances = own.softmax(-1)
        found = found.masked_fill(chances < 0.1 * chances.max(), -torch.inf)
    return found


def _slow(
    case: Case, name: str, row: Query, penalty: float = 1.0, steps: int = STEPS
) -> tuple[str, tuple[float, ...] | None]:
    model, tokenizer = case.model, case.processor.tokenizer
    inputs, other = dict(_inputs(case.processor, row.chat)), _contrast(name, case.processor, row.chat)
    options = [tokens[0] for tokens in _choices(case.processor, row)] if row.choices else []
    assert len(set(options)) == len(options)
    said: list[int] = []
    chances = None
    for step in range(1, steps + 1):
        pai = _raised(model, _image_token(case), inputs["input_ids"][0], 0.2, 1) if name == "pai" else nullcontext()
        with pai:
            own = _logits(model, inputs, said)
        against = None if other is None else _logits(model, other, said)
        found = _formula(name, own, against, step, options if step == 1 else [])
        if step == 1 and row.choices:
            chances = tuple(found.softmax(-1)[options].tolist())
        seen = torch.tensor([*inputs["input_ids"][0].tolist(), *said])
        found[seen] = torch.where(found[seen] > 0, found[seen] / penalty, found[seen] * penalty)
        said.append(int(found.argmax()))
        if said[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(said, skip_special_tokens=True), chances


def _image_token(case: Case) -> int:
    return case.processor.tokenizer.convert_tokens_to_ids(prompts_of(case.processor).placeholder)


def _fast(case: Case, name: str, rows: list[Query], **settings: Any) -> list[Reply]:
    if name == "pai":
        settings = {"pai_start_layer": 1, **settings}  # their third layer is more than these have
    baseline = Baseline.take(name, settings)
    scorer = Scorer(case.model, prompts_of(case.processor), thinking=0, baseline=baseline)
    return scorer.answer(rows, {"max_new_tokens": STEPS})


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_every_baseline_says_what_plain_loops_say(case: Case) -> None:
    plain = Scorer(case.model, prompts_of(case.processor), thinking=0).answer(case.rows, {"max_new_tokens": STEPS})
    moved = set()
    for name in CONTRASTS:
        for row, reply, bare in zip(case.rows, _fast(case, name, case.rows), plain, strict=True):
            text, chances = _slow(case, name, row)
            assert reply.text == text, name
            if chances is not None:
                assert reply.probabilities == pytest.approx(chances, rel=2e-4, abs=1e-7), name
                if reply.probabilities != pytest.approx(bare.probabilities, rel=5e-5, abs=1e-8):
                    moved.add(name)
            if name == "cut":
                assert reply.text == bare.text  # greedy decoding never leaves the likeliest token
    assert moved == set(CONTRASTS)


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_pai_attends_to_images_as_whole_matrices_in_fp64_do(case: Case) -> None:
    """A padded batch with a cache against one row at a time without; `generate` returns logits rounded to fp32."""
    model, rows = copy.deepcopy(case.model).double(), case.rows[:3]
    settings = {"pai_alpha": 0.7, "pai_start_layer": 1}
    baseline, plain = Baseline.take("pai", settings), Scorer(model, prompts_of(case.processor), thinking=0)
    inputs = plain._plain(rows)
    scorer = Scorer(model, prompts_of(case.processor), thinking=0, baseline=baseline)
    found = scorer._generator.tokens(inputs, STEPS, output_logits=True)
    told = torch.stack(found.logits, 1)
    model.set_attn_implementation("eager")
    again = scorer._generator.tokens(inputs, STEPS, output_logits=True)
    assert torch.allclose(torch.stack(again.logits, 1), told, atol=2e-5), "whose towers take softmax in fp32"
    model.set_attn_implementation("sdpa")
    moved = (told[:, 0] - plain._generator.tokens(inputs, 1, output_logits=True).logits[0]).abs().amax(-1)
    for row, query in enumerate(rows):
        own, said = dict(_inputs(case.processor, query.chat)), found.sequences[row, inputs["input_ids"].shape[1] :]
        ids = own["input_ids"][0]
        assert bool((ids == _image_token(case)).any()) == bool(moved[row] > 1e-5)
        for step in range(STEPS):
            with _raised(model, _image_token(case), ids, 0.7, 1):
                slow = _logits(model, own, said[:step].tolist())
            assert torch.allclose(told[row, step].double(), slow, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ["llava"], indirect=True)
def test_penalties_look_at_the_prompt_and_not_at_its_contrast(case: Case) -> None:
    baseline = Baseline.take("without_text", {})
    scorer = Scorer(case.model, prompts_of(case.processor), thinking=0, baseline=baseline)
    replies = scorer.answer(case.rows, {"max_new_tokens": 12, "repetition_penalty": 3.0})
    slow = [_slow(case, "without_text", row, 3.0, 12)[0] for row in case.rows]
    assert [reply.text for reply in replies] == slow
    assert slow != [_slow(case, "without_text", row, steps=12)[0] for row in case.rows]


@pytest.mark.parametrize("case", ["llava"], indirect=True)
def test_a_batch_of_one_answers_as_any_and_seeds_decide(case: Case) -> None:
    for name in ("vcd", "random_image", "self_consistency"):
        together = _fast(case, name, case.rows)
        alone = [reply for row in case.rows for reply in _fast(case, name, [row])]
        assert [reply.text for reply in together] == [reply.text for reply in alone]
        more = _fast(case, name, case.rows, **{f"{name}_seed": 1})
        assert [(one.text, one.probabilities) for one in more] != [(one.text, one.probabilities) for one in together]


@pytest.mark.parametrize("case", ["llava"], indirect=True)
def test_self_consistency_is_the_commonest_of_its_samples(case: Case) -> None:
    row, letters = case.rows[0], []
    inputs = dict(_inputs(case.processor, row.chat))
    first = _logits(case.model, inputs, [])
    only = {"max_new_tokens": 1}
    for sample in range(40):
        names = ("self_consistency", 0, sample, *inputs["input_ids"][0].tolist())
        uniform = torch.rand(len(first), generator=torch.Generator().manual_seed(stream(*names).getrandbits(63)))
        token = int((first / 2.5 - torch.log(-torch.log(uniform.double().clamp(min=1e-20)))).argmax())
        letters += [read(case.processor.tokenizer.decode([token]), row.choices).letter]
    letters = [letter for letter in letters if letter]
    baseline = Baseline.take("self_consistency", {"self_consistency_samples": 40, "self_consistency_temperature": 2.5})
    (reply,) = Scorer(case.model, prompts_of(case.processor), thinking=0, baseline=baseline).answer([row], only)
    assert letters
    shares = tuple(letters.count(letter) / len(letters) for letter in row.choices)
    assert reply.probabilities == pytest.approx(shares)


def test_votes_are_counted_and_a_tie_goes_to_the_first() -> None:
    assert vote(["B", "A", "A", None], ("A", "B")) == (1, (2 / 3, 1 / 3))
    assert vote(["B", "A"], ("A", "B")) == (0, (0.5, 0.5))
    assert vote(["x", "y", "y"], ()) == (1, None)


def test_instructions_end_the_question_and_leave_room_for_their_answer() -> None:
    chat = _rows()[0].chat
    for name in ("chain_of_thought", "describe_first"):
        asked = Baseline.take(name, {f"{name}_tokens": 9}).chat(chat)
        assert asked[-1]["content"][:-1] == chat[-1]["content"]
        assert asked[-1]["content"][-1]["text"] == f"\n{METHODS[name].instruction}"
    assert Baseline.take("vcd", {}).chat(chat) is chat


def test_the_diffusion_keeps_what_vcd_says() -> None:
    assert kept_signal(0) == pytest.approx(1 - (1e-5 + (5e-3 - 1e-5) / (1 + math.exp(6))), rel=1e-12)
    assert 0 < kept_signal(999) < kept_signal(500) < 1


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("vdc", {}, "baseline 'vdc'"),
        (None, {"vcd_alpha": 1}, "vcd_alpha acts with baseline=vcd only"),
        ("pai", {"vcd_alpha": 1}, "vcd_alpha acts with baseline=vcd only"),
        ("vcd", {"vcd_alfa": 1}, "vcd_alfa"),
        ("vcd", {"vcd_beta": 2}, "vcd_beta is 2, not a number from 0 to 1"),
        ("vcd", {"vcd_step": 1000}, "not an integer from 0 to 999"),
        ("m3id", {"m3id_decay": 0}, "m3id_decay is 0"),
        ("pai", {"pai_start_layer": -1}, "pai_start_layer is -1, not an integer from 0"),
        ("shift", {"shift_letter": "AB"}, "shift_letter"),
        ("self_consistency", {"self_consistency_samples": 1.5}, "not an integer from 1"),
    ],
)
def test_what_is_no_baseline_or_no_setting_is_refused_in_one_line(
    name: str | None, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as error:
        Baseline.take(name, given)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["llava"], indirect=True)
def test_pai_is_refused_where_no_attention_can_be_raised(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def scorer(**given: float) -> Scorer:
        return Scorer(case.model, prompts_of(case.processor), thinking=0, baseline=Baseline.take("pai", given))

    with pytest.raises(InputError, match=r"pai_start_layer is 2 .* none of the decoder's 2 layers"):
        scorer()
    scorer(pai_alpha=0)  # the guidance alone needs none
    monkeypatch.setattr(type(case.model.get_decoder()), "_can_set_attn_implementation", lambda own: False)
    with pytest.raises(InputError, match="does not attend through transformers' interface: pai_alpha=0 leaves"):
        scorer(pai_start_layer=0).answer(case.rows, {"max_new_tokens": 1})


def test_settings_of_the_processor_are_left_and_the_record_names_all() -> None:
    given = {"vcd_alpha": 2, "max_pixels": 1}
    baseline = Baseline.take("vcd", given)
    assert given == {"max_pixels": 1}
    assert baseline.to_dict() == {"name": "vcd", "alpha": 2.0, "beta": 0.1, "step": 500, "seed": 0}
    asked = Baseline.take("describe_first", {}).to_dict()
    assert asked["instruction"].startswith("First describe") and asked["tokens"] == 256
    assert set(CONTROLS) < set(METHODS)
