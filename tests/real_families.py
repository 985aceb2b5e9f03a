"""Model families with real vocabularies, templates and processor settings at tiny sizes, where they are at hand."""

from __future__ import annotations

import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers.processors import TemplateProcessing

from tests import families

ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "families.tar.xz"
NAMES = (
    *("gemma3", "idefics3", "instructblip", "internvl3", "llava15", "llava_onevision", "llavanext_mistral"),
    *("qwen25vl", "qwen3vl"),
)
PUT_TOGETHER = ("llavanext_vicuna", "paligemma", "pixtral", "qwen2vl", "smolvlm")
"""Further families on the vocabularies of those."""
CASES = [
    pytest.param(f"real-{name}", marks=pytest.mark.skipif(not ARCHIVE.is_file(), reason="no real vocabularies here"))
    for name in (*NAMES, *PUT_TOGETHER)
]
_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # until the process ends


@cache
def _unpacked() -> Path:
    _KEPT.append(tempfile.TemporaryDirectory(prefix="families"))
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(_KEPT[0].name, filter="data")
    return Path(_KEPT[0].name) / "families"


def folder(name: str) -> Path:
    """Return the folder of a family, as `save_pretrained` leaves it but without weights."""
    found = _unpacked() / name.removeprefix("real-")
    if not found.exists():
        config, processor = _BUILD[found.name]()
        config.save_pretrained(found)
        processor.save_pretrained(found)
    return found


def save(name: str, to: Path, seed: int = 0) -> Path:
    """Save a checkpoint of the family with random weights, a few megabytes, and return its folder."""
    torch.manual_seed(seed)
    model = hf.AutoModelForImageTextToText.from_config(hf.AutoConfig.from_pretrained(folder(name))).float()
    model.save_pretrained(to)
    hf.AutoProcessor.from_pretrained(folder(name)).save_pretrained(to)
    return to


Built = tuple[hf.PreTrainedConfig, hf.ProcessorMixin]


def _like(name: str, template: str | None = None) -> Built:
    """Return config and processor of a family, perhaps with another template."""
    processor = hf.AutoProcessor.from_pretrained(folder(name))
    processor.chat_template = processor.chat_template if template is None else template
    return hf.AutoConfig.from_pretrained(folder(name)), processor


def _llavanext_vicuna() -> Built:
    """LLaVA-NeXT on Llama's vocabulary, in the words of Vicuna: "USER: ... ASSISTANT:"."""
    template = _like("llava15")[1].chat_template
    config, processor = _like("llavanext_mistral", f"{{{{ 'A chat between a user and an assistant. ' }}}}{template}")
    processor.tokenizer = _like("llava15")[1].tokenizer
    return config, processor


def _paligemma() -> Built:
    """Gemma's vocabulary, no template; its answers end with Gemma's plain end token."""
    processor = _like("gemma3")[1]
    ends = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    backend = processor.tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **ends)
    images = hf.SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    made = hf.PaliGemmaProcessor(images, tokenizer)
    vision = {**families.VISION, "image_size": 28, "patch_size": 14, "vision_use_head": False, "projection_dim": 32}
    text = {**families.TEXT, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 1}
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**vision),
        text_config=hf.GemmaConfig(**text),
        projection_dim=32,
        image_token_index=made.image_token_id,
        vocab_size=len(tokenizer),
    )
    return config, made


def _pixtral() -> Built:
    """Mistral's vocabulary with Pixtral's image tokens and its "[INST] ... [/INST]"."""
    tokenizer = _like("llavanext_mistral")[1].tokenizer
    marks = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks.values())})
    tokenizer.image_token = "[IMG]"  # LLaVA's is still in the vocabulary
    template = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
        "{% for part in message['content'] %}{{ '[IMG]' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "{{ '[/INST]' }}{% elif message['role'] == 'system' %}{{ message['content'][0]['text'] + '\n' }}"
        "{% else %}{{ message['content'][0]['text'] + eos_token }}{% endif %}{% endfor %}"
    )
    images = hf.PixtralImageProcessor(size={"longest_edge": 112}, patch_size=7)
    made = hf.PixtralProcessor(images, tokenizer, patch_size=7, spatial_merge_size=2, chat_template=template)
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**families.VISION, image_size=112, patch_size=7, head_dim=16),
        text_config=hf.MistralConfig(**families.TEXT, vocab_size=len(tokenizer), sliding_window=None),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    return config, made


def _qwen2vl() -> Built:
    """Qwen2-VL reads and writes as Qwen2.5-VL does."""
    qwen, processor = _like("qwen25vl")
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {**families.TEXT, "vocab_size": qwen.text_config.vocab_size, "rope_parameters": rope}
    ends = {"pad_token_id": 151643, "bos_token_id": 151643, "eos_token_id": 151645}
    ids = {name: getattr(qwen, name) for name in (f"{token}_id" for token in families.QWEN)}
    config = hf.Qwen2VLConfig(vision_config=vision, text_config=text | ends, **ids)
    made = hf.Qwen2VLProcessor(
        processor.image_processor,
        processor.tokenizer,
        hf.Qwen2VLVideoProcessor(),
        chat_template=processor.chat_template,
    )
    return config, made


def _smolvlm() -> Built:
    """Idefics3's vocabulary and template, in SmolVLM's classes, with its end of an utterance as the end token and the
    64 tokens that its images have."""
    idefics, processor = _like("idefics3")
    tokenizer = processor.tokenizer
    tokenizer.eos_token = "<end_of_utterance>"
    size = {"size": {"longest_edge": 512}, "max_image_size": {"longest_edge": 512}}
    made = hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessor(**size),
        tokenizer,
        hf.SmolVLMVideoProcessor(**size),
        image_seq_len=64,
        chat_template=processor.chat_template,
    )
    values = {key: value for key, value in idefics.to_dict().items() if key not in ("model_type", "architectures")}
    values |= {"vision_config": values["vision_config"] | {"image_size": 512, "patch_size": 16}, "scale_factor": 4}
    return hf.SmolVLMConfig(**values), made


_BUILD = {
    "llavanext_vicuna": _llavanext_vicuna,
    "paligemma": _paligemma,
    "pixtral": _pixtral,
    "qwen2vl": _qwen2vl,
    "smolvlm": _smolvlm,
}
