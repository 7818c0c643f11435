"""Facts to scores, by cases worked by hand; the published scorer's defects, each as a test."""

import json
import random

import pytest
from helpers.answers import entities, instance, scorer_of
from helpers.corpora import ALL_TASKS
from helpers.strategies import annotated
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_builder import InputError, Schema, SchemaBatching
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.scorer import Scorer, score
from iepile_builder.tasks import TASKS


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


def test_a_record_is_its_names_its_text_and_its_gold_in_any_order_of_keys(caplog: pytest.LogCaptureFixture) -> None:
    instruction = json.dumps({"instruction": "...", "schema": ["person"], "input": "Ada there."})
    first = instance("NER", ["person"], entities(person=["Ada"]), {"person": []})
    other = {**first, "instruction": instruction, "output": '{"person": ["Ada"]}'}
    assert counts(score([first, other])["overall"]) == (1, 1, 2)
    english = json.loads(first["instruction"]) | {"instruction": TASKS["NER"].instructions["en"]}
    assert score([first, {**first, "instruction": json.dumps(english)}])["overall"]["records"] == 2

    gold = [{"entity_type": "person", "entity": "Ada"}]
    second = {**instance("NER", ["city"], gold, {"city": ["Rome"]}), "label": json.dumps(gold, indent=1)}
    overall = score([first, second])["overall"]
    assert counts(overall) == (0, 1, 1) and overall["records"] == 1
    assert not caplog.messages


def test_a_repeated_answer_counts_once_and_another_one_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    first = instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada"]})
    second = instance("NER", ["city"], entities(person=["Ada"]), {"city": []})
    assert score([first, second] * 3) == score([first, second])
    assert caplog.messages == ["record '1' of 'hand' (NER) has the same answer twice; repeated answers count once"]
    with pytest.raises(InputError, match=r"'1' of 'hand' \(NER\) has another answer to the same labels above"):
        score([first, second, {**first, "output": "{}"}])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), task=st.sampled_from([task for task in ALL_TASKS if task != "EEA"]))
def test_a_record_in_batches_of_two_sizes_counts_once(data: st.DataObject, task: str) -> None:
    schema, text, annotations = data.draw(annotated(task))

    def answered(split_num: int) -> list[dict]:
        batching = SchemaBatching(task, "en", "x", schema, negatives="all", split_num=split_num)
        return list(batching.instances("1", text, annotations))

    one, two, whole = answered(1), answered(2), answered(-1)
    report = score(one)
    for rows in ([*one, *two], [*two, *whole, *one], [*whole, *two]):
        again = score(rows)
        assert counts(again["overall"]) == counts(report["overall"])
        assert (again["labels"], again["overall"]["records"]) == (report["labels"], 1)


def test_another_answer_to_a_label_of_another_batch_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    gold = entities(person=["Ada"], city=["Rome"])
    both = instance("NER", ["person", "city"], gold, {"person": ["Ada", "Ada"], "city": ["Rome"], "river": ["Po"]})
    same, other = (instance("NER", ["person"], gold, {"person": ["Ada"] * number, "sea": []}) for number in (2, 1))
    assert counts(score([both, same, both, same])["overall"]) == (2, 4, 2)
    assert caplog.messages == ["record '1' of 'hand' (NER) has the same answer twice; repeated answers count once"]
    with pytest.raises(
        InputError, match=r"^record '1' of 'hand' \(NER\) has another answer to 'person' above; keep one"
    ):
        score([both, other])
    with pytest.raises(InputError, match="has another answer to 'person' above"):
        score([{**same, "output": "Ada."}, both])
    assert counts(score([same, {**other, "id": "2"}])["overall"]) == (2, 3, 4)


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
    assert overall["gold_not_in_text"] == 0
    assert overall["repaired"] == 0
    assert counts(overall) == (0, 2, 1)


def test_nothing_to_find_and_nothing_found_is_no_division_by_zero() -> None:
    overall = score([instance("NER", ["person"], [], {"person": []})])["overall"]
    assert (overall["precision"], overall["recall"], overall["f1"]) == (0, 0, 0)
    assert score([])["overall"]["records"] == 0


def test_repair_is_counted_apart() -> None:
    gold = entities(person=["Ada"])
    rows = [
        instance("NER", ["person"], gold, "{'person': ['Ada']}"),
        instance("NER", ["person"], gold, "I cannot tell.", id="2"),
        instance("NER", ["person"], gold, {"person": ["Ada"]}, id="3"),
    ]
    for repair, found in ((False, (1, 2, 0)), (True, (2, 1, 1))):
        overall = scorer_of(rows, repair=repair).report()["overall"]
        assert (overall["tp"], overall["unparsed"], overall["repaired"]) == found


def test_gold_that_is_not_in_the_text_is_counted_and_grounded_leaves_it_out() -> None:
    gold = entities(person=["Ada", "Grace"])
    scorer = scorer_of([instance("NER", ["person"], gold, {"person": ["Ada", "Zoe"]})])
    overall = scorer.report()["overall"]
    assert (counts(overall), overall["not_in_text"], overall["gold_not_in_text"]) == ((1, 2, 2), 1, 1)
    assert counts(scorer.report(Matching("grounded"))["overall"]) == (1, 1, 1)


def two_corpora() -> list[dict]:
    """F1 100 on one corpus, 0 on another one; person has 3 of 4 gold facts, city 1 of 2."""
    english = instance(
        "NER",
        ["person", "city"],
        entities(person=["Ada", "Bob", "Eve"], city=["Rome"]),
        {"person": ["Ada", "Bob", "Eve"], "city": ["Rome"]},
    )
    chinese = instance("NER", ["person", "city"], entities(person=["Ada"], city=["Rome"]), "?", source="other")
    for row, language in ((english, "en"), (chinese, "zh")):
        question = {**json.loads(row["instruction"]), "instruction": TASKS["NER"].instructions[language]}
        row["instruction"] = json.dumps(question)
    return [english, chinese]


def test_averages_by_hand() -> None:
    report = score(two_corpora())
    assert counts(report["overall"]) == (4, 4, 6)
    assert report["overall"]["f1"] == pytest.approx(80)
    assert {language: block["f1"] for language, block in report["languages"].items()} == {"en": 100, "zh": 0}
    labels = report["labels"]["NER"]
    assert {label: counts(block) for label, block in labels.items()} == {"person": (3, 3, 4), "city": (1, 1, 2)}
    assert labels["person"]["f1"] == pytest.approx(600 / 7)
    macro = report["macro"]["tasks"]["NER"]
    assert macro == report["macro"]["overall"]
    assert macro["sources"] == {"precision": 50, "recall": 50, "f1": 50, "count": 2}
    assert macro["labels"]["recall"] == pytest.approx((75 + 50) / 2)
    assert macro["labels"]["f1"] == pytest.approx((600 / 7 + 200 / 3) / 2)


def test_labels_of_events_have_blocks_and_name_the_role() -> None:
    gold = [{"event_trigger": "met", "event_type": "meet", "arguments": [{"argument": "Ada", "role": "who"}]}]
    items = [{"event_type": "meet", "trigger": True, "arguments": ["who", "where"]}]
    answer = {"meet": [{"trigger": "met", "arguments": {"where": "Ada"}}]}
    report = score([instance("EE", items, gold, answer)])
    assert {label: counts(block) for label, block in report["labels"]["EE"]["trigger"].items()} == {"meet": (1, 1, 1)}
    labels = report["labels"]["EE"]["argument"]
    assert {label: counts(block) for label, block in labels.items()} == {
        "meet: who": (0, 0, 1),
        "meet: where": (0, 1, 0),
    }
    assert report["macro"]["tasks"]["EE"]["trigger"]["labels"]["f1"] == 100
    assert report["macro"]["tasks"]["EE"]["argument"]["labels"] == {"precision": 0, "recall": 0, "f1": 0, "count": 1}


def test_a_mode_that_ignores_labels_has_no_scores_by_label() -> None:
    scorer = scorer_of([instance("NER", ["person", "city"], entities(person=["Ada"]), {"city": ["Ada"]})])
    report = scorer.report(Matching("boundary"))
    assert report["overall"]["f1"] == 100
    assert report["labels"] == {}
    assert set(report["macro"]["overall"]) == {"sources"}


def test_intervals_are_about_the_scores_and_the_same_for_the_same_seed() -> None:
    rows = [
        instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada"] if index % 3 else []}, id=str(index))
        for index in range(60)
    ]
    scorer = scorer_of(rows)
    report = scorer.report(resamples=200)
    overall = report["overall"]
    for name in ("precision", "recall", "f1"):
        low, high = overall["intervals"][name]
        assert low <= overall[name] <= high
    assert overall["intervals"]["precision"] == [100, 100]
    assert 40 < overall["intervals"]["recall"][0] < overall["intervals"]["recall"][1] < 90
    assert report["tasks"]["NER"] == overall
    assert scorer.report(resamples=200) == report
    assert scorer.report(resamples=200, seed=1) != report
    narrow = scorer.report(resamples=200, confidence=0.5)["overall"]["intervals"]["f1"]
    assert overall["intervals"]["f1"][0] < narrow[0] < narrow[1] < overall["intervals"]["f1"][1]
    assert "intervals" not in scorer.report()["overall"]


def test_two_systems_are_compared_record_by_record() -> None:
    def system(right: int) -> list[dict]:
        answers = [{"person": ["Ada" if index < right else "Bob"]} for index in range(30)]
        gold = entities(person=["Ada"])
        return [instance("NER", ["person"], gold, answer, id=str(index)) for index, answer in enumerate(answers)]

    better, worse = scorer_of(system(25)), scorer_of(system(10)[::-1])  # in another order
    result = better.compare(worse, resamples=300)
    assert result["overall"]["f1"] - result["overall"]["other_f1"] == pytest.approx(50)
    assert result["overall"]["p_value"] < 0.01
    low, high = result["overall"]["interval"]
    assert 20 < low < 50 < high < 80
    assert result["tasks"] == {"NER": result["overall"]}
    same = better.compare(scorer_of(system(25)[::-1]), resamples=100)["overall"]
    assert (same["difference"], same["interval"], same["p_value"]) == (0, [0, 0], 1)
    with pytest.raises(InputError, match="2 records are in only one of the two, such as '.*' of 'hand'"):
        better.compare(scorer_of(system(25)[2:]))


def test_a_paired_test_has_the_blocks_of_events() -> None:
    gold = [{"event_trigger": "met", "event_type": "meet", "arguments": [{"argument": "Ada", "role": "who"}]}]
    items = [{"event_type": "meet", "trigger": True, "arguments": ["who"]}]
    scorers = [
        scorer_of([instance("EE", items, gold, {"meet": [{"trigger": trigger, "arguments": {"who": "Ada"}}]})])
        for trigger in ("met", "meets")
    ]
    result = scorers[0].compare(scorers[1], resamples=20)
    assert result["tasks"]["EE"]["trigger"]["difference"] == 100
    assert result["tasks"]["EE"]["argument"]["difference"] == 0


def corrupted(value: object, rng: random.Random) -> object:
    """An answer with some strings changed and some list items left out."""
    if isinstance(value, dict):
        return {key: corrupted(inner, rng) for key, inner in value.items()}
    if isinstance(value, list):
        return [corrupted(inner, rng) for inner in value if rng.random() < 0.8]
    return rng.choice([value, value, value[:-1], value + "x"])


def shuffled(value: object, rng: random.Random) -> object:
    """An answer with its lists in another order."""
    if isinstance(value, dict):
        return {key: shuffled(inner, rng) for key, inner in value.items()}
    return rng.sample([shuffled(inner, rng) for inner in value], len(value)) if isinstance(value, list) else value


MODES = ["strict", "set", "normalized", "boundary", "type", "partial", "grounded"]


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=25)
@given(data=st.data())
def test_no_order_matters_in_any_mode(task: str, data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 999)))
    rows = []
    for id in "12":
        schema, text, annotations = data.draw(annotated(task))
        for row in SchemaBatching(task, "en", "generated", schema).instances(id, text, annotations):
            answer = corrupted(json.loads(row["output"]), rng)
            rows.append({**row, "output": json.dumps(answer)})
    others = [{**row, "output": json.dumps(shuffled(json.loads(row["output"]), rng))} for row in rows]
    rng.shuffle(others)
    one, other = scorer_of(rows), scorer_of(others)
    for mode in MODES:
        for linked in (False, True):
            matching = Matching(mode, linked=linked)
            assert one.report(matching) == other.report(matching)


@settings(max_examples=50)
@given(data=st.data())
def test_a_repeated_prediction_costs_precision_in_strict_and_nothing_in_set(data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated("NER"))
    rows = list(SchemaBatching("NER", "en", "x", schema).instances("1", text, annotations))
    twice = []
    for row in rows:
        answer = {label: names * 2 for label, names in json.loads(row["output"]).items()}
        twice.append({**row, "output": json.dumps(answer)})
    one, two = scorer_of(rows), scorer_of(twice)
    strict, doubled = (scorer.report()["overall"] for scorer in (one, two))
    assert counts(doubled) == (strict["tp"], 2 * strict["pred"], strict["gold"])
    if strict["gold"]:
        assert doubled["precision"] == 50
    assert counts(two.report(Matching("set"))["overall"]) == counts(one.report(Matching("set"))["overall"])


@settings(max_examples=50)
@given(data=st.data())
def test_the_modes_are_ordered(data: st.DataObject) -> None:
    """What matches strictly matches in every laxer mode."""
    schema, text, annotations = data.draw(annotated("NER"))
    names = data.draw(st.lists(st.text("abcXY é人名", min_size=1, max_size=4), max_size=5))
    rows = list(SchemaBatching("NER", "en", "x", schema, negatives="all").instances("1", text, annotations))
    for row in rows:
        answer = json.loads(row["output"])
        row["output"] = json.dumps({label: found[1:] + names for label, found in answer.items()})
    scorer = scorer_of(rows)
    tp = {mode: scorer.report(Matching(mode))["overall"]["tp"] for mode in MODES}
    assert tp["grounded"] <= tp["strict"] <= min(tp["normalized"], tp["boundary"], tp["type"])
    assert tp["set"] <= tp["strict"]
    assert tp["boundary"] <= tp["partial"]


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=40)
@given(data=st.data())
def test_gold_answers_score_100_in_any_order(task: str, data: st.DataObject) -> None:
    """The published scorer crashed on EET, SPO and KG."""
    schema, text, annotations = data.draw(annotated(task))
    rows = list(SchemaBatching(task, "en", "generated", schema).instances("1", text, annotations))
    random.Random(data.draw(st.integers(0, 9))).shuffle(rows)
    scorer = scorer_of(rows)
    for mode in MODES:
        blocks = scorer.report(Matching(mode))["tasks"].get(task, {})
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


def test_published_defect_precision_and_recall_were_rounded_before_f1() -> None:
    gold = entities(person=["Ada", "Bob", "Eve"])
    overall = score([instance("NER", ["person"], gold, {"person": ["Ada"]})])["overall"]
    assert overall["recall"] == pytest.approx(100 / 3)
    assert overall["f1"] == pytest.approx(50)


def test_published_defect_a_json_fence_scored_zero() -> None:
    gold = entities(person=["Ada"])
    answer = '```json\n{"person": ["Ada"]}\n```'
    assert score([instance("NER", ["person"], gold, answer)])["overall"]["f1"] == 100


def test_published_defect_input_without_annotation_was_a_key_error() -> None:
    row = instance("NER", ["person"], [], {"person": []})
    del row["label"]
    with pytest.raises(InputError, match="only instances with annotation can be scored"):
        score([row])


def test_published_defect_of_two_records_of_one_text_the_first_label_won() -> None:
    rows = [
        instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada"]}),
        instance("NER", ["person"], entities(person=["Bob"]), {"person": ["Bob"]}),
    ]
    overall = score(rows)["overall"]
    assert counts(overall) == (2, 2, 2)
    assert overall["records"] == 2
