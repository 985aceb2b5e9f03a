"""docs/conditions.md and its figures, from the conditions as they are: python -m benchmarks.pictures [--out docs]"""

from __future__ import annotations

import argparse
import inspect
import io
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from mmi_plugin.conditions import CONDITIONS, FLOOR, REFERENCE, Condition
from mmi_plugin.conditions.given import PREFIX
from mmi_plugin.conditions.image import font_of, wrapped
from mmi_plugin.conditions.pools import photo_files, sample_photos
from mmi_plugin.conditions.registry import INSTRUCTED, Between
from mmi_plugin.conditions.text import template_fact
from mmi_plugin.files import write_whole
from mmi_plugin.item import FAMILIES, Given, Item, user_text
from mmi_plugin.sources import load

FOLDER = "conditions"  # of the figures, beside the page
SIDE, GAP, COLUMNS, LINES = 236, 12, 3, 7  # of a panel: width of its pictures, distance, a row's panels, lines of text
TITLE, WRITING, INK, GREY = 13, 11, (20, 20, 20), (90, 90, 90)
FRAME = 168  # height of a panel's pictures
WIDTH = 100  # of a prompt on the page
HEAD = """# Conditions

Made by this command; do not edit it by hand:

    python -m benchmarks.pictures

A condition changes only the modality that must not matter. It is a pure function of (item, condition, seed): the same
names stand in tasks, training configs, results and on the command line, and an item has the same sentences and pictures
wherever it is asked. Each family has a reference, with which every other condition of the item is compared.

A strength is set behind the name, several one after another: `unrelated_text@sentences=4@position=after`. Fewer
sentences are the first of more, so that `mmi sweep` draws a curve over one and the same text. *In training*: the
published training shows it, and so does ours unless told otherwise. *By default*: a task that names no conditions asks
it. `instructed_NAME` is NAME with a line before everything else that says to ignore what was added.

The pictures are photographs that scikit-image and scikit-learn ship; a data set has its own pools. Long lines of
prompts are wrapped here. `given_NAME` is what an interference set itself came with for an item, and asked of such a
set alone; what is shown of it here is made up. `adversarial_NAME`, `square_NAME` and `noise_NAME` move what the
reference shows, which only a model can say: [attacks](attacks.md).
"""
TITLES = {
    "image_heavy": "Where the image decides",
    "text_heavy": "Where the text decides",
    "vqa": "Where both decide",
}
FLOOR_SAID = f"""## In every family

### `{FLOOR}`

{{doc}} `lmms_eval --floor` asks it; it is in no worst case and no mean.
"""


def examples() -> dict[str, Item]:
    """Return the item of each family on which the page shows its conditions."""
    photos = dict(zip((file.name for file in photo_files()), sample_photos(), strict=True))
    animals, things = ("rocket", "cat", "motorcycle", "flower"), ("a saucer", "a book", "a brick", "a tray")
    facts = {name: template_fact(name) for name in animals}
    cat = photos["chelsea.png"]
    given = {
        "handwritten": Given(cat, named="rocket"),
        "synthetic": Given(cat, named="rocket"),
        "corrupted": Given(context="The picture shows a rocket on its way up."),
        "irrelevant": Given(context="The museum is closed on Mondays."),
        "matching": Given(context="The picture shows a cat that looks up."),
    }
    vqa = {
        "distraction": Given(question="A cow has four legs.\nWhat does the cup stand on?"),
        "corrupted": Given(context="The cup stands on a brick."),
        "irrelevant": given["irrelevant"],
        "matching": Given(context="The cup stands on a saucer."),
    }
    drawn = {
        name: Given(photos[file]) for name, file in zip(("corrupted", "irrelevant", "matching"), photos, strict=False)
    }
    capital = next(item for item in load("demo_capitals").items if item.id.endswith("-0"))
    return {
        "image_heavy": Item(
            "cat", "image_heavy", "What is shown in the picture?", "cat", animals, cat, facts, given=given
        ),
        "text_heavy": replace(capital, given=drawn),
        "vqa": Item("cup", "vqa", "What does the cup stand on?", "a saucer", things, photos["coffee.png"], given=vqa),
    }


def shown(family: str) -> list[Condition]:
    """Return the package's own conditions of a family, the reference first; without instructed ones and the floor."""
    found = [one for one in CONDITIONS.values() if family in one.families and _is_own(one)]
    return sorted(found, key=lambda one: one.name != REFERENCE[family])


def pictured(family: str) -> list[Condition]:
    """Return those that the figure shows: all but those of a data set itself, and of adversaries, who need a model."""
    return [one for one in shown(family) if not one.name.startswith(PREFIX) and not one.attack]


def _is_own(one: Condition) -> bool:
    plain = one.name != FLOOR and not one.name.startswith(INSTRUCTED)
    return plain and one.perturb.__module__.startswith("mmi_plugin.")


def figure(family: str) -> Image.Image:
    """Return one panel a condition: its name, what is seen, what is added to the text."""
    item = examples()[family]
    panels = [_panel(one.name, item, one(item)) for one in pictured(family)]
    columns = min(COLUMNS, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    made = Image.new("RGB", (columns * (SIDE + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)), "white")
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for place, panel in enumerate(row):
            made.paste(panel, (GAP + place * (SIDE + GAP), top))
        top += height + GAP
    return made


def _panel(name: str, before: Item, after: Item) -> Image.Image:
    lines = _added(before, after)
    top = TITLE + 8
    made = Image.new("RGB", (SIDE, top + FRAME + 4 + len(lines) * (WRITING + 3)), "white")
    pen = ImageDraw.Draw(made)
    pen.text((0, 0), name, fill=INK, font=font_of(TITLE, "-Bold"))
    pictures = after.images
    for place, picture in enumerate(pictures):
        width = SIDE // len(pictures) - 2
        small = ImageOps.contain(picture.convert("RGB"), (width, FRAME), Image.Resampling.BICUBIC)
        made.paste(small, (place * (width + 4), top))
        left, right = place * (width + 4), place * (width + 4) + small.width - 1
        pen.rectangle((left, top, right, top + small.height - 1), outline=GREY)
    if not pictures:
        pen.text((0, top), "(no image)", fill=GREY, font=font_of(WRITING))
    for number, line in enumerate(lines):
        pen.text((0, top + FRAME + 4 + number * (WRITING + 3)), line, fill=INK, font=font_of(WRITING))
    return made


def _added(before: Item, after: Item) -> list[str]:
    """Return what a condition added to the text, in the lines of a panel."""
    if user_text(before) == user_text(after):
        return []
    lines = list(filter(None, wrapped(after.context or after.context_after, font_of(WRITING), SIDE)))
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "[...]"]


def encoded(image: Image.Image) -> bytes:
    """Return a figure as its file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=70, method=6)
    return buffer.getvalue()


def page() -> str:
    """Return the Markdown of docs/conditions.md."""
    parts = [HEAD]
    for family in FAMILIES:
        item, names = examples()[family], ", ".join(one.name for one in pictured(family))
        parts.append(f"## {TITLES[family]}: `{family}`\n")
        parts.append(f"![One item under {names}]({FOLDER}/{family}.webp)\n")
        parts += [_section(one, item, family) for one in shown(family)]
    parts.append(FLOOR_SAID.format(doc=_doc(CONDITIONS[FLOOR])))
    return "\n".join(parts)


def _section(one: Condition, item: Item, family: str) -> str:
    uses = "The reference." if one.name == REFERENCE[family] else ""
    uses += f" {'In' if one.seen else 'Not in'} training; asked {'by default' if one.published else 'when named'}."
    uses += "" if one.role == "interferes" else " In no worst case and no mean."
    lines = [f"### `{one.name}`\n", f"{_doc(one)}\n", f"{uses.strip()} Version {one.version}.\n"]
    for name, parameter in one.parameters.items():
        lines.append(f"- `{name}`: {_values(parameter.valid)} (default: {parameter.default})")
    lines += [""] if one.parameters else []
    if instructed := CONDITIONS.get(INSTRUCTED + one.name):
        lines.append(f"`{instructed.name}` begins with: *{instructed.instruction}*\n")
    if user_text(one(item)) != user_text(item) or one.name == REFERENCE[family]:
        lines.append(f"```text\n{_wrapped(user_text(one(item))) or '(no text)'}\n```\n")
    return "\n".join(lines)


def _values(valid: range | Between | tuple[str, ...]) -> str:
    if isinstance(valid, Between):
        return f"above {valid.least:g}, up to {valid.most:,}"
    return f"{valid[0]} to {valid[-1]}" if isinstance(valid, range) else ", ".join(valid)


def _doc(one: Condition) -> str:
    return inspect.getdoc(one.perturb)


def _wrapped(text: str) -> str:
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="default: %(default)s")
    out = parser.parse_args(argv).out
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    write_whole(out / "conditions.md", page())
    for family in FAMILIES:
        (out / FOLDER / f"{family}.webp").write_bytes(encoded(figure(family)))


if __name__ == "__main__":
    main()
