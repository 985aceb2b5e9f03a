"""A model or processor that cannot be trained is refused at the start, with what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf

from mmi_plugin.errors import InputError
from mmi_plugin.models.families import prompts_of
from mmi_plugin.trainers.saving import load_checkpoint
from mmi_plugin.trainers.vision import check_support
from tests import families, training


def test_a_processor_without_a_chat_template(tmp_path: Path) -> None:
    folder = families.save("llava", tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="LlavaProcessor is not supported: it has no chat template"):
        load_checkpoint(training.config(folder, tmp_path / "out"))


def test_a_processor_that_marks_no_image(tmp_path: Path) -> None:
    tokenizer = families.tokenizer_of({})
    processor = hf.BlipProcessor(hf.BlipImageProcessor(size=families.IMAGE), tokenizer)
    with pytest.raises(InputError, match="BlipProcessor is not supported: it has no image_token"):
        prompts_of(processor)


def test_a_model_that_takes_no_encoded_images() -> None:
    vision = {**families.VISION, "image_size": 28, "patch_size": 14}
    model = hf.GitForCausalLM(hf.GitConfig(vision_config=vision, **families.VISION, vocab_size=50))
    with pytest.raises(InputError, match="GitForCausalLM is not supported: its forward lacks 'mm_encoder_outputs'"):
        check_support(model, 3)


def test_a_processor_of_another_model(tiny_llava: Path) -> None:
    model = hf.AutoModelForImageTextToText.from_pretrained(tiny_llava, dtype=torch.float32)
    expected = model.config.image_token_id
    check_support(model, expected)
    with pytest.raises(InputError, match=f"image_token_id is {expected}, and the processor writes token 7"):
        check_support(model, 7)


def test_logits_that_are_scaled_after_the_head(tiny_llava: Path) -> None:
    model = hf.AutoModelForImageTextToText.from_pretrained(tiny_llava, dtype=torch.float32)
    model.config.text_config.logit_scale = 0.5
    with pytest.raises(InputError, match="logit_scale changes logits after the output embeddings"):
        check_support(model, model.config.image_token_id)
