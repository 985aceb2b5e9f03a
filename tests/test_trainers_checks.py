"""What template, processor and decoder can refuse is found before training, for every draw of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin

from mmi_plugin.conditions import Pools
from mmi_plugin.errors import BadRows, InputError
from mmi_plugin.item import Item, messages, target
from mmi_plugin.models.families import prompts_of
from mmi_plugin.sources import Benchmark
from mmi_plugin.trainers import run
from mmi_plugin.trainers.collator import GroupCollator
from mmi_plugin.trainers.data import check_rows, load_benchmarks, make_groups
from mmi_plugin.trainers.groups import Group
from tests import real_families, training

REAL = ["real-qwen25vl", "real-gemma3", "real-llava15", "real-llavanext_mistral", "real-internvl3", "real-idefics3"]
NAMES = [case for case in real_families.CASES if case.values[0] in REAL]
CHOICE = {"type": "text_heavy", "question": "Which?", "answer": "x", "options": ["x", "y"]}
FREE = {"type": "VQA", "question": "Which?", "answer": "it is x"}
BARE = "{% for m in messages %}{% if m['role'] == 'user' %}USER: {% else %}ASSISTANT:{{ '\n' }}{% endif %}"
TURN = "{% for p in m['content'] %}{{ '<image>' if p['type'] == 'image' else TEXT }}{% endfor %}"
TEMPLATE = BARE + TURN + "{% if m['role'] == 'assistant' %}</s>{% else %}\n{% endif %}{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}ASSISTANT:{{ '\n' }}{% endif %}"


@pytest.fixture(scope="module")
def processor(tiny_llava: Path) -> ProcessorMixin:
    return AutoProcessor.from_pretrained(tiny_llava)


@pytest.fixture(params=NAMES)
def real(request: pytest.FixtureRequest) -> ProcessorMixin:
    return AutoProcessor.from_pretrained(real_families.folder(request.param))


def alone(family: str, steps: int, **fields: Any) -> Any:
    """A run in which every step has one item of the family."""
    mix = [int(name == family) for name in ("image_heavy", "text_heavy", "vqa")]
    fields = {"sources": None, "mix": mix, "per_device_train_batch_size": 1, "max_steps": steps, **fields}
    return training.config(Path("none"), Path("none"), **fields)


def checked(rows: list[dict[str, Any]], folder: Path, processor: ProcessorMixin, family: str = "vqa") -> list[str]:
    """The lines about rows that a run leaves out; the first of them is what stops it where it may not."""
    path = folder / "rows.json"
    path.write_text(json.dumps([{"id": str(number), **row} for number, row in enumerate(rows, start=1)]))
    args, bad = alone(family, 2, train_file=str(path), max_length=None), BadRows(skip=True)
    kept = check_rows(args, load_benchmarks(args, bad), processor, bad)
    assert sum(len(bench.items) for bench in kept) == len(rows) - len(bad.lines)
    groups, collator = make_groups(args, kept), GroupCollator(processor, args.max_length, 0)
    for number in range(len(groups)):
        collator([groups[number, 0]])  # as training does it
    if bad.lines:
        with pytest.raises(InputError) as stopped:
            check_rows(args, load_benchmarks(args), processor)
        assert str(stopped.value) == bad.lines[0]
    assert all(len(line.splitlines()) == 1 and line.isprintable() for line in bad.lines)
    return [line.removeprefix(f"{path}, ") for line in bad.lines]


# --- lengths of every draw

FACT = " ".join(["They are found in many places of the world."] * 9)
DOG = Item("a", "image_heavy", "What is it?", "dog", ("dog", "cat", "fox", "elk"), Image.new("RGB", (40, 40)))
DOG = replace(DOG, facts={"elk": f"Elks are large. {FACT}"})


def lengths(processor: ProcessorMixin, args: Any, item: Item, rounds: int) -> list[int]:
    """The longest row of each round, by the processor's own call."""
    groups = make_groups(args, [Benchmark("own", item.family, (item,))])
    found = []
    for turn in range(rounds):
        chats = [messages(row, target(row)) for row in groups[0, turn].rows]
        made = [processor.apply_chat_template(chat, tokenize=True, return_dict=True) for chat in chats]
        found.append(max(len(one["input_ids"][0]) for one in made))
    return found


@pytest.mark.parametrize("kind", ["misleading_text", "unrelated_text", "ocr_text", "typographic", "both"])
def test_a_row_is_refused_if_and_only_if_a_draw_of_the_run_is_too_long(processor: ProcessorMixin, kind: str) -> None:
    family = "vqa" if kind == "both" else "image_heavy"
    item = DOG if family == "image_heavy" else Item("a", "vqa", "Why?", "a dog", image=DOG.image)
    fields = {f"{family}_conditions": ["clean", kind]}
    found = lengths(processor, alone(family, 1, **fields), item, 40)
    first = next((turn for turn in range(40) if found[turn] > found[0]), None)
    assert (first is None) == (kind == "typographic")
    bench = Benchmark("own", family, (item,), places={"a": "rows.json, row 1"})
    most = max(found)
    check_rows(alone(family, 40, max_length=most, **fields), [bench], processor)
    with pytest.raises(InputError, match=rf"^rows.json, row 1: .* {most} tokens, max_length is {most - 1}"):
        check_rows(alone(family, 40, max_length=most - 1, **fields), [bench], processor)
    if first is not None:
        check_rows(alone(family, first, max_length=found[0], **fields), [bench], processor)
        with pytest.raises(InputError, match=rf"row 1: .* {found[first]} tokens.*{kind}.*round {first + 1}"):
            check_rows(alone(family, first + 1, max_length=found[0], **fields), [bench], processor)


def test_rows_that_are_left_out_make_more_rounds_of_the_others(processor: ProcessorMixin) -> None:
    """Two items in two steps are one round; one of them left out, the other is seen twice."""
    found = lengths(processor, alone("image_heavy", 1), DOG, 40)
    name = next(f"a{n}" for n in range(99) if _grows(lengths(processor, alone("image_heavy", 1), _named(n), 2)))
    item = replace(DOG, id=name)
    most = lengths(processor, alone("image_heavy", 1), item, 1)[0]
    broken = replace(item, id="b", question="What is <image>?")
    bad = BadRows(skip=True)
    args = alone("image_heavy", 2, max_length=most)
    assert check_rows(args, [Benchmark("own", "image_heavy", (item, broken))], processor, bad) == []
    assert len(bad.lines) == 2 and "<image>" in bad.lines[0] and "round 2" in bad.lines[1]
    assert max(found) > most


def _named(number: int) -> Item:
    return replace(DOG, id=f"a{number}")


def _grows(found: list[int]) -> bool:
    return found[1] > found[0]


def test_a_mentioned_pool_image_counts_by_its_own_size(tmp_path: Path) -> None:
    """Irrelevant images of a pool differ in size: Qwen's tokens go by it."""
    if not real_families.ARCHIVE.is_file():
        pytest.skip("no real vocabularies here")
    processor = AutoProcessor.from_pretrained(real_families.folder("real-qwen25vl"))
    pools = Pools(images=tuple(Image.new("RGB", (side, side)) for side in (56, 560)))
    fields = {"text_heavy_conditions": ["irrelevant_image"]}
    items = (Item(f"t{n}", "text_heavy", "Which?", "x", ("x", "y")) for n in range(99))
    benches = (Benchmark("own", "text_heavy", (item,), pools, {item.id: "row 1"}) for item in items)
    bench = next(bench for bench in benches if _drawn(bench, fields, 0) is pools.images[0])
    turn = next(t for t in range(99) if _drawn(bench, fields, t) is pools.images[1])
    with pytest.raises(InputError, match=r"row 1: .*tokens, max_length is 300"):
        check_rows(alone("text_heavy", turn + 1, max_length=300, **fields), [bench], processor)
    check_rows(alone("text_heavy", turn, max_length=300, **fields), [bench], processor)


def _drawn(bench: Benchmark, fields: dict[str, Any], turn: int) -> Any:
    return make_groups(alone("text_heavy", 1, **fields), [bench])[0, turn].rows[0].picture


# --- pictures


def test_shapes_that_a_processor_refuses(real: ProcessorMixin, tmp_path: Path) -> None:
    shapes = [(40, 40), (1, 1), (1, 1000), (1000, 1), (1, 199), (1, 201), (3, 601), (5800, 28), (2, 2)]
    rows, refused = [], []
    for number, shape in enumerate(shapes, start=1):
        Image.new("RGB", shape).save(tmp_path / f"{number}.png")
        rows.append({**FREE, "image": f"{number}.png"})
        try:
            processor_call = real.image_processor(Image.new("RGB", shape))
            assert processor_call
        except (ValueError, RuntimeError, ArithmeticError):
            refused.append(number)
    lines = checked(rows, tmp_path, real)
    assert [line.split(":")[0] for line in lines] == [f"row {number}" for number in refused]
    for number, line in zip(refused, lines, strict=True):
        width, height = shapes[number - 1]
        assert "field 'image': " in line and f"{width} x {height}" in line


def test_only_qwen_refuses_long_shapes(tmp_path: Path) -> None:
    if not real_families.ARCHIVE.is_file():
        pytest.skip("no real vocabularies here")
    processor = AutoProcessor.from_pretrained(real_families.folder("real-qwen25vl"))
    Image.new("RGB", (6000, 28)).save(tmp_path / "long.png")
    Image.new("RGB", (5599, 28)).save(tmp_path / "short.png")
    (line,) = checked([{**FREE, "image": f"{name}.png"} for name in ("short", "long")], tmp_path, processor)
    assert line.startswith("row 2: ") and "aspect ratio" in line


def test_pictures_that_fail_only_when_decoded(processor: ProcessorMixin, tmp_path: Path) -> None:
    rows = []
    for kind in ("gif", "bmp", "tiff", "png", "jpg", "webp"):
        whole, half = tmp_path / f"whole.{kind}", tmp_path / f"half.{kind}"
        Image.effect_noise((64, 64), 50).convert("RGB").save(whole)
        data = whole.read_bytes()
        half.write_bytes(short_idat(data) if kind == "png" else data[: len(data) // 2])
        rows += [{**FREE, "image": whole.name}, {**FREE, "image": half.name}]
    lines = checked(rows, tmp_path, processor)
    assert sorted(int(line.split(":")[0].removeprefix("row ")) for line in lines) == [2, 4, 6, 8, 10, 12]
    assert all("field 'image' 'half." in line for line in lines)


def short_idat(data: bytes) -> bytes:
    """A PNG whose chunks are sound, and whose image data end after a third of the rows."""
    import struct
    import zlib

    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    pixels = zlib.decompress(data[start + 4 : start + 4 + length])
    short = zlib.compress(pixels[: len(pixels) // 3])
    chunk = struct.pack(">I", len(short)) + b"IDAT" + short + struct.pack(">I", zlib.crc32(b"IDAT" + short))
    return data[: start - 4] + chunk + data[start + 8 + length :]


# --- templates


@pytest.mark.parametrize(
    ("written", "answers", "histories"),
    [
        ("(p['text'] | replace('  ', ' '))", ["two  blanks"], [["Why?", "two  blanks"]]),
        ("p['text'].split('</think>')[-1]", ["so</think>it is"], [["Why?", "so</think>it is"]]),
        ("(raise_exception('rude') if 'damn' in p['text'] else p['text'])", ["damn"], [["damn", "no"]]),
    ],
    ids=["rewrites", "cuts thoughts", "raises"],
)
def test_a_text_that_the_template_rewrites_or_refuses(
    tiny_llava: Path, tmp_path: Path, written: str, answers: list[str], histories: list[list[str]]
) -> None:
    processor = AutoProcessor.from_pretrained(tiny_llava)
    processor.chat_template = TEMPLATE.replace("TEXT", written)
    good = [FREE, {**FREE, "history": [["How?", "so"]]}, {**FREE, "history": [["Where?", "here"]]}]
    bad = [{**FREE, "answer": text} for text in answers]
    bad += [{**FREE, "history": [turn]} for turn in histories]
    lines = checked([*good, *bad, *good], tmp_path, processor)
    assert [line.split(":")[0] for line in lines] == ["row 4", "row 5"]


ODD = ["\u00a0x\u3000", "\u200bx\u200b", "\ufeffx", "x\u0085", "\x1cx\x1f", "<eos>x", "x</s>", "x<|im_end|>", "\n x \n"]
ODD += ["<start_of_turn>x", "x  ", "x \U000fffff", "\ue0a0", "x \U0010fffe", "<end_of_turn>"]
ODD += [f"x {chr(code)}" for code in (0xF8FF, 0xE000, 0xE001, 0xF0000, 0x10FFFD)]


def test_odd_ends_of_texts_train_or_are_refused(real: ProcessorMixin, tmp_path: Path) -> None:
    """`checked` collates what is left, as training does."""
    rows = [{**FREE, "answer": text} for text in ODD]
    rows += [{**FREE, "history": [["Why?", text], ["How?", "so"]]} for text in ODD]
    rows += [{**FREE, "history": [[text, "so"]]} for text in ODD]
    checked(rows, tmp_path, real)


def test_a_history_whose_answers_merge_with_what_is_before_them(tiny_llava: Path, tmp_path: Path) -> None:
    """A blank that ends the template's part and the word after it are one token; one that it never saw stands apart."""
    processor = AutoProcessor.from_pretrained(tiny_llava)
    processor.chat_template = TEMPLATE.replace("TEXT", "p['text']").replace("{{ '\n' }}", " ")
    words = ["so", "日"]
    merged = [processor.tokenizer.tokenize(f"x: {word}")[:3] != processor.tokenizer.tokenize("x: ") for word in words]
    assert merged == [True, False]
    lines = checked([{**FREE, "history": [["Why?", word]]} for word in words] + [FREE], tmp_path, processor)
    (line,) = lines
    assert line.startswith("row 1: ") and "field 'history'" in line and "merge" in line


# --- surrogates


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("question", {"question": "Which \ud800?"}),
        ("answer", {**FREE, "answer": "it \udcff"}),
        ("options", {"options": ["x", "\udc80"]}),
        ("facts", {"facts": {"y": "It is \ud83d."}}),
        ("history", {**FREE, "history": [["\ud800", "b"]]}),
        ("history", {**FREE, "history": [["a", "\udfff"]]}),
        ("id", {"id": "\ud800"}),
    ],
)
def test_half_a_character_is_refused(processor: ProcessorMixin, field: str, change: dict[str, Any]) -> None:
    row = {"id": "b", **CHOICE, **change}
    family = row["type"].lower()
    options, history = tuple(row.get("options", ())), tuple(map(tuple, row.get("history", ())))
    options = () if family == "vqa" else options
    item = Item(row["id"], family, row["question"], row["answer"], options, facts=row.get("facts", {}), history=history)
    good = replace(item, id="g", question="Which?", answer="x", options=options and ("x", "y"), facts={}, history=())
    bench = Benchmark("own", family, (good, item), places={item.id: "rows.json, row 2"})
    with pytest.raises(InputError, match=rf"^rows.json, row 2: field '{field}' .*half a character") as stopped:
        check_rows(alone(family, 1), [bench], processor)
    str(stopped.value).encode()
    bad = BadRows(skip=True)
    (kept,) = check_rows(alone(family, 1), [bench], processor, bad)
    assert [one.id for one in kept.items] == ["g"] and bad.lines == [str(stopped.value)]


# --- long histories


def long_history(turns: int) -> tuple[tuple[str, str], ...]:
    return tuple((f"What is number {n}?", f"It is {n * 7 % 1000}.") for n in range(turns))


@pytest.mark.parametrize("most", [None, 2048])
def test_a_history_of_1600_turns_is_read_a_few_times_and_not_once_a_turn(
    real: ProcessorMixin, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item("a", "vqa", "Why?", "so", history=long_history(1600), image=None if most else Image.new("RGB", (9, 9)))
    bench = Benchmark("own", "vqa", (item,), places={"a": "rows.json, row 1"})
    collator, args, bad = GroupCollator(real, None, 0), alone("vqa", 1, max_length=most), BadRows(skip=True)
    whole = sum(len(text) for turn in item.history for text in turn)
    read: list[int] = []

    def noting(kind: type, name: str, size: Callable[..., int]) -> None:
        theirs = getattr(kind, name)

        def noted(self: Any, given: Any, *more: Any, **named: Any) -> Any:
            read.append(size(given))
            return theirs(self, given, *more, **named)

        monkeypatch.setattr(kind, name, noted)

    noting(
        type(real.tokenizer), "__call__", lambda texts: len(texts) if isinstance(texts, str) else sum(map(len, texts))
    )
    noting(type(real), "apply_chat_template", lambda chat: whole * (len(chat) > 1600))
    kept = check_rows(args, [bench], real, bad)
    assert len(kept) == (most is None)
    if most:
        assert "row 1: field 'history': " in bad.lines[0] and f"max_length is {most}" in bad.lines[0]
    collator([Group("a", (item,))])
    assert whole < sum(read) < 40 * whole, "once a turn would be 800 times"


def test_what_is_learned_of_a_history_is_what_prefixes_say(real: ProcessorMixin) -> None:
    """The places of answers by the tokens of the text up to them, which the tokenizer says itself."""
    odd = (("Où?", "\U0001f415 über"), ("\U0001f1eb\U0001f1f7", "</s> <eos> x"), ("x", "3.5\n\n4"), ("", "né e\u0301"))
    prompts = prompts_of(real)
    for history in (long_history(7), odd, long_history(3) + odd):
        item = Item("a", "vqa", "Why?", "so", history=history, image=Image.new("RGB", (60, 40)))
        chat = prompts.chat(item, "so")
        _, expansions = prompts.images([[item.image]])
        (row,) = prompts.rows([chat], expansions, ["a"])
        said = prompts.said(chat)
        cuts = [place for span in said.spans for place in span]
        stages = prompts.encode([said.text[:cut] for cut in cuts], expansions * len(cuts))
        wanted = [False] * len(row.ids)
        for before, after in zip(stages[::2], stages[1::2], strict=True):
            assert row.ids[: len(before)] == before
            wanted[len(before) : len(after)] = [True] * (len(after) - len(before))
        assert row.answer == wanted and sum(wanted) > len(history)


def test_the_check_is_said_by_the_command_line(
    tiny_llava: Path, processor: ProcessorMixin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row whose second draw is too long stops a run before its first step."""
    item = next(_named(n) for n in range(99) if _grows(lengths(processor, alone("image_heavy", 1), _named(n), 2)))
    most = lengths(processor, alone("image_heavy", 1), item, 1)[0]
    DOG.image.save(tmp_path / "a.png")
    row = {"id": item.id, "type": "image_heavy", "image": "a.png", "question": item.question, "answer": item.answer}
    (tmp_path / "rows.json").write_text(json.dumps([row | {"options": item.options, "facts": item.facts}]))
    argv = ["--model_name_or_path", str(tiny_llava), "--train_file", str(tmp_path / "rows.json")]
    argv += ["--mix", "1", "0", "0", "--per_device_train_batch_size", "1", "--max_steps", "2"]
    argv += ["--max_length", str(most), "--report_to", "none", "--use_cpu", "true"]
    assert run.main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and "rows.json, row 1: " in line and f"max_length is {most}" in line
    assert "round 2" in line and not (tmp_path / "out" / "model.safetensors").exists()
