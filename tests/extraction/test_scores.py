"""The scores of extracted facts: from the engine's decisions to results, pages, tables and graphs."""

import json
from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import save_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from iepile_builder import Extraction, Extractor, InputError
from iepile_builder.answers.scores import Calibration
from iepile_builder.commands.extract import make_extractor
from iepile_builder.engines import EngineOptions, load_engine
from iepile_builder.engines.base import Completion, Request
from iepile_builder.extraction.terminal import show


END = (-3.0, None)
HALF, HIGH, LOW = (0.0, 0.0), (3.0, 0.0), (0.0, -3.0)  # scores .5, .95, .02 of a first item
ANSWER = {"person": ["Ada", "Bob"], "city": ["Rome"]}
DECISIONS = {"person": [HIGH, HALF, END], "city": [LOW, END]}
PERSONS_AND_CITIES = ["person", "city"]
EVENT = {"meet": [{"trigger": "met", "arguments": {"who": ["Ada", "Bob"]}}]}


class Sure:
    """An engine that gives the same answer to every request, and one decision after the other."""

    def __init__(self, answer: dict[str, Any], *decisions: dict[str, list] | None) -> None:
        self.answer = answer
        self.decisions = decisions
        self.asked = 0

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        return None

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        completions = []
        for _ in requests:
            decisions = self.decisions[self.asked % len(self.decisions)]
            self.asked += 1
            completions.append(Completion(json.dumps(self.answer), decisions=decisions))
        return completions


def extract(engine: Sure, task: str = "NER", schema: Any = PERSONS_AND_CITIES, **options: Any) -> Extraction:
    return Extractor(engine, **options)("Ada met Bob in Rome.", task, schema)


def test_every_fact_carries_its_score() -> None:
    result = extract(Sure(ANSWER, DECISIONS))
    expected = [1 / (1 + exp(-3)), 0.5 / (1 + exp(-3)), 0.5 * exp(-3)]
    assert [str(fact.entity) for fact in result.facts] == ["Ada", "Bob", "Rome"]
    assert result.scores == pytest.approx(expected)
    assert [fact["score"] for fact in result.to_dict()["facts"]] == [0.9526, 0.4763, 0.0249]
    assert "<th>score</th>" in result.to_html() and "0.95" in result.to_html()
    console = Console(record=True, width=100)
    show(result, console)
    assert "score" in (printed := console.export_text()) and "0.02" in printed


def test_without_decisions_there_is_no_score() -> None:
    result = extract(Sure(ANSWER, None))
    assert result.scores == [None] * 3
    assert {fact["score"] for fact in result.to_dict()["facts"]} == {None}
    assert "<th>score</th>" not in result.to_html()
    assert Extraction(result.text, "NER", "en", result.schema, result.facts).scores == [None] * 3


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_min_score_keeps_no_more(one: float, other: float) -> None:
    low, high = (extract(Sure(ANSWER, DECISIONS), min_score=each) for each in sorted((one, other)))
    assert set(high.facts) <= set(low.facts)
    assert all(score >= max(one, other) for score in high.scores)
    assert len(high.facts) + high.low_score == len(low.facts) + low.low_score == 3


def test_min_score_leaves_out_facts_and_says_so() -> None:
    result = extract(Sure(ANSWER, DECISIONS), min_score=0.4)
    assert ([str(fact.entity) for fact in result.facts], result.low_score) == (["Ada", "Bob"], 1)
    assert "1 fact left out: a score below 0.4, or no score" in result.to_html()
    assert extract(Sure(ANSWER, None), min_score=0.1).facts == []


RIVALS = {"person": ["Ada", "Rome"], "city": ["Rome"]}
RIVAL_DECISIONS = {"person": [HIGH, HALF, END], "city": [HIGH, END]}


class Later(Sure):
    """An engine that scores answers afterwards."""

    scores = False

    def __init__(self, answer: dict[str, Any], *decisions: dict[str, list] | None) -> None:
        super().__init__(answer, *decisions)
        self.calls: list[int] = []

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        return [Completion(json.dumps(self.answer))] * len(requests)

    def score_decisions(self, requests: Sequence[Request], answers: Sequence[str]) -> list[dict[str, list] | None]:
        assert set(answers) == {json.dumps(self.answer)}
        self.calls.append(len(requests))
        return [self.decisions[0]] * len(requests)


def labels_of(result: Extraction) -> list[tuple[str, str]]:
    return [(fact.entity_type, str(fact.entity)) for fact in result.facts]


def test_an_entity_has_its_likeliest_label() -> None:
    engine = Sure(RIVALS, RIVAL_DECISIONS)
    every = [("person", "Ada"), ("person", "Rome"), ("city", "Rome")]
    assert labels_of(extract(engine, multi_label=True)) == every
    result = extract(engine)
    assert (labels_of(result), result.less_likely) == ([every[0], every[2]], 1)
    assert "1 fact left out: the same mention has a likelier label" in result.to_html()
    assert labels_of(extract(Sure(RIVALS, {**RIVAL_DECISIONS, "city": [LOW, END]}))) == every[:2]
    assert labels_of(extract(Sure(RIVALS, None))) == every  # nobody knows which is likelier
    assert extract(engine, min_score=0.5).low_score == 0  # the other label of Rome is counted once


def test_a_calibration_with_equal_scores_keeps_the_likeliest_label() -> None:
    calibration = Calibration(score={"NER": (0.0, 1.0)})
    result = extract(Sure(RIVALS, RIVAL_DECISIONS), calibration=calibration)
    assert (labels_of(result), set(result.scores)) == ([("person", "Ada"), ("city", "Rome")], {1 / (1 + exp(-1))})


def test_only_answers_with_rivals_are_scored_afterwards() -> None:
    engine = Later(RIVALS, RIVAL_DECISIONS)
    result = extract(engine)
    assert (labels_of(result), result.less_likely) == ([("person", "Ada"), ("city", "Rome")], 1)
    assert result.scores == [None, None]  # which were not asked for
    assert len(extract(engine, multi_label=True).facts) == 3
    assert labels_of(extract(Later(ANSWER, DECISIONS))) == [("person", "Ada"), ("person", "Bob"), ("city", "Rome")]
    assert engine.calls == [1]
    several = list(Extractor(engine)(["Ada met Bob in Rome."] * 3, "NER", PERSONS_AND_CITIES, split_num=1))
    assert [each.less_likely for each in several] == [1] * 3  # between two answers, too
    assert engine.calls == [1, 6]


def test_an_event_has_the_score_of_its_item() -> None:
    decisions = {"meet": [HALF, END]}
    result = extract(Sure(EVENT, decisions), "EE", {"meet": ["who"]})
    assert result.scores == [0.5] * 3
    assert result.event_scores == [0.5]
    assert result.to_dict()["events"][0]["score"] == 0.5
    assert "<th>score</th>" in result.to_html()
    assert extract(Sure(EVENT, decisions), "EE", {"meet": ["who"]}, min_score=0.6).events == []


def test_edges_of_the_graph_have_the_scores_of_their_facts() -> None:
    pair, turned = {"subject": "Ada", "object": "Bob"}, {"subject": "Bob", "object": "Ada"}
    result = extract(Sure({"met": [pair, turned]}, {"met": [HALF, HIGH, END]}), "RE", ["met"])
    expected = {("Ada", "Bob"): 0.5, ("Bob", "Ada"): 0.5 / (1 + exp(-3))}
    edges = {(source, target): data["score"] for source, target, data in result.to_networkx().edges(data=True)}
    assert edges == pytest.approx(expected)
    event = extract(Sure(EVENT, {"meet": [HALF, END]}), "EE", {"meet": ["who"]})
    assert [edge.score for edge in event.graph()[1]] == [0.5, 0.5]


def test_of_two_passages_the_higher_score_counts() -> None:
    text = "Bob slept. Bob ate. Ada met Bob in Rome. Bob slept. Bob ate."
    engine = Sure({"person": ["Ada"]}, {"person": [HALF, END]}, {"person": [HIGH, END]})
    result = Extractor(engine, passage_tokens=10)(text, "NER", ["person"])
    assert [text[start:end].count("Ada") for start, end in result.passages] == [1, 1]
    assert result.scores == pytest.approx([1 / (1 + exp(-3))])


def test_a_calibration_makes_scores_probabilities() -> None:
    calibration = Calibration(score={"NER": (1.0, -1.0)})
    result = extract(Sure(ANSWER, DECISIONS), calibration=calibration)
    assert result.scores[0] == pytest.approx(1 / (1 + exp(-2)))


def test_an_engine_without_scores_is_refused_at_once() -> None:
    engine = Sure(ANSWER, None)
    engine.scores = False  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"load the engine with scores=True \(--scores\)"):
        Extractor(engine, min_score=0.5)
    with pytest.raises(InputError, match="min_score is 2"):
        Extractor(engine, min_score=2)


def test_the_calibration_beside_a_model_is_found(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny")
    assert Extractor.from_pretrained(str(model)).calibration is None
    (model / "calibration.json").write_text(json.dumps({"empty_bias": {"NER": 0.5}, "score": {"NER": [0.5, 0.1]}}))
    calibration = Calibration({"NER": 0.5}, {"NER": (0.5, 0.1)})
    options = EngineOptions(str(model))
    for found in (Extractor.from_pretrained(str(model)), make_extractor(load_engine(options), options)):
        assert found.calibration == calibration
        assert found.engine.empty_bias == {"NER": 0.5}
    assert Extractor.from_pretrained(str(model), empty_bias=0.1).engine.empty_bias == 0.1
