"""What `models` takes of transformers beyond its documented names: it is there, and is used as we take it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

from mmi_plugin import models
from mmi_plugin.models import compat
from tests.foreign import check, private_uses


@pytest.mark.parametrize("name", compat.FOREIGN, ids=lambda name: name.path)
def test_a_name_of_transformers_is_there(name: compat.Foreign) -> None:
    check(name)


@pytest.mark.parametrize("name", compat.FOREIGN, ids=lambda name: name.path)
def test_a_name_that_is_gone_is_named(name: compat.Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(name.path.replace(":", "."))
    with pytest.raises(LookupError, match=f"{name.path} is gone; since {name.since}, needed: "):
        check(name)


def test_images_and_a_cache_of_buffers_do_what_transformers_own_do(tiny_llava: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava).eval()
    processor = AutoProcessor.from_pretrained(tiny_llava)
    image, text = Image.new("RGB", (40, 30), "red"), f"What is {processor.image_token} this?"
    own = processor(images=image, text=text, return_tensors="pt")
    tensors, expansions = compat.process_images(processor, [[image]])
    assert torch.equal(tensors["pixel_values"], own["pixel_values"]) and compat.expands_images(processor)
    ids = processor.tokenizer(compat.with_images(processor, text, expansions), return_tensors="pt")["input_ids"]
    assert torch.equal(ids, own["input_ids"])
    assert "size" in compat.image_settings(processor)

    name, plain = compat.cache_argument(model), DynamicCache()
    layers = compat.cache_layers(model)
    assert all(type(layer) is compat.DynamicLayer and not layer.is_sliding for layer in layers)
    with torch.no_grad():
        model(**own, **{name: plain})
        buffers = [
            compat.BufferLayer(*(torch.cat([kept, kept], -2) for kept in (layer.keys, layer.values)), ids.shape[1])
            for layer in plain.layers
        ]
        cache = type(plain)()
        cache.layers = buffers
        more = [model(input_ids=ids[:, :3], **{name: one}).logits for one in (cache, plain)]
    assert torch.allclose(*more, atol=1e-5)
    assert cache.get_seq_length() == plain.get_seq_length() == ids.shape[1] + 3
    compat.rewind({"input_ids": ids, name: cache})
    assert cache.get_seq_length() == ids.shape[1] - 1


def test_no_private_name_of_others_stands_outside_compat() -> None:
    assert private_uses(Path(models.__file__).parent) == []
