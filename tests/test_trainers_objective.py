"""The published objective against its formulas: one row at a time in double precision, nothing shared or left out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax

from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, messages, target
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.data import check_rows, load_benchmarks
from mmi_plugin.trainers.groups import Group, RatioBatchSampler
from mmi_plugin.trainers.method import Adversary
from mmi_plugin.trainers.objective import SETTINGS
from mmi_plugin.trainers.saving import load_checkpoint
from mmi_plugin.trainers.trainer import MMITrainer
from tests import families, official, training
from tests.reference import Reference

Inputs = dict[str, torch.Tensor]


class Published(Reference):
    """What the published code computes of a batch: L_sft, L_adv, L_cons; every row is copied, VQA rows as well."""

    def inputs(self, item: Item) -> tuple[Inputs, int]:
        """A row that ends with the answer, and how many tokens its prompt has."""
        chat, said = messages(item), messages(item, target(item))
        if type(self.processor).__name__ == "InstructBlipProcessor":
            text = "\n".join(part["text"] for turn in chat for part in turn["content"] if part["type"] == "text")
            texts = [text, f"{text} {target(item)}"]
            head, whole = (self.processor(images=[item.image], text=[t], return_tensors="pt") for t in texts)
            whole = {**whole, **{name: head[name] for name in ("qformer_input_ids", "qformer_attention_mask")}}
        else:
            read = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
            head = self.processor.apply_chat_template(chat, add_generation_prompt=True, **read)
            whole = dict(self.processor.apply_chat_template(said, **read))
            ids = whole["input_ids"]
            ends = int((ids[0] == self.processor.tokenizer.eos_token_id).nonzero()[-1])
            whole = {name: v[:, :ends] if v.shape == ids.shape else v for name, v in whole.items()}
        prompt = head["input_ids"].shape[1]
        assert whole["input_ids"][0, :prompt].tolist() == head["input_ids"][0].tolist()
        return {name: v.double() if v.is_floating_point() else v for name, v in whole.items()}, prompt

    def read(self, inputs: Inputs, delta: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and last hidden states of all positions."""
        with self.changed(lambda embeds: embeds if delta is None else embeds + delta) as seen:
            logits = self.model(**inputs, use_cache=False).logits[0]
        return logits, seen["hidden"][0]

    def delta(self, row: tuple[Item, Inputs, int], start: torch.Tensor, tokens: int) -> torch.Tensor:
        """PGD from a start in the ball: raw gradients of the mean over all `tokens` of the batch."""
        item, inputs, prompt = row
        mask, answer, args = self.mask(item, inputs, prompt), inputs["input_ids"][0, prompt:], self.args
        delta = torch.where(mask[:, None], start, 0)
        for _ in range(args.pgd_steps if args.adversary == "pgd" else 0):
            probe = delta.clone().requires_grad_(True)
            losses = cross_entropy(self.read(inputs, probe)[0][prompt - 1 : -1], answer, reduction="none")
            (gradient,) = torch.autograd.grad(losses.sum() / tokens, probe)
            delta = torch.where(mask[:, None], delta + 0.1 * gradient, 0).clamp(-args.eps, args.eps)
        return delta

    def parts(self, groups: list[Group], start: Callable[[int], torch.Tensor], seeds: list[int]) -> dict[str, Any]:
        """The three parts, and the deltas by seed. start: of a row's seed, where its delta begins."""
        args, rest = self.args, iter(seeds)
        rows = [[(item, *self.inputs(item)) for item in group.rows] for group in groups]
        tokens = sum(inputs["input_ids"].shape[1] - prompt for group in rows for _, inputs, prompt in group)
        sft, adv, cons, deltas = [], [], [], {}
        for group in rows:
            clean, copies = [], []
            for item, inputs, prompt in group:
                answer, seed = inputs["input_ids"][0, prompt:], next(rest)
                logits, hidden = self.read(inputs)
                sft.append(cross_entropy(logits[prompt - 1 : -1], answer, reduction="none"))
                clean.append((logits[prompt:], hidden[prompt:]))  # one token late, at the labels themselves
                if args.adversary == "none":
                    continue
                delta = None
                if item.family != "vqa":
                    delta = deltas[seed] = self.delta((item, inputs, prompt), start(seed), tokens)
                logits, hidden = self.read(inputs, delta)
                adv.append(cross_entropy(logits[prompt - 1 : -1], answer, reduction="none"))
                copies.append((logits[prompt:], hidden[prompt:]))
            others = clean[1:] + copies
            if others and args.consistency != "none":
                cons.append(self.divergence(clean[0], others))
        found = {"loss_sft": torch.cat(sft).mean()}
        if adv:
            found["loss_adv"] = torch.cat(adv).mean()
        if cons:
            found["loss_consistency"] = torch.stack(cons).mean()
        return {"losses": found, "deltas": deltas}

    def divergence(self, origin: tuple, others: list[tuple]) -> torch.Tensor:
        """Of one item, all rows at once: (rows, tokens, V or D)."""
        args = self.args
        if args.consistency == "mse":
            return (torch.stack([hidden for _, hidden in others]) - origin[1].detach()).square().mean()
        # fp32 in the published code, here double: 1e-8 for KL without an adversary, otherwise 1e-6.
        floor = 1e-8 if args.consistency == "kl" and args.adversary == "none" else 1e-6

        def clamped(logits: torch.Tensor) -> torch.Tensor:
            raised = softmax(logits / args.temperature, -1).clamp(min=floor)
            return raised / raised.sum(-1, keepdim=True)

        p, q = origin[0].detach(), torch.stack([logits for logits, _ in others])
        log_p, log_q = (log_softmax(x / args.temperature, -1) for x in (p, q))
        if args.consistency == "kl":
            return (clamped(q) * (clamped(q).log() - log_p)).sum()
        middle = (clamped(p) + clamped(q)) / 2
        halves = [(middle * (middle.log() - side)).sum() for side in (log_p, log_q)]
        return (halves[0] + halves[1] / len(others)) / 2  # the published code divides the second by its rows


PGD = {"adversary": "pgd", "eps": 0.3, "pgd_steps": 2}
CASES: dict[str, dict[str, Any]] = {
    "d_aug": {},
    "kl": {"consistency": "kl"},
    "js": {"consistency": "js", "temperature": 0.5},
    "mse": {"consistency": "mse"},
    "pgd": PGD,
    "rg": {"adversary": "rg", "sigma": 0.3},
    "kl_pgd": {"consistency": "kl", **PGD},
    "js_pgd": {"consistency": "js", **PGD},
    "mse_pgd": {"consistency": "mse", **PGD},
}
MIXES = {"all": [1, 1, 1], "no_vqa": [1, 2, 0], "vqa_more": [1, 1, 3]}
RUNS = [("llava", case, "all") for case in CASES]
RUNS += [("llava", "kl_pgd", "no_vqa"), ("llava", "js_pgd", "vqa_more"), ("llava", "mse_pgd", "no_vqa")]
RUNS += [(name, case, "all") for name in ("qwen2_5_vl", "instructblip_llama") for case in ("kl_pgd", "js")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official.write(tmp_path_factory.mktemp("official")).parent


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = {name for name, *_ in RUNS}
    return {name: families.save(name, tmp_path_factory.mktemp(name)) for name in names}


def published(checkpoint: Path, out: Path, root: Path, mix: list[int], **fields: Any) -> MMITrainer:
    """A run of the profile on the official file, with a model that is sure of some answers: floors matter then."""
    files = {"sources": None, "train_file": str(root / "train.json"), "canvas": 28, "mix": mix}
    files |= {"per_device_train_batch_size": sum(mix), "consistency_weight": 0.01, "profile": "published"}
    trainer = training.trainer(training.config(checkpoint, out, **{**files, **fields}))
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight.mul_(60)
    return trainer


@pytest.mark.parametrize(("family", "case", "mix"), RUNS)
def test_the_profile_computes_what_the_published_code_does(
    family: str,
    case: str,
    mix: str,
    checkpoints: dict[str, Path],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MMI_DATA_ROOT", str(root))
    trainer = published(checkpoints[family], tmp_path, root, MIXES[mix], **CASES[case])
    reference, groups = Published(**vars(Reference.of(trainer))), training.step_groups(trainer)
    starts, deltas, perturb = {}, {}, Adversary.perturb

    def spy(self: Adversary, embeds: torch.Tensor, mask: torch.Tensor, seeds: torch.Tensor, *more: Any) -> torch.Tensor:
        found = perturb(self, embeds, mask, seeds, *more)
        start = perturb(replace(self, steps=0), embeds, mask, seeds, *more)
        starts.update(zip(seeds.tolist(), start, strict=True))
        deltas.update(zip(seeds.tolist(), found, strict=True))
        return found

    monkeypatch.setattr(Adversary, "perturb", spy)
    model = trainer.model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # of the Q-Former
    reference.model.eval()
    batch = training.double(trainer.data_collator(groups))
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    measured = trainer._meter.read(lambda sums: sums, rates=())

    def start(seed: int) -> torch.Tensor:
        row = batch["seeds"].tolist().index(seed)
        return starts[seed][: int(batch["attention_mask"][row].sum())]

    found = reference.parts(groups, start, batch["seeds"].tolist())
    parts = found["losses"]
    assert {name for name in measured if name.startswith("loss_")} == set(parts)
    for name, value in parts.items():
        assert measured[name] == pytest.approx(value.item(), rel=1e-6), name
    expected = parts["loss_sft"] + parts.get("loss_adv", 0) + 0.01 * parts.get("loss_consistency", 0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert set(found["deltas"]) == set(deltas)
    for seed, delta in found["deltas"].items():
        torch.testing.assert_close(deltas[seed][: len(delta)], delta, rtol=1e-6, atol=1e-12)
        assert not deltas[seed][len(delta) :].any()
        assert CASES[case]["adversary"] == "rg" or not torch.equal(delta, start(seed))
    expected.backward()
    wanted = {name: p.grad for name, p in reference.model.named_parameters() if p.grad is not None}
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name.split(".")[-2 if "weight" in name else -1] for name in wanted.keys() - learning.keys()}
    assert frozen and sum(p.grad is not None and bool(p.grad.any()) for p in learning.values()) >= 15
    for name, parameter in learning.items():
        if name in wanted:
            assert (parameter.grad - wanted[name]).norm() <= 1e-6 * wanted[name].norm() + 1e-12, name
    kept = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert all("vision" in n or "visual" in n or "qformer" in n or n.endswith("query_tokens") for n in kept)
    assert (family == "instructblip_llama") == any("qformer" in name for name in kept)


def test_an_epoch_of_the_published_sizes_has_the_published_steps() -> None:
    families_ = ["text_heavy"] * 5_456 + ["image_heavy"] * 56_942 + ["vqa"] * 646_563
    steps = {kind: RatioBatchSampler(families_, [2, 2, 4], 8, 1, 0, kind).steps for kind in ("shortest", "all")}
    assert steps == {"shortest": 2_728, "all": 161_641}
    on_four = RatioBatchSampler(families_, [2, 2, 4], 8, 4, 0, "shortest")
    assert on_four.steps == 5_456 // 4 // 2  # each process has its own share, remainders dropped
    with pytest.raises(
        InputError, match=r"'epoch' is 'shortest', and a step has 2 text_heavy items, of which .* has 1"
    ):
        RatioBatchSampler(["text_heavy", *["image_heavy"] * 9], [2, 2, 0], 4, 1, 0, "shortest")


@pytest.mark.parametrize(
    "field",
    ["adv_rows", "pgd_loss", "step_rule", "consistency_direction", "consistency_reduce", "consistency_items",
     "consistency_floor", "answer_position", "end_token"],
)  # fmt: skip
def test_each_setting_changes_the_loss_alone(
    field: str, checkpoints: dict[str, Path], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMI_DATA_ROOT", str(root))
    more = {"step_size": 5.0} if field == "pgd_loss" else {}
    losses = []
    for number, flipped in enumerate(({}, {field: SETTINGS[field][0]})):
        fields = {**CASES["kl_pgd"], "consistency_weight": 1.0, **more, **flipped}
        trainer = published(checkpoints["llava"], tmp_path / str(number), root, MIXES["all"], **fields)
        model, batch = trainer.model.double().train(), trainer.data_collator(training.step_groups(trainer))
        losses.append(trainer.compute_loss(model, training.double(batch)).item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-7)


def test_means_over_micro_batches_are_averaged(
    checkpoints: dict[str, Path], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two micro-batches of different lengths: a mean of means, not of all tokens."""
    monkeypatch.setenv("MMI_DATA_ROOT", str(root))
    found = {}
    for kind in ("micro_batch", "step"):
        cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3, "loss_mean": kind}
        trainer = published(checkpoints["llava"], tmp_path / kind, root, [0, 1, 2], **cut)
        model = trainer.model.double().train()
        batches = [training.double(trainer.data_collator([group])) for group in training.step_groups(trainer)]
        samples, counts = trainer.get_batch_samples(iter(batches), 3, model.device)
        found[kind] = sum(trainer.compute_loss(model, one, num_items_in_batch=counts).item() for one in samples)
        alone = [trainer.compute_loss(model, one).item() for one in samples]
        sizes = [int((one["labels"] != -100).sum()) for one in samples]
        wanted = (
            sum(alone) / 3
            if kind == "micro_batch"
            else sum(map(math.prod, zip(alone, sizes, strict=True))) / sum(sizes)
        )
        assert found[kind] == pytest.approx(wanted, rel=1e-9)
    assert found["step"] != pytest.approx(found["micro_batch"], rel=1e-3)


def config(out: Path, **fields: Any) -> MMIConfig:
    return training.config(Path("model"), out, **fields)


def test_the_profile_fills_in_what_is_not_given(tmp_path: Path) -> None:
    ours, theirs = config(tmp_path), config(tmp_path, profile="published", adversary="pgd", consistency="js")
    assert {name: getattr(ours, name) for name in SETTINGS} == {name: own for name, (own, _) in SETTINGS.items()}
    assert {name: getattr(theirs, name) for name in SETTINGS} == {name: value for name, (_, value) in SETTINGS.items()}
    given = config(tmp_path, profile="published", adversary="pgd", pgd_steps=1, step_rule="l2", canvas=28, pool="own")
    assert (given.step_rule, given.canvas, given.pool, given.adv_rows) == ("l2", 28, "own", "all")
    assert given.to_dict()["adv_rows"] == "all" and given.materials.pool is None and given.materials.canvas == 28


def test_published_values_follow_the_kind_of_run(tmp_path: Path) -> None:
    """MSE is one mean; KL in single precision has the lower floor, unless an adversary is there."""
    assert config(tmp_path, profile="published", consistency="mse").consistency_reduce == "mean"
    floors = {
        (kind, adversary): config(
            tmp_path, profile="published", consistency=kind, adversary=adversary
        ).consistency_floor
        for kind in ("kl", "js")
        for adversary in ("none", "pgd")
    }
    assert floors == {("kl", "none"): 1e-8, ("kl", "pgd"): 1e-6, ("js", "none"): 1e-6, ("js", "pgd"): 1e-6}
    assert config(tmp_path, profile="published", consistency="kl", bf16=True).consistency_floor == 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"profile": "publish"}, "field 'profile' is 'publish': .*published"),
        ({"adv_rows": "al"}, "field 'adv_rows' is 'al'"),
        ({"adv_rows": "all"}, "'adv_rows' is 'all', which changes nothing where 'adversary' is 'none'"),
        ({"adversary": "pgd", "pgd_loss": "batch_mean"}, "changes nothing where 'step_rule' is 'sign': .* to raw"),
        ({"consistency_reduce": "sum"}, "changes nothing where 'consistency' is 'none': set .* kl or js or mse"),
        ({"consistency": "mse", "consistency_floor": 1e-6}, "changes nothing where 'consistency' is 'mse'"),
        ({"consistency": "kl", "consistency_items": "all"}, "changes nothing where 'adversary' is 'none'"),
        ({"consistency": "kl", "consistency_floor": -1.0}, "'consistency_floor' is -1.0, below 0"),
        ({"canvas": 3}, "field 'canvas' is 3, not from 8"),
        ({"freeze": "everything"}, "field 'freeze' is 'everything': .*vision"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, **fields)


def test_a_file_of_the_profile_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMI_DATA_ROOT", raising=False)
    with pytest.raises(InputError, match=r"^field 'pool' is '\$MMI_DATA_ROOT/published/irrelevant_images'.* give pool"):
        load_benchmarks(config(tmp_path, profile="published"))


def test_the_first_turn_of_a_conversation_alone(tmp_path: Path) -> None:
    turns = [["What is shown?", "A cat."], ["Which colour?", "Grey."]]
    row = {"id": "v", "type": "VQA", "question": "Is it big?", "answer": "No.", "history": turns}
    (tmp_path / "t.json").write_text(json.dumps([row]))
    files = {"sources": None, "train_file": str(tmp_path / "t.json")}
    for kind, wanted in (("first", ("What is shown?", "A cat.", ())), ("all", ("Is it big?", "No.", turns))):
        ((item,),) = (bench.items for bench in load_benchmarks(config(tmp_path, vqa_turns=kind, **files)))
        assert (item.question, item.answer, [*map(list, item.history)]) == (*wanted[:2], list(wanted[2]))


def test_a_template_without_a_place_for_the_system_turn_is_refused(
    tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMI_DATA_ROOT", str(root))
    args = training.config(tiny_llava, tmp_path, system_text=str(root / "published" / "system_text.txt"))
    _, processor = load_checkpoint(args)
    check_rows(args, load_benchmarks(args), processor)
    turns = "{% for m in messages if m['role'] != 'system' %}<image>{{ m['content'][-1]['text'] }}{% endfor %}"
    processor.chat_template = turns + "{% if add_generation_prompt %}{% endif %}"
    with pytest.raises(InputError, match="has no place for a system prompt"):
        check_rows(args, load_benchmarks(args), processor)
