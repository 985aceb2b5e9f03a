"""Test items, recognised wherever they turn up."""

from __future__ import annotations

from collections.abc import Sequence

from mmi_plugin.answers import normalise
from mmi_plugin.items import Item, image_hash
from mmi_plugin.sources import load
from mmi_plugin.sources.listed import split_options


class Leaks:
    """The test items of some sources, by normalised text and by the hash of the decoded image.

    A text counts where the text is the whole question: many image questions share one wording.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.counts: dict[str, int] = {}
        self._texts: dict[str, str] = {}
        self._images: dict[str, str] = {}
        for name in sources:
            items = load(name, "test").items
            self.counts[name] = len(items)
            for item in items:
                if item.picture is None:
                    self._texts[_text(item)] = item.id
                else:
                    self._images[image_hash(item.image)] = item.id

    def find(self, item: Item) -> str | None:
        """Return the id of the test item that `item` repeats, if it does."""
        if item.picture is not None and (found := self._images.get(image_hash(item.image))):
            return found
        return self._texts.get(_text(item))


def _text(item: Item) -> str:
    """Return question and options, these in any order, without case, width and punctuation at the ends."""
    question, options = (item.question, item.options) if item.options else split_options(item.question)
    return "\n".join([normalise(question), *sorted(map(normalise, options))])
