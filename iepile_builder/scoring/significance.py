"""Estimate how certain scores are: bootstrap over records, and a paired test of two systems."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


CHUNK = 4_000_000  # weights held at a time
MIN_RECORDS_OF_INTERVAL = 10  # below, resamples of the records say little about others


def draw_resamples(records: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """
    Draw records with replacement: yields arrays of shape `(some resamples, records)`, how often each record was drawn.
    """
    rng = np.random.default_rng(seed)
    for size in _split_resamples(records, resamples):
        draws = (np.bincount(rng.integers(0, records, records), minlength=records) for _ in range(size))
        yield np.array(list(draws), dtype=np.float64)


def _split_resamples(records: int, resamples: int) -> Iterator[int]:
    """Split a number of resamples into parts that fit in memory."""
    size = max(1, CHUNK // records)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def precision_recall_f1(counts: np.ndarray) -> np.ndarray:
    """Compute percentages from matches, predicted and gold facts in the last dimension; 0 where undefined."""
    tp, pred, gold = np.moveaxis(counts, -1, 0)
    parts = ((tp, pred), (tp, gold), (2 * tp, pred + gold))
    return np.stack([100 * a / np.maximum(b, 1) for a, b in parts], axis=-1)


def compute_interval(values: np.ndarray, confidence: float) -> Any:
    """Compute the percentile interval along the first dimension."""
    return np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).T.tolist()


def format_interval(interval: Sequence[float], records: float, form: str = "{:.2f} to {:.2f}") -> str:
    """Write an interval for people, or that it comes from too few records to say anything."""
    return form.format(*interval) if records >= MIN_RECORDS_OF_INTERVAL else "n too small"


def mark_small(records: float) -> dict[str, Any]:
    """Give what a report says of an interval that [`format_interval`] does not show."""
    return {"n_too_small": True} if records < MIN_RECORDS_OF_INTERVAL else {}


def paired_test(first: np.ndarray, second: np.ndarray, resamples: int, confidence: float, seed: int) -> dict[str, Any]:
    """
    Compare the F1 of two systems on the same records.

    Args:
        first, second (`np.ndarray` of shape `(records, 3)`):
            Matches, predicted and gold facts of each system.
        resamples (`int`):
            Number of resamples, of the bootstrap and of the randomization.
        confidence (`float`):
            Confidence of the interval.
        seed (`int`):
            The same seed gives the same result.

    Returns:
        `dict`: `f1` and `other_f1`; their `difference`; its `interval` by paired bootstrap; and the two-sided
        `p_value` of approximate randomization: how often the difference is at least as large when each record's
        answers are swapped between the systems at random. `n_too_small` is `True` if there are fewer than 10 records.
    """
    totals = first.sum(axis=0), second.sum(axis=0)
    f1, other_f1 = (float(precision_recall_f1(total)[2]) for total in totals)
    differences = [
        precision_recall_f1(weights @ first)[:, 2] - precision_recall_f1(weights @ second)[:, 2]
        for weights in draw_resamples(len(first), resamples, seed)
    ]
    rng = np.random.default_rng(seed)
    extreme = 0
    for size in _split_resamples(len(first), resamples):
        swapped = rng.integers(0, 2, (size, len(first)), dtype=np.int8) @ (second - first)
        one, two = (precision_recall_f1(total)[:, 2] for total in (totals[0] + swapped, totals[1] - swapped))
        extreme += int((np.abs(one - two) >= abs(f1 - other_f1) - 1e-9).sum())
    return {
        "f1": f1,
        "other_f1": other_f1,
        "difference": f1 - other_f1,
        "interval": compute_interval(np.concatenate(differences), confidence),
        "p_value": (extreme + 1) / (resamples + 1),
        **mark_small(len(first)),
    }
