"""What a run logs and leaves: curves, a model that loads everywhere, merged or drawn to the start, a card."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants, hf_api, repocard
from huggingface_hub.utils import get_session, validate_repo_id
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText, AutoProcessor, trainer

from mmi_plugin.answers import parse_letter
from mmi_plugin.conditions import get
from mmi_plugin.item import messages
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.sources import load
from mmi_plugin.trainers import run
from mmi_plugin.trainers.record import model_card
from tests import training
from tests.server import Replies

HUB = "https://huggingface.co"
EVALUATION = {"eval_tasks": ["mmi_demo_digits"], "eval_tasks_steps": 2, "eval_tasks_items": 6}


@pytest.fixture(scope="module")
def out(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with evaluation, curves and all."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "tb"))
        run.train(training.config(tiny_llava, folder, report_to="tensorboard", **training.OURS, **EVALUATION))
    return folder


def accuracies(checkpoint: Path) -> dict[str, float]:
    """Accuracy and flip rate on six digits, one prompt at a time."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    processor, bench = AutoProcessor.from_pretrained(checkpoint), load("demo_digits")
    said = {}
    for name in ("clean", "unrelated_text", "misleading_text"):
        for item in bench.items[:6]:
            chat = messages(get(name)(item, 0, bench.pools))
            inputs = processor.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            raw = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            said[name, item.id] = parse_letter(raw, item.options)
    found = {}
    for name in ("clean", "unrelated_text", "misleading_text"):
        found[f"{name}/accuracy"] = sum(said[name, item.id] == item.gold for item in bench.items[:6]) / 6
        found[f"{name}/flip_rate"] = sum(said[name, i.id] != said["clean", i.id] for i in bench.items[:6]) / 6
    del found["clean/flip_rate"]
    return found


def test_tasks_are_asked_before_and_during_training(out: Path, tiny_llava: Path) -> None:
    events = EventAccumulator(str(out / "tb")).Reload()
    for step, checkpoint in ((0, tiny_llava), (2, out)):
        for name, value in accuracies(checkpoint).items():
            points = {point.step: point.value for point in events.Scalars(f"eval/mmi_demo_digits/{name}")}
            assert set(points) == {0, 2} and points[step] == pytest.approx(value), name


def test_asking_changes_nothing(out: Path, tiny_llava: Path, tmp_path: Path) -> None:
    training.trained(tiny_llava, tmp_path, **training.OURS)
    plain = training.trained(tiny_llava, tmp_path / "plain", **training.OURS)
    asked = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    assert training.largest_difference(plain, asked) == 0.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"eval_tasks": ["mmi_demo_digit"]}, ["eval_tasks", "'mmi_demo_digits'"]),
        ({"eval_tasks_steps": 0}, ["eval_tasks_steps"]),
        ({"merge_lora": True}, ["merge_lora", "lora_r"]),
        ({"base_share": 1.0}, ["base_share", "1.0"]),
        ({"base_share": 0.2, "lora_r": 4}, ["base_share", "merge_lora"]),
    ],
)
def test_bad_fields_are_named(tiny_llava: Path, tmp_path: Path, fields: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match="field") as caught:
        run.train(training.config(tiny_llava, tmp_path, **fields))
    assert all(word in str(caught.value) for word in words)


def test_the_model_loads_with_transformers_and_with_mmi_hf(out: Path) -> None:
    ours = load_model(str(out)).state_dict()
    plain = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    assert training.largest_difference(ours, plain) == 0.0
    assert load_processor(str(out)).chat_template


def test_merged_adapters_are_the_model_that_was_trained(tiny_llava: Path, tmp_path: Path) -> None:
    fields = {"lora_r": 4, "merge_lora": True, "learning_rate": 1e-2, **training.OURS}
    trained = run.train(training.config(tiny_llava, tmp_path / "merged", **fields))
    adapters = run.train(training.config(tiny_llava, tmp_path / "adapters", **{**fields, "merge_lora": False}))
    assert trained.state.global_step == 2 and not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = load_model(str(tmp_path / "merged"))
    batch = adapters.data_collator(training.step_groups(adapters, 5))
    base = AutoModelForImageTextToText.from_pretrained(tiny_llava)
    call = {name: batch[name] for name in ("input_ids", "attention_mask")}
    call["pixel_values"] = batch["pixel_values"][batch["image_index"]]
    with torch.no_grad():
        kept = batch["attention_mask"].bool()
        logits = [model.eval()(**call).logits[kept] for model in (merged, adapters.model, base)]
    assert (logits[0] - logits[1]).abs().max() < 1e-4 < 1e-2 < (logits[0] - logits[2]).abs().max()
    assert load_processor(str(tmp_path / "merged")).chat_template


@pytest.mark.parametrize("lora", [{}, {"lora_r": 4, "merge_lora": True}], ids=["full", "lora"])
def test_the_start_keeps_its_share_of_every_weight(tiny_llava: Path, tmp_path: Path, lora: dict) -> None:
    fields = {"learning_rate": 1e-2, **training.OURS, **lora}
    for name, share in (("trained", 0.0), ("drawn", 0.3)):
        run.train(training.config(tiny_llava, tmp_path / name, base_share=share, **fields))
    places = (tiny_llava, tmp_path / "trained", tmp_path / "drawn")
    start, trained, drawn = (AutoModelForImageTextToText.from_pretrained(place).state_dict() for place in places)
    expected = {name: 0.3 * start[name].double() + 0.7 * trained[name].double() for name in trained}
    assert training.largest_difference(drawn, expected) < 1e-6
    assert training.largest_difference(drawn, trained) > 1e-3
    assert load_processor(str(tmp_path / "drawn")).chat_template
    assert not (tmp_path / "drawn" / run.TRAINED).exists()


def test_the_card_says_data_config_metrics_and_citation(out: Path, tiny_llava: Path) -> None:
    card = (out / "README.md").read_text()
    head, text = card.split("---\n")[1:]
    assert "base_model" not in yaml.safe_load(head) and f"`{tiny_llava}`, fine-tuned" in text  # a folder has no id
    for words in ("| demo_digits | ", "| consistency | js |", "| adversary | pgd |", "| seed | 42 |", "2505.19616"):
        assert words in text, words
    for metric in ("loss_sft", "attack_strength", "eval_mmi_demo_digits/misleading_text/flip_rate"):
        assert f"| {metric} | " in text, metric


IDS = [
    ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
    ("/cache/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/0123abc", "llava-hf/llava-1.5-7b-hf"),
    ("/data/my model", None),
]


@pytest.mark.parametrize(("name", "wanted"), IDS)
def test_the_hub_reads_the_card(name: str, wanted: str | None, tmp_path: Path) -> None:
    """By huggingface_hub's own classes: base model, licence, data sets, metrics."""
    args = training.config(Path(name), tmp_path, sources=None)
    record = {"data": {"items": {"caltech101": 5, "openbookqa": 5, "demo_digits": 5}, "hash": "0" * 64, "skipped": 0}}
    data = ModelCard(model_card(args, record, [{"eval_mmi_demo_digits/clean/accuracy": 0.5}], ["mine"])).data
    assert data.base_model == wanted and (wanted is None or validate_repo_id(wanted) is None)
    assert data.datasets == ["allenai/openbookqa", "flwrlabs/caltech101"] and data.metrics == ["accuracy"]
    assert (data.license, data.library_name, data.pipeline_tag) == ("unknown", "transformers", "image-text-to-text")
    assert data.tags == ["modality-interference", "trl", "mine"]
    adapters = training.config(Path(name), tmp_path, sources=None, lora_r=4)
    assert ModelCard(model_card(adapters, record, [])).data.library_name == "peft"


def test_the_licence_is_that_of_the_bases_card(tiny_llava: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_llava, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: llama2\n---\nA base.\n", encoding="utf-8")
    record = {"data": {"items": {}, "hash": "", "skipped": 0}}
    assert ModelCard(model_card(training.config(base, tmp_path), record, [])).data.license == "llama2"


class _Hub(Replies):
    """The hub's answers to a new repository, to a card's metadata, which must name things as the hub does, and to a
    commit, whose files come with it."""

    pushed: ClassVar[dict[str, bytes]] = {}

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.send(200, {"url": "https://huggingface.co/me/trained"})
        elif self.path == "/api/validate-yaml":
            head = yaml.safe_load(json.loads(text)["content"].split("---")[1])
            wrong = [name for name in (head.get("base_model"), *head.get("datasets", [])) if name and "/" not in name]
            self.send(400 if wrong or "license" not in head else 200, {"errors": wrong, "warnings": []})
        elif self.path == "/api/models/me/trained/preupload/main":
            files = [one | {"uploadMode": "regular", "shouldIgnore": False} for one in json.loads(text)["files"]]
            self.send(200, {"files": files})
        else:
            assert self.path == "/api/models/me/trained/commit/main"
            lines = [json.loads(line) for line in text.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.pushed.update({one["path"]: b64decode(one["content"]) for one in files})
            self.send(200, {"commitUrl": "https://huggingface.co/me/trained/commit/0", "commitOid": "0"})


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What a stand-in for the hub on this machine was sent."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(hf_api.api, "endpoint", place)  # which its functions remember from their import
    if hasattr(trainer, "hf_api"):  # and transformers from the first time that it asks
        monkeypatch.setattr(trainer.hf_api(), "endpoint", place)
    monkeypatch.setattr(constants, "ENDPOINT", place)
    local = SimpleNamespace(post=lambda url, **sent: get_session().post(url.replace(HUB, place), **sent))
    monkeypatch.setattr(repocard, "get_session", lambda: local)  # cards of older versions know one hub alone
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _Hub.pushed.clear()
    yield _Hub.pushed
    server.shutdown()
    server.server_close()


def test_what_is_pushed_is_what_the_run_leaves(tiny_llava: Path, tmp_path: Path, pushed: dict[str, bytes]) -> None:
    fields = {"push_to_hub": True, "hub_model_id": "me/trained", "hub_token": "hf_none", "base_share": 0.3}
    run.train(training.config(tiny_llava, tmp_path / "out", learning_rate=1e-2, **fields))
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert {"model.safetensors", "training.json", "README.md", "chat_template.jinja"} <= set(pushed)
    assert not any("checkpoint-" in name or name.startswith(".trained") for name in pushed)
    for name in ("model.safetensors", "training.json", "README.md"):
        assert pushed[name] == kept[name], name
    card = ModelCard(pushed["README.md"].decode())
    assert card.validate() is None and card.data.tags[:2] == ["modality-interference", "trl"]
    with pytest.raises(ValueError, match="no-id"):
        card.data.base_model = "no-id"
        card.validate()
    run.train(training.config(tiny_llava, tmp_path / "plain", learning_rate=1e-2))
    (tmp_path / "pushed.safetensors").write_bytes(pushed["model.safetensors"])
    start, saved = load_file(tiny_llava / "model.safetensors"), load_file(tmp_path / "pushed.safetensors")
    trained = load_file(tmp_path / "plain" / "model.safetensors")
    for name, weight in saved.items():  # drawn to the start, as the config says
        assert torch.allclose(weight, 0.3 * start[name] + 0.7 * trained[name], atol=1e-6), name
    assert b"hf_none" not in b"".join(pushed.values())
