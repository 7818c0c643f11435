"""Score the labels whose names a training has asked for, and the others."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from iepile_builder.io import fold
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.scorer import STRICT, Scorer
from iepile_builder.scoring.significance import compute_interval, draw_resamples, mark_small, precision_recall_f1
from iepile_builder.scoring.tally import Counts
from iepile_builder.tasks import TASKS


def score_by_training(
    scorer: Scorer,
    trained: Mapping[str, Iterable[str]],
    matching: Matching = STRICT,
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Score the facts of labels whose names a training has seen, and those of the others, pooled over corpora.

    Names are the same that differ in case, underscores and white space alone. A role or attribute belongs to the label
    that is asked for: to its event type or entity type.

    Args:
        scorer ([`Scorer`]):
            The answers.
        trained (`Mapping[str, Iterable[str]]`):
            Task to the label names that training asked for. Those of a task also hold for the tasks that its corpora
            serve, such as those of EE for EET.
        matching ([`Matching`], *optional*):
            When a predicted fact matches a gold fact, in a mode that compares labels; strict by default.
        resamples, confidence, seed (*optional*):
            Of the bootstrap over records; without resamples there are no intervals.

    Returns:
        `dict`: By task (in EE and EEA, by block within it), `seen` and `unseen`, each with `precision`, `recall`, `f1`
        (percentages), `tp`, `pred`, `gold` (facts), `labels` (asked for, counted in each corpus), `records` (with such
        facts), and with resamples `intervals` of the three scores, with `n_too_small` as in [`Scorer.report`].
    """
    names = {
        task: {
            fold_label(label) for other in TASKS.values() if task in (other.name, *other.also_serves)
            for label in trained.get(other.name, ())
        }
        for task in TASKS
    }  # fmt: skip

    def is_seen(task: str, label: str) -> bool:
        return fold_label(label) in names[task]

    rows: dict[tuple[str, str, bool], np.ndarray] = defaultdict(lambda: np.zeros((len(scorer.records), 3)))
    asked: dict[tuple[str, bool], set[tuple[str, str]]] = defaultdict(set)
    for number, (key, record, gold) in enumerate(scorer.compared()):
        for label in TASKS[key.task].labels(record.schema()):
            asked[key.task, is_seen(key.task, label)].add((key.source, label))
        for seen in (True, False):
            annotated, predicted = (
                [fact for fact in facts if is_seen(key.task, fact.asked_label) == seen]
                for facts in (gold, record.facts)
            )
            for (block, _), counts in matching.compare(annotated, predicted, record.text, key.task).items():
                rows[key.task, block, seen][number] += counts

    def score(task: str, block: str, seen: bool) -> dict[str, Any]:
        counts = rows[task, block, seen]
        total = Counts(*counts.sum(axis=0).tolist())
        scores: dict[str, Any] = total.scores() | {"tp": total.tp, "pred": total.pred, "gold": total.gold}
        scores |= {"labels": len(asked[task, seen]), "records": int(counts.any(axis=1).sum())}
        if resamples:
            weights = draw_resamples(len(counts), resamples, seed)
            values = precision_recall_f1(np.concatenate([part @ counts for part in weights]))
            bounds = compute_interval(values, confidence)
            scores["intervals"] = dict(zip(("precision", "recall", "f1"), bounds, strict=True))
            scores |= mark_small(scores["records"])
        return scores

    report: dict[str, Any] = {}
    for task in (task for task in TASKS if any(key.task == task for key in scorer.records)):
        blocks = {
            block: {name: score(task, block, seen) for name, seen in (("seen", True), ("unseen", False))}
            for block in TASKS[task].blocks
        }
        report[task] = blocks.get("", blocks)
    return report


def fold_label(label: str) -> str:
    """Fold what does not make another label name: case, underscores and white space."""
    return fold(label.replace("_", " "))
