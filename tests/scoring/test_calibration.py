"""A bias and a scaling, fitted to answers made by hand; Platt scaling against scikit-learn."""

import json
from math import exp, inf, log

import numpy as np
import pytest
from helpers.answers import entities, instance, scorer_of
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder.answers.scores import Decision, score_decision
from iepile_builder.scoring.calibration import fit_calibration, fit_platt


def answers(opened: list[float], rights: list[bool]) -> list[dict]:
    """A record each: one label, opened with these log-odds, with a fact that is right or not."""
    return [
        {
            **instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada" if right else "Eve"]}),
            "id": str(number),
            "decisions": {"person": [[log_odds, -0.1], [-9.0, None]]},
        }
        for number, (log_odds, right) in enumerate(zip(opened, rights, strict=True))
    ]


def test_the_bias_closes_what_is_wrong() -> None:
    """30 records opened at 2 are right, 30 opened at 1 are wrong: the best cut is between."""
    rows = answers([2.0, 1.0] * 30, [True, False] * 30)
    calibration, fitted = fit_calibration(scorer_of(rows), {})
    assert calibration.empty_bias == {"NER": -1.5}
    of = fitted["NER"]
    assert (of["records"], of["facts"], of["limit"]) == (60, 30, 0.0)
    assert of["f1_before"] == pytest.approx(200 * 30 / (60 + 60))
    assert of["f1_after"] == of["f1_cross_validated"] == pytest.approx(200 * 30 / (30 + 60))
    assert of["p_value"] < 0.01


def test_a_generous_bias_leaves_room_on_both_sides() -> None:
    """Answered with a bias of 3; right down to log-odds of -1, wrong below. Bias 0 would lose the right ones."""
    rows = answers([1.0, -1.0, -2.0] * 20, [True, True, False] * 20)
    calibration, fitted = fit_calibration(scorer_of(rows), {"NER": 3.0})
    assert calibration.empty_bias == {"NER": 1.5}
    assert fitted["NER"]["f1_before"] == pytest.approx(200 * 20 / (20 + 60))
    assert fitted["NER"]["f1_after"] == pytest.approx(200 * 40 / (40 + 60))


def test_no_bias_without_gain_and_no_calibration_of_few_records() -> None:
    rows = answers([1.0, 2.0] * 20, [True, True] * 20)
    calibration, fitted = fit_calibration(scorer_of(rows), {})
    assert calibration.empty_bias == {"NER": 0.0}
    assert fitted["NER"]["f1_before"] == fitted["NER"]["f1_after"] == 100
    assert fit_calibration(scorer_of(rows[:19]), {}) == (type(calibration)(), {})


def test_noise_gives_no_bias() -> None:
    """Where right and wrong have the same log-odds, what looks best on these records is not taken."""
    random = np.random.default_rng(0)
    rows = answers(random.normal(1, 0.1, 60).tolist(), (random.random(60) < 0.7).tolist())
    calibration, fitted = fit_calibration(scorer_of(rows), {})
    assert fitted["NER"]["f1_cross_validated"] <= fitted["NER"]["f1_before"]
    assert calibration.empty_bias == {"NER": 0.0}
    assert fitted["NER"]["p_value"] > 0.05


def test_a_fact_without_a_decision_stays() -> None:
    rows = answers([2.0, 1.0] * 30, [True, False] * 30)
    bare = instance("NER", ["city"], entities(person=["Ada"]), {"city": ["Rome"]}, id="0")
    _, fitted = fit_calibration(scorer_of([*rows, bare]), {})
    assert fitted["NER"]["facts"] == 31


def test_calibrated_scores_are_the_shares_of_right_facts() -> None:
    """At each of two raw scores, the calibrated score is nearly the share of right facts."""
    rows = answers([1.0, 3.0] * 500, [number % 10 < (3 if number % 2 == 0 else 9) for number in range(1000)])
    scorer = scorer_of(rows)
    calibration, _ = fit_calibration(scorer, {})
    for log_odds in (1.0, 3.0):
        share = np.mean([json.loads(row["output"])["person"] == ["Ada"] for row in rows
                         if row["decisions"]["person"][0][0] == log_odds])  # fmt: skip
        assert score_decision(Decision(log_odds, inf, -0.1), "NER", calibration) == pytest.approx(share, abs=0.01)


pairs = st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=4, max_size=60)


@given(pairs)
def test_platt_scaling_is_monotone_and_finite(points: list[tuple[float, bool]]) -> None:
    logits, hits = np.array([x for x, _ in points]), np.array([hit for _, hit in points])
    slope, intercept = fit_platt(logits, hits)
    assert slope >= 0
    assert np.isfinite([slope, intercept]).all()


def test_platt_scaling_is_that_of_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 400)
    hits = random.random(400) < 1 / (1 + np.exp(-(0.7 * logits - 0.4)))
    slope, intercept = fit_platt(logits, hits)
    a, b = calibration._sigmoid_calibration(logits, hits)  # p = 1 / (1 + exp(a x + b))
    assert (slope, intercept) == pytest.approx((-a, -b), abs=1e-3)


def test_facts_that_are_all_right_have_a_high_score() -> None:
    slope, intercept = fit_platt(np.linspace(-1, 1, 50), np.ones(50, dtype=bool))
    assert (slope, 1 / (1 + exp(-intercept))) == pytest.approx((0, 51 / 52), abs=1e-4)
    assert intercept == pytest.approx(log(51), abs=1e-3)
