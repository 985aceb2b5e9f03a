"""Documents in, records out: the one evaluator, in batches whose prompts share what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, ProcessorMixin

from mmi_plugin.answers import THOUGHTS, normalise, read, read_free
from mmi_plugin.attacks import Attack
from mmi_plugin.conditions import get
from mmi_plugin.documents import Documents
from mmi_plugin.errors import InputError
from mmi_plugin.item import messages
from mmi_plugin.models.attacked import Attacker
from mmi_plugin.models.baselines import Baseline
from mmi_plugin.models.chats import Chat
from mmi_plugin.models.combine import vote
from mmi_plugin.models.decode import Decoding
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.generate import Generator, Query, Reply, Target
from mmi_plugin.models.meter import Meter
from mmi_plugin.models.order import OrderKey, answer_all, order_key, shared_images
from mmi_plugin.models.prefix import Prefixes, looks_ahead, obstacle
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.tokens import Tensors, to_model
from mmi_plugin.results import Record

THINKING = 4096  # tokens of a thought, beside those of the answer
SETTINGS = {"max_new_tokens": 16}  # generation_kwargs of the tasks
_TOLERANCE = {torch.float32: 1e-3}  # of logits of the shared path and the plain one, relative to the largest
_COARSE = 5e-2  # the same in half precision
_WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def evaluate(
    model: PreTrainedModel,
    processor: ProcessorMixin | Prompts,
    documents: Documents,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    share: bool = True,
    thoughts: Sequence[tuple[str, str]] = THOUGHTS,
    thinking: int = THINKING,
) -> list[Record]:
    """Ask a model, in evaluation mode, all `documents`; return a record for each, in their order.

        bench = load("demo_digits", "test")
        records = evaluate(model, processor, documents(bench, bench.conditions, limit=20))

    settings: of the decoding, as `max_new_tokens`, see `Decoding.parse`. share: compute what prompts with one image
    have in common once, where the model allows it. thoughts, thinking: see `Generator`. Raises InputError for
    settings that are not greedy, and for a processor from which no prompts can be made.
    """
    prompts = processor if isinstance(processor, Prompts) else prompts_of(processor)
    return ask(Scorer(model, prompts, share, thoughts, thinking), documents, settings or {}, batch_size, thoughts)


def ask(
    scorer: Scorer,
    documents: Documents,
    settings: Mapping[str, Any],
    batch_size: int,
    thoughts: Sequence[tuple[str, str]] = THOUGHTS,
) -> list[Record]:
    """Return a record for each document, in their order, as `evaluate` does."""
    rows = list(documents.rows)
    keys = [order_key(row) for row in rows]
    shared = shared_images(keys)

    def answer(places: list[int]) -> list[Record]:
        asked = [query_of(rows[place], messages(documents.item(rows[place])), shared) for place in places]
        pairs = zip((rows[place] for place in places), scorer.answer(asked, settings), strict=True)
        return [record_of(row, one.text, one.probabilities, thoughts, attack=one.attack) for row, one in pairs]

    return answer_all(scorer.ordered(keys), batch_size, answer)


def query_of(document: Mapping[str, Any], chat: Chat, shared: set[str]) -> Query:
    """Return a document as the model is asked it. shared: the images that other prompts show, too."""
    labels, options = tuple(document["choices"]), tuple(document["options"])
    attack, target = Attack.of(get(document["condition"])), None
    if attack is not None:
        gold = labels.index(document["gold"])
        target = Target(attack, document["item_id"], document["seed"], document["family"], gold)
    return Query(chat, labels, document["image_key"] in shared, options, target)


def record_of(
    document: Mapping[str, Any],
    raw: str,
    probabilities: Sequence[float] | None = None,
    thoughts: Sequence[tuple[str, str]] = THOUGHTS,
    failure: str | None = None,
    said: str | None = None,
    attack: Mapping[str, Any] | None = None,
) -> Record:
    """Return the record of what a model answered to a document.

    said: what is read of `raw`, by default all. failure: why there is no answer in it. attack: what an adversary took.
    """
    text = raw if said is None else said
    reading = read_free(text, thoughts) if document["metric"] else read(text, document["options"], thoughts)
    return Record(
        item_id=document["item_id"],
        condition=document["condition"],
        seed=document["seed"],
        gold=document["gold"],
        parsed=None if failure else reading.letter,
        raw=raw,
        named=document["named"],
        failure=failure,
        probabilities=probabilities,
        cut_off=not failure and reading.cut_off,
        options=tuple(document["options"]),
        attack=attack,
        answers=tuple(document["answers"]) or None,
        metric=document["metric"],
        cluster=document["cluster"],
        group=document["group"],
    )


class Scorer:
    """Answers batches. `share`: prompts with the same image share it.

    Then it is encoded, and run through the decoder with all that stands before it, once for the prompts of a batch
    and those of the next that go on with it. Whether the model allows it is found out from its structure, and on the
    first such batch by comparison with plain generation; a model that does not allow it answers plainly.
    `deterministic`: each prompt is computed by itself, so that not a bit of its answer depends on its batch; one
    image still serves all its prompts. `thoughts` and `thinking`: see Generator. `baseline`: what answers are decoded
    by, each prompt beside its contrast; then no image is shared.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Prompts,
        share: bool = True,
        thoughts: Sequence[tuple[str, str]] = THOUGHTS,
        thinking: int = THINKING,
        deterministic: bool = False,
        baseline: Baseline | None = None,
    ) -> None:
        self._model, self._prompts, self._one_by_one = model, prompts, deterministic
        self._baseline = baseline
        self._generator = Generator(model, prompts, thoughts, thinking, baseline)
        self._prefixes = Prefixes(model, prompts, self._generator.tokens)
        self.meter = Meter(model)
        self._obstacle = obstacle(model)
        self._checked = False
        self._wanted = share and baseline is None  # contrasts show other images, or none

    @property
    def opened(self) -> str:
        """What of a thought the chat template begins in every prompt; empty where it does not."""
        return self._generator.opened

    def ordered(self, keys: Sequence[OrderKey]) -> list[OrderKey]:
        """Return `keys` as they matter for the order of prompts: not by image where the model can share none."""
        can = self._wanted and self._obstacle is None
        return [key if can else OrderKey(key.settings, None, key.length) for key in keys]

    @torch.no_grad()  # not inference_mode, whose tensors a model in training could not use
    def answer(self, rows: Sequence[Query], settings: Mapping[str, Any]) -> list[Reply]:
        """Return an answer per row; `settings` are lmms-eval's `generation_kwargs`.

        Raises InputError when they ask for anything but greedy decoding.
        """
        # Not cuDNN's attention, which makes a plan for every new pair of lengths: here most are new.
        plans = sdpa_kernel(_WITHOUT_PLANS) if self._model.device.type == "cuda" else nullcontext()
        with self.meter.running(), plans:
            return self._answer(rows, Decoding.parse(settings))

    def _answer(self, rows: Sequence[Query], decoding: Decoding) -> list[Reply]:
        if self._one_by_one and len(rows) > 1:
            return [reply for row in rows for reply in self._answer([row], decoding)]
        if rows[0].target is not None:  # batches have one attack, see order_key
            if self._baseline is not None:
                raise InputError(f"baseline {self._baseline.name}: an attack is one of the model as it is")
            # Made for a batch: one that is kept would keep this scorer, and its prefixes, in a circle.
            own = self._model, self._prompts, self._generator
            return Attacker(*own, self._first, lambda row: self._plain([row])).answers(rows, decoding)
        if self._baseline is not None:
            return self._answer_by(self._baseline, rows, decoding)
        if not self._wanted or not all(row.shared for row in rows):
            return self._generator.answers(rows, self._plain(rows), decoding)
        if self._can_share(rows):
            return self._share(rows, decoding)
        self._prompts.say_once(
            f"every prompt is computed whole, as {type(self._model).__name__} cannot share images: {self._obstacle}"
        )
        return self._generator.answers(rows, self._plain(rows), decoding)

    def _answer_by(self, baseline: Baseline, rows: Sequence[Query], decoding: Decoding) -> list[Reply]:
        """Answer by a baseline; of several samples for a row the first of the commonest answer counts."""
        chats = [baseline.chat(row.chat) if row.choices else row.chat for row in rows]
        pairs = zip(rows, chats, strict=True)
        asked = [replace(row, chat=chat) for row, chat in pairs for _ in range(baseline.samples)]
        inputs = to_model(baseline.inputs(self._prompts, [row.chat for row in asked]), self._model)
        replies = self._generator.answers(asked, inputs, baseline.decoding(decoding))
        if baseline.samples == 1:
            return replies
        chosen = []
        for place, row in enumerate(rows):
            own = replies[place * baseline.samples : (place + 1) * baseline.samples]
            if row.choices:
                said = [read(one.text, row.options or row.choices, self._generator.thoughts).letter for one in own]
            else:
                said = [normalise(read_free(one.text, self._generator.thoughts).letter or "") for one in own]
            first, shares = vote(said, row.choices)
            chosen.append(replace(own[first], probabilities=shares))
        return chosen

    def _can_share(self, rows: Sequence[Query]) -> bool:
        """Whether prompts go on from what they share, which is wanted, and found out on the first rows."""
        if self._wanted and self._obstacle is None and not self._checked:
            self._obstacle, self._checked = self._differs(rows), True
        return self._wanted and self._obstacle is None

    def _differs(self, rows: Sequence[Query]) -> str | None:
        """Return why the model cannot share prefixes: it looks ahead, or gives other logits; None if it can.

        Asked of the first row and of the last, each by itself.
        """
        first, last = rows[:1], rows[1:][-1:]
        try:
            ahead, logits = looks_ahead(self._model, self._plain(first), self._logits)
            if ahead:
                return "within a prompt it attends to what comes later"
            wanted = torch.cat([logits, *(self._logits(self._plain([row])) for row in last)]).float()
            order, branches = self._prefixes.branches([*first, *last])
            found = branches.first.float()
            wanted = wanted[order]
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:  # of a model that answers plainly
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        apart = ((found - wanted).abs().max() / wanted.abs().max()).item()
        if apart > _TOLERANCE.get(self._model.dtype, _COARSE):
            return f"its logits differ by {apart:.1%} when it goes on from a kept image"
        return None

    def _first(self, rows: Sequence[Query]) -> torch.Tensor:
        """Return the logits of the token after each prompt, (B, V), from what they share where that can be kept."""
        if not self._can_share(rows):
            return self._logits(self._plain(rows))
        order, branches = self._prefixes.branches(rows)
        return branches.first[torch.tensor(order).argsort()]

    def _logits(self, inputs: Tensors) -> torch.Tensor:
        """Return the logits of the token after each prompt, (B, V), whose inputs are whole."""
        return self._generator.tokens(inputs, 1, output_logits=True).logits[0]

    def _plain(self, rows: Sequence[Query]) -> Tensors:
        return to_model(self._prompts.inputs([row.chat for row in rows]), self._model)

    def _share(self, rows: Sequence[Query], decoding: Decoding) -> list[Reply]:
        """Answer rows from the kept prefixes of their prompts, computing those that are missing."""
        order, branches = self._prefixes.branches(rows)
        answers = self._generator.answers([rows[index] for index in order], branches, decoding)
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])]
