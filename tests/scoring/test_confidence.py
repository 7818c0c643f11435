"""How well scores of facts separate right from wrong ones: by hand, and against scikit-learn."""

from collections import Counter
from itertools import cycle, permutations

import numpy as np
import pytest
from helpers.answers import entities, instance, scorer_of
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import InputError
from iepile_builder.answers.scores import Calibration
from iepile_builder.scoring.confidence import Ranked, describe, rank_facts, report_confidence


PERSONS = ["Ada", "Bob", "Eve"]
scored = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]) | st.floats(0, 1), st.booleans()), min_size=1)


def ranked(pairs: list[tuple[float, bool]], missed: int = 0, unscored: int = 0) -> Ranked:
    scores, hits = np.array([score for score, _ in pairs]), np.array([hit for _, hit in pairs], dtype=bool)
    return Ranked(scores, hits, int(hits.sum()) + missed, unscored)


def test_the_numbers_by_hand() -> None:
    """Right, wrong, right; a fourth gold fact is missed, a third too."""
    found = describe(ranked([(0.9, True), (0.6, False), (0.3, True)], missed=2, unscored=1))
    assert (found["facts"], found["gold"], found["unscored"]) == (3, 4, 1)
    assert found["curve"] == pytest.approx(
        np.array([[90, 100, 25], [60, 50, 25], [30, 200 / 3, 50]])
    )  # score, precision, recall
    assert found["average_precision"] == pytest.approx(100 * (0.25 * 1 + 0.25 * 2 / 3))
    assert found["reliability"] == pytest.approx(np.array([[30, 100, 1], [60, 0, 1], [90, 100, 1]]))
    assert found["calibration_error"] == pytest.approx((70 + 60 + 10) / 3)


def test_nothing_predicted() -> None:
    found = describe(ranked([], missed=3))
    assert found["average_precision"] == found["calibration_error"] == 0
    assert found["curve"] == found["reliability"] == []


@given(scored, st.integers(0, 5))
def test_average_precision_is_that_of_scikit_learn(pairs: list[tuple[float, bool]], missed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    of = ranked(pairs, missed)
    if not of.hits.any():
        assert describe(of)["average_precision"] == 0
        return
    found = of.hits.sum() / of.gold  # scikit-learn does not know of the gold facts that were not predicted
    expected = 100 * metrics.average_precision_score(of.hits, of.scores) * found
    assert describe(of)["average_precision"] == pytest.approx(expected)


@given(scored)
def test_reliability_is_that_of_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    of = ranked(pairs)
    shares, scores = calibration.calibration_curve(of.hits, of.scores, n_bins=10, strategy="quantile", pos_label=True)
    found = np.array(describe(of)["reliability"])
    assert found[:, 0] == pytest.approx(100 * scores)
    assert found[:, 1] == pytest.approx(100 * shares)
    assert found[:, 2].sum() == len(pairs)
    error = describe(of)["calibration_error"]
    assert error == pytest.approx(float(np.abs(found[:, 0] - found[:, 1]) @ found[:, 2] / len(pairs)))
    assert 0 <= error <= 100


def test_facts_of_answers_are_ranked() -> None:
    """Repeated, the fact with the higher score is the right one; a fact without a decision has no score."""
    decisions = {"person": [[0.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [-2.0, None]]}
    row = instance("NER", ["person"], entities(person=["Ada", "Eve"]), {"person": PERSONS})
    rows = [
        {**row, "decisions": decisions},
        instance("NER", ["city"], entities(person=["Ada", "Eve"]), {"city": ["X"]}),
    ]
    found = rank_facts(scorer_of(rows))["NER"]
    assert found.scores == pytest.approx(0.5 * np.array([1, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1))]))
    assert (found.hits.tolist(), found.gold, found.unscored) == ([True, False, True], 2, 1)
    repeated = {**row, "output": '{"person": ["Ada", "Ada"]}', "decisions": decisions}
    assert rank_facts(scorer_of([repeated]))["NER"].hits.tolist() == [True, False]

    calibrated = scorer_of(rows, calibration=Calibration(score={"NER": (0.0, 0.5)}))
    assert rank_facts(calibrated)["NER"].scores == pytest.approx([1 / (1 + np.exp(-0.5))] * 3)
    report = report_confidence(scorer_of(rows))
    assert report["overall"] == report["tasks"]["NER"]
    assert report_confidence(scorer_of([row])) is None


DECIDED = {"person": [[2.0, -0.1], [0.0, -1.0], [-2.0, None]], "city": [[-1.0, -2.0], [-2.0, None]]}


def decided_rows() -> list[dict]:
    """Scores: Ada .80, Bob .16, Eve .04; and a fact without a score."""
    answer = {"person": ["Ada", "Bob"], "city": ["Eve"]}
    gold = entities(person=["Ada"], city=["Rome"])
    row = {**instance("NER", ["person", "city"], gold, answer), "decisions": DECIDED}
    return [row, instance("NER", ["river"], gold, {"river": ["Rome"]})]


@pytest.mark.parametrize(("min_score", "left"), [(0.0, 4), (0.01, 3), (0.1, 2), (0.5, 1), (0.9, 0)])
def test_min_score_leaves_out_what_scores_less(min_score: float, left: int) -> None:
    assert scorer_of(decided_rows(), min_score=min_score).report()["overall"]["pred"] == left


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_min_score_keeps_no_more(one: float, other: float) -> None:
    low, high = (
        Counter(next(iter(scorer_of(decided_rows(), min_score=each).records.values())).facts)
        for each in sorted((one, other))
    )
    assert high <= low


def test_without_multi_label_an_entity_has_its_likeliest_label() -> None:
    """In any order of the answers: of a mention the label with the highest score; without any score, all labels."""
    gold = entities(person=["Ada"], city=["Rome"])
    first = instance("NER", ["person"], gold, {"person": ["Ada", "Rome", "Eve"]})
    second = instance("NER", ["city"], gold, {"city": ["Rome", "Ada"]})
    rows = [
        {**first, "decisions": {"person": [[2.0, 0.0], [1.0, -1.0], [-2.0, None]]}},
        {**second, "decisions": {"city": [[3.0, 0.0], [1.0, -1.0], [-2.0, None]]}},
        instance("NER", ["river"], gold, {"river": ["Eve", "Ada", "Oder"]}),
        instance("NER", ["lake"], gold, {"lake": ["Oder"]}),
    ]
    flat = Calibration(score={"NER": (0.0, 0.5)})  # the scores are equal then, but what is likeliest stays
    for ordered, calibration in zip(permutations(rows), cycle([None, flat])):
        [record] = scorer_of(ordered, multi_label=False, calibration=calibration).records.values()
        labels = sorted((fact.asked_label, fact.mentions[0]) for fact in record.facts)
        kept = [("city", "Rome"), ("lake", "Oder"), ("person", "Ada"), ("person", "Eve")]
        assert labels == [*kept, ("river", "Eve"), ("river", "Oder")]
    assert scorer_of(rows).report()["overall"]["pred"] == 9
    with pytest.raises(InputError, match="asked for 'lake' twice, which --multi_label false cannot use"):
        scorer_of([*rows, instance("NER", ["river", "lake"], gold, {"river": ["Eve"], "lake": []})], multi_label=False)


def test_decisions_change_no_score_of_the_answers() -> None:
    plain = [{name: value for name, value in row.items() if name != "decisions"} for row in decided_rows()]
    assert scorer_of(decided_rows()).report() == scorer_of(plain).report()
    with pytest.raises(InputError, match="'decisions' is not"):
        scorer_of([{**decided_rows()[0], "decisions": {"person": [1]}}])
