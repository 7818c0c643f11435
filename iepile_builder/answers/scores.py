"""
Score the facts of an answer by the model's own decisions.

A model that writes a label's list decides before each item whether to write one or to close the list. Engines report
for each item the log-odds of that decision and the log-probability of the item's tokens. The *score* of the item's
facts is the probability that the label has any item, times that the list continues after the items before, times that
this item comes next: `sigmoid(opened) * sigmoid(continued) * exp(logprob)`, for the first item without the second.
(On validation records it ranks better than the item's own decision alone: a model that has begun a list continues it
too easily.) It is between 0 and 1 but not calibrated: of facts that score 0.7, more or less than 70% may be right.
With a [`Calibration`], which `iepile calibrate` fits on validation records, it estimates the probability that the fact
is right.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, expm1, inf, isfinite, log, log1p
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Fact


CALIBRATION = "calibration.json"  # in the folder of an adapter or model
MAX_LOGIT = 30.0  # beyond it, exp(-x) hardly changes a float64 near 1
Decisions = Mapping[str, list[Any]]  # key of an answer -> [log_odds, logprob] of each item, then [log_odds, None]


class Decision(NamedTuple):
    """What a model decided when it wrote an item, in nats."""

    opened: float  # log-odds that the label has any item, from the first decision of its list
    continued: float  # log-odds of this item after those before it; infinite for the first item
    logprob: float  # log-probability of the item's tokens

    @property
    def logit(self) -> float:
        """The log-odds of the score, uncalibrated and within `MAX_LOGIT`."""
        logp = min(self.logprob, 0.0) + _log_sigmoid(self.opened) + _log_sigmoid(self.continued)
        return MAX_LOGIT if logp > -exp(-MAX_LOGIT) else max(logp - log(-expm1(logp)), -MAX_LOGIT)


@dataclass(frozen=True)
class Calibration:
    """
    What `iepile calibrate` fits on validation records, for each task.

    `empty_bias` is added to the log-odds of a label's first decision, in nats; `score` holds slope and intercept of
    Platt scaling: a fact's score is `sigmoid(slope * logit + intercept)`.
    """

    empty_bias: dict[str, float] = field(default_factory=dict)
    score: dict[str, tuple[float, float]] = field(default_factory=dict)


def score_decision(decision: Decision, task: str, calibration: Calibration | None = None) -> float:
    """Compute the score of an item's facts, between 0 and 1, calibrated where there is a calibration for the task."""
    slope, intercept = (calibration.score if calibration is not None else {}).get(task, (1.0, 0.0))
    return sigmoid(slope * decision.logit + intercept)


def sigmoid(x: float) -> float:
    """Compute `1 / (1 + exp(-x))` for any float."""
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def _log_sigmoid(x: float) -> float:
    return min(x, 0.0) - log1p(exp(-abs(x)))


def decide_facts(
    answer: Mapping[str, Any] | None, decisions: Decisions | None, task: str, schema: Schema
) -> dict[Fact, Decision]:
    """
    Find the decision behind each fact of an answer, where it is known.

    `decisions` are the engine's: for each key a pair of log-odds and log-probability for each item, then one for the
    end of the list. All facts of an item (an event and its arguments) have the item's; of two items that say the same,
    the one with the higher score counts.
    """
    found: dict[Fact, Decision] = {}
    for key, pairs in (decisions or {}).items():
        if answer is None or key not in answer:
            continue
        for index, (item, (log_odds, logprob)) in enumerate(zip(_list_items(answer[key]), pairs, strict=False)):
            if logprob is None:
                break
            decision = Decision(pairs[0][0], log_odds if index else inf, logprob)
            for fact in TASKS[task].parse({key: item}, schema):
                if fact not in found or decision.logit > found[fact].logit:
                    found[fact] = decision
    return found


def _list_items(value: Any) -> list[Any]:
    """List the items of a label's value, each as a value with this item alone."""
    if isinstance(value, list):
        return [[item] for item in value]
    return [{name: item} for name, item in value.items()] if isinstance(value, dict) else [value]


def keep_likeliest(labelled: Sequence[tuple[Hashable, str]], decisions: Sequence[Decision | None]) -> list[bool]:
    """
    Tell which of a text's facts, each a mention and its label, to keep so that a mention has one label: that of its
    highest score, in whatever order the facts are. A mention without any score keeps all of its labels.
    """
    best: dict[Hashable, tuple[float, str]] = {}
    for (mention, label), decision in zip(labelled, decisions, strict=True):
        if decision is not None:  # the uncalibrated score: a slope of 0 makes all calibrated ones equal
            best[mention] = max(best.get(mention, (decision.logit, label)), (decision.logit, label))
    return [mention not in best or best[mention][1] == label for mention, label in labelled]


def check_decisions(decisions: object) -> None:
    """Raise an `InputError` for decisions that are not in the form of [`decide_facts`]."""

    def is_number(value: object) -> bool:
        return isinstance(value, (int, float)) and isfinite(value)

    def is_pair(pair: object) -> bool:
        pair = pair if isinstance(pair, list) else []
        return len(pair) == 2 and is_number(pair[0]) and (pair[1] is None or is_number(pair[1]))

    if not isinstance(decisions, dict) or not all(
        isinstance(pairs, list) and all(map(is_pair, pairs)) for pairs in decisions.values()
    ):
        raise InputError(
            "field 'decisions' is not an object from label to pairs [log_odds, logprob], as iepile predict writes it"
        )


def load_calibration(path: Path) -> Calibration:
    """
    Read a `calibration.json`.

    Raises:
        `InputError`: If there is no such file, or it has another form.
    """
    try:
        value = orjson.loads(path.read_bytes())  # which takes neither NaN nor too large numbers
        empty_bias = dict(value["empty_bias"].items())
        score = {task: (slope, shift) for task, (slope, shift) in value.get("score", {}).items()}
        numbers = [*empty_bias.values(), *(number for pair in score.values() for number in pair)]
        if not all(type(number) in (int, float) for number in numbers):
            raise ValueError
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; iepile calibrate writes it") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a calibration, as iepile calibrate writes it") from None
    return Calibration(empty_bias, score)
