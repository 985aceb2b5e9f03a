"""Free-form answers in, how well they agree out: by the metrics of lmms-eval, which its own functions compute."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from mmi_plugin.errors import InputError, nearest

METRICS = {"exact_match": "exact match", "anls": "ANLS", "vqa_accuracy": "VQA accuracy"}
"""Metric -> its name as it is shown."""
LEAST = {"vqa_accuracy": 4}
"""Metric -> how many answers a question needs: VQA accuracy counts three of those of the other annotators."""
HALF = 0.5  # from this score on an answer is a right one; ANLS is 0 below it


def check_metric(metric: str, answers: Sequence[str], where: str) -> None:
    """Raise InputError that begins with `where` for a metric that is none, or needs more answers."""
    if metric not in METRICS:
        raise InputError(f"{where}: key 'metric' is {metric!r}: {nearest(metric, METRICS)}")
    if len(answers) < (least := LEAST.get(metric, 1)):
        raise InputError(
            f"{where}: {len(answers)} answers, and {metric} needs {least} at least, those of several people: "
            "exact_match and anls do with one"
        )


@lru_cache(maxsize=1 << 18)
def agreement(metric: str, said: str | None, answers: tuple[str, ...]) -> float:
    """Return how well an answer agrees with those that count, from 0 to 1.

    exact_match: whether it is one of them, but for case and punctuation. anls: its similarity to the nearest of them,
    0 below a half. vqa_accuracy: the share of three annotators who gave it, mean over leaving out each of them.
    """
    if said is None:
        return 0.0
    # These take seconds to import, and evaluations of choices do without them.
    if metric == "vqa_accuracy":
        from lmms_eval.tasks.vqav2.utils import vqav2_process_results

        given = [{"answer": answer, "answer_id": number} for number, answer in enumerate(answers)]
        return float(vqav2_process_results({"answers": given, "question_id": ""}, [said])["exact_match"])
    from lmms_eval.api.metrics import anls, exact_match_hf_evaluate

    if metric == "anls":
        return float(anls(references=answers, predictions=[said])["anls"])
    forgiving = {"ignore_case": True, "ignore_punctuation": True}  # as lmms-eval's own tasks of free-form questions
    return max(float(exact_match_hf_evaluate([said], [answer], **forgiving)["exact_match"]) for answer in answers)


def same(metric: str, said: str, before: str) -> bool:
    """Whether the metric takes an answer for another one, as if all annotators had given that."""
    return agreement(metric, said, (before,) * LEAST.get(metric, 1)) > 0
