"""Training data as researchers have it: conversations, the published file, draws per epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor, LlavaProcessor

from mmi_plugin import prompts
from mmi_plugin.items import Item
from mmi_plugin.trainers.collator import IGNORED, GroupCollator
from mmi_plugin.trainers.groups import Group


@pytest.fixture(scope="module")
def processor(tiny_llava: Path) -> LlavaProcessor:
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("ends", [True, False], ids=["template-writes-end", "template-writes-none"])
def test_every_answer_of_a_conversation_is_learned(processor: LlavaProcessor, with_image: bool, ends: bool) -> None:
    template, end = processor.chat_template, processor.tokenizer.eos_token
    try:
        if not ends:
            processor.chat_template = template.replace("</s>", " ").replace("eos_token", "' '")
        image = Image.new("RGB", (20, 20), (9, 99, 9)) if with_image else None
        turns = (("What is it?", "three dogs"), ("How many?", "three"), ("Why?", "the picture shows three dogs"))
        item = Item("a", "vqa", *turns[2], image=image, history=turns[:2])
        other = Item("b", "vqa", "Which?", "seven", image=image)
        batch = GroupCollator(processor, None, seed=0)([Group("a/0", "vqa", (item,)), Group("b/0", "vqa", (other,))])
    finally:
        processor.chat_template = template
    labels, ids = batch["labels"][0], batch["input_ids"][0]
    kept = labels != IGNORED
    assert processor.tokenizer.decode(labels[kept]).replace(" ", "") == "".join(
        f"{answer}{end}" for _, answer in turns
    ).replace(" ", "")
    assert (kept[1:] & ~kept[:-1]).sum() == 3  # three separate stretches, each after its own question
    text = processor.tokenizer.decode(ids[batch["attention_mask"][0].bool()])
    picture = "<image>" * 4 + "\n" if with_image else ""
    said = [f"USER: {{}}Question:\n{question}\nASSISTANT:\n{answer}{end}" for question, answer in turns]
    assert "".join(text.split()) == "".join("".join(said).format(picture, "", "").split())
    assert processor.tokenizer.decode(batch["labels"][1][batch["labels"][1] != IGNORED]) == f"seven{end}"
    assert not batch["irrelevant"].any()


def test_a_single_turn_is_what_it_was() -> None:
    chat = prompts.messages(Item("a", "vqa", "Which?", "one"), "one")
    assert [turn["role"] for turn in chat] == ["user", "assistant"]
