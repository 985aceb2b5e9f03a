"""What is trained, asked and scored, against what each processor makes of the same chat by its own call."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

from mmi_plugin.item import Item
from mmi_plugin.models.chats import images_of
from mmi_plugin.models.evaluate import Scorer
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Query
from mmi_plugin.models.prompt import Prompts, TrainingRow
from tests import families, real_families

FAMILIES = [*families.cases(), *real_families.CASES]
ANSWERED = {  # how each vocabulary writes the answer "B" after its prompt, and what ends it: labelled by hand
    "gemma3": ["B", "<end_of_turn>"],
    "idefics3": ["ĠB", "<end_of_utterance>"],
    "instructblip": ["▁B", "</s>"],
    "internvl3": ["B", "<|im_end|>"],
    "llava15": ["▁B", "</s>"],
    "llava_onevision": ["B", "<|im_end|>"],
    "llavanext_mistral": ["▁B", "</s>"],
    "llavanext_vicuna": ["▁B", "</s>"],
    "paligemma": ["B", "<eos>"],
    "pixtral": ["B", "</s>"],
    "qwen2vl": ["B", "<|im_end|>"],
    "smolvlm": ["ĠB", "<end_of_utterance>"],
    "qwen25vl": ["B", "<|im_end|>"],
    "qwen3vl": ["B", "<|im_end|>"],
}


@pytest.fixture(scope="module", params=FAMILIES)
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ProcessorMixin:
    name = request.param
    if name.startswith("real-"):
        folder = real_families.folder(name)
    else:
        folder = families.save(name, tmp_path_factory.mktemp(name))
    found = AutoProcessor.from_pretrained(folder)
    found.family = name
    return found


def _picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (80, 90 + 40 * number, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _item(number: int = 0, **changes: Any) -> Item:
    fields = {
        "id": str(number),
        "family": "image_heavy",
        "question": "What is shown?" + " Look twice." * number,
        "answer": "dog",
        "options": ("cat", "dog", "eel"),
        "image": _picture(number),
        **changes,
    }
    return Item(**fields)


def _own(processor: ProcessorMixin, chat: list[dict[str, Any]], **more: Any) -> dict[str, torch.Tensor]:
    """The prompt of one chat as the processor makes it by its own call."""
    if processor.chat_template:
        return dict(
            processor.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **more
            )
        )
    text = "\n".join(part["text"] for turn in chat for part in turn["content"] if part["type"] == "text")
    own = dict(processor(images=images_of(chat) or None, text=text, return_tensors="pt"))
    return {name: value for name, value in own.items() if name != "labels"}


def _trained(prompts: Prompts, item: Item, answer: str) -> TrainingRow:
    expansions = prompts.images([prompts.joined(item.images)])[1]
    return prompts.rows([prompts.chat(item, answer)], expansions, [item.id])[0]


def _pieces(processor: ProcessorMixin, row: TrainingRow) -> list[str]:
    """The trained tokens as the vocabulary writes them."""
    said = [token for token, answer in zip(row.ids, row.answer, strict=True) if answer]
    return processor.tokenizer.convert_ids_to_tokens(said)


def test_a_prompt_is_what_the_processor_makes_of_it(processor: ProcessorMixin) -> None:
    prompts = prompts_of(processor)
    chats = [prompts.chat(_item(number)) for number in range(3)]
    batch = prompts.inputs(chats)
    for row, chat in enumerate(chats):
        own, alone = _own(processor, chat), prompts.inputs([chat])
        length = own["input_ids"].shape[1]
        assert alone.keys() == own.keys() == batch.keys()
        for name, value in own.items():
            assert torch.equal(alone[name], value), name
            if value.shape == own["input_ids"].shape and not name.startswith("qformer"):
                assert torch.equal(batch[name][row, -length:], value[0]), name
        assert not batch["attention_mask"][row, :-length].any()
    assert batch["input_ids"].shape[1] == max(_own(processor, chat)["input_ids"].shape[1] for chat in chats)


def test_training_goes_on_from_the_prompt_and_ends_as_the_template_does(processor: ProcessorMixin) -> None:
    prompts, item = prompts_of(processor), _item(1)
    row, own = _trained(prompts, item, "B"), _own(processor, prompts.chat(item))["input_ids"][0].tolist()
    assert row.ids[: len(own)] == own
    assert row.answer == [False] * len(own) + [True] * (len(row.ids) - len(own))
    name = processor.family.removeprefix("real-")
    expected = ANSWERED[name] if processor.family.startswith("real-") else [*_tiny_letter(name, "B"), "</s>"]
    assert _pieces(processor, row) == expected
    if processor.chat_template:
        chat = prompts.chat(item, "B")
        whole = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")["input_ids"]
        written = whole[0].tolist()
        end = expected[-1] in processor.tokenizer.convert_ids_to_tokens(written[len(own) :])
        shared = row.ids if end else row.ids[:-1]  # a template that ends no answer still needs an end to be learned
        assert written[: len(shared)] == shared


def _tiny_letter(name: str, letter: str) -> list[str]:
    return [f"Ġ{letter}"] if name.startswith("instructblip") else [letter]


def test_the_options_that_are_scored_are_the_first_tokens_that_are_trained(processor: ProcessorMixin) -> None:
    prompts, item = prompts_of(processor), _item()
    scored = prompts.option_tokens(prompts.chat(item), ("A", "B", "C"))
    for letter, tokens in zip("ABC", scored, strict=True):
        row = _trained(prompts, item, letter)
        first = row.answer.index(True)
        assert tokens == row.ids[first : first + len(tokens)] and len(tokens) == 1
    assert prompts.stops == [_trained(prompts, item, "A").ids[-1]]


@pytest.mark.parametrize("where", ["question", "option", "answer", "context"])
def test_what_users_write_is_never_a_token(processor: ProcessorMixin, where: str) -> None:
    """Every special token of the vocabulary, in any text: the prompt has the special tokens that it has without."""
    prompts, tokenizer = prompts_of(processor), processor.tokenizer
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special][:40]
    special += [processor.tokenizer.eos_token, prompts.placeholder, str(processor.image_token)]
    hostile = " and ".join(dict.fromkeys(special))
    ids = {tokenizer.convert_tokens_to_ids(text) for text in special}
    plain, changes = _item(), {}
    if where == "question":
        changes = {"question": f"{hostile} What is shown?"}
    elif where == "option":
        changes = {"options": ("cat", "dog", hostile)}
    elif where == "context":
        changes = {"context": hostile}
    items = [_item(**changes), plain]
    answer = hostile if where == "answer" else "B"
    expansions = prompts.images([prompts.joined(item.images) for item in items])[1]
    rows = prompts.rows([prompts.chat(items[0], answer), prompts.chat(plain, "B")], expansions, ["0", "1"])
    found, expected = ([token for token in row.ids if token in ids] for row in rows)
    assert found == expected, "in a batch with a row whose first text it is"
    assert rows[1].ids == _trained(prompts, plain, "B").ids
    assert tokenizer.decode(rows[0].ids).count(hostile.split()[0]) > tokenizer.decode(rows[1].ids).count(
        hostile.split()[0]
    ), "it is there, as text"
    own = _own(processor, prompts.chat(plain))["input_ids"][0].tolist()
    asked = prompts.inputs([prompts.chat(item) for item in items])
    assert asked["input_ids"][1, asked["attention_mask"][1].bool()].tolist() == own
    begun = rows[0].ids[: rows[0].answer.index(True)]
    assert asked["input_ids"][0, asked["attention_mask"][0].bool()].tolist() == begun


def test_text_for_special_tokens_is_what_transformers_makes_of_it(processor: ProcessorMixin) -> None:
    prompts, tokenizer = prompts_of(processor), processor.tokenizer
    chat = prompts.chat(_item(question=f"Is {tokenizer.eos_token} here?"))
    text = processor.apply_chat_template(chat) if processor.chat_template else ""
    if not text.startswith(tokenizer.bos_token or text or "?"):
        pytest.skip("transformers does it for templates that write the first token")
    if processor.family == "real-idefics3":
        pytest.skip("its processor looks for characters in what was encoded in pieces, and fails")
    if Version(version("transformers")) < Version("5.23"):
        pytest.skip("processors hand it on to tokenizers since 5.23")
    own = _own(processor, chat, sanitize_control_tokens=True)
    assert prompts.inputs([chat])["input_ids"].tolist() == own["input_ids"].tolist()


def test_a_system_prompt_is_the_templates_own_system_turn(processor: ProcessorMixin) -> None:
    system, item = "Ignore what does not matter.", _item()
    prompts = prompts_of(processor, system)
    turn = {"role": "system", "content": [{"type": "text", "text": system}]}
    own = _own(processor, [turn, *prompts.chat(item)])["input_ids"].tolist()
    assert prompts.inputs([prompts.chat(item)])["input_ids"].tolist() == own
    assert own != _own(processor, prompts.chat(item))["input_ids"].tolist()
    assert _trained(prompts, item, "B").ids[: len(own[0])] == own[0]
    given = prompts_of(processor).inputs([[turn, *prompts.chat(item)]])
    assert given["input_ids"].tolist() == own, "a system turn of the chat's own does the same"


def test_every_answer_of_a_conversation_ends_as_in_the_template(processor: ProcessorMixin) -> None:
    prompts = prompts_of(processor)
    history = (("How many?", "three dogs"), ("Where?", "in a garden"))
    item = _item(family="vqa", options=(), question="Why?", answer="they play", history=history)
    row = _trained(prompts, item, item.answer)
    said = processor.tokenizer.decode([token for token, answer in zip(row.ids, row.answer, strict=True) if answer])
    own = _own(processor, prompts.chat(item))["input_ids"][0].tolist() if processor.chat_template else None
    if own is None:  # the image features, or the attention, would tell earlier answers before they are given
        assert "".join(said.split()) == "theyplay" + prompts.end
        return
    assert row.ids[: len(own)] == own
    text, end = processor.apply_chat_template(prompts.chat(item, item.answer)), prompts.end
    ends = [end if f"{answer}{end}" in text else "" for _, answer in history]
    answers = [f"{answer}{own_end}" for (_, answer), own_end in zip(history, ends, strict=True)]
    assert "".join(said.split()) == "".join("".join([*answers, item.answer, end]).split())


@torch.no_grad()
@pytest.mark.parametrize("name", real_families.CASES)
def test_the_options_probabilities_are_the_models_mass_on_the_hand_labelled_tokens(name: str, tmp_path: Path) -> None:
    folder = real_families.save(name, tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    prompts, written = prompts_of(processor), ANSWERED[name.removeprefix("real-")][0]
    letters = [processor.tokenizer.convert_tokens_to_ids(written.replace("B", letter)) for letter in "ABC"]
    rows = [Query(prompts.chat(_item(number, image=_picture(0))), ("A", "B", "C"), True) for number in range(2)]
    found = Scorer(model, prompts).answer(rows, {"max_new_tokens": 1})
    for row, answer in zip(rows, found, strict=True):
        logits = model(**_own(processor, row.chat)).logits[0, -1].double()
        assert answer.probabilities == pytest.approx(logits.softmax(-1)[letters].tolist(), rel=1e-3)
