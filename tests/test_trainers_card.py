"""What a run logs and leaves: curves, a model that loads everywhere, merged or drawn to the start, a card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmi_plugin.answers import parse_letter
from mmi_plugin.conditions import get
from mmi_plugin.item import messages
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.sources import load
from mmi_plugin.trainers import run
from tests import training

EVALUATION = {"eval_tasks": ["mmi_demo_digits"], "eval_tasks_steps": 2, "eval_tasks_items": 6}


@pytest.fixture(scope="module")
def out(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with evaluation, curves and all."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "tb"))
        run.train(training.config(tiny_llava, folder, report_to="tensorboard", **training.OURS, **EVALUATION))
    return folder


def accuracies(checkpoint: Path) -> dict[str, float]:
    """Accuracy and flip rate on six digits, one prompt at a time."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    processor, bench = AutoProcessor.from_pretrained(checkpoint), load("demo_digits")
    said = {}
    for name in ("clean", "unrelated_text", "misleading_text"):
        for item in bench.items[:6]:
            chat = messages(get(name)(item, 0, bench.pools))
            inputs = processor.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            raw = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            said[name, item.id] = parse_letter(raw, item.options)
    found = {}
    for name in ("clean", "unrelated_text", "misleading_text"):
        found[f"{name}/accuracy"] = sum(said[name, item.id] == item.gold for item in bench.items[:6]) / 6
        found[f"{name}/flip_rate"] = sum(said[name, i.id] != said["clean", i.id] for i in bench.items[:6]) / 6
    del found["clean/flip_rate"]
    return found


def test_tasks_are_asked_before_and_during_training(out: Path, tiny_llava: Path) -> None:
    events = EventAccumulator(str(out / "tb")).Reload()
    for step, checkpoint in ((0, tiny_llava), (2, out)):
        for name, value in accuracies(checkpoint).items():
            points = {point.step: point.value for point in events.Scalars(f"eval/mmi_demo_digits/{name}")}
            assert set(points) == {0, 2} and points[step] == pytest.approx(value), name


def test_asking_changes_nothing(out: Path, tiny_llava: Path, tmp_path: Path) -> None:
    training.trained(tiny_llava, tmp_path, **training.OURS)
    plain = training.trained(tiny_llava, tmp_path / "plain", **training.OURS)
    asked = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    assert training.largest_difference(plain, asked) == 0.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"eval_tasks": ["mmi_demo_digit"]}, ["eval_tasks", "'mmi_demo_digits'"]),
        ({"eval_tasks_steps": 0}, ["eval_tasks_steps"]),
        ({"merge_lora": True}, ["merge_lora", "lora_r"]),
        ({"base_share": 1.0}, ["base_share", "1.0"]),
        ({"base_share": 0.2, "lora_r": 4}, ["base_share", "merge_lora"]),
    ],
)
def test_bad_fields_are_named(tiny_llava: Path, tmp_path: Path, fields: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match="field") as caught:
        run.train(training.config(tiny_llava, tmp_path, **fields))
    assert all(word in str(caught.value) for word in words)


def test_the_model_loads_with_transformers_and_with_mmi_hf(out: Path) -> None:
    ours = load_model(str(out)).state_dict()
    plain = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    assert training.largest_difference(ours, plain) == 0.0
    assert load_processor(str(out)).chat_template


def test_merged_adapters_are_the_model_that_was_trained(tiny_llava: Path, tmp_path: Path) -> None:
    fields = {"lora_r": 4, "merge_lora": True, "learning_rate": 1e-2, **training.OURS}
    trained = run.train(training.config(tiny_llava, tmp_path / "merged", **fields))
    adapters = run.train(training.config(tiny_llava, tmp_path / "adapters", **{**fields, "merge_lora": False}))
    assert trained.state.global_step == 2 and not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = load_model(str(tmp_path / "merged"))
    batch = adapters.data_collator(training.step_groups(adapters, 5))
    base = AutoModelForImageTextToText.from_pretrained(tiny_llava)
    call = {name: batch[name] for name in ("input_ids", "attention_mask")}
    call["pixel_values"] = batch["pixel_values"][batch["image_index"]]
    with torch.no_grad():
        kept = batch["attention_mask"].bool()
        logits = [model.eval()(**call).logits[kept] for model in (merged, adapters.model, base)]
    assert (logits[0] - logits[1]).abs().max() < 1e-4 < 1e-2 < (logits[0] - logits[2]).abs().max()
    assert load_processor(str(tmp_path / "merged")).chat_template


@pytest.mark.parametrize("lora", [{}, {"lora_r": 4, "merge_lora": True}], ids=["full", "lora"])
def test_the_start_keeps_its_share_of_every_weight(tiny_llava: Path, tmp_path: Path, lora: dict) -> None:
    fields = {"learning_rate": 1e-2, **training.OURS, **lora}
    for name, share in (("trained", 0.0), ("drawn", 0.3)):
        run.train(training.config(tiny_llava, tmp_path / name, base_share=share, **fields))
    places = (tiny_llava, tmp_path / "trained", tmp_path / "drawn")
    start, trained, drawn = (AutoModelForImageTextToText.from_pretrained(place).state_dict() for place in places)
    expected = {name: 0.3 * start[name].double() + 0.7 * trained[name].double() for name in trained}
    assert training.largest_difference(drawn, expected) < 1e-6
    assert training.largest_difference(drawn, trained) > 1e-3
    assert load_processor(str(tmp_path / "drawn")).chat_template
    assert not (tmp_path / "drawn" / run.TRAINED).exists()


def test_the_card_says_data_config_metrics_and_citation(out: Path, tiny_llava: Path) -> None:
    card = (out / "README.md").read_text()
    head, text = card.split("---\n")[1:]
    assert yaml.safe_load(head)["base_model"] == str(tiny_llava)
    for words in ("| demo_digits | ", "| consistency | js |", "| adversary | pgd |", "| seed | 42 |", "2505.19616"):
        assert words in text, words
    for metric in ("loss_sft", "attack_strength", "eval_mmi_demo_digits/misleading_text/flip_rate"):
        assert f"| {metric} | " in text, metric
