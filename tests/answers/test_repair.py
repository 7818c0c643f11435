"""Answers that are nearly JSON, as models write them."""

import json

import pytest
from helpers.corpora import ALL_TASKS
from helpers.counting import count_calls
from helpers.strategies import annotated
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_builder import Schema, SchemaBatching
from iepile_builder.answers.parse import parse_answer
from iepile_builder.answers.repair import read_objects, repair_json, without_repeats
from iepile_builder.data.instructions import asked_schema
from iepile_builder.tasks.facts import Entity, Relation


PEOPLE = Schema(("person", "city"))
ADA = {"person": ["Ada"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # a fence, text around
        ('Here it is:\n```json\n{"person": ["Ada"]}\n```\nI hope that\'s it.', ADA),
        ('<think>a {person}?</think> {"person": ["Ada"]}', ADA),
        ('[{"person": ["Ada"]}]', ADA),
        ('{"person": ["Ada"]}}', ADA),
        # more than one object: the first that has a key gives its value
        ('{"person": ["Ada"]}\n{"city": ["Rome"]}', {"person": ["Ada"], "city": ["Rome"]}),
        ('{"person": ["Ada"]} {"person": ["Ada"]} {"person": ["A', ADA),
        # commas
        ('{"person": ["Ada",],}', ADA),
        ('{"person": ["Ada" "Bob"] "city": []}', {"person": ["Ada", "Bob"], "city": []}),
        # a cut tail
        ('{"person": ["Ada"]', ADA),
        ('{"person": ["Ada", "Bo', {"person": ["Ada", "Bo"]}),
        ('{"person": ["Ada"], "ci', ADA),
        ('{"person": ["Ada"], "city":', ADA),
        ('{"city": {"Rome": {"mayor": ["Eve"', {"city": {"Rome": {"mayor": ["Eve"]}}}),
        ('{"person": ["Ada\\', ADA),
        ('{"person": ["Ada\\u4e', ADA),
        # quotes
        ("{'person': ['Ada']}", ADA),
        ("{'person': ['O'Brien', \"D'Arcy\", 'it\\'s']}", {"person": ["O'Brien", "D'Arcy", "it's"]}),
        ('{"person": ["the "great" Ada", "\\"Bob\\"",]}', {"person": ['the "great" Ada', '"Bob"']}),
        ("{person: [Ada Lovelace, Bob]}", {"person": ["Ada Lovelace", "Bob"]}),
        ('{"person": ["\\u4eba\\n", "\\x"],}', {"person": ["人\n", "\\x"]}),
        # brackets that do not match
        ('{"person": ["Ada"}', ADA),
        ('{"wife": [{"subject": "Ada", "object": "Bob"]}', {"wife": [{"subject": "Ada", "object": "Bob"}]}),
        # repeated keys
        ('{"person": ["Ada"], "person": ["Bob"]}', {"person": ["Ada", "Bob"]}),
        ('{"city": {"Rome": {"mayor": "Eve"}}, "city": {"Rome": {"river": "Tiber"}}}',
         {"city": {"Rome": {"mayor": "Eve", "river": "Tiber"}}}),
        # nothing
        ("", {}),
        ("NAN", {}),
        ("[]", {}),
        ('{"person": None, "city": nan}', {"person": "NAN", "city": "NAN"}),
        ('{"person": ["None", "", null, "Ada"]}', ADA),
        ('{"wife": [{"subject": "N/A", "object": null}]}', {"wife": []}),
        # values stay what they are
        ('{"person": [42, true, -1.5,]}', {"person": [42, True, -1.5]}),
    ],
)  # fmt: skip
def test_what_models_really_emit(text: str, value: dict) -> None:
    assert repair_json(text) == value


@pytest.mark.parametrize("text", ["no JSON", "person: Ada", '"Ada"', "42", "]}", "```", "\x00\x07"])
def test_what_has_no_object_in_it_is_none(text: str) -> None:
    assert repair_json(text) is None
    assert not parse_answer(text, "NER", PEOPLE, repair=True).parsed


def test_repair_is_asked_for_and_counted() -> None:
    text = "{'person': ['Ada']}"
    assert not parse_answer(text, "NER", PEOPLE).parsed
    answer = parse_answer(text, "NER", PEOPLE, repair=True)
    assert (answer.facts, answer.parsed, answer.repaired) == ([Entity("person", "Ada")], True, True)
    for strict in ('{"person": ["Ada"]}', '```json\n{"person": ["Ada"], "city": []}\n```', '{"person": "NAN"}'):
        answer = parse_answer(strict, "NER", PEOPLE, repair=True)
        assert (answer.parsed, answer.repaired) == (True, False)
    answer = parse_answer('{"person": ["Ada"], "person": ["Bob"]}', "NER", PEOPLE, repair=True)
    assert answer.repaired
    assert len(answer.facts) == 2


def test_a_pair_of_nothings_is_no_fact() -> None:
    text = '{"wife": [{"subject": "NAN", "object": "NAN"}, {"subject": "Ada", "object": "Bob"}]}'
    assert len(parse_answer(text, "RE", Schema((), ("wife",))).facts) == 2
    answer = parse_answer(text, "RE", Schema((), ("wife",)), repair=True)
    assert (answer.facts, answer.repaired) == ([Relation("wife", "Ada", "Bob")], True)


def test_what_the_text_says_is_no_nothing() -> None:
    text = '{"person": ["Nan", "None", "null"], "city": ["N/A", ""]}'
    for answer in (text, text.replace('"', "'")):
        said = parse_answer(answer, "NER", PEOPLE, True, "Nan, Null & Nonesuch dined at N/A; none paid.")
        assert said.facts == [Entity("person", "Nan"), Entity("city", "N/A")]
        assert parse_answer(answer, "NER", PEOPLE, True).facts == []


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=25)
@given(data=st.data())
def test_repair_changes_no_correct_answer(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    for row in SchemaBatching(task, "en", "generated", schema).instances("1", text, annotations):
        asked = asked_schema(row["instruction"], task)
        strict = parse_answer(row["output"], task, asked)
        assert parse_answer(row["output"], task, asked, repair=True) == strict


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab\"'\\{}[],: \n人", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(value=st.dictionaries(st.text("ab\"'\\{}[],: ", max_size=4), JSON, max_size=4))
def test_token_by_token_json_is_read_as_json(value: dict) -> None:
    assert read_objects(json.dumps(value)) == value
    assert read_objects("So: " + json.dumps(value, ensure_ascii=False, indent=1) + " That is all.") == value


@given(names=st.lists(st.text("abc é人", min_size=1, max_size=5), max_size=5), cut=st.integers(1, 200))
def test_a_cut_answer_loses_its_end_alone(names: list[str], cut: int) -> None:
    found = (read_objects(json.dumps({"person": names}, ensure_ascii=False)[:cut]) or {}).get("person", [])
    whole = found[:-1]  # the last may be cut itself
    assert whole == names[: len(whole)]
    assert len(found) <= len(names)
    if found:
        assert names[len(whole)].startswith(found[-1])


def repeated_deeply(depth: int, width: int) -> str:
    inner, path = "{" + ",".join(f'"{key}":0' for key in range(width)) + "}", "{}"
    for _ in range(depth):
        inner, path = f'{{"a":{path},"a":{inner}}}', f'{{"a":{path}}}'
    return inner


HOSTILE = {
    "lists": "[" * 1_000_000,
    "objects": '{"a": ' * 100_000,
    "closed": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "pairs": "{}" * 500_000,
    "single quotes": "{'" * 500_000,
    "spaced quotes": "{'" + "' " * 500_000,
    "mixed quotes": "{" + "'\"" * 500_000,
    "backslashes": '{"a": "' + "\\" * 1_000_000,
    "surrogates": '{"a": "' + "\\ud800" * 150_000,
    "commas": "{" + "," * 1_000_000,
    "nothings": '{"a": [' + "None," * 200_000,
    "keys": "".join(f'{{"{key}": 1}}' for key in range(70_000)),
    "repeated keys": "{" + '"a":[1],' * 120_000 + '"a":[]}',
    "repeated deeply": repeated_deeply(300, 60_000),
    "words": "{" + "a b " * 250_000,
    "white": '{"a"' + " " * 1_000_000 + "x",
    "fences": "```json\n" * 120_000,
    "control": "{\x00" * 500_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answers_are_repaired_or_given_up_in_linear_time(text: str) -> None:
    assert count_calls(parse_answer, text, "NER", PEOPLE, True) < 5 * len(text)


@settings(max_examples=200)
@given(text=st.text("{}[]\"'\\:,` \naN1人", max_size=60))
def test_no_text_raises(text: str) -> None:
    for task in ALL_TASKS:
        schema = Schema(("a_b_c",)) if task == "SPO" else PEOPLE
        parse_answer(text, task, schema, repair=True)


@pytest.mark.parametrize(
    ("text", "distinct"),
    [
        ('{"person": ["Ada", "Bob", "Ada", "Eve", "Bob"]}', '{"person": ["Ada", "Bob", "Eve"]}'),
        (
            '{"": [{"subject": "A", "object": "B"}, {"subject": "A", "object": ""}, {"subject": "A", "object": "B"}]}',
            '{"": [{"subject": "A", "object": "B"}, {"subject": "A", "object": ""}]}',
        ),
        # an event is another if an argument is; within an item, one value is no list
        (
            '{"hit": [{"trigger": "t", "arguments": {}}, {"trigger": "t", "arguments": {"by": ["x", "x"]}}]}',
            '{"hit": [{"trigger": "t", "arguments": {}}, {"trigger": "t", "arguments": {"by": "x"}}]}',
        ),
        ('{"person": ["Ada", "Ada"]}', '{"person": ["Ada"]}'),
        ('{"person": {"Ada": {"born": "1"}, "Ada": {"born": "2"}}}', '{"person": {"Ada": {"born": "1"}}}'),
        # left as it is
        ('{"person":["Ada"]}', None),
        ('{"person": ["Ada", "Ada"', None),
        ('["Ada", "Ada"]', None),
        ("", None),
    ],
)
def test_without_repeats(text: str, distinct: str | None) -> None:
    assert without_repeats(text) == (text if distinct is None else distinct)


@given(st.dictionaries(st.text(max_size=2), st.lists(st.text(max_size=1) | st.lists(st.text(max_size=1)), max_size=6)))
def test_what_is_distinct_stays_in_order(value: dict) -> None:
    once = without_repeats(json.dumps(value))
    assert without_repeats(once) == once
    for label, items in json.loads(once).items():
        if not any(isinstance(item, list) for item in value[label]):
            assert items == list(dict.fromkeys(value[label]))
