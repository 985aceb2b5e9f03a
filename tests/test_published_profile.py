"""The published profile of the diagnosis: what each setting does, and tasks that have all of them, end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mmi_plugin.conditions import Pools, for_family, get
from mmi_plugin.documents import Selection, documents
from mmi_plugin.errors import InputError
from mmi_plugin.harness.launcher import main
from mmi_plugin.harness.task_manager import find_task
from mmi_plugin.item import Form, Item, messages, user_text
from mmi_plugin.models.evaluate import evaluate
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.results.runs import newest_results, read_run, read_runs
from mmi_plugin.sources import load
from mmi_plugin.sources.local import ROOT
from mmi_plugin.sources.materials import ACTS_ON, SETTINGS, Materials
from tests.harness_runs import OUR_MODEL, TASKS, arguments, save_varied
from tests.server import Server, serving
from tests.suite import ITEMS

PHOTO = Image.new("RGB", (8, 8), (9, 8, 7))
FACT = "It looks like a dog, the kind that barks."
ITEM = Item("i1", "image_heavy", "What is it?", "cat", ("cat", "dog", "eel"), PHOTO, {"dog": FACT, "eel": "Eels."})
TEXTS = ["Honey keeps.", "A cat sleeps long.", "Venus turns slowly."]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with the user's files, and one data set of each family in the published form."""
    load.cache_clear()
    monkeypatch.setenv(ROOT, str(tmp_path))
    own = tmp_path / "published"
    (own / "irrelevant_images").mkdir(parents=True)
    PHOTO.save(own / "irrelevant_images" / "1.png")
    (own / "system_text.txt").write_text("You see a question.\n")
    (own / "unrelated_texts.txt").write_text("\n".join(TEXTS) + "\n\n")
    row = {"question": "What is it?", "multiple_choices": {"A": "cat", "B": "dog"}, "multiple_choices_answer": "A"}
    for name in ("caltech-101", "OpenBookQA", "SEED-Bench-Img"):
        rows = [{"id": number, **row, "facts": {"dog": FACT}, "image": "1.png"} for number in range(3)]
        (tmp_path / name / "images").mkdir(parents=True)
        PHOTO.save(tmp_path / name / "images" / "1.png")
        rows = [{k: v for k, v in r.items() if name != "OpenBookQA" or k not in ("facts", "image")} for r in rows]
        file = "multiple_choice_data.json" if name.startswith("SEED") else "multiple_choice_data_test.json"
        (tmp_path / name / file).write_text(json.dumps(rows))
    return tmp_path


def test_the_first_fact_is_the_whole_misleading_text() -> None:
    pools = Pools(images=(), facts_as_given=True)
    for seed in range(5):
        changed = get("misleading_text")(ITEM, seed, pools)
        assert (changed.context, changed.named) == (FACT, "dog")
    names_answer = replace(ITEM, facts={"dog": "It looks like a dog, not like a cat."})
    assert get("misleading_text")(names_answer, 0, pools).context == "It looks like a dog, not like a cat."
    bare = [get("misleading_text")(replace(ITEM, facts={}), seed, pools) for seed in range(40)]
    assert {changed.named for changed in bare} == {"cat", "dog", "eel"}  # the right one included
    assert all(changed.named in changed.context for changed in bare)


def test_template_facts_of_a_data_set_are_not_given_ones() -> None:
    item = load("mini_imagenet", "test", path=str(Path(__file__).parent / "fixtures/suite/mini_imagenet")).items[0]
    changed = get("misleading_text")(item, 0, Pools(images=(), facts_as_given=True))
    assert item.facts and changed.context.startswith("This picture seems to depict ")
    assert changed.context.removesuffix(".").endswith(changed.named)


def test_any_sentence_is_drawn_with_replacement_and_unfiltered() -> None:
    pools = Pools(sentences=tuple(TEXTS), images=(), any_sentence=True)
    text = get("unrelated_text")(ITEM, 0, pools).context  # ten of three
    assert sum(text.count(sentence) for sentence in TEXTS) == 10 and "A cat sleeps long." in text
    fewer = get("unrelated_text@sentences=4")(ITEM, 0, pools).context
    assert text.startswith(fewer) and fewer != text
    with pytest.raises(InputError, match="10 unrelated sentences are asked for, and the pool has 3"):
        get("unrelated_text")(ITEM, 0, replace(pools, any_sentence=False))


def test_text_inside_stands_under_the_header_before_the_question() -> None:
    changed = get("misleading_text@position=inside")(ITEM, 0, Pools(images=(), facts_as_given=True))
    assert user_text(changed).startswith(f"Question:\n{FACT} What is it?\nOption:\nA: cat\n")


@pytest.mark.parametrize(
    ("form", "choices", "free"),
    [
        (Form(), "Question:\nQ?\nOption:\nA: x\nB: y\nAnswer with the letter of one option.", "Question:\nQ?"),
        (Form(closing=""), "Question:\nQ?\nOption:\nA: x\nB: y", "Question:\nQ?"),
        (Form(closing="Go.", header="choices"), "Question:\nQ?\nOption:\nA: x\nB: y\nGo.", "Q?"),
        (Form(closing="", header="none"), "Q?\nOption:\nA: x\nB: y", "Q?"),
    ],
)
def test_pieces_of_the_prompt(form: Form, choices: str, free: str) -> None:
    for item, expected in ((Item("a", "vqa", "Q?", "x", ("x", "y")), choices), (Item("b", "vqa", "Q?", "x"), free)):
        changed = get("clean")(item, 0, Pools(images=(), form=form))
        assert user_text(changed) == expected
        said = messages(get("clean")(item, 0, Pools(images=(), form=replace(form, system="Be terse."))))
        assert [turn["role"] for turn in said] == (["system", "user"] if item.options else ["user"])


OTHER = {
    "pool": "$PHOTOS",
    "draws": 3,
    "canvas": 40,
    "unrelated_texts": "$TEXTS",
    "sentence_draw": "any",
    "fact_text": "as_given",
    "system_text": "$TEXTS",
    "closing_text": "none",
    "question_header": "none",
}


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_is_another_content_hash_and_in_the_record(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuple(OTHER) == SETTINGS
    (tmp_path / "t.txt").write_text("\n".join(f"Sentence {i}." for i in range(12)))
    PHOTO.save(tmp_path / "1.png")
    monkeypatch.setenv("TEXTS", str(tmp_path / "t.txt"))
    monkeypatch.setenv("PHOTOS", str(tmp_path))
    source = "demo_capitals" if name in ("pool", "draws", "canvas") else "demo_digits"
    hashes = []
    for more in ({}, {name: OTHER[name]}):
        task = Selection.parse({"source": source, **more}, "test", "mine")
        assert Selection.parse(task.to_dict(), "test", "mine") == task and more.items() <= task.to_dict().items()
        hashes.append(task.benchmark().digest(task.conditions, 0))
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"canvas": 4}, "key 'canvas' is 4, not from 8 to 4096 pixels"),
        ({"draws": 0}, "key 'draws' is 0, not a positive number"),
        ({"canvas": True}, "key 'canvas' is True, not int"),
        ({"fact_text": "as given"}, "key 'fact_text' acts on misleading_text, and none of them is asked"),
        ({"question_header": "al"}, "key 'question_header' is 'al': did you mean 'all'?"),
        ({"closing_text": "gone.txt"}, "key 'closing_text' is 'gone.txt': cannot be read"),
        ({"system_text": "$NO_SUCH/x"}, "key 'system_text' is '$NO_SUCH/x', and that environment variable is not set"),
        ({"profile": "publishd"}, "key 'profile' is 'publishd': did you mean 'published'?"),
        ({"canvs": 40}, "unknown key 'canvs' in dataset_kwargs: did you mean 'canvas'?"),
    ],
)
def test_a_setting_that_cannot_be_had_is_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        Selection.parse({"source": "demo_capitals", **options}, "test", "mine")
    assert str(error.value).startswith(f"mine: {said}")


def test_the_profile_asks_for_each_file_that_its_conditions_need(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    needed = {"caltech101": "unrelated_texts", "openbookqa": "pool", "seedbench": "system_text"}
    files = {"unrelated_texts": "unrelated_texts.txt", "system_text": "system_text.txt", "pool": "irrelevant_images"}
    for source, key in needed.items():
        place = root / "published" / files[key]
        place.rename(root / "published" / "away")
        for task in needed:
            status = main([*OUR_MODEL, *arguments(tmp_path / "no", f"mmi_published_{task}", tmp_path, limit=None)])
            line = capsys.readouterr().err.strip().splitlines()[-1]
            lacks = task == source or key == "system_text"
            assert status == 2 and (f"mmi_published_{task}: " in line and key in line) == lacks, line
        (root / "published" / "away").rename(place)


def test_a_published_task_asks_as_the_paper_does(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Held against a server, which is sent each chat as it is."""
    checkpoint, out = save_varied(tmp_path_factory.mktemp("varied")), tmp_path_factory.mktemp("out")
    tasks = "mmi_published_caltech101,mmi_published_openbookqa,mmi_published_seedbench"
    with serving(checkpoint) as server:
        assert _ask(server, tasks, out) == 0
    run = read_run(out)
    assert {task: len(result.records) for task, result in run.items()} == dict(
        zip(sorted(tasks.split(",")), (12, 15, 3), strict=True)
    )
    assert {chat[0]["role"] for chat in server.chats} == {"system"}
    assert {chat[0]["content"][0]["text"] for chat in server.chats} == {"You see a question."}
    listed = "\nOption:\nA: cat\nB: dog"
    logged = {(r.condition, p) for result in run.values() for r, p in zip(result.records, result.prompts, strict=True)}
    prompts = {(name, prompt.removeprefix("You see a question.\n")) for name, prompt in logged}
    clean = {name for name, prompt in prompts if prompt == f"Question:\nWhat is it?{listed}"}
    assert clean == {"clean", *for_family("text_heavy")}
    said = {prompt for name, prompt in prompts if name.startswith("misleading")}
    assert said == {f"Question:\n{FACT} What is it?{listed}"}
    for _, prompt in (pair for pair in prompts if pair[0].startswith("unrelated")):
        text = prompt.removeprefix("Question:\n").removesuffix(f" What is it?{listed}")
        assert sum(map(text.count, TEXTS)) == 10 and len(text) == sum(text.count(t) * len(t) for t in TEXTS) + 9
    sizes = {part["image"].size for chat in server.chats for part in chat[1]["content"] if part["type"] == "image"}
    assert sizes == {(8, 8), (336, 336)}
    written = json.loads(newest_results(out).read_text())
    config, asked = (part["mmi_published_openbookqa"] for part in (written["configs"], written["mmi"]["tasks"]))
    assert asked["settings"]["canvas"] == 336 and asked["settings"]["system_text"].endswith("system_text.txt")
    assert asked["condition_versions"]["irrelevant_image"] == 2
    assert asked["content_hash"] == run["mmi_published_openbookqa"].content_hash
    assert config["generation_kwargs"]["repetition_penalty"] == 1.2
    assert config["generation_kwargs"]["max_new_tokens"] == 10
    assert config["dataset_kwargs"]["canvas"] == 336


def _ask(server: Server, tasks: str, out: Path) -> int:
    model = f"model=tiny,base_url={server.url},api_key=none,httpx_trust_env=False,max_retries=1,num_concurrent=1"
    run = arguments(Path(), tasks, out, limit=None)
    run[run.index("--model_args") + 1] = model
    return main(["--model", "openai", *run])


def test_two_system_turns_and_runs_of_different_settings_are_refused(
    root: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_varied(tmp_path_factory.mktemp("varied"))
    outs = [tmp_path_factory.mktemp("out") for _ in range(2)]
    task, short = "mmi_published_seedbench", ("--gen_kwargs", "max_new_tokens=2", "--batch_size", "4")
    three = f"mmi_published_caltech101,mmi_published_openbookqa,{task}"
    flags = arguments(checkpoint, task, outs[0], *short, "--system_instruction", "Hi.", limit=None)
    assert main([*OUR_MODEL, *flags]) != 0
    assert "has a system turn by key 'system_text'" in capsys.readouterr().err
    for number, out in enumerate(outs):
        if number:
            (root / "published" / "system_text.txt").write_text("Another turn.")
            load.cache_clear()
        assert main([*OUR_MODEL, *arguments(checkpoint, three, out, *short, limit=None)]) == 0
    first, second = (read_run(out)[task] for out in outs)
    assert [record.item_id for record in first.records] == [record.item_id for record in second.records]
    with pytest.raises(InputError, match=r"A and B cannot be compared on mmi_published_\w+: .*content hashes"):
        read_runs([f"A={outs[0]}", f"B={outs[1]}"])
    file = newest_results(outs[1])
    file.write_text(file.read_text().replace('"closing_text": "none"', '"closing_text": "mine.txt"'))
    with pytest.raises(InputError, match=r"on mmi_published_\w+: key 'closing_text' is none and mine\.txt"):
        read_runs([f"A={outs[0]}", f"B={outs[1]}"])


def test_text_only_asks_without_an_image(tiny_llava: Path) -> None:
    bench = load("demo_capitals", "test")
    asked = documents(bench, ("random_pixels", "text_only"), 0, 2)
    assert [row["image_key"] is None for row in asked.rows] == [False, True] * 2
    model, processor = load_model(str(tiny_llava)), load_processor(str(tiny_llava))
    records = evaluate(model, processor, asked, {"max_new_tokens": 4}, batch_size=3)
    for record, item in zip(records[1::2], bench.items, strict=False):
        chat = [{"role": "user", "content": [{"type": "text", "text": user_text(item)}]}]
        inputs = processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        alone = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert record.raw == alone


def test_every_public_task_has_a_published_variant_of_the_same_conditions() -> None:
    for name in ITEMS:
        task, own = find_task(f"mmi_published_{name}"), find_task(f"mmi_{name}")
        assert task.options["source"] == name and task.options["profile"] == "published"
        published = [get(condition).kind for condition in task.options["conditions"]]
        assert published == [condition for condition in own.options["conditions"] if get(condition).published]
    group = yaml.safe_load((TASKS / "mmi_published.yaml").read_text(encoding="utf-8"))
    assert group["task"] == [f"mmi_published_{name}" for name in ITEMS]


def test_every_setting_is_explained_where_tasks_are_written() -> None:
    explained = (TASKS / "_mmi_base").read_text(encoding="utf-8")
    assert all(name in explained and name in (Materials.__doc__ or "") for name in SETTINGS)
    assert set(ACTS_ON) < set(SETTINGS)
