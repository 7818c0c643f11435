"""Tell how well the scores of facts separate right from wrong ones, and whether they are probabilities."""

from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np

from iepile_builder.scoring.matching import mark_hits
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS


BINS = 10
POINTS = 200  # of a curve that are kept


class Ranked(NamedTuple):
    """Predicted facts with their scores."""

    scores: np.ndarray[Any, Any]  # of each fact, from 0 to 1
    hits: np.ndarray[Any, Any]  # whether it is right
    gold: int  # number of gold facts
    unscored: int  # predicted facts without a score, which the arrays do not have


def report_confidence(scorer: Scorer) -> dict[str, Any] | None:
    """
    Report how well scores separate right from wrong facts, and how well they are calibrated: `overall` and `tasks`,
    each as [`describe`] gives it; `None` if no answer has decisions.

    Strings are compared exactly, in every match mode; of facts that are repeated, the one with the highest score is
    right.
    """
    return describe_tasks(rank_facts(scorer)) if scorer.has_decisions else None


def describe_tasks(by_task: dict[str, Ranked]) -> dict[str, Any]:
    """Describe the scores of the facts of each task, and of all."""
    scores, hits, gold, unscored = zip(*by_task.values(), strict=True)
    overall = Ranked(np.concatenate(scores), np.concatenate(hits), sum(gold), sum(unscored))
    return {"overall": describe(overall), "tasks": {task: describe(ranked) for task, ranked in by_task.items()}}


def rank_facts(scorer: Scorer) -> dict[str, Ranked]:
    """Collect the predicted facts of each task with their scores."""
    found: dict[str, list[tuple[float, bool]]] = {task: [] for task in TASKS}
    gold_facts: Counter[str] = Counter()
    unscored: Counter[str] = Counter()
    for key, record, gold in scorer.compared():
        gold_facts[key.task] += len(gold)
        scored = []
        for fact, decision in zip(record.facts, record.decisions, strict=True):
            score = scorer.score(decision, key.task)
            if score is None:
                unscored[key.task] += 1
            else:
                scored.append((score, fact))
        scored.sort(key=lambda pair: -pair[0])
        hits = mark_hits(gold, [fact for _, fact in scored])
        found[key.task] += [(score, hit) for (score, _), hit in zip(scored, hits, strict=True)]
    asked = {key.task for key in scorer.records}
    return {
        task: Ranked(
            np.array([score for score, _ in pairs], dtype=float),
            np.array([hit for _, hit in pairs], dtype=bool),
            gold_facts[task],
            unscored[task],
        )
        for task, pairs in found.items()
        if task in asked
    }


def describe(ranked: Ranked) -> dict[str, Any]:
    """
    Describe the scores of some facts.

    Returns:
        `dict`: All numbers but counts are percentages.
            `facts` and `unscored` (predicted facts with and without a score), `gold`;
            `average_precision`: the precision at each score threshold, weighted by the recall that it adds; recall is
            of all gold facts, so that it does not reach 100 where facts are missed;
            `calibration_error`: the expected calibration error, the mean over facts of the distance between score and
            precision of their bin, in 10 bins of equal numbers of facts (equal scores share a bin);
            `curve`: score, precision and recall of the facts from this score on, at most 200 points;
            `reliability`: mean score, precision and number of facts of each bin.
    """
    order = np.argsort(-ranked.scores, kind="stable")
    scores, hits = ranked.scores[order], ranked.hits[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.array([], dtype=int)
    right = np.cumsum(hits)[last]
    precision, recall = right / (last + 1), right / max(ranked.gold, 1)
    bins = _fill_bins(ranked)
    error = sum(abs(score - share) * facts for score, share, facts in bins) / max(len(scores), 1)
    kept = np.unique(np.linspace(0, max(len(last) - 1, 0), min(len(last), POINTS)).round().astype(int))
    return {
        "facts": len(scores),
        "unscored": ranked.unscored,
        "gold": ranked.gold,
        "average_precision": 100 * float(np.sum(np.diff(recall, prepend=0.0) * precision)),
        "calibration_error": 100 * error,
        "curve": [[100 * float(each) for each in (scores[last[i]], precision[i], recall[i])] for i in kept],
        "reliability": [[100 * score, 100 * share, facts] for score, share, facts in bins],
    }


def _fill_bins(ranked: Ranked) -> list[tuple[float, float, int]]:
    """Put facts into bins of equal numbers, as far as equal scores allow: mean score, precision, number of facts."""
    if not len(ranked.scores):
        return []
    edges = np.quantile(ranked.scores, np.linspace(0, 1, BINS + 1)[1:-1])
    members: dict[int, list[int]] = defaultdict(list)
    for index, place in enumerate(np.searchsorted(edges, ranked.scores)):
        members[int(place)].append(index)
    return [
        (float(ranked.scores[found].mean()), float(ranked.hits[found].mean()), len(found))
        for _, found in sorted(members.items())
    ]
