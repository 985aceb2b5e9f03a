"""What lmms-eval's `generation_kwargs` mean to our model: held against transformers and upstream's own parser."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from lmms_eval.utils import simple_parse_args_string

from mmi_plugin.errors import InputError
from mmi_plugin.models.decode import Decoding
from tests.harness_runs import TASKS


def parse(text: str) -> Decoding:
    """Read a value of `--gen_kwargs` as lmms-eval does."""
    return Decoding.parse(simple_parse_args_string(text))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Decoding(128, 0, 1.0, 0, ())),
        ({"until": "\n\n"}, Decoding(stops=("\n\n",))),
        ({"until": ["\n\n", "", "Q:"]}, Decoding(stops=("\n\n", "Q:"))),
        ({"until": None, "num_beams": None, "temperature": None, "top_p": None}, Decoding()),
        ({"until": ["ASSISTANT:"], "stop_sequences": ["\n"]}, Decoding(stops=("ASSISTANT:", "\n"))),
        ({"num_beams": 1, "do_sample": False, "temperature": 0.0, "top_p": 1.0, "top_k": 1}, Decoding()),
        ({"repetition_penalty": None, "image_aspect_ratio": "original"}, Decoding()),
        ({"max_new_tokens": 16, "repetition_penalty": 2}, Decoding(16, repetition_penalty=2.0)),
    ],
)
def test_a_yaml_means_what_it_means_upstream(settings: dict[str, Any], expected: Decoding) -> None:
    assert Decoding.parse(settings) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_new_tokens=7,min_new_tokens=2,no_repeat_ngram_size=3", Decoding(7, 2, 1.0, 3)),
        ("repetition_penalty=1.05,until=Q:", Decoding(repetition_penalty=1.05, stops=("Q:",))),
        ("num_beams=None,temperature=0,top_p=null,do_sample=False", Decoding()),
        ('until=["Q:"]', Decoding(stops=("Q:",))),
        ("until=none", Decoding(stops=("none",))),
    ],
)
def test_a_command_line_means_the_same(text: str, expected: Decoding) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bogus_arg=3", "no setting 'bogus_arg': valid: do_sample, "),
        ("repetition_penality=2", "did you mean 'repetition_penalty'?"),
        ("max_tokens=2", "did you mean 'max_new_tokens'?"),
        ("num_beams=4", "num_beams=4: mmi_hf decodes greedily: num_beams=1"),
        ("do_sample=true", "do_sample=True: mmi_hf decodes greedily: do_sample=False"),
        ("do_sample=1", "mmi_hf decodes greedily"),
        ("temperature=0.7", "temperature=0.7: mmi_hf decodes greedily: temperature=0"),
        ("top_p=0.9", "mmi_hf decodes greedily"),
        ("top_k=50", "mmi_hf decodes greedily"),
        ("max_new_tokens=0", "max_new_tokens is 0, not an integer of 1 or more"),
        ("max_new_tokens=1.5", "max_new_tokens is 1.5, not an integer"),
        ("max_new_tokens=true", "max_new_tokens is True, not an integer"),
        ("max_new_tokens=many", "max_new_tokens is 'many', not an integer"),
        ("max_new_tokens=inf", "max_new_tokens is inf, not an integer"),
        ("repetition_penalty=-1", "repetition_penalty is -1.0, not a positive number"),
        ("repetition_penalty=nan", "repetition_penalty is nan, not a positive number"),
        ("min_new_tokens=5,max_new_tokens=4", "min_new_tokens is 5, more than max_new_tokens, 4"),
        ("until=3", "until is 3, not a text or a list of texts"),
        ("image_aspect_ratio=pad", "mmi_hf leaves images as they are to the processor: image_aspect_ratio='original'"),
        ("max_pixels=4", "give --model_args max_pixels=N"),
        ("system_prompt=x", "give --system_instruction TEXT"),
    ],
)
def test_what_would_not_act_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        parse(text)
    assert said in str(error.value) and str(error.value).startswith("--gen_kwargs: ")
    assert "\n" not in str(error.value)


def test_our_own_tasks_are_read() -> None:
    text = (TASKS / "_mmi_base").read_text(encoding="utf-8").replace("!function", "")
    assert Decoding.parse(yaml.safe_load(text)["generation_kwargs"]) == Decoding(max_new_tokens=16)


@pytest.mark.parametrize(("text", "cut"), [("B. Q: x\n\ny", "B. "), ("B", "B"), ("\n\nB", ""), ("Q\n", "Q\n")])
def test_an_answer_ends_before_the_first_stop(text: str, cut: str) -> None:
    assert Decoding(stops=("\n\n", "Q:")).cut(text) == cut


def test_the_record_is_json() -> None:
    assert parse("max_new_tokens=3,until=Q:").to_dict() == {
        "max_new_tokens": 3,
        "min_new_tokens": 0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "stops": ["Q:"],
    }
