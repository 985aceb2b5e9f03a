"""lmms-eval's command line in, an InputError out unless every flag acts on the tasks of this package."""

from __future__ import annotations

import ast
import inspect
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytz  # with which lmms-eval reads `--timezone`
from lmms_eval.api.model import lmms
from lmms_eval.models import get_model, list_available_models
from lmms_eval.utils import simple_parse_args_string

from mmi_plugin.answers import tag_pairs
from mmi_plugin.conditions import get
from mmi_plugin.disk import check_writable
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.models.decode import Decoding

ACTS = (
    *("config", "model", "tasks", "model_args", "gen_kwargs", "system_instruction", "reasoning_tags", "force_simple"),
    *("batch_size", "max_batch_size", "device", "limit", "offset", "use_cache", "process_docs_parallel"),
    "include_path",
    *("output_path", "log_samples", "write_out", "show_config", "verbosity", "timezone"),
    *("wandb_args", "swanlab_args", "hf_hub_log_args", "power_analysis", "tui"),
)
NEEDS = {
    "wandb_log_samples": "wandb_args",
    "swanlab_log_samples": "swanlab_args",
    **dict.fromkeys(("effect_size", "alpha", "power", "correlation", "std_a", "std_b"), "power_analysis"),
}
"""Flags that act only beside another one."""
REFUSED = {
    "agentic_trace_mode": "every item is asked in one round",
    "apply_chat_template": "a chat model always applies its own template; leave it out",
    "baseline": "lmms-eval joins two runs by position; `mmi leaderboard A=OUT1 B=OUT2 --baseline A` does by item",
    "cache_requests": "it would bring back prompts of an older benchmark; leave it out",
    "check_integrity": "lmms-eval has no tests of these tasks; `make test` runs ours",
    "fewshot_as_multiturn": "items are asked without examples; leave it out",
    "launcher_args": "no answer is judged by a model; leave it out",
    "log_samples_suffix": "lmms-eval does not read it: samples are named by their task",
    "num_fewshot": "items are asked without examples: --num_fewshot 0",
    "predict_only": "every answer is scored: --log_samples also keeps it",
    "process_with_media": "answers are scored from their text; leave it out",
    "repeats": "of several answers to one prompt lmms-eval scores the first: --repeats 1",
    "trust_remote_code": "lmms-eval does not read it: --model_args trust_remote_code=True",
}
"""Flags that would change nothing, or harm, whatever the model."""
REFUSED_BY_OURS = {
    "max_tokens": "mmi_hf has no budget for a whole run: --gen_kwargs max_new_tokens=N is one for each answer",
    "seed": "mmi_hf draws nothing: `seed` in a task's dataset_kwargs is that of the conditions, "
    "--model_args vcd_seed=N that of a baseline",
}
"""Flags that act on other models of lmms-eval, and on which of ours is said here why not."""


def check_values(args: Namespace, resume: bool) -> None:
    """Raise InputError for what upstream would answer with status 0 or a page of traceback."""
    for name in ("model_args", "gen_kwargs", "hf_hub_log_args"):
        key_values(args, name)
    thought_tags(args.reasoning_tags)
    if args.timezone not in pytz.all_timezones_set:
        raise InputError(f"--timezone: no zone {args.timezone!r}: {nearest(args.timezone, pytz.all_timezones)}")
    known = list_available_models(include_aliases=True)
    if args.model not in known:
        raise InputError(f"--model: no model {args.model!r}: {nearest(args.model, known)}")
    if args.limit is not None and args.limit != -1 and args.limit <= 0:
        raise InputError(f"--limit is {args.limit:g}: it must be positive, or -1 for all")
    if args.offset < 0:
        raise InputError(f"--offset is {args.offset}: it must not be negative")
    if args.log_samples and not args.output_path:
        raise InputError("--log_samples needs --output_path")
    if key_values(args, "model_args").get("trace") is True and not args.output_path:
        raise InputError("--model_args trace=True needs --output_path, where the profile is written")
    if resume and not args.output_path:
        raise InputError("--resume needs the --output_path of the run that was killed")
    if args.output_path:
        check_writable(Path(args.output_path), f"--output_path {args.output_path}")


def check_tasks(args: Namespace, own: dict[str, Any]) -> None:
    """Raise InputError for what would have no effect on the tasks `own`, or a wrong one."""
    model = get_model(args.model, args.force_simple)
    if not own:
        return
    check_flags(args, model)
    if model.is_simple and len(own) > 1 and str(args.batch_size) != "1":
        raise InputError(
            f"--batch_size {args.batch_size}: {args.model} would take the images of a batch from one task for another; "
            "ask for one task, or --batch_size 1"
        )
    if is_ours(model):
        for task in own.values():
            Decoding.parse({**task.config.generation_kwargs, **key_values(args, "gen_kwargs")})
    for name, task in own.items():
        check_attacks(args, model, name, task.selection.conditions)


def check_attacks(args: Namespace, model: type, task: str, conditions: Sequence[str]) -> None:
    """Raise InputError for a condition under which another model than ours would be asked the reference."""
    attacks = [one for one in conditions if get(one).attack]
    if attacks and not is_ours(model):
        raise InputError(f"--model {args.model}: {task} asks {attacks[0]!r}, which only mmi_hf has gradients for")
    if attacks and (baseline := key_values(args, "model_args").get("baseline")):
        raise InputError(
            f"--model_args baseline={baseline}: {task} asks {attacks[0]!r}, which attacks only a model as it is"
        )


def check_flags(args: Namespace, model: type) -> None:
    """Raise InputError, which names what would do, for a flag that would have no effect on our tasks.

    args: of upstream's command line; model: the class of `--model`.
    """
    names, defaults = _upstream()
    given = {name for name in names if getattr(args, name, defaults[name]) != defaults[name]}
    for name in sorted(given):
        reason = REFUSED.get(name) or (is_ours(model) and REFUSED_BY_OURS.get(name))
        if reason and not (name == "num_fewshot" and args.num_fewshot == 0):
            raise InputError(f"{names[name]}: {reason}")
        if NEEDS.get(name, name) not in given:
            raise InputError(f"{names[name]} needs {names[NEEDS[name]]}")
    if args.swanlab_args and find_spec("swanlab") is None:
        raise InputError("--swanlab_args: the package swanlab is not installed; --wandb_args logs to wandb")
    if args.force_simple and not model.is_simple:
        raise InputError(f"--force_simple: {args.model} is a chat model only; leave it out")
    if not is_ours(model):
        _check_read(args, model)


def is_ours(model: type) -> bool:
    """Whether a model class is of this package, and decodes as `models.decode` says."""
    return model.__module__.partition(".")[0] == "mmi_plugin"


def key_values(args: Namespace, name: str) -> dict[str, Any]:
    """Return a flag of the form KEY=VALUE,... as upstream reads it. Raises InputError for another form."""
    given = getattr(args, name) or {}
    try:
        return simple_parse_args_string(given) if isinstance(given, str) else dict(given)
    except ValueError as error:
        hint = f": --{name} pretrained={given}?" if name == "model_args" and "=" not in given else ""
        raise InputError(f"--{name} {given!r}: not of the form KEY=VALUE,KEY=VALUE{hint}") from error


def thought_tags(given: Any) -> tuple[tuple[str, str], ...]:
    """Return the tags of thoughts that `--reasoning_tags` or a task's `reasoning_tags` list: see `tag_pairs`.

    Raises InputError for another form.
    """
    try:
        return tag_pairs(given, default_of("reasoning_tags"))
    except ValueError as error:
        raise InputError(f"--reasoning_tags {given!r}: not a JSON list of [start, end] pairs, nor none") from error


def default_of(name: str) -> Any:
    """Return the value of an argument of upstream's that is not given."""
    return _upstream()[1][name]


@cache
def _upstream() -> tuple[dict[str, str], dict[str, Any]]:
    """Return upstream's flags and their defaults, by the name of the argument."""
    from lmms_eval import __main__ as upstream

    before, sys.argv = sys.argv, sys.argv[:1]
    try:
        parser, defaults = upstream.parse_eval_args()
    finally:
        sys.argv = before
    known = set(parser.format_help().replace(",", " ").split())
    spelled = {name: (f"--{name}", f"--{name.replace('_', '-')}") for name in vars(defaults)}
    return {name: next(flag for flag in flags if flag in known) for name, flags in spelled.items()}, vars(defaults)


def _check_read(args: Namespace, model: type) -> None:
    """Raise InputError for a key of `--gen_kwargs` that the sources of a model of lmms-eval's never name."""
    known = _names_in(model)
    for key in key_values(args, "gen_kwargs"):
        if known is not None and key not in known:
            raise InputError(f"--gen_kwargs: {args.model} does not read {key!r}: {nearest(key, known & _COMMON)}")


_COMMON = {"max_new_tokens", "temperature", "do_sample", "top_p", "top_k", "num_beams", "until", "repetition_penalty"}


def _names_in(model: type) -> set[str] | None:
    """Return every text constant in the model's modules; None where one hands all settings on as they are."""
    found: set[str] = set()
    for module in {base.__module__ for base in model.__mro__ if issubclass(base, lmms) and base is not lmms}:
        try:
            nodes = list(ast.walk(ast.parse(inspect.getsource(sys.modules[module]))))
        except OSError:  # of another package, without its source
            return None
        found |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        if any(_is_settings(keyword) for node in nodes if isinstance(node, ast.Call) for keyword in node.keywords):
            return None
    return found


def _is_settings(keyword: ast.keyword) -> bool:
    """Whether a call's argument is `**gen_kwargs` or the like."""
    return keyword.arg is None and isinstance(keyword.value, ast.Name) and "gen" in keyword.value.id
