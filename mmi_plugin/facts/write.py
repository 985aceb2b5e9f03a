"""Ask a language model for facts on every item's wrong options, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tqdm import tqdm

from mmi_plugin.answers import mentions
from mmi_plugin.conditions.text import with_article
from mmi_plugin.facts.writers import Write
from mmi_plugin.items import Item
from mmi_plugin.sources.facts_file import Facts, FactsFile

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
