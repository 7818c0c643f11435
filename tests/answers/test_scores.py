"""The score of a fact: worked by hand, between 0 and 1, monotone, and that of the item that states the fact."""

import json
from math import exp, inf, log
from pathlib import Path

import pytest
from helpers.strategies import annotated
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder.answers.scores import (
    Calibration,
    Decision,
    check_decisions,
    decide_facts,
    load_calibration,
    score_decision,
)
from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Argument, Attribute, Entity, Relation, Trigger


log_odds = st.floats(-1e6, 1e6)
logprobs = st.floats(-1e6, 0)


def test_the_score_by_hand() -> None:
    decision = Decision(log(3), inf, log(0.5))  # 3 to 1 for an item, of which this one has half
    assert score_decision(decision, "NER") == pytest.approx(0.75 * 0.5)
    second = Decision(log(3), log(4), log(0.1))  # 4 to 1 for another
    assert score_decision(second, "NER") == pytest.approx(0.75 * 0.8 * 0.1)
    calibration = Calibration(score={"NER": (2.0, 1.0)})
    odds = 0.375 / 0.625
    assert score_decision(decision, "NER", calibration) == pytest.approx(1 / (1 + exp(-1) / odds**2))
    assert score_decision(decision, "RE", calibration) == pytest.approx(0.375)


@given(log_odds, log_odds, logprobs, logprobs)
def test_scores_are_probabilities_and_grow_with_both_numbers(one: float, other: float, p: float, q: float) -> None:
    (low, high), (less, more) = sorted((one, other)), sorted((p, q))
    assert 0 <= score_decision(Decision(low, 1, less), "NER") <= score_decision(Decision(high, 1, more), "NER") <= 1
    assert 0 <= score_decision(Decision(1, low, less), "NER") <= score_decision(Decision(1, high, more), "NER") <= 1
    assert score_decision(Decision(low, high, p), "NER") <= score_decision(Decision(low, inf, p), "NER")


def test_each_fact_has_the_score_of_its_item() -> None:
    first, second, end = [1.0, -0.5], [0.2, -1.0], [-3.0, None]
    ner = decide_facts({"person": ["Ada", "Bob"], "city": []}, {"person": [first, second, end], "city": [end]}, "NER",
                       Schema(types=("person", "city")))  # fmt: skip
    assert ner == {Entity("person", "Ada"): (1.0, inf, -0.5), Entity("person", "Bob"): (1.0, 0.2, -1.0)}

    event = {"trigger": "quit", "arguments": {"who": ["Ada", "Bob"]}}
    schema = Schema(("resign",), ("who",), {"resign": ("who",)})
    decision = Decision(1.0, inf, -0.5)
    assert decide_facts({"resign": [event]}, {"resign": [first, end]}, "EE", schema) == {
        Trigger("resign", "quit"): decision,
        Argument("resign", "who", "Ada", "quit"): decision,
        Argument("resign", "who", "Bob", "quit"): decision,
    }
    kg = Schema((), ("mayor",), {"city": ("mayor",)})
    answer = {"city": {"Leeds": {"mayor": "Ada"}, "York": {"mayor": "Bob"}}}
    assert decide_facts(answer, {"city": [first, second, end]}, "KG", kg) == {
        Attribute("city", "Leeds", "mayor", "Ada"): decision,
        Attribute("city", "York", "mayor", "Bob"): (1.0, 0.2, -1.0),
    }


def test_of_two_items_that_say_the_same_the_higher_counts() -> None:
    pair = {"subject": "Ada", "object": "Bob"}
    decisions = {"spouse": [[0.0, -2.0], [2.0, -0.1], [-1.0, None]]}
    found = decide_facts({"spouse": [pair, pair]}, decisions, "RE", Schema(roles=("spouse",)))
    assert found == {Relation("spouse", "Ada", "Bob"): (0.0, 2.0, -0.1)}


@pytest.mark.parametrize("task", TASKS)
@given(st.data())
def test_every_fact_of_an_answer_has_a_decision(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    known = TASKS[task]
    answer = {}
    for label in known.labels(schema):
        mine = known.distinct(each for each in annotations if known.label(each, schema) == label)
        if mine:
            answer[known.answer_key(label)] = known.answer_value(mine, known.roles(label, schema), text)
    decisions = {key: [[1.0, -1.0]] * len(value) + [[-1.0, None]] for key, value in answer.items()}
    facts = known.parse(answer, schema)
    assert set(decide_facts(answer, decisions, task, schema)) == set(facts)
    assert decide_facts(answer, None, task, schema) == decide_facts(None, decisions, task, schema) == {}


@pytest.mark.parametrize(
    "decisions", [[], {"a": 1}, {"a": [1]}, {"a": [[1]]}, {"a": [["x", 1]]}, {"a": [[1, 2, 3]]}, {"a": [[None, 1.0]]}]
)
def test_decisions_in_another_form_are_refused(decisions: object) -> None:
    with pytest.raises(InputError, match="'decisions' is not an object from label to pairs"):
        check_decisions(decisions)


def test_a_calibration_file(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"empty_bias": {"NER": -0.5}, "score": {"NER": [0.8, 0.1]}, "fitted_on": {}}))
    assert load_calibration(file) == Calibration({"NER": -0.5}, {"NER": (0.8, 0.1)})
    wrongs = ["[]", "{}", "no JSON", "[" * 100_000, '{"empty_bias": {}, "score": {"NER": 1}}']
    wrongs += [f'{{"empty_bias": {{"NER": {bias}}}}}' for bias in ('"low"', '"2"', "NaN", "true", "1e400", "1" * 400)]
    for wrong in wrongs:
        file.write_text(wrong)
        with pytest.raises(InputError, match="calibration.json: not a calibration"):
            load_calibration(file)
    with pytest.raises(InputError, match="No such file"):
        load_calibration(tmp_path / "nowhere.json")
