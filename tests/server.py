"""An OpenAI-compatible server on loopback around a checkpoint, with transformers' plain generation."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

Chat = list[dict[str, Any]]


class Replies(BaseHTTPRequestHandler):
    """A handler that replies in JSON, and says nothing on the terminal."""

    def send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    """Answers `POST /v1/chat/completions`, one request at a time; `chats` are those it was asked.

    A chat that `refuses` says yes to is answered by status 400.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
        self.chats: list[Chat] = []
        self.refuses: Callable[[Chat], bool] = lambda chat: False
        self.one_at_a_time = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @torch.inference_mode()
    def generate(self, chat: Chat, max_tokens: int) -> str:
        inputs = self.processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        output = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        return self.processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class _Handler(Replies):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = [{**turn, "content": [_part(part) for part in turn["content"]]} for turn in request["messages"]]
        with self.server.one_at_a_time:
            self.server.chats.append(chat)
            if self.server.refuses(chat):
                return self.send(400, {"error": {"message": "refused"}})
            text = self.server.generate(chat, request["max_tokens"])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.send(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64", "what the client sends has no loss"
    return {"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(data)))}


@contextmanager
def serving(checkpoint: Path) -> Iterator[Server]:
    """Run a server while the block runs."""
    server = Server(checkpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
