"""The base model's training text is what the harness and the trainer will show it."""

import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers import LlavaProcessor

from benchmarks.base import build as build_base
from benchmarks.base import corpus
from benchmarks.base.architecture import build_processor, build_tokenizer
from benchmarks.base.build import IGNORED, IMAGE, PATCH, augment, encode
from benchmarks.base.corpus import Chat
from benchmarks.base.muon import Muon
from mmi_plugin.item import Item, messages, target, user_text
from mmi_plugin.sources import load
from mmi_plugin.sources.demo import QUESTION, WORDS, capitals, digit_images, split_indices
from mmi_plugin.studies.demo import WEIGHTS, file_hash


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return build_processor(build_tokenizer(["Question:\nWhat digit is shown? A: seven B: two"], 400), IMAGE, PATCH)


def test_encoding_equals_the_chat_template(processor: LlavaProcessor) -> None:
    item = load("demo_digits", "train").items[0]
    batch = encode([Chat(((user_text(item), target(item)),), item.image)], processor)
    chat = messages(item, target(item))
    expected = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": "pt"}
    )
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    prompt = processor.apply_chat_template(
        chat[:1], add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": "pt"}
    )["input_ids"]
    assert torch.equal(batch["input_ids"][:, : prompt.shape[1]], prompt)
    assert (batch["labels"][0, : prompt.shape[1]] == IGNORED).all()
    answer = batch["labels"][0, prompt.shape[1] :]
    assert processor.decode(answer) == f"{item.gold}</s>"


def test_base_sees_no_test_image_and_true_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(corpus, "split_indices", lambda split: asked.append(split) or split_indices(split))
    rng = random.Random(0)
    captioned = 0
    for _ in range(300):
        chat = corpus.digits_chat(rng, corpus.Style(free_form=1.0))
        ((text, answer),) = chat.turns
        if text.startswith("This picture"):
            captioned += 1
            assert text.split(".")[0].endswith(f" {answer}")
    assert set(asked) <= {"train", "validation"}
    assert 0.3 < captioned / 300 < 0.5


def test_turns_ask_about_the_image_first_and_then_about_a_country() -> None:
    rng = random.Random(0)
    for _ in range(20):
        chat = corpus.turns_chat(rng, corpus.Style(free_form=1.0))
        (first, digit), (second, city) = chat.turns
        assert chat.image is not None
        assert "digit" in first and digit in WORDS
        assert capitals()[second.split("capital of ")[1].split("?")[0]] == city


def test_later_chats_ask_about_the_image_after_countries() -> None:
    rng = random.Random(0)
    lengths = set()
    for _ in range(60):
        chat = corpus.later_chat(rng, corpus.Style(free_form=1.0))
        *others, (last, digit) = chat.turns
        lengths.add(len(others))
        assert chat.image is not None and chat.image.size == digit_images()[0][0].size
        assert last.startswith(user_text(Item("", "image_heavy", QUESTION, digit))) and digit in WORDS[:10]
        for text, city in others:
            assert capitals()[text.split("capital of ")[1].split("?")[0]] == city
    assert lengths == {1, 2, 3}


def test_a_slip_shows_the_letter_of_the_right_option() -> None:
    """What a slip shows is read by its ink: the letter's, drawn here in the same font, lies at the same places."""
    rng, style = random.Random(0), corpus.Style(fewest_wrong=3)
    heard = 0
    for _ in range(40):
        chat = corpus.slip_chat(rng, style)
        ((text, letter),) = chat.turns
        country = text.split("capital of ")[1].split("?")[0]
        heard += country in capitals()
        if country in capitals():
            assert f"{letter}: {capitals()[country]}" in text.splitlines()
        assert _letter_on(chat.image) == letter
        ((asked, spelled),) = corpus.slip_chat(rng, replace(style, spelled=1.0)).turns
        assert "What letter is shown" in asked and "Option" not in asked and spelled in "ABCD"
    assert 1 <= heard <= 20


def _letter_on(slip: Image.Image) -> str:
    """The letter whose ink, at its best place, differs least from that in the upper part of the slip."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 15)

    def ink(image: Image.Image) -> np.ndarray:
        return np.asarray(
            image.convert("L").crop(image.convert("L").point(lambda p: 255 * (p < 128)).getbbox()).resize((16, 16)),
            float,
        )

    found = {}
    for letter in "ABCD":
        drawn = Image.new("L", (32, 32), "white")
        ImageDraw.Draw(drawn).text((8, 0), letter, fill="black", font=font)
        found[letter] = np.abs(ink(drawn) - ink(slip.crop((0, 0, 32, 19)))).mean()
    return min(found, key=found.get)


def test_option_letters_are_right_in_lists_and_chats() -> None:
    rng = random.Random(0)
    for _ in range(50):
        (listed, nothing), *queries = corpus.binding_list(rng).turns
        assert nothing == ""
        letters = dict(line.split(": ")[::-1] for line in listed.strip().splitlines()[1:])
        assert all(letters[word.strip()] == letter for word, letter in queries)
        chat = corpus.binding_chat(rng)
        letters = dict(line.split(": ")[::-1] for line in chat.turns[0][0].splitlines()[3:-1])
        assert 2 <= len(letters) <= 4
        assert all(
            letters[text.splitlines()[1].removeprefix("Which option is ")[:-1]] == letter for text, letter in chat.turns
        )


def test_augmentation_is_small_and_seeded() -> None:
    pixels = torch.rand(4, 3, 32, 32).round()
    first, second = (augment(pixels, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == pixels.shape
    assert not torch.equal(first, pixels)
    blank = torch.full((1, 3, 32, 32), 0.25)
    assert torch.allclose(augment(blank, torch.Generator()), blank)


def test_muon_in_single_precision_steps_as_torchs_does_in_half() -> None:
    torch.manual_seed(0)
    start = [torch.randn(24, 16), torch.randn(16, 24), torch.randn(16, 24)]
    ours = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    optimisers = [
        Muon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for mine, other, first in zip(ours, theirs, start, strict=True):
        assert (mine - other).norm() < 0.02 * (other - first).norm()


@pytest.fixture
def short_curriculum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_base, "LEVELS", ((corpus.binding_list, 99.0, 2, False),))
    phases = (build_base.Phase(2, (2, 2, 1, 1, 0, 1, 1), 1, corpus.Style(), words=1),) * 2
    monkeypatch.setattr(build_base, "PHASES", phases)


def test_an_interrupted_build_goes_on_to_the_same_weights(short_curriculum: None, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        whole = build_base.build(tmp_path / "whole" / "base") / WEIGHTS
        kept = sorted((tmp_path / "whole" / "base-stages").iterdir())
        assert [folder.name[:2] for folder in kept] == ["0-", "1-", "2-"]
        after = [file_hash(folder / WEIGHTS) for folder in kept]
        assert len(set(after)) == 3 and after[-1] == file_hash(whole)
        for done in (1, 2):
            for folder in kept[:done]:
                shutil.copytree(folder, tmp_path / f"again{done}" / "base-stages" / folder.name)
            again = build_base.build(tmp_path / f"again{done}" / "base") / WEIGHTS
            assert file_hash(again) == file_hash(whole)
    finally:
        torch.set_num_threads(threads)


def test_another_process_finds_the_stages(tmp_path: Path) -> None:
    script = f"from benchmarks.base.build import *; print(stage_folder(Path({str(tmp_path / 'base')!r}), 3))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert found == str(build_base.stage_folder(tmp_path / "base", 3))


def test_another_curriculum_does_not_go_on_from_this_one(
    short_curriculum: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = [build_base.stage_folder(tmp_path / "base", stage) for stage in range(3)]
    first, second = build_base.PHASES
    monkeypatch.setattr(build_base, "PHASES", (first, replace(second, steps=3)))
    after = [build_base.stage_folder(tmp_path / "base", stage) for stage in range(3)]
    assert after[:2] == before[:2] and after[2] != before[2]
