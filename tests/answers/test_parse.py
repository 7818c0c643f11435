"""Answers as models write them."""

import json

import pytest
from helpers.corpora import ALL_TASKS
from helpers.counting import count_calls
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import InputError, Schema
from iepile_builder.answers.parse import load_answer, load_json, parse_answer
from iepile_builder.data.instructions import asked_schema
from iepile_builder.tasks.facts import Entity


PEOPLE = Schema(("person", "city"))
ASKED = dict.fromkeys(ALL_TASKS, PEOPLE) | {"SPO": Schema(("person_wife_person",))}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@pytest.mark.parametrize(
    "text",
    [
        '{"person": ["Ada"]}',
        '  {"person": ["Ada"]}\n',
        '```json\n{"person": ["Ada"]}\n```',
        '\n```\n{"person": ["Ada"]}\n```\n',
        '```JSON\n\n{"person": ["Ada"]}```',
    ],
)
def test_json_with_or_without_a_fence_is_read(text: str) -> None:
    assert load_answer(text) == {"person": ["Ada"]}


@given(value=JSON, extra=st.sampled_from(["", '"\\ud800"', "NaN", "-Infinity", "1e999", "[" * 1100 + "]" * 1100]))
def test_json_is_read_as_the_standard_library_reads_it(value: object, extra: str) -> None:
    text = json.dumps({"value": value, "value2": value}, ensure_ascii=False)
    text = text if not extra else f'{text[:-1]}, "value": {extra}}}'
    assert repr(load_json(text)) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        '["Ada"]',
        '"Ada"',
        "null",
        '{"person": ["Ada"]',
        '{"person": ["Ada"],}',
        "{'person': ['Ada']}",
        'Here it is: {"person": ["Ada"]}',
        '```json\n{"person": ["Ada"]}\n``` I hope this helps.',
        '{"person": ["A\x00\x07da"]}',
        '{"person": ' + "9" * 5000 + "}",
        "```",
        "``````",
    ],
)
def test_everything_else_is_not_repaired(text: str) -> None:
    answer = parse_answer(text, "NER", PEOPLE)
    assert (answer.facts, answer.parsed) == ([], False)


@pytest.mark.parametrize("task", ALL_TASKS)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"a": ' + "[" * 900 + "]" * 900 + "}",
        "\x00" * 1_000_000,
        "`" * 1_000_000,
        "```" + " \n" * 500_000 + "```",
        '{"a": "' + "\\ud800" * 150_000,
        '{"person": [' + '"Ada", ' * 150_000 + '"Bob"]}',
    ],
    ids=["lists", "objects", "nested", "control", "fences", "white", "surrogates", "long"],
)
def test_hostile_answers_are_read_in_linear_time(task: str, text: str) -> None:
    assert count_calls(parse_answer, text, task, ASKED[task]) < 5 * len(text)


@pytest.mark.parametrize("task", ALL_TASKS)
@given(answer=st.dictionaries(st.sampled_from(["person", "wife", "attack"]), JSON, max_size=3))
def test_any_json_is_parsed_to_facts_of_strings(task: str, answer: dict) -> None:
    for fact in parse_answer(json.dumps(answer), task, ASKED[task]).facts:
        assert all(isinstance(text, str) for text in fact)


def test_labels_that_were_not_asked_are_counted_and_their_facts_kept() -> None:
    answer = parse_answer('{"person": ["Ada"], "river": ["Po"], "lake": []}', "NER", PEOPLE)
    assert answer.outside == 2
    assert answer.facts == [Entity("person", "Ada"), Entity("river", "Po")]


@pytest.mark.parametrize(
    ("task", "instruction"),
    [
        ("NER", "Find the people."),
        ("NER", "[1]"),
        ("NER", '{"schema": ["person"]}'),
        ("NER", '{"schema": "person", "input": "Ada"}'),
        ("NER", '{"schema": [{"person": 1}], "input": "Ada"}'),
        ("EE", '{"schema": ["attack"], "input": "Ada"}'),
        ("SPO", '{"schema": [{"predicate": "wife"}], "input": "Ada"}'),
        ("SPO", '{"schema": [{"subject_type": "a_b", "predicate": "p", "object_type": "c"}], "input": "Ada"}'),
        ("KG", '{"schema": [{"entity_type": "person"}], "input": "Ada"}'),
    ],
)
def test_an_instruction_that_is_none_is_the_users_fault(task: str, instruction: str) -> None:
    with pytest.raises(InputError, match="instruction|contains '_'"):
        asked_schema(instruction, task)
