from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaProcessor

from mmi_plugin.errors import InputError
from mmi_plugin.item import messages, target
from mmi_plugin.trainers.collator import Batch, GroupCollator
from mmi_plugin.trainers.groups import Group, Groups
from mmi_plugin.trainers.method import IGNORED
from tests import training


@pytest.fixture(scope="module")
def processor(tiny_llava: Path) -> LlavaProcessor:
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.fixture(scope="module")
def all_groups(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Groups:
    return training.groups_of(training.config(tiny_llava, tmp_path_factory.mktemp("out")))


@pytest.fixture(scope="module")
def groups(all_groups: Groups) -> list[Group]:
    """Two groups of each family."""
    return [
        all_groups[(all_groups.families.index(f) + i, 0)] for f in ("image_heavy", "text_heavy", "vqa") for i in (0, 1)
    ]


@pytest.fixture(scope="module")
def batch(processor: LlavaProcessor, groups: list[Group]) -> Batch:
    return GroupCollator(processor, None, seed=3)(groups)


def rows_of(groups: list[Group]) -> list:
    return [row for group in groups for row in group.rows]


def test_rows_are_what_the_processor_makes_of_them(
    processor: LlavaProcessor, groups: list[Group], batch: Batch
) -> None:
    for number, row in enumerate(rows_of(groups)):
        alone = processor.apply_chat_template(
            messages(row, target(row)), tokenize=True, return_dict=True, return_tensors="pt"
        )
        length = alone["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][number, :length], alone["input_ids"][0])
        assert batch["attention_mask"][number].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        assert torch.equal(batch["pixel_values"][batch["image_index"][number]], alone["pixel_values"][0])


def test_labels_are_the_answer_and_its_end(processor: LlavaProcessor, groups: list[Group], batch: Batch) -> None:
    for row, labels, ids in zip(rows_of(groups), batch["labels"], batch["input_ids"], strict=True):
        kept = labels != IGNORED
        assert processor.tokenizer.decode(labels[kept]) == row.gold + processor.tokenizer.eos_token
        assert torch.equal(labels[kept], ids[kept])
        prompt = processor.apply_chat_template(messages(row), tokenize=True, add_generation_prompt=True)
        assert kept.nonzero()[0].item() == len(prompt[0])


def test_the_mask_is_exactly_the_irrelevant_modality(
    processor: LlavaProcessor, groups: list[Group], batch: Batch
) -> None:
    for number, row in enumerate(rows_of(groups)):
        for position, token in enumerate(batch["input_ids"][number].tolist()):
            is_image = token == processor.image_token_id
            in_prompt = bool(batch["attention_mask"][number, position]) and batch["labels"][number, position] == IGNORED
            wanted = {"image_heavy": in_prompt and not is_image, "text_heavy": is_image, "vqa": False}[row.family]
            assert bool(batch["irrelevant"][number, position]) == wanted
    assert batch["irrelevant"].sum() > 0


def test_the_mask_of_everything_is_the_whole_prompt_but_of_vqa_rows(
    processor: LlavaProcessor, groups: list[Group], batch: Batch
) -> None:
    whole = GroupCollator(processor, None, seed=3, attack_mask="all")(groups)
    for number, row in enumerate(rows_of(groups)):
        ids = batch["input_ids"][number].tolist()
        prompt = processor.apply_chat_template(messages(row), tokenize=True, add_generation_prompt=True)[0]
        moved = whole["irrelevant"][number].nonzero()[:, 0].tolist()
        assert moved == ([] if row.family == "vqa" else list(range(len(prompt)))), row.family
        images = {position for position, token in enumerate(ids) if token == processor.image_token_id}
        assert images and (images < set(moved) or row.family == "vqa")
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(whole[name], batch[name])


def test_the_mask_reaches_the_collator_of_a_run(tiny_llava: Path, tmp_path: Path, groups: list[Group]) -> None:
    run = training.trainer(training.config(tiny_llava, tmp_path, adversary="pgd", attack_mask="all"))
    found = run.data_collator(groups)
    prompt = found["attention_mask"].bool() & (found["labels"] == IGNORED)
    attackable = torch.tensor([row.family != "vqa" for row in rows_of(groups)])[:, None]
    assert torch.equal(found["irrelevant"], prompt & attackable)
    with pytest.raises(InputError, match="field 'attack_mask' is 'all', and 'attack_text' is 'after_image'"):
        training.config(tiny_llava, tmp_path, attack_mask="all", attack_text="after_image")


def test_rows_know_their_origin(groups: list[Group], batch: Batch) -> None:
    assert [len(group.rows) for group in groups] == [3, 3, 4, 4, 1, 1]
    assert batch["origin"].tolist() == [0] * 3 + [3] * 3 + [6] * 4 + [10] * 4 + [14, 15]


def test_one_image_object_is_processed_once(groups: list[Group], batch: Batch) -> None:
    distinct = {id(row.image) for row in rows_of(groups)}
    assert len(batch["pixel_values"]) == len(distinct) < len(batch["input_ids"])


def test_draws_are_new_each_round_and_the_same_each_time(all_groups: Groups) -> None:
    first, again, second = all_groups[(0, 0)], all_groups[(0, 0)], all_groups[(0, 1)]
    assert first == again
    assert first.rows[0] == second.rows[0]
    assert first.rows[1].context != second.rows[1].context
    assert first.name != second.name


def test_seeds_depend_on_the_row_and_not_on_its_neighbours(
    processor: LlavaProcessor, groups: list[Group], batch: Batch
) -> None:
    alone = GroupCollator(processor, None, seed=3)(groups[1:2])
    assert alone["seeds"].tolist() == batch["seeds"][3:6].tolist()
    assert len(set(batch["seeds"].tolist())) == len(batch["seeds"])


def test_a_free_form_answer_of_many_tokens_without_an_image(processor: LlavaProcessor, groups: list[Group]) -> None:
    item = replace(groups[-1].rows[0], options=(), answer="three and then some more", image=None)
    batch = GroupCollator(processor, None, seed=0)([Group("x", (item,))])
    labels = batch["labels"][0]
    assert processor.tokenizer.decode(labels[labels != IGNORED]) == "three and then some more</s>"
    assert "pixel_values" not in batch and "image_index" not in batch


def test_a_row_that_is_too_long_is_named(processor: LlavaProcessor, groups: list[Group]) -> None:
    with pytest.raises(InputError, match=f"item {groups[0].rows[0].id}: .* max_length is 20"):
        GroupCollator(processor, 20, seed=0)(groups)


def test_rows_of_a_group_must_have_one_answer(processor: LlavaProcessor, groups: list[Group]) -> None:
    first, second = groups[4].rows[0], groups[5].rows[0]
    other = replace(second, options=(), answer="another")
    with pytest.raises(InputError, match="differ in the tokens of the answer"):
        GroupCollator(processor, None, seed=0)([Group("x", (first, other))])
