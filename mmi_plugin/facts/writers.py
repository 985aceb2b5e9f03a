"""Language models as functions from prompts to replies: by transformers, or over an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mmi_plugin.errors import InputError

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
