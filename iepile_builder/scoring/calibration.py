"""
Fit on validation records what decides when a label is empty, and what makes the scores of facts probabilities.

A label whose first decision has log-odds `x` is answered with an item where `x + empty_bias > 0`. From answers with
some bias, those with any lower one follow without the model: the labels that it would close lose their facts. (The
labels after a closed one in the same answer would be read in another context; that is neglected.) What a higher bias
would add is not known: answers made with a generous bias can be calibrated up to it.
"""

from typing import Any, NamedTuple

import numpy as np

from iepile_builder.answers.scores import Calibration
from iepile_builder.scoring.matching import mark_hits
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.scoring.significance import paired_test, precision_recall_f1
from iepile_builder.tasks import TASKS


FOLDS = 5
MIN_RECORDS_TO_FIT = 20  # of a task
MIN_FACTS_TO_FIT = 20
MAX_CUTS = 500  # biases that are tried
RESAMPLES = 1000
MAX_P = 0.05  # of a bias that is not 0: with few records, most that look good do not hold on others


class Answered(NamedTuple):
    """The predicted facts of a task, in arrays, and the gold facts of each record."""

    opened: np.ndarray[Any, Any]  # of each fact, the log-odds that its label has any item
    logits: np.ndarray[Any, Any]  # the log-odds of its uncalibrated score
    hits: np.ndarray[Any, Any]  # whether it is right
    records: np.ndarray[Any, Any]  # number of its record
    gold: np.ndarray[Any, Any]  # of each record, the number of gold facts


def fit_calibration(scorer: Scorer, biases: dict[str, float]) -> tuple[Calibration, dict[str, dict[str, Any]]]:
    """
    Fit a calibration to answers to validation records.

    The bias of a task is the one with the best F1 (strict, all facts of the task), or 0 where 5-fold cross-validation
    over records finds no significant gain (p < 0.05). Scores are fitted by Platt scaling to the facts that remain; the
    slope is never negative, so that no order of facts is reversed. `biases` maps tasks to the `empty_bias` that the
    answers were made with, by default 0.

    Returns:
        `tuple[Calibration, dict]`: The calibration, and for each task what it was fitted on: `records`, `facts`, and
        in percent `f1_before` (with bias 0, or that of the answers if it is lower), `f1_after` and
        `f1_cross_validated` (each fold scored with the bias that the other folds choose), with the `p_value` of its
        difference from `f1_before`; `limit` is the largest bias that could be tried, `tried` the one with the best F1.
        Tasks with fewer than 20 records are left out; those with fewer than 20 facts left have no scaling of scores.
    """
    empty_bias, score, fitted = {}, {}, {}
    for task, answered in _collect(scorer).items():
        if len(answered.gold) < MIN_RECORDS_TO_FIT:
            continue
        limit = biases.get(task, 0.0)
        every = np.ones(len(answered.gold), dtype=bool)
        before = _count(answered, min(0.0, limit), limit)
        tried = bias = _best_bias(answered, limit, every)
        folds = np.arange(len(answered.gold)) % FOLDS
        held_out = np.zeros_like(before)
        for fold in range(FOLDS):
            chosen = _count(answered, _best_bias(answered, limit, folds != fold), limit)
            held_out[folds == fold] = chosen[folds == fold]
        test = paired_test(held_out, before, RESAMPLES, 0.95, seed=0)
        if test["difference"] <= 0 or test["p_value"] > MAX_P:
            bias = min(0.0, limit)
        empty_bias[task] = round(bias, 4)
        kept = _is_kept(answered, bias, limit)
        if kept.sum() >= MIN_FACTS_TO_FIT:
            score[task] = fit_platt(answered.logits[kept], answered.hits[kept])
        fitted[task] = {
            "records": len(answered.gold),
            "facts": int(kept.sum()),
            "limit": limit,
            "tried": round(tried, 4),
            "f1_before": test["other_f1"],
            "f1_after": _f1(_count(answered, bias, limit)),
            "f1_cross_validated": test["f1"],
            "p_value": test["p_value"],
        }
    return Calibration(empty_bias, score), fitted


def _collect(scorer: Scorer) -> dict[str, Answered]:
    """Collect the facts of each task; those without a decision are never closed, and have score 1/2."""
    rows: dict[str, list[tuple[float, float, bool, int]]] = {}
    gold_facts: dict[str, list[int]] = {}
    for key, record, gold in scorer.compared():
        number = len(gold_facts.setdefault(key.task, []))
        gold_facts[key.task].append(len(gold))
        for hit, decision in zip(mark_hits(gold, record.facts), record.decisions, strict=True):
            opened, logit = (np.inf, 0.0) if decision is None else (decision.opened, decision.logit)
            rows.setdefault(key.task, []).append((opened, logit, hit, number))
    collected = {}
    for task in (task for task in TASKS if task in gold_facts):
        columns = np.array(rows.get(task, []), dtype=float).reshape(-1, 4).T
        opened, logits, hits, records = columns
        gold_counts = np.array(gold_facts[task])
        collected[task] = Answered(opened, logits, hits.astype(bool), records.astype(int), gold_counts)
    return collected


def _is_kept(answered: Answered, bias: float, limit: float) -> np.ndarray[Any, Any]:
    """Tell which facts remain with a bias; with that of the answers all of them."""
    return (answered.opened + bias > 0) | (bias >= limit)


def _count(answered: Answered, bias: float, limit: float) -> np.ndarray[Any, Any]:
    """Count the right, predicted and gold facts of each record with a bias."""
    kept = _is_kept(answered, bias, limit)
    right, predicted = (
        np.bincount(answered.records[facts], minlength=len(answered.gold)) for facts in (kept & answered.hits, kept)
    )
    return np.stack([right, predicted, answered.gold], axis=-1)


def _f1(counts: np.ndarray[Any, Any]) -> float:
    return float(precision_recall_f1(counts.sum(axis=0))[2])


def _best_bias(answered: Answered, limit: float, records: np.ndarray[Any, Any]) -> float:
    """Find the bias with the best F1 of some records, of several the nearest to 0."""
    mine = records[answered.records] & np.isfinite(answered.opened)
    cuts = np.unique(answered.opened[mine])
    cuts = cuts[:: 1 + len(cuts) // MAX_CUTS]
    middles = -(cuts[1:] + cuts[:-1]) / 2  # between two labels, as far as possible from both
    biases = [min(0.0, limit), limit, *(float(each) for each in middles if each < limit)]
    return max(biases, key=lambda bias: (_f1(_count(answered, bias, limit)[records]), -abs(bias)))


def fit_platt(logits: np.ndarray[Any, Any], hits: np.ndarray[Any, Any]) -> tuple[float, float]:
    """
    Fit `sigmoid(slope * logit + intercept)` to the shares of right facts, by maximum likelihood.

    Targets are those of Platt (1999), away from 0 and 1 by as much as few facts call for. A slope that would be
    negative is 0: all scores are then the share of right facts.
    """
    right = int(hits.sum())
    targets = np.where(hits, (right + 1) / (right + 2), 1 / (len(hits) - right + 2))
    features = np.stack([logits, np.ones(len(logits))])
    weights = np.zeros(2)

    def loss(weights: np.ndarray[Any, Any]) -> float:
        scores = weights @ features
        return float(np.sum(np.logaddexp(0, scores) - targets * scores))

    for _ in range(100):  # Newton's method; a step that does not lower the loss is halved
        probabilities = 1 / (1 + np.exp(-np.clip(weights @ features, -500, 500)))
        gradient = features @ (probabilities - targets)
        curvature = (features * (probabilities * (1 - probabilities))) @ features.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    if weights[0] < 0:
        share = float(targets.mean())
        return 0.0, float(np.log(share / (1 - share)))
    return float(weights[0]), float(weights[1])
