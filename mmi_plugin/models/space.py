"""What the spaces of attacks have in common: tokens of the options, random streams of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmi_plugin.errors import InputError
from mmi_plugin.item import stream
from mmi_plugin.models.generate import Query
from mmi_plugin.models.prompt import Prompts


def option_ids(prompts: Prompts, rows: Sequence[Query]) -> tuple[list[int], list[int]]:
    """Return what all options begin with, as tokens, and the token in which each differs from the others.

    Raises InputError where there are none.
    """
    own = prompts.option_tokens(rows[0].chat, rows[0].choices)
    if own is None:
        raise InputError("an attack needs a model that answers at once, and this chat template opens with a thought")
    stem, last = own[0][:-1], [tokens[-1] for tokens in own]
    if any(tokens[:-1] != stem for tokens in own) or len(set(last)) < len(last):
        raise InputError("an attack needs options that differ in one token, and those of this vocabulary do not")
    return stem, last


def row_seeds(rows: Sequence[Query], restart: int, device: torch.device) -> torch.Tensor:
    """Return the seeds (B,) int64 of the random draws of rows, functions of item, task's seed and restart."""
    targets = [row.target for row in rows]
    named = [stream("attack", one.attack.space, one.item_id, one.seed, restart) for one in targets]
    return torch.tensor([one.getrandbits(62) for one in named], device=device)
