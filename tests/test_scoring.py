"""Facts to scores, by cases worked by hand; the published scorer's defects, each as a test."""

import json
import random

import pytest
from conftest import ALL_TASKS
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import annotated

from iepile_builder import InputError, Schema, SchemaBatching
from iepile_builder.scoring import Scorer, score


def instance(task: str, items: list, annotations: list, answer: object, **changed: str) -> dict[str, str]:
    instruction = {"instruction": "...", "schema": items, "input": "Ada, wife of Bob, met Eve in Rome in 1999."}
    return {
        "id": "1",
        "task": task,
        "source": "hand",
        "instruction": json.dumps(instruction),
        "label": json.dumps(annotations),
        "output": answer if isinstance(answer, str) else json.dumps(answer),
        **changed,
    }


def entities(**by_type: list[str]) -> list[dict]:
    return [{"entity": name, "entity_type": kind} for kind, names in by_type.items() for name in names]


def counts(block: dict) -> tuple[int, int, int]:
    return block["tp"], block["pred"], block["gold"]


def test_ner_by_hand() -> None:
    gold = entities(person=["Ada", "Bob"], city=["Rome"])
    report = score([instance("NER", ["person", "city"], gold, {"person": ["Ada", "Rome"], "city": ["Rome"]})])
    overall = report["overall"]
    assert counts(overall) == (2, 3, 3)
    assert overall["precision"] == overall["recall"] == pytest.approx(200 / 3)
    assert overall["f1"] == pytest.approx(200 / 3)
    assert report["tasks"] == {"NER": overall}
    assert report["sources"] == {"hand": {"NER": overall}}


def test_relations_by_hand() -> None:
    gold = [{"head": "Ada", "relation": "wife", "tail": "Bob", "head_type": "person", "tail_type": "person"}]
    turned = {"wife": [{"subject": "Ada", "object": "Bob"}, {"subject": "Bob", "object": "Ada"}]}
    assert counts(score([instance("RE", ["wife"], gold, turned)])["overall"]) == (1, 2, 1)
    items = [{"subject_type": "person", "predicate": "wife", "object_type": "person"}]
    assert counts(score([instance("SPO", items, gold, turned)])["overall"]) == (1, 2, 1)
    items[0]["object_type"] = "man"
    assert counts(score([instance("SPO", items, gold, turned)])["overall"]) == (0, 2, 1)


def test_events_by_hand() -> None:
    gold = [
        {
            "event_trigger": "met",
            "event_type": "meet",
            "arguments": [{"argument": "Ada", "role": "who"}, {"argument": "Eve", "role": "who"}],
        },
        {"event_trigger": "", "event_type": "meet", "arguments": []},
    ]
    items = [{"event_type": "meet", "trigger": True, "arguments": ["who", "where"]}]
    answer = {"meet": [{"trigger": "meets", "arguments": {"who": ["Ada", "Bob"], "where": "NAN"}}]}
    report = score([instance("EE", items, gold, answer)])
    assert counts(report["tasks"]["EE"]["trigger"]) == (0, 1, 1)
    assert counts(report["tasks"]["EE"]["argument"]) == (1, 2, 2)
    assert set(report["tasks"]["EE"]) == {"trigger", "argument"}
    assert counts(report["overall"]) == (1, 3, 3)
    assert counts(report["overall"]["trigger"]) == (0, 1, 1)
    assert counts(report["overall"]["argument"]) == (1, 2, 2)

    report = score([instance("EEA", items, gold, answer)])
    assert set(report["tasks"]["EEA"]) == {"argument"}
    assert counts(report["overall"]) == counts(report["tasks"]["EEA"]["argument"]) == (1, 2, 2)

    report = score([instance("EET", ["meet"], [*gold, gold[0]], {"meet": ["met", "met"]})])
    assert counts(report["tasks"]["EET"]) == (1, 2, 1)


def test_knowledge_graph_by_hand() -> None:
    gold = [
        {"head": "Ada", "relation": "spouse", "tail": "Bob"},
        {"head": "Rome", "relation": "mayor", "tail": "Eve"},
    ]
    person = instance(
        "KG", [{"entity_type": "person", "attributes": ["spouse"]}], gold, {"person": {"Ada": {"spouse": "Bob"}}}
    )
    city = instance(
        "KG", [{"entity_type": "city", "attributes": ["mayor"]}], gold, {"city": {"Rome": {"mayor": ["Eve", "Ada"]}}}
    )
    assert counts(score([person, city])["overall"]) == (2, 3, 2)


def test_the_batches_of_a_record_are_merged_and_its_gold_counts_once() -> None:
    gold = entities(person=["Ada"], city=["Rome"])
    first = instance("NER", ["person"], gold, {"person": ["Ada"]})
    second = instance("NER", ["city"], gold, {"city": []})
    overall = score([first, second])["overall"]
    assert counts(overall) == (1, 1, 2)
    assert overall["records"] == 1
    for changed in ({"id": "2"}, {"source": "other"}):
        overall = score([first, {**second, **changed}])["overall"]
        assert counts(overall) == (1, 1, 4)
        assert overall["records"] == 2


def test_both_sides_are_multisets() -> None:
    gold = entities(person=["Ada"])
    assert counts(score([instance("NER", ["person"], gold, {"person": ["Ada", "Ada"]})])["overall"]) == (1, 2, 1)
    assert counts(score([instance("NER", ["person"], gold * 2, {"person": ["Ada", "Ada"]})])["overall"]) == (2, 2, 2)


def test_what_is_always_counted() -> None:
    gold = entities(person=["Ada"])
    rows = [
        instance("NER", ["person"], gold, "Ada is a person."),
        instance("NER", ["city"], gold, {"river": ["Po"], "city": ["Rome"]}),
    ]
    overall = score(rows)["overall"]
    assert overall["unparsed"] == 1
    assert overall["outside_schema"] == 1
    assert overall["not_in_text"] == 1
    assert counts(overall) == (0, 2, 1)


def test_nothing_to_find_and_nothing_found_is_no_division_by_zero() -> None:
    overall = score([instance("NER", ["person"], [], {"person": []})])["overall"]
    assert (overall["precision"], overall["recall"], overall["f1"]) == (0, 0, 0)
    assert score([])["overall"]["records"] == 0


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_gold_answers_score_100_in_any_order(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    rows = list(SchemaBatching(task, "en", "generated", schema).instances("1", text, annotations))
    random.Random(data.draw(st.integers(0, 9))).shuffle(rows)
    report = score(rows)
    blocks = report["tasks"].get(task, {})
    for block in [blocks] if "tp" in blocks else blocks.values():
        assert block["tp"] == block["pred"] == block["gold"]
        assert block["f1"] == (100 if block["gold"] else 0)
        assert block["unparsed"] == block["outside_schema"] == 0


def test_a_wrong_line_says_which_field() -> None:
    row = instance("NER", ["person"], entities(person=["Ada"]), {"person": []})
    for name in row:
        with pytest.raises(InputError, match=name):
            Scorer().add({key: value for key, value in row.items() if key != name})
    for changed in ({"task": "NERR"}, {"label": "Ada"}, {"label": '["Ada"]'}, {"label": '[{"entity": "Ada"}]'}):
        with pytest.raises(InputError, match=next(iter(changed))):
            Scorer().add({**row, **changed})


# Defects of the code that was published with IEPile


def test_published_defect_its_own_re_gold_scored_zero() -> None:
    batching = SchemaBatching("RE", "en", "x", Schema((), ("wife",)))
    rows = list(batching.instances("1", "Ada, Bob", [{"head": "Ada", "relation": "wife", "tail": "Bob"}]))
    assert json.loads(rows[0]["output"]) == {"wife": [{"subject": "Ada", "object": "Bob"}]}
    assert score(rows)["overall"]["f1"] == 100


@pytest.mark.parametrize("task", ["EET", "SPO", "KG"])
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_published_defect_scoring_crashed(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    score(SchemaBatching(task, "en", "x", schema).instances("1", text, annotations))


def test_published_defect_precision_and_recall_were_rounded_before_f1() -> None:
    gold = entities(person=["Ada", "Bob", "Eve"])
    overall = score([instance("NER", ["person"], gold, {"person": ["Ada"]})])["overall"]
    assert overall["recall"] == pytest.approx(100 / 3)
    assert overall["f1"] == pytest.approx(50)


def test_published_defect_a_json_fence_scored_zero() -> None:
    gold = entities(person=["Ada"])
    answer = '```json\n{"person": ["Ada"]}\n```'
    assert score([instance("NER", ["person"], gold, answer)])["overall"]["f1"] == 100


def test_published_defect_of_two_records_of_one_text_the_first_label_won() -> None:
    rows = [
        instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada"]}),
        instance("NER", ["person"], entities(person=["Bob"]), {"person": ["Bob"]}),
    ]
    overall = score(rows)["overall"]
    assert counts(overall) == (2, 2, 2)
    assert overall["records"] == 2
