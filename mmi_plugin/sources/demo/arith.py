"""demo_arith: a digit in the image plus a number in the text; both decide."""

from __future__ import annotations

from mmi_plugin.items import Item
from mmi_plugin.seeding import stream
from mmi_plugin.sources.benchmark import Benchmark
from mmi_plugin.sources.demo.digits import WORDS, demo_pools, digit_images, options_with, split_indices
from mmi_plugin.sources.registry import source


def arith_question(addend: int) -> str:
    return f"What is the digit in the picture plus {WORDS[addend]}?"


@source
def demo_arith(split: str) -> Benchmark:
    """One item per image of the split, with an addend from one to nine."""
    items = []
    for index in split_indices(split):
        image, digit = digit_images()[index]
        addend = stream("arith", index).randrange(1, 10)
        answer = WORDS[digit + addend]
        wrong = [word for word in WORDS if word != answer]
        options = options_with(answer, wrong, "arith", index)
        items.append(Item(f"arith-{index:04d}", "vqa", arith_question(addend), answer, options, image))
    return Benchmark("demo_arith", "vqa", tuple(items), demo_pools(split))
