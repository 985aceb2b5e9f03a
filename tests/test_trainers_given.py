"""MMITrainer as TRL's users call it: rows by code, checked and recorded as those of a file are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image

from mmi_plugin.errors import InputError
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.trainer import MMITrainer
from tests import training


def rows(count: int = 3) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number in range(count):
        image = Image.new("RGB", (28, 28), (80 * number, 40, 90))
        heavy = {"id": f"i{number}", "type": "image_heavy", "image": image.copy(), "question": "What is it?"}
        found.append(heavy | {"options": ["cat", "dog"], "answer": "cat", "facts": {"dog": "Dogs bark."}})
        text = {"id": f"t{number}", "type": "text_heavy", "question": f"What is 1 + {number}?"}
        found.append(text | {"options": [str(number), str(number + 1)], "answer": str(number + 1)})
        found.append({"id": f"v{number}", "type": "VQA", "image": image, "question": "Colour?", "answer": "red"})
    return found


QUIET = {"report_to": ["none"], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "max_steps": 2}
SMALL = {"mix": [1, 1, 1], "per_device_train_batch_size": 3, "learning_rate": 1e-3, **QUIET}


@pytest.mark.parametrize("kind", ["list", "dataset"])
def test_as_with_trl(kind: str, tiny_llava: Path, tmp_path: Path) -> None:
    data = rows() if kind == "list" else Dataset.from_list(rows())
    trainer = MMITrainer(
        model=str(tiny_llava),
        args=MMIConfig(output_dir=str(tmp_path / "out"), adversary="pgd", consistency="js", **SMALL),
        train_dataset=data,
    )
    result = trainer.train()
    trainer.save_model()

    assert result.global_step == 2 and trainer.state.log_history
    record = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    assert record["data"]["items"] == {f"train_dataset:{name}": 3 for name in ("image_heavy", "text_heavy", "vqa")}
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8").count(record["data"]["hash"]) == 1
    model = load_model(str(tmp_path / "out"))
    assert training.largest_difference(model.state_dict(), load_model(str(tiny_llava)).state_dict()) > 0


def test_rows_by_code_train_what_the_same_rows_of_a_file_do(tiny_llava: Path, tmp_path: Path) -> None:
    written = []
    for number, row in enumerate(rows()):
        if "image" in row:
            row["image"].save(tmp_path / f"{number}.png")
            row = row | {"image": f"{number}.png"}
        written.append(json.dumps(row) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(written), encoding="utf-8")
    args = {"output_dir": str(tmp_path / "out"), **SMALL}
    model, processor = load_model(str(tiny_llava), dtype=torch.float32), load_processor(str(tiny_llava))
    by_code = MMITrainer(model, MMIConfig(**args), rows(), processing_class=processor)
    by_file = MMITrainer(str(tiny_llava), MMIConfig(train_file=str(tmp_path / "rows.jsonl"), **args))
    assert by_code.record["data"]["items"] != by_file.record["data"]["items"]  # of other names
    for trainer in (by_code, by_file):
        trainer.train()
    assert training.largest_difference(training.weights(by_code), training.weights(by_file)) == 0


def test_the_record_tells_other_rows_and_another_start(tiny_llava: Path, tmp_path: Path) -> None:
    def record(data: list[dict[str, Any]], shift: float = 0) -> dict[str, Any]:
        model = load_model(str(tiny_llava))
        with torch.no_grad():
            next(model.parameters()).add_(shift)
        args = MMIConfig(output_dir=str(tmp_path), **SMALL)
        return MMITrainer(model, args, data, processing_class=load_processor(str(tiny_llava))).record

    first, other = rows(), rows()
    other[4]["answer"], other[4]["options"] = "9", ["9", "1"]
    assert record(first)["data"]["hash"] == record(rows())["data"]["hash"] != record(other)["data"]["hash"]
    assert record(first)["start"] == record(first)["start"] != record(first, 1)["start"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"train_dataset": [*rows(1), {"id": "x", "type": "VQA", "question": "Q?"}]},
            "train_dataset, row 4: field 'ans",
        ),
        (
            {"train_dataset": [rows(1)[0] | {"answer": "bird"}]},
            "train_dataset, row 1: field 'answer' is 'bird', not among",
        ),
        ({"train_dataset": [rows(1)[2] | {"image": "no.png"}]}, "train_dataset, row 1: field 'image' 'no.png'"),
        ({"train_dataset": [rows(1)[2] | {"image": 3}]}, "train_dataset, row 1: field 'image' is int, not a path"),
        (
            {"train_dataset": [rows(1)[1] | {"question": "long " * 900}], "max_length": 99},
            "train_dataset, row 1: field 'qu",
        ),
        ({"train_dataset": [rows(1)[0] | {"facts": ["x"]}]}, "train_dataset, row 1: field 'facts'"),
        ({"train_dataset": [rows(1)[2] | {"history": [{"q": "1"}]}]}, "train_dataset, row 1: field 'history'"),
        ({"train_dataset": ["a"]}, "train_dataset, row 1: is str, not a record"),
        ({"train_dataset": []}, "train_dataset: no rows"),
        ({"train_dataset": "rows.jsonl"}, "train_dataset is str, not a datasets.Dataset, a list of rows or Groups"),
        ({"train_dataset": DatasetDict({"train": Dataset.from_list(rows(1))})}, "has the splits train: give one"),
        ({"train_dataset": rows(1), "sources": ["demo_digits"]}, "train_dataset is given, and field 'sources', too"),
        ({"train_dataset": rows(1), "eval_dataset": rows(1)}, "eval_dataset: a training asks tasks, not rows"),
        ({}, "fields 'sources' and 'train_file' are both empty"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(
    change: dict[str, Any], said: str, tiny_llava: Path, tmp_path: Path
) -> None:
    fields = dict(change)
    given = {name: fields.pop(name) for name in ("train_dataset", "eval_dataset") if name in fields}
    args = MMIConfig(output_dir=str(tmp_path), **{**SMALL, "mix": [0, 1, 0], **fields})
    with pytest.raises(InputError) as error:
        MMITrainer(str(tiny_llava), args, **given)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_bad_row_is_left_out_where_asked(tiny_llava: Path, tmp_path: Path) -> None:
    args = MMIConfig(output_dir=str(tmp_path), on_bad_row="skip", **SMALL)
    trainer = MMITrainer(str(tiny_llava), args, [*rows(), {"id": "x"}])
    assert trainer.record["data"]["skipped"] == 1


def test_a_finished_folder_is_refused_and_a_run_goes_on(tiny_llava: Path, tmp_path: Path) -> None:
    def made(**fields: Any) -> MMITrainer:
        args = MMIConfig(output_dir=str(tmp_path), **{**SMALL, "save_strategy": "steps", "save_steps": 1, **fields})
        return MMITrainer(str(tiny_llava), args, rows())

    whole = made()
    whole.train()
    whole.save_model()
    with pytest.raises(InputError, match="holds a finished training"):
        made().train()
    other = made(seed=7)
    with pytest.raises(InputError, match=r"is of another run: .*'seed' was 42 and is 7"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    gone_on = made()
    gone_on.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert training.largest_difference(training.weights(whole), training.weights(gone_on)) == 0
