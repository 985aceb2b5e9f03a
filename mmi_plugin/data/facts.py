"""`mmi data facts`: an image-heavy task in, a file of facts on its wrong options out, written by a language model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmi_plugin.answers import mentions
from mmi_plugin.conditions.text import with_article
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item
from mmi_plugin.sources.facts import Facts, FactsFile, check_facts

Write = Callable[[Sequence[str]], list[str]]
"""From prompts to one greedy reply each."""

MAX_TOKENS = 64
_AT_ONCE = 8  # requests to a server


def over_http(base_url: str, model: str) -> Write:
    """Return a writer that asks `base_url`/chat/completions; the key is $OPENAI_API_KEY where one is needed.

    The client repeats what fails for a moment; the writer raises InputError when that does not help.
    """
    import os

    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=5)
    ask = partial(_ask, client, model)

    def write(prompts: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(ask, prompts))

    return write


def _ask(client: Any, model: str, prompt: str) -> str:
    from openai import OpenAIError

    messages = [{"role": "user", "content": prompt}]
    try:
        reply = client.chat.completions.create(model=model, messages=messages, max_tokens=MAX_TOKENS, temperature=0)
    except OpenAIError as error:
        raise InputError(f"{client.base_url}: {str(error).splitlines()[0]}") from error
    return reply.choices[0].message.content or ""


def with_transformers(pretrained: str) -> Write:
    """Return a writer with any chat model of transformers, with or without eyes: a folder or a hub id.

    Raises InputError when it does not load or has no chat template.
    """
    import torch
    from accelerate import Accelerator

    from mmi_plugin.models.load import has_eyes, load_model, load_processor, load_tokenizer
    from mmi_plugin.models.tokens import Encoder, pad

    eyes = has_eyes(pretrained)
    processor = load_processor(pretrained) if eyes else load_tokenizer(pretrained)
    if not getattr(processor, "chat_template", None):
        raise InputError(f"{pretrained}: has no chat template")
    model = load_model(pretrained, eyes=eyes, dtype="auto").to(Accelerator().device)
    tokenizer = processor.tokenizer if eyes else processor
    encoder = Encoder(tokenizer, str(processor.chat_template), ())

    @torch.inference_mode()
    def write(prompts: Sequence[str]) -> list[str]:
        chats = [_chat(encoder.mark(prompt), in_parts=eyes) for prompt in prompts]
        texts = [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        ids, inside = pad(encoder.encode(texts), encoder.padding, left=True)
        inputs = {"input_ids": ids.to(model.device), "attention_mask": inside.long().to(model.device)}
        output = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=encoder.padding)
        return tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)

    return write


def _chat(prompt: str, in_parts: bool) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": prompt}] if in_parts else prompt}]


ATTEMPTS = 3
_ASK = "Write one short, true sentence about {option} that helps to recognise it in a picture. Reply with the sentence"
_AVOID = " and do not use the words {answer!r} in it"


def write_facts(items: Sequence[Item], file: FactsFile, write: Write, model: str) -> list[tuple[str, str]]:
    """Add the facts on every item that `file` lacks; return the (item id, wrong option) left without one.

    A sentence on an option serves every item with that wrong option, but where it names the answer:
    then the model is asked again, `ATTEMPTS` times in all, not to name it.
    """
    known: dict[str, list[str]] = {}
    for facts in file.facts.values():
        _learn(known, facts)
    for item in tqdm([item for item in items if item.id not in file.facts], unit="item"):
        facts = _facts_on(item, known, write)
        file.add(item, facts, model)
        _learn(known, facts)
    asked = ((item.id, option) for item in items for option in item.wrong_options)
    return [(key, option) for key, option in asked if option not in file.facts[key]]


def _facts_on(item: Item, known: dict[str, list[str]], write: Write) -> Facts:
    found = {option: _usable(known.get(option, ()), item.answer) for option in item.wrong_options}
    for attempt in range(ATTEMPTS):
        missing = [option for option, fact in found.items() if not fact]
        if not missing:
            break
        avoid = _AVOID.format(answer=item.answer) if attempt else ""
        replies = write([_ASK.format(option=with_article(option)) + f"{avoid}." for option in missing])
        for option, reply in zip(missing, replies, strict=True):
            found[option] = _usable([sentence(reply)], item.answer)
    return {option: fact for option, fact in found.items() if fact}


def _usable(facts: Iterable[str], answer: str) -> str:
    """Return the first fact that says something and does not name the answer, or ""."""
    return next((fact for fact in facts if fact and not mentions(fact, answer)), "")


def _learn(known: dict[str, list[str]], facts: Facts) -> None:
    for option, fact in facts.items():
        if fact not in known.setdefault(option, []):
            known[option].append(fact)


def sentence(reply: str) -> str:
    """Return the first line of a reply that says anything, without quotes around it and double spaces."""
    lines = (" ".join(line.split()).strip("\"'“”* ") for line in reply.splitlines())
    return next((line for line in lines if any(map(str.isalnum, line))), "")


DESCRIPTION = "write facts on the wrong options of an image-heavy task, once, with a language model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", help="a task of this package, for example mmi_food101")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="F", help="file that is written, or continued: a .jsonl"
    )
    parser.add_argument("--model", required=True, help="folder or hub id of a chat model; with --base_url its name")
    parser.add_argument("--base_url", metavar="URL", help="OpenAI-compatible server, for example http://host:8000/v1")
    parser.add_argument("--include_path", type=Path, metavar="DIR", help="folder of YAMLs with TASK")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N items")


def run(args: argparse.Namespace) -> int:
    """Write the facts, name what is left without; return 0. Raises InputError for bad input."""
    from mmi_plugin.documents import Selection  # which imports datasets
    from mmi_plugin.harness.task_manager import find_task

    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit is {args.limit}: it must be positive")
    task = find_task(args.task, args.include_path)
    options = {key: value for key, value in task.options.items() if key != "facts"}
    bench = Selection.parse(options, task.split, args.task).benchmark()
    if bench.family != "image_heavy":
        raise InputError(f"{args.task} is {bench.family}: only image-heavy tasks use facts on wrong options")
    items = bench.items[: args.limit]
    file = FactsFile(args.out)
    by_id = {item.id: item for item in bench.items}
    for key, facts in file.facts.items():
        if key not in by_id:
            raise InputError(f"{args.out}: item {key} is none of {args.task}")
        check_facts(by_id[key], facts, args.out)
    write = over_http(args.base_url, args.model) if args.base_url else with_transformers(args.model)
    without = write_facts(items, file, write, args.model)
    for key, option in without[:10]:
        print(f"no usable fact: item {key}, option {option!r}", file=sys.stderr)
    print(f"{args.out}: facts on {len(items)} items, {len(without)} wrong options without one")
    return 0
