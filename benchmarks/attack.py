"""What an attack at evaluation costs: `mmi_hf`'s against a plain loop with the same search.

    python -m benchmarks.attack [--items 8] [--eps 0.05] [--batch_size 8] [--source demo_digits] [--text prompt]

The plain loop takes one item after the other and runs the whole model at every step, its vision encoder and the logits
of all positions included, with parameters that learn, and lets no row leave a run. Prints the process's CPU seconds,
rows through the model, and on how many items both agree whether they are broken.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from transformers import PreTrainedModel

from mmi_plugin.attacks import apgd as climbing
from mmi_plugin.documents import documents
from mmi_plugin.models import attacked
from mmi_plugin.models.embeddings import Embeddings
from mmi_plugin.models.evaluate import evaluate
from mmi_plugin.models.generate import Query
from mmi_plugin.models.load import load_model, load_processor
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.tokens import to_model
from mmi_plugin.results import Record
from mmi_plugin.sources import load


class Plain(Embeddings):
    """The same space, computed as one would at first."""

    def __init__(self, model: PreTrainedModel, prompts: Prompts, rows: Sequence[Query]) -> None:
        self._inputs = prompts.inputs([row.chat for row in rows], left=False)
        super().__init__(model, prompts, rows)

    def logits(self, delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(1, L, D) perturbations of the one row -> (1, K) logits of its options."""
        own = to_model(self._inputs, self._model)

        def enter(module: torch.nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> tuple[Any, ...]:
            return args, {**call, "inputs_embeds": call["inputs_embeds"] + delta}

        handle = self._decoder.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            return self._model(**own).logits[:, -1][:, self._options]
        finally:
            handle.remove()


def ask(model: PreTrainedModel, processor: Any, args: argparse.Namespace, size: int) -> tuple[list[Record], float]:
    """Return the records of the attack, and the CPU seconds that it took."""
    bench = load(args.source, "test")
    condition = f"adversarial_embeddings@eps={args.eps}@text={args.text}"
    began = time.process_time()
    found = evaluate(model, processor, documents(bench, (condition,), limit=args.items), batch_size=size)
    return found, time.process_time() - began


def main() -> None:
    """Run both, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mmi_plugin/studies/base")
    parser.add_argument("--source", default="demo_digits")
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--eps", default="0.05")
    parser.add_argument("--text", default="prompt")
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()
    model, processor = load_model(args.model), load_processor(args.model)
    ours, seconds = ask(model, processor, args, args.batch_size)

    def keep(state: Any, kept: torch.Tensor) -> None:
        """Let no row leave."""

    with (
        patch.dict(attacked.SPACES, embeddings=Plain),
        patch.object(climbing._State, "keep", keep),
        patch.object(attacked, "unlearning", lambda model: nullcontext()),
    ):
        plain, plainly = ask(model, processor, args, 1)
    same = sum(one.right == other.right for one, other in zip(ours, plain, strict=True))
    for name, found, took in (("mmi_hf", ours, seconds), ("plain loop", plain, plainly)):
        passes = sum(one.attack["passes"] for one in found)
        right = sum(one.right for one in found)
        print(f"{name:10}  {took:7.1f} CPU s, {passes:6.0f} rows through the model, {right} of {len(found)} right")
    print(f"{plainly / seconds:.1f} times faster; the two agree on {same} of {len(ours)} items")


if __name__ == "__main__":
    main()
