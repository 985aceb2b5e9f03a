"""Conditions with added images, texts after the question and strengths, as the trainer takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError
from mmi_plugin.item import messages, target
from mmi_plugin.sources import load
from mmi_plugin.trainers.collator import GroupCollator
from mmi_plugin.trainers.groups import Group
from mmi_plugin.trainers.vision import shared_images
from tests import training

ROWS = {
    "demo_arith": ("clean", "both@sentences=2", "instructed_both@sentences=0@images=2"),
    "demo_digits": ("clean", "typographic", "unrelated_text@sentences=3@position=after"),
}


@torch.no_grad()
def test_a_batch_computes_what_each_row_alone_does(tiny_llava: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_llava)
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava).eval()
    groups = []
    for source, conditions in ROWS.items():
        bench = load(source)
        for item in bench.items[:2]:
            rows = tuple(get(name)(item, 0, bench.pools) for name in conditions)
            groups.append(Group(item.id, rows))
    batch = GroupCollator(processor, None, seed=0)(groups)
    images = [row.images for group in groups for row in group.rows]
    assert list(map(len, images)) == [1, 2, 3, 1, 2, 3] + [1] * 6
    assert len(batch["image_index"]) == sum(map(len, images))
    with shared_images(model, batch["image_index"], batch["image_tokens"], ["pixel_values"], True):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        logits = model(**inputs).logits
    for number, row in enumerate(row for group in groups for row in group.rows):
        alone = processor.apply_chat_template(
            messages(row, target(row)), tokenize=True, return_dict=True, return_tensors="pt"
        )
        length = alone["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][number, :length], alone["input_ids"][0])
        torch.testing.assert_close(logits[number, :length], model(**alone).logits[0], atol=2e-5, rtol=1e-4)


def test_a_training_config_takes_strengths(tiny_llava: Path, tmp_path: Path) -> None:
    names = ["clean", "unrelated_text@sentences=3", "instructed_misleading_text"]
    args = training.config(tiny_llava, tmp_path, image_heavy_conditions=names)
    assert args.conditions_of("image_heavy") == tuple(names)
    for wrong in (["clean", "unrelated_text@sentnces=3"], ["clean", "unrelated_text", "unrelated_text@sentences=10"]):
        with pytest.raises(InputError, match="field 'image_heavy_conditions': "):
            training.config(tiny_llava, tmp_path, image_heavy_conditions=wrong)


def test_what_only_measures_is_not_trained_and_what_names_the_right_option_is(tiny_llava: Path, tmp_path: Path) -> None:
    args = training.config(tiny_llava, tmp_path, image_heavy_conditions=["clean", "matching_text"])
    assert args.conditions_of("image_heavy") == ("clean", "matching_text")
    for name in ("rendered_question", "asked_again", "text_only"):
        with pytest.raises(InputError, match=f"condition '{name}' is for evaluations alone; trained are random_pixels"):
            training.config(tiny_llava, tmp_path, text_heavy_conditions=["random_pixels", name])
