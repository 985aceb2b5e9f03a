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


def test_images_and_a_cache_of_branches_do_what_transformers_own_do(tiny_llava: Path) -> None:
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
    branch = compat.BranchLayer(rows=2)
    keys, values = (torch.cat([states, states], 2) for states in (plain.layers[0].keys, plain.layers[0].values))
    kept = branch.update(keys, values)  # two branches, as one sequence
    assert all(map(torch.equal, kept, (keys, values))) and branch.get_seq_length() == 2 * ids.shape[1]
    for step in (1.0, 2.0):
        new = torch.stack([torch.full_like(keys[:, :, 0], step + row / 10) for row in (0, 1)], 2)
        branch.update(new, -new)
    own, later = branch.between(ids.shape[1], 2 * ids.shape[1], 1, 2)[0]
    assert torch.equal(own, plain.layers[0].keys)
    assert later[0, 0, :, 0].tolist() == pytest.approx([1.1, 2.1])
    assert branch.between(0, 1, 0, 2)[1][1][0, 0, :, 0].tolist() == pytest.approx([-1.0, -1.1, -2.0, -2.1])
    assert branch.get_seq_length() == 2 * ids.shape[1] + 4
    branch.rewind()
    assert len(branch.between(0, 1, 0, 2)[0]) == 1 and branch.get_seq_length() == 2 * ids.shape[1]


def test_attention_is_lent_and_given_back(tiny_llava: Path) -> None:
    decoder = AutoModelForImageTextToText.from_pretrained(tiny_llava, attn_implementation="eager").get_decoder()
    with pytest.raises(KeyError), compat.attending(decoder, "mmi_lent", compat.sdpa_attention_forward):
        assert decoder.config._attn_implementation == "mmi_lent"
        raise KeyError
    assert decoder.config._attn_implementation == "eager"


def test_no_private_name_of_others_stands_outside_compat() -> None:
    assert private_uses(Path(models.__file__).parent) == []
