"""The tokens of a batch in, what can be known of its passes before any device out: lengths, trees, the layout.

Made where the batch is made, in the workers of the loader, so that the process that trains finds it done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from mmi_plugin.models.layout import Layout, Tree, grow_trees

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """B rows of length L on the host. Pickled with what was asked of it.

    keys: (B, L) int64, equal where rows agree in token and image: what a shared prefix must agree in. moved, read:
    (B, L) bool, where the adversary moves rows and where an answer token is predicted. lengths: B numbers of tokens.
    labels: (B, L) and origin: (B,) int64 of the batch. images: its image_index and image_tokens, if it has images.
    """

    keys: np.ndarray
    moved: np.ndarray
    read: np.ndarray
    lengths: tuple[int, ...]
    labels: torch.Tensor
    origin: torch.Tensor
    images: tuple[torch.Tensor, torch.Tensor] | None

    @staticmethod
    def of(batch: dict[str, torch.Tensor], placeholder: int, own_images: bool = False) -> Plan:
        """Read a batch of B rows of length L as the collator makes it, which is on the host.

        batch: input_ids, attention_mask, labels, irrelevant, (B, L) each, and image_index, image_tokens. placeholder:
        the token that stands for image features. own_images: features of an image are each row's own.
        """
        keys, images = batch["input_ids"].clone(), None
        if "image_index" in batch:
            images = index, tokens = batch["image_index"], batch["image_tokens"]
            entry = torch.arange(len(index)) if own_images else index
            keys[keys == placeholder] = -1 - torch.repeat_interleave(entry, tokens[index])
        read = (batch["labels"] >= 0).roll(-1, 1)
        read[:, -1] = False
        lengths = batch["attention_mask"].sum(1).tolist()
        # A copy: a worker that hands the batch over moves its tensors' memory, and a view would look at what was there.
        arrays = keys.numpy(), batch["irrelevant"].numpy().copy(), read.numpy()
        return Plan(*arrays, tuple(lengths), batch["labels"], batch["origin"], images)

    def still(self) -> Plan:
        """Return the plan of the same rows where no adversary moves them."""
        return replace(self, moved=np.zeros_like(self.moved)) if self.moved.any() else self

    def made(self, at_once: bool = False) -> Plan:
        """Return this plan when what a training step asks of it is there. at_once: whether its layout attends so."""
        _ = self.layout, self.attacked_trees, at_once and self.layout.blocks()
        return self

    @cached_property
    def attacked(self) -> list[int]:
        """The rows of which something is moved, in their order."""
        return np.flatnonzero(self.moved.any(1)).tolist()

    @cached_property
    def layout(self) -> Layout:
        """Of the rows and, after them, the copies of those that are attacked: with what they share once."""
        keys = np.concatenate([self.keys, perturbed_keys(self.keys, self.moved)[self.attacked]])
        lengths = [*self.lengths, *(self.lengths[row] for row in self.attacked)]
        return Layout.of(grow_trees(keys, lengths), lengths, keys.shape[1], HOST)

    def apart(self) -> Layout:
        """Return the layout of the same rows with nothing shared."""
        lengths = [*self.lengths, *(self.lengths[row] for row in self.attacked)]
        return Layout.of([Tree((row,), 0) for row in range(len(lengths))], lengths, self.keys.shape[1], HOST)

    @cached_property
    def attacked_trees(self) -> list[Tree]:
        """`trees` of the rows that are attacked."""
        return self.trees(self.attacked) if self.attacked else []

    def trees(self, rows: list[int]) -> list[Tree]:
        """Return the trees of `rows`, by their places there, whose prefixes nothing moves or reads."""
        lengths, moved = [self.lengths[row] for row in rows], self.moved[rows]
        # A row alone keeps what precedes the first position that is moved or predicts an answer.
        fixed = (moved | self.read[rows]).argmax(1).tolist()
        trees = grow_trees(perturbed_keys(self.keys[rows], moved), lengths)
        return [tree if tree.prefix else Tree(tree.rows, fixed[tree.rows[0]]) for tree in trees]


def perturbed_keys(keys: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return the keys (A, L) of adversarial copies, which agree with nothing where `moved` (A, L) bool says so."""
    return np.where(moved, np.iinfo(np.int64).min + np.arange(len(keys))[:, None], keys)
