"""`mmi data facts`: an image-heavy task in, a file of facts on its wrong options out, written by a language model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from mmi_plugin.answers import mentions
from mmi_plugin.conditions.text import with_article
from mmi_plugin.documents import Selection
from mmi_plugin.errors import InputError, plain
from mmi_plugin.harness.task_manager import find_task
from mmi_plugin.item import Item
from mmi_plugin.sources.facts import Facts, FactsFile, check_facts

Write = Callable[[Sequence[str]], list[str]]
"""From prompts to one greedy reply each."""

MAX_TOKENS = 64
_AT_ONCE = 8  # requests to a server


def over_http(base_url: str, model: str) -> Write:
    """Return a writer that asks `base_url`/chat/completions; the key is $OPENAI_API_KEY where one is needed.

    The client repeats what fails for a moment; the writer raises InputError when that does not help.
    """
    from openai import OpenAI, OpenAIError

    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=5)

    def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        try:
            reply = client.chat.completions.create(model=model, messages=messages, max_tokens=MAX_TOKENS, temperature=0)
        except OpenAIError as error:
            raise InputError(f"{client.base_url}: {str(error).splitlines()[0]}") from error
        return reply.choices[0].message.content or ""

    def write(prompts: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(ask, prompts))

    return write


def with_transformers(pretrained: str) -> Write:
    """Return a writer with any chat model of transformers, with or without images: a folder or a hub id.

    Raises InputError when it does not load or has no chat template.
    """
    import torch
    from accelerate import Accelerator

    from mmi_plugin.models.load import load_model, load_processor, load_tokenizer, takes_images
    from mmi_plugin.models.tokens import Encoder, pad

    with_images = takes_images(pretrained)
    processor = load_processor(pretrained) if with_images else load_tokenizer(pretrained)
    if not getattr(processor, "chat_template", None):
        raise InputError(f"{pretrained}: has no chat template")
    model = load_model(pretrained, images=with_images, dtype="auto").to(Accelerator().device)
    tokenizer = processor.tokenizer if with_images else processor
    encoder = Encoder(tokenizer, str(processor.chat_template), ())

    @torch.inference_mode()
    def write(prompts: Sequence[str]) -> list[str]:
        marked = map(encoder.mark, prompts)
        contents = [[{"type": "text", "text": text}] if with_images else text for text in marked]
        chats = [[{"role": "user", "content": content}] for content in contents]
        texts = [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        ids, inside = pad(encoder.encode(texts), encoder.padding, left=True)
        inputs = {"input_ids": ids.to(model.device), "attention_mask": inside.long().to(model.device)}
        output = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=encoder.padding)
        return tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)

    return write


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


def run(args: argparse.Namespace) -> int:
    """Write the facts, name what is left without; return 0. Raises InputError for bad input."""
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit is {args.limit}: it must be positive")
    task = find_task(args.task, args.include_path)
    options = {key: value for key, value in task.options.items() if key != "facts"}
    bench = Selection.parse(options, task.split, args.task).benchmark()
    if bench.family != "image_heavy":
        raise InputError(f"{args.task} is {bench.family}: only image-heavy tasks use facts on wrong options")
    items = bench.items[: args.limit]
    file = FactsFile(args.facts_file)
    by_id = {item.id: item for item in bench.items}
    for key, facts in file.facts.items():
        if key not in by_id:
            raise InputError(f"{args.facts_file}: item {key} is none of {args.task}")
        check_facts(by_id[key], facts, args.facts_file)
    write = over_http(args.base_url, args.model) if args.base_url else with_transformers(args.model)
    without = write_facts(items, file, write, args.model)
    for key, option in without[:10]:
        print(f"no usable fact: item {plain(key)}, option {option!r}", file=sys.stderr)
    print(f"{args.facts_file}: facts on {len(items)} items, {len(without)} wrong options without one")
    return 0
