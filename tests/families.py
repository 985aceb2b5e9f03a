"""Tiny random checkpoints of the families that the trainer is tested with, one small recipe each.

Every recipe returns (model, processor). Weights are drawn wide, so that outputs depend on image and text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from benchmarks.base.architecture import build_tokenizer
from tests import tiny

Recipe = Callable[[PreTrainedTokenizerFast], tuple[PreTrainedModel, ProcessorMixin]]
RECIPES: dict[str, tuple[Recipe, dict[str, str]]] = {}
TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT:\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ 'IMAGE\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endif %}{{ '\n' if message['role'] == 'user' else eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = {"height": 28, "width": 28}


def recipe(name: str, **special: str) -> Callable[[Recipe], Recipe]:
    """Register a family; `special` are its own special tokens, as attributes of the tokenizer."""

    def register(build: Recipe) -> Recipe:
        RECIPES[name] = build, special
        return build

    return register


def cases() -> list[Any]:
    """Return the names of all families as parameters of a test, each with what it needs."""
    missing = importlib.util.find_spec("num2words") is None
    skip = pytest.mark.skipif(missing, reason="its processor needs num2words")
    return [pytest.param(name, marks=skip) if name == "smolvlm" else name for name in RECIPES]


def save(name: str, folder: Path, seed: int = 0, spread: float = 0.1) -> Path:
    """Save a tiny checkpoint of the family and return its folder."""
    torch.manual_seed(seed)
    build, special = RECIPES[name]
    model, processor = build(tokenizer_of(special))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tokenizer_of(special: dict[str, str], texts: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE that writes a BOS before every text, as the tokenizers of most families do."""
    plain = build_tokenizer(texts or tiny.texts(), 600)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=special,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special.values())})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def template(image: str) -> str:
    return TEMPLATE.replace("IMAGE", image)


@recipe("llava", image_token="<image>")
def llava(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION, image_size=28, patch_size=14, projection_dim=32),
        text_config=hf.LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.image_token_id,
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=IMAGE)
    return hf.LlavaForConditionalGeneration(config), hf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )


@recipe("llava_next", image_token="<image>")
def llava_next(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    grid = [[28, 56], [56, 28], [56, 56]]
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION, image_size=28, patch_size=14, projection_dim=32),
        text_config=hf.MistralConfig(**TEXT, vocab_size=len(tokenizer), sliding_window=None),
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=grid,
    )
    images = hf.LlavaNextImageProcessor(size={"shortest_edge": 28}, crop_size=IMAGE, image_grid_pinpoints=grid)
    return hf.LlavaNextForConditionalGeneration(config), hf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )


@recipe("llava_onevision", image_token="<image>", video_token="<video>")
def llava_onevision(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    grid = [[28, 28], [28, 56], [56, 28]]
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, image_size=28, patch_size=14, vision_use_head=False),
        text_config=hf.Qwen2Config(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=grid,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=IMAGE, image_grid_pinpoints=grid),
        tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=IMAGE),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )


def _instructblip(
    tokenizer: PreTrainedTokenizerFast, text: hf.PreTrainedConfig
) -> tuple[PreTrainedModel, ProcessorMixin]:
    qformer = build_tokenizer(tiny.texts(), 500)
    config = hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**VISION, image_size=28, patch_size=14),
        qformer_config=hf.InstructBlipQFormerConfig(
            **VISION, vocab_size=len(qformer), encoder_hidden_size=32, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, max_position_embeddings=1024,
        ),
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = hf.BlipImageProcessor(size=IMAGE)
    processor = hf.InstructBlipProcessor(images, tokenizer, qformer, num_query_tokens=4)
    return hf.InstructBlipForConditionalGeneration(config), processor


@recipe("instructblip_llama")
def instructblip_llama(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    return _instructblip(tokenizer, hf.LlamaConfig(**TEXT, vocab_size=len(tokenizer)))


@recipe("instructblip_opt")
def instructblip_opt(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    text = hf.OPTConfig(
        hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=1024, vocab_size=len(tokenizer), dropout=0.0, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    return _instructblip(tokenizer, text)


QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def _qwen(
    tokenizer: PreTrainedTokenizerFast, kind: str, vision: dict[str, object], text: dict[str, object], patch: int
) -> tuple[PreTrainedModel, ProcessorMixin]:
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in QWEN.items()}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], **text}
    config = getattr(hf, f"{kind}Config")(
        vision_config={"patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope},
        **ids,
    )
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (4 * patch) ** 2}
    images = hf.Qwen2VLImageProcessor(size=size, patch_size=patch, merge_size=2)
    video = hf.Qwen3VLVideoProcessor if kind == "Qwen3VL" else hf.Qwen2VLVideoProcessor
    processor = getattr(hf, f"{kind}Processor")(
        images,
        tokenizer,
        video(patch_size=patch, merge_size=2),
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return getattr(hf, f"{kind}ForConditionalGeneration")(config), processor


@recipe("qwen2_vl", **QWEN)
def qwen2_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    return _qwen(tokenizer, "Qwen2VL", {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}, {}, 14)


@recipe("qwen2_5_vl", **QWEN)
def qwen2_5_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    return _qwen(tokenizer, "Qwen2_5_VL", {**vision, "fullatt_block_indexes": [1], "window_size": 56}, {}, 14)


@recipe("qwen3_vl", **QWEN)
def qwen3_vl(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    return _qwen(tokenizer, "Qwen3VL", vision, {"mrope_interleaved": True}, 16)


INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


@recipe("internvl", **INTERNVL)
def internvl(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**VISION, image_size=[28, 28], patch_size=[7, 7]),
        text_config=hf.Qwen2Config(**TEXT, vocab_size=len(tokenizer)),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    images = hf.GotOcr2ImageProcessor(size=IMAGE, crop_to_patches=True, min_patches=1, max_patches=3)
    return hf.InternVLForConditionalGeneration(config), hf.InternVLProcessor(
        images,
        tokenizer,
        hf.InternVLVideoProcessor(size=IMAGE),
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>"),
    )


IDEFICS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
}


def _idefics_config(kind: str, tokenizer: PreTrainedTokenizerFast, patch: int) -> hf.PreTrainedConfig:
    return getattr(hf, f"{kind}Config")(
        vision_config={**VISION, "image_size": 4 * patch, "patch_size": patch},
        text_config=hf.LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        image_token_id=tokenizer.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )


@recipe("idefics3", **IDEFICS)
def idefics3(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return hf.Idefics3ForConditionalGeneration(_idefics_config("Idefics3", tokenizer, 7)), hf.Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=template("<image>")
    )


@recipe("smolvlm", **IDEFICS, video_token="<video>")
def smolvlm(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    edge = {"longest_edge": 16}
    images = hf.SmolVLMImageProcessor(size=edge, max_image_size=edge)
    video = hf.SmolVLMVideoProcessor(size=edge, max_image_size=edge)
    config = _idefics_config("SmolVLM", tokenizer, 4)  # until 5.22 this has to divide an image's 4 tokens
    return hf.SmolVLMForConditionalGeneration(config), hf.SmolVLMProcessor(
        images, tokenizer, video, image_seq_len=4, chat_template=template("<image>")
    )


GEMMA = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


@recipe("gemma3", **GEMMA)
def gemma3(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION, image_size=28, patch_size=7, vision_use_head=False),
        text_config={
            **TEXT, "vocab_size": len(tokenizer), "sliding_window": 16, "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )  # fmt: skip
    images = hf.Gemma3ImageProcessor(size=IMAGE)
    return hf.Gemma3ForConditionalGeneration(config), hf.Gemma3Processor(
        images, tokenizer, chat_template=template("<start_of_image>"), image_seq_length=4
    )


@recipe("paligemma", image_token="<image>")
def paligemma(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    images = hf.SiglipImageProcessor(size=IMAGE)
    images.image_seq_length = 4
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    processor = hf.PaliGemmaProcessor(images, tokenizer)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(
            **VISION, image_size=28, patch_size=14, vision_use_head=False, projection_dim=32
        ),
        text_config=hf.GemmaConfig(**TEXT, vocab_size=len(tokenizer)),
        projection_dim=32,
        image_token_index=processor.image_token_id,
        vocab_size=len(tokenizer),
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


@recipe("mistral3", image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
def mistral3(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**VISION, image_size=56, patch_size=7, head_dim=16),
        text_config=hf.MistralConfig(**TEXT, vocab_size=len(tokenizer), sliding_window=None),
        image_token_index=tokenizer.image_token_id,
        spatial_merge_size=2,
    )
    images = hf.PixtralImageProcessor(size={"longest_edge": 28}, patch_size=7)
    return hf.Mistral3ForConditionalGeneration(config), hf.PixtralProcessor(
        images, tokenizer, patch_size=7, spatial_merge_size=2, chat_template=template("[IMG]")
    )
