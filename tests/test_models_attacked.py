"""Attacks on real model classes: exact gradients, the answer that counts is the one at what was found, records."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from mmi_plugin.answers import THOUGHTS
from mmi_plugin.attacks import Attack
from mmi_plugin.attacks.balls import Ball, masked_rms
from mmi_plugin.attacks.search import search
from mmi_plugin.cli import main as mmi
from mmi_plugin.conditions import REFERENCE, get
from mmi_plugin.documents import Documents, documents
from mmi_plugin.errors import InputError
from mmi_plugin.harness.flags import check_attacks
from mmi_plugin.harness.model import MmiHf
from mmi_plugin.item import Item, messages
from mmi_plugin.models.attacked import single
from mmi_plugin.models.chats import content, images_of, with_image, with_line
from mmi_plugin.models.decode import Decoding
from mmi_plugin.models.embeddings import Embeddings
from mmi_plugin.models.evaluate import Scorer, evaluate, query_of
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Generator, Query
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.models.pixels import Pixels
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.suffixes import Suffixes, _Asked
from mmi_plugin.report import page as pages
from mmi_plugin.report import remarks
from mmi_plugin.results.runs import read_runs
from mmi_plugin.sources import load
from tests import families, training

FAMILIES = ("llava", "qwen2_vl", "gemma3", "instructblip_llama", "idefics3")


@pytest.fixture(scope="module", params=FAMILIES)
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Prompts]:
    folder = families.save(request.param, tmp_path_factory.mktemp(request.param))
    return exact(folder), prompts_of(load_processor(str(folder)))


def exact(folder: Path) -> PreTrainedModel:
    """The checkpoint in double precision throughout."""
    model = load_model(str(folder)).double()
    for module in model.modules():
        if (kind := type(module).__name__).endswith("RMSNorm"):
            module.forward = partial(rms_norm, module, "Gemma" in kind)
    return model


def rms_norm(module: torch.nn.Module, from_one: bool, states: torch.Tensor) -> torch.Tensor:
    """What transformers computes in single precision whatever it is given, here in that of `states` (..., D)."""
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    return states * (states.square().mean(-1, keepdim=True) + eps).rsqrt() * (module.weight + from_one)


def some(source: str, condition: str, limit: int = 2) -> Documents:
    return documents(load(source, "test"), (condition,), limit=limit)


def space(asked: tuple[PreTrainedModel, Prompts], source: str, condition: str) -> Embeddings:
    docs = some(source, condition)
    return Embeddings(*asked, [query_of(row, messages(docs.item(row)), set()) for row in docs.rows])


@pytest.mark.parametrize("source", ["demo_digits", "demo_capitals"])
def test_gradients_are_those_of_finite_differences(asked: tuple[PreTrainedModel, Prompts], source: str) -> None:
    own = space(asked, source, "adversarial_embeddings@text=after_image")
    rows = torch.arange(2)
    delta = own.ball.random(own.seeds(0), own.width).double().requires_grad_(True)
    weight = torch.tensor([[1.0, -2.0, 0.5, 0.3]] * 2, dtype=torch.float64)
    value = (own.logits(delta, rows) * weight).sum()
    (gradient,) = torch.autograd.grad(value, delta)
    gradient = gradient * own.ball.mask[..., None]
    torch.manual_seed(0)
    along, step = torch.randn_like(delta) * own.ball.mask[..., None], 1e-6
    with torch.no_grad():
        high, low = ((own.logits(delta + sign * step * along, rows) * weight).sum() for sign in (1, -1))
    assert float((gradient * along).sum()) == pytest.approx(float((high - low) / (2 * step)), rel=1e-5, abs=1e-9)
    alone = own.logits(delta[1:], rows[1:])  # a row that is left when others have gone
    assert alone.tolist() == [pytest.approx(row) for row in own.logits(delta, rows)[1:].tolist()]


@pytest.mark.parametrize("source", ["demo_digits", "demo_capitals"])
def test_the_answer_is_read_where_the_attack_looked(asked: tuple[PreTrainedModel, Prompts], source: str) -> None:
    own = space(asked, source, "adversarial_embeddings@eps=5")
    delta, rows = own.ball.random(own.seeds(0), own.width).double(), torch.arange(2)
    generator = Generator(*asked, THOUGHTS, 0)
    queries, decoding = own._queries, Decoding.parse({"max_new_tokens": 1})
    with torch.no_grad():
        wanted = own.logits(delta, rows).softmax(1)
        plain = own.logits(torch.zeros_like(delta), rows).softmax(1)
        with own.moved(delta, [0, 1]) as inputs:
            said = generator.answers(queries, inputs, decoding)
    found = torch.tensor([reply.probabilities for reply in said], dtype=torch.float64)
    found = found / found.sum(1, keepdim=True)
    assert found.tolist() == [pytest.approx(row, rel=1e-6) for row in wanted.tolist()]
    assert (found - plain).abs().max() > 1e-5, "and the perturbation changes it"
    assert not asked[0].get_decoder()._forward_pre_hooks


def test_eps_is_of_the_embeddings_rms_and_only_the_irrelevant_modality_moves(tiny_llava: Path) -> None:
    model, prompts = load_model(str(tiny_llava)), prompts_of(load_processor(str(tiny_llava)))
    for source, moves_image in (("demo_digits", False), ("demo_capitals", True)):
        own = space((model, prompts), source, "adversarial_embeddings@eps=0.25")
        docs = some(source, "adversarial_embeddings")
        ids = prompts.inputs([messages(docs.item(row)) for row in docs.rows], left=False)
        image = ids["input_ids"] == prompts.placeholder_id
        inside = ids["attention_mask"].bool()
        assert torch.equal(own.ball.mask, image if moves_image else inside & ~image)
        embeds = own._given.embeds
        for row in range(2):
            chosen = embeds[row][own.ball.mask[row]]
            assert float(own.ball.radius[row]) == pytest.approx(0.25 * float(chosen.square().mean().sqrt()), rel=1e-5)
        assert own.ball.radius == pytest.approx(0.25 * masked_rms(embeds, own.ball.mask))


def test_records_under_attack_are_on_the_same_items_and_never_better(tiny_llava: Path) -> None:
    model, processor = load_model(str(tiny_llava)), load_processor(str(tiny_llava))
    learning = [one.requires_grad for one in model.parameters()]
    bench = load("demo_digits", "test")
    names = (
        REFERENCE[bench.family],
        "noise_embeddings",
        "adversarial_embeddings@eps=2@steps=3",
        "square_embeddings@queries=5",
    )
    docs = documents(bench, names, limit=4)
    found = evaluate(model, processor, docs, {"max_new_tokens": 1}, batch_size=4)
    clean, _, worst, _ = (found[place::4] for place in range(4))
    assert [one.item_id for one in clean] == [one.item_id for one in worst]
    assert all(before.right or not after.right for before, after in zip(clean, worst, strict=True))
    assert {one.attack is None for one in clean} == {True}
    for one in worst:
        assert one.attack["seconds"] > 0 and not one.attack["random"] and not one.attack["still"]
    again = evaluate(model, processor, docs, {"max_new_tokens": 1}, batch_size=4)
    drop = ("seconds",)
    told = [[{k: v for k, v in (one.attack or {}).items() if k not in drop} for one in run] for run in (found, again)]
    assert told[0] == told[1] and [one.raw for one in found] == [one.raw for one in again]
    assert [one.requires_grad for one in model.parameters()] == learning


def test_single_precision_confirms_and_gives_half_back(tiny_llava: Path) -> None:
    model = load_model(str(tiny_llava), dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with single(model):
        assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = evaluate(model, load_processor(str(tiny_llava)), some("demo_digits", "adversarial_embeddings@steps=2"))
    assert len(found) == 2 and model.dtype == torch.bfloat16


def test_a_prompt_with_nothing_to_move_is_refused(tiny_llava: Path) -> None:
    model, prompts = load_model(str(tiny_llava)), prompts_of(load_processor(str(tiny_llava)))
    docs = some("demo_capitals", "adversarial_embeddings")
    queries = [query_of(row, messages(replace(docs.item(row), image=None)), set()) for row in docs.rows]
    with pytest.raises(InputError, match="nothing of its prompt is of the irrelevant modality"):
        Embeddings(model, prompts, queries)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pixels_have_exact_gradients_and_move_within_their_budget_in_bytes(tiny_llava: Path, norm: str) -> None:
    model, prompts = exact(tiny_llava), prompts_of(load_processor(str(tiny_llava)))
    docs = some("demo_capitals", f"adversarial_pixels@eps=20@norm={norm}")
    chats = [messages(docs.item(row)) for row in docs.rows]
    own = Pixels(model, prompts, [query_of(row, chat, set()) for row, chat in zip(docs.rows, chats, strict=True)])
    own.ball = replace(own.ball, origin=own.ball.origin.double(), radius=own.ball.radius.double())
    rows, delta = torch.arange(2), own.ball.random(own.seeds(0), own.width).requires_grad_(True)
    (gradient,) = torch.autograd.grad(own.logits(delta, rows).sum(), delta)
    torch.manual_seed(0)
    along, step = torch.randn_like(delta), 1e-3  # the processor computes in single precision
    with torch.no_grad():
        high, low = (own.logits(delta + sign * step * along, rows).sum() for sign in (1, -1))
    assert float((gradient * along).sum()) == pytest.approx(float((high - low) / (2 * step)), rel=1e-3)

    images = own.images(delta.detach(), [0, 1])
    for image, chat in zip(images, chats, strict=True):
        before = np.asarray(images_of(chat)[0].convert("RGB")).astype(int)
        moved = np.asarray(image).astype(int) - before
        size = np.abs(moved).max() if norm == "linf" else np.sqrt((moved**2).sum())
        assert 10 < size <= 20
    with own.moved(delta.detach(), [0, 1]) as inputs:
        plain = prompts.inputs([with_image(chat, image) for chat, image in zip(chats, images, strict=True)])
    assert torch.equal(inputs["pixel_values"], plain["pixel_values"].double())


def test_a_suffix_is_the_text_that_is_asked_and_its_tokens_are_where_the_gradient_is(tiny_llava: Path) -> None:
    model, processor = load_model(str(tiny_llava)), load_processor(str(tiny_llava))
    prompts, docs = prompts_of(processor), some("demo_digits", "adversarial_tokens@length=4@steps=3@candidates=8", 3)
    found = evaluate(model, processor, docs, {"max_new_tokens": 1})
    clean = evaluate(model, processor, some("demo_digits", "clean", 3), {"max_new_tokens": 1})
    for row, before, record in zip(docs.rows, clean, found, strict=True):
        assert before.right or record.raw == before.raw, "what is wrong is not attacked"
        text, chat = record.attack["text"], messages(docs.item(row))
        asked = Scorer(model, prompts).answer([Query(with_line(chat, text))], {"max_new_tokens": 1})
        assert asked[0].text == record.raw, "the answer is that to the text in the record"
        assert content(with_line(chat, text)[-1]) == content(chat[-1]) + (f"\n{text}" if text else "")
    asked = _Asked(prompts, query_of(docs.rows[0], messages(docs.item(docs.rows[0])), set()))
    tokens = asked.start(Suffixes(model, prompts, len)._allowed_tokens(), 4, seed=1)
    ids = prompts.encode([prompts.text(asked.query(asked.written(tokens)).chat)], asked._marks)[0]
    place = asked.place(tokens)
    assert ids[place : place + 4] == tokens.tolist() and len(tokens) == 4
    assert prompts.tokenizer.decode(ids[place:]).startswith(asked.written(tokens))


class Lead:
    """A model that says "The" before its letter, whatever the attack sees of letters at its first token."""

    ball, width, dtype = Ball("linf", torch.ones(2, 1, 1), torch.ones(2, 1, dtype=torch.bool)), 2, torch.float32
    gold = torch.zeros(2, dtype=torch.long)

    def logits(self, delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 1.0]]).repeat(len(rows), 1) + 0 * delta.sum((1, 2))[:, None]

    def seeds(self, restart: int) -> torch.Tensor:
        return torch.tensor([restart, restart + 1])


def test_an_item_that_is_right_is_not_robust_because_a_wrong_option_is_ahead() -> None:
    asked: list[int] = []

    def confirm(delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        return torch.zeros(len(rows), dtype=torch.bool) if len(asked) == 1 else torch.ones(len(rows), dtype=torch.bool)

    found = search(Lead(), Attack("embeddings", "apgd", steps=2), confirm)
    assert found.apart == [True, True] and found.broken == [True, True] and asked == [2, 2]


@pytest.mark.long
@pytest.mark.parametrize("name", families.cases())
def test_every_space_of_every_family(name: str, tmp_path: Path) -> None:
    folder = families.save(name, tmp_path)
    model, processor = load_model(str(folder)), load_processor(str(folder))
    for source, condition in (
        ("demo_digits", "adversarial_embeddings@eps=1@steps=1"),
        ("demo_capitals", "adversarial_embeddings@eps=1@steps=1"),
        ("demo_capitals", "adversarial_pixels@steps=1"),
        ("demo_digits", "adversarial_tokens@length=2@steps=1@candidates=4"),
    ):
        found = evaluate(model, processor, some(source, condition), {"max_new_tokens": 1}, batch_size=2)
        assert [one.attack["passes"] >= 0 for one in found] == [True, True] and not any(one.failure for one in found)


def test_a_task_under_attack_runs_in_the_harness_and_on_the_page(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["attack", "mmi_demo_digits", "--model_args", f"pretrained={tiny_llava}", "--out", str(tmp_path / "out")]
    command += ["--eps", "0.1", "5", "--steps", "2", "--limit", "10", "--batch_size", "2"]
    assert mmi([*command, "--gen_kwargs", "max_new_tokens=1"]) == 0
    said = capsys.readouterr().out
    (run,) = read_runs([str(tmp_path / "out")])
    (result,) = run.results.values()
    assert result.conditions == (
        *("clean", "noise_embeddings", "noise_embeddings@eps=5"),
        *("adversarial_embeddings@steps=2", "adversarial_embeddings@eps=5@steps=2"),
    )
    assert all((record.attack is None) == (record.condition == "clean") for record in result.records)
    assert "adversarial_embeddings@eps=5@steps=2" in said
    assert mmi(["leaderboard", str(tmp_path / "out"), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Attacks at evaluation" in page and "Passes an item" in page
    for module in (remarks, pages):
        monkeypatch.setattr(module, "warnings", lambda *_: ["it is weaker than noise"])
    assert mmi(["leaderboard", str(tmp_path / "out"), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("it is weaker than noise") == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--eps", "-1"], "strength 'eps' is '-1', not a number above 0, up to 1000"),
        (["--eps", "nan"], "strength 'eps' is 'nan', not a number above 0, up to 1000"),
        (["--eps", "0.1", "--space", "pixel"], "unknown condition 'noise_pixel'"),
        (["--eps", "8", "--space", "pixels"], "is not for image_heavy"),
        (["--eps", "0.1", "--norm", "l2"], "--norm: embeddings has no such setting"),
        (["--eps", "0.1", "--full", "--steps", "3"], "--full sets --steps and --restarts"),
    ],
)
def test_what_cannot_be_attacked_is_refused(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mmi(["attack", "mmi_demo_digits", "--model_args", "pretrained=none", "--out", "none", *given]) == 2
    assert said in capsys.readouterr().err and not Path("none").exists()


def test_other_models_questions_and_trainings_are_refused(tiny_llava: Path, tmp_path: Path) -> None:
    given = Namespace(model="llava_hf")
    with pytest.raises(InputError, match="which only mmi_hf has gradients for"):
        check_attacks(given, object, "mmi_adv_demo_digits", ("clean", "adversarial_embeddings"))
    check_attacks(given, object, "mmi_demo_digits", ("clean",))
    given = Namespace(model="mmi_hf", model_args="pretrained=none,baseline=vcd")
    with pytest.raises(InputError, match="baseline=vcd: mmi_adv_demo_digits asks 'adversarial_embeddings', which"):
        check_attacks(given, MmiHf, "mmi_adv_demo_digits", ("clean", "adversarial_embeddings"))
    free = Item("free", "text_heavy", "Which colour is grass?", "green", answers=("green",))
    with pytest.raises(InputError, match="'adversarial_pixels' attacks letters of options, and item free has no"):
        get("adversarial_pixels")(free)
    with pytest.raises(InputError, match="'adversarial_embeddings' attacks at evaluation; field 'adversary'"):
        training.config(tiny_llava, tmp_path, image_heavy_conditions=["clean", "adversarial_embeddings"])
