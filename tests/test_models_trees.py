"""Branches of kept prefixes against whole prompts, one row at a time, straight through the model."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText

from mmi_plugin.models import trees
from mmi_plugin.models.evaluate import Scorer
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query
from mmi_plugin.models.load import load_processor
from tests import families

SHARING = ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "gemma3"]
TEXTS = ("Which?", "Which digit is shown in this picture, and why do you think so?", "A or B? " * 9, "Why?")


def _rows(before: str = "") -> list[Query]:
    """Two images under four texts each, in an order that mixes them."""
    images = [Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1 + index), 20).convert("RGB") for index in range(2)]
    return [
        Query(
            [{"role": "user", "content": [*_text(before), {"type": "image", "image": image}, *_text(text)]}], (), True
        )
        for text in TEXTS
        for image in images
    ]


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _load(name: str, folder: Path, **options: Any) -> tuple[Any, Any]:
    families.save(name, folder, spread=0.4)
    return AutoModelForImageTextToText.from_pretrained(folder, **options).eval(), load_processor(str(folder))


@pytest.mark.parametrize("name", SHARING)
@torch.no_grad()
def test_logits_of_prompts_and_of_tokens_after_them_are_those_of_whole_rows(name: str, tmp_path: Path) -> None:
    model, processor = _load(name, tmp_path)
    rows = _rows()
    order, branches = Scorer(model, prompts_of(processor))._prefixes.branches(rows)
    assert sorted(order) == list(range(len(rows))) and order != list(range(len(rows)))
    generator = torch.Generator().manual_seed(0)
    said = torch.randint(3, 200, (len(rows), 3), generator=generator)
    for _ in range(2):  # what was said is forgotten
        found = torch.stack([branches.first, *(branches.after(said[:, step]) for step in range(3))], 1)
        for place, row in enumerate(order):
            inputs = dict(
                processor.apply_chat_template(
                    rows[row].chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
                )
            )
            whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], said[place][None]], 1)}
            for column in {"attention_mask", "mm_token_type_ids", "token_type_ids"} & set(inputs):
                fill = torch.full_like(said[place][None], int(column == "attention_mask"))
                whole[column] = torch.cat([inputs[column], fill], 1)
            wanted = model(**whole).logits[0, -4:]
            assert (found[place] - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        branches.rewind()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_models_own_attention_is_left_as_it_was(attention: str, tmp_path: Path) -> None:
    model, processor = _load("llava", tmp_path, attn_implementation=attention)
    scorer, rows = Scorer(model, prompts_of(processor)), _rows()
    assert scorer.answer(rows, {"max_new_tokens": 4}) == Scorer(model, prompts_of(processor), False).answer(
        rows, {"max_new_tokens": 4}
    )
    assert model.get_decoder().config._attn_implementation == attention


def test_a_prefix_is_in_memory_once_however_many_rows_show_it(tmp_path: Path) -> None:
    """Bytes of live tensors at the model's head, with 4 and with 12 rows of one long prefix."""
    model, processor = _load("llava", tmp_path)
    image, texts = _rows("word " * 600)[0].chat[0]["content"][1], [f"Which? {number}" for number in range(12)]
    held: list[int] = []

    def weigh(*_: Any) -> None:
        tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
        held.append(sum(storages.values()))

    most = []
    for count in (4, 12):
        long = {"type": "text", "text": "word " * 600}
        chats = [[{"role": "user", "content": [long, image, *_text(text)]}] for text in texts[:count]]
        scorer, rows = Scorer(model, prompts_of(processor)), [Query(chat, (), True) for chat in chats]
        scorer.answer(rows[:4], {"max_new_tokens": 1})  # compares, and computes the prefix
        held.clear()
        gc.collect()  # what other tests left is no part of the difference
        hook = model.get_output_embeddings().register_forward_pre_hook(weigh)
        scorer.answer(rows, {"max_new_tokens": 3})
        hook.remove()
        assert len(held) == 3
        most.append(max(held))
    (prefix,) = scorer._prefixes._kept.values()
    size = sum(states.nbytes for layer in prefix.layers for states in layer)
    # What each row adds are masks, which of so narrow a model are a third of its keys and values.
    assert len(prefix.ids) > 600 and most[1] - most[0] < 8 * size / 2


class _Waits(TorchDispatchMode):
    """Counts what makes a host wait for its device."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        indexed = name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        if name in self.NAMES or indexed:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_token_waits_for_the_device_at_most_once(tmp_path: Path) -> None:
    model, processor = _load("qwen2_5_vl", tmp_path)
    _, branches = Scorer(model, prompts_of(processor))._prefixes.branches(_rows())
    with _Waits() as waits:
        ids = branches.say(5, [], lambda ids, scores: torch.zeros(len(ids), dtype=torch.bool), 0)
    assert ids.shape[1] == branches.inputs["input_ids"].shape[1] + 5
    assert waits.found == {"_local_scalar_dense": 5}, "whether all have ended, which only a CPU is asked at once"


@torch.no_grad()
def test_prefixes_are_told_apart_without_waiting_for_each(tmp_path: Path) -> None:
    model, processor = _load("llava", tmp_path)
    scorer, waited = Scorer(model, prompts_of(processor)), []
    scorer.answer(_rows()[:1], {"max_new_tokens": 1})  # compares ways of generating
    for rows in ([row for row in _rows() if row.chat == _rows()[0].chat], _rows()):
        scorer._prefixes._kept.clear()
        with _Waits() as waits:
            scorer._prefixes.branches(rows)
        waited.append((len(scorer._prefixes._kept), sum(waits.found.values())))
    (one, few), (several, as_many) = waited
    assert one < several and as_many <= few + 1, "of several transformers asks once whether they are padded"


def test_an_image_is_prepared_once_however_many_rows_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what stands for it in prompts and to be encoded; each further batch of its rows finds both at hand."""
    model, processor = _load("llava", tmp_path)
    prompts, prepared = prompts_of(processor), []
    images = prompts.images
    monkeypatch.setattr(prompts, "images", lambda shown: (prepared.append(len(shown)), images(shown))[1])
    scorer, rows = Scorer(model, prompts), sorted(_rows(), key=lambda row: row.chat[0]["content"][0]["image"].tobytes())
    scorer.answer(rows[:1], {"max_new_tokens": 1})  # compares ways of generating
    prepared.clear()
    for start in range(0, 8, 2):
        scorer.answer(rows[start : start + 2], {"max_new_tokens": 1})
    assert sum(prepared) == 1, "the second image alone is new"


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_an_image_in_two_prefixes_and_one_that_was_there_before(name: str, tmp_path: Path) -> None:
    model, processor = _load(name, tmp_path)
    prompts = prompts_of(processor)
    scorer = Scorer(model, prompts)
    for rows in (_rows()[::2], [*_rows("Look at this:"), *_rows()]):
        order, branches = scorer._prefixes.branches(rows)
        assert len(scorer._prefixes._kept) in (1, 4)
        for place, row in enumerate(order):
            wanted = model(**prompts.inputs([rows[row].chat])).logits[0, -1]
            torch.testing.assert_close(branches.first[place], wanted, rtol=1e-4, atol=1e-4)


def test_the_mask_of_a_token_is_made_once_for_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sdpa would make it of pairs in each layer. Its rows begin where kernels of a GPU take them as they are."""
    made, make = [], trees.additive
    monkeypatch.setattr(trees, "additive", lambda *parts: (made.append(make(*parts)), made[-1])[1])
    model, processor = _load("llava", tmp_path)
    _, branches = Scorer(model, prompts_of(processor))._prefixes.branches(_rows())
    with torch.no_grad():
        branches.after(torch.tensor([5] * 8))
    assert model.config.text_config.num_hidden_layers > 1 and len(made) == 2, "one for each image"
    assert all(mask.stride(2) % 16 == 0 and mask.shape[-1] % 16 for mask in made)
