"""Intervals and the paired test, against a library's bootstrap and exhaustive enumeration."""

import itertools

import numpy as np
import pytest
from helpers.counting import count_calls

from iepile_builder.scoring.significance import (
    compute_interval,
    draw_resamples,
    paired_test,
    precision_recall_f1,
)


def counts(records: int, seed: int, right: float = 0.7) -> np.ndarray:
    """Matches, predicted and gold facts of records."""
    rng = np.random.default_rng(seed)
    gold, pred = rng.integers(0, 5, records), rng.integers(0, 5, records)
    return np.stack([rng.binomial(np.minimum(gold, pred), right), pred, gold], axis=1).astype(float)


def bootstrap_f1(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    parts = [precision_recall_f1(weights @ values)[:, 2] for weights in draw_resamples(len(values), resamples, seed)]
    return np.concatenate(parts)


def test_every_resample_has_as_many_records() -> None:
    weights = np.concatenate(list(draw_resamples(50, 200, seed=0)))
    assert weights.shape == (200, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.4)
    assert (weights == np.concatenate(list(draw_resamples(50, 200, seed=0)))).all()
    assert (weights != np.concatenate(list(draw_resamples(50, 200, seed=1)))).any()


def test_scores_by_hand() -> None:
    scores = precision_recall_f1(np.array([[1, 2, 4], [0, 0, 0], [0, 3, 0]]))
    assert scores == pytest.approx(np.array([[50, 25, 100 / 3], [0, 0, 0], [0, 0, 0]]))


def test_the_interval_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = counts(300, seed=1)
    theirs = stats.bootstrap(
        (np.arange(300),),
        lambda index, axis: precision_recall_f1(values[index].sum(axis=-2))[..., 2],
        n_resamples=5000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert compute_interval(bootstrap_f1(values, 5000, seed=0), 0.95) == pytest.approx(
        [theirs.low, theirs.high], abs=0.4
    )


def test_of_one_record_nothing_varies() -> None:
    low, high = compute_interval(bootstrap_f1(np.array([[1.0, 2, 2]]), 10, seed=0), 0.95)
    assert low == high == 50


def test_the_p_value_is_that_of_all_swaps() -> None:
    first, second = counts(10, seed=2, right=0.9), counts(10, seed=3, right=0.4)
    second[:, 2] = first[:, 2]
    second[:, 0] = np.minimum(second[:, 0], second[:, 2])
    result = paired_test(first, second, 20_000, 0.95, seed=0)
    extreme = 0
    for swap in itertools.product([False, True], repeat=10):
        mask = np.array(swap)[:, None]
        one, two = np.where(mask, second, first).sum(axis=0), np.where(mask, first, second).sum(axis=0)
        difference = precision_recall_f1(one)[2] - precision_recall_f1(two)[2]
        extreme += abs(difference) >= abs(result["difference"]) - 1e-9
    assert 0.001 < extreme / 1024 < 0.5
    assert result["p_value"] == pytest.approx(extreme / 1024, abs=0.02)
    assert result["interval"][0] < result["difference"] < result["interval"][1]


def test_a_system_does_not_differ_from_itself() -> None:
    values = counts(100, seed=4)
    result = paired_test(values, values, 100, 0.95, seed=0)
    assert (result["difference"], result["interval"], result["p_value"]) == (0, [0, 0], 1)


def test_a_better_system_is_found_better() -> None:
    first = counts(400, seed=5, right=0.8)
    second = first.copy()
    second[:, 0] = np.floor(second[:, 0] * 0.7)
    result = paired_test(first, second, 500, 0.95, seed=0)
    assert result["p_value"] == pytest.approx(1 / 501)
    assert result["interval"][0] > 0
    assert result["f1"] - result["other_f1"] == result["difference"]


def test_resamples_are_drawn_without_a_loop_over_records() -> None:
    few, many = counts(100, seed=6), counts(10_000, seed=6)
    assert count_calls(bootstrap_f1, many, 1000, 0) < 2 * count_calls(bootstrap_f1, few, 1000, 0)
