"""Which strings an instruction allows in its answer."""

import json

import pytest
from helpers.corpora import ALL_TASKS

from iepile_builder import InputError, Schema, SchemaBatching
from iepile_builder.data.instructions import read_answer_schema
from iepile_builder.tasks import TASKS


TEXT = "Ada Wong met Tom Hale on 3 May 2024."
BY_DEFAULT = {"NER", "RE", "EE"}


def instruction_of(task: str, schema: object, **more: object) -> str:
    return json.dumps({"instruction": "Extract.", "schema": schema, **more, "input": TEXT})


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("task", ALL_TASKS)
def test_strings_of_the_text_are_the_default_of_some_tasks(task: str, language: str) -> None:
    example = TASKS[task].examples[language]
    instruction = json.dumps({"instruction": "Extract.", "schema": example.schema, "input": example.text})
    copied, free = (TASKS[task].answer_schema(example.schema, text) for text in (example.text, None))
    assert read_answer_schema(instruction, task) == (copied if task in BY_DEFAULT else free)
    assert read_answer_schema(instruction, task, True) == copied
    assert read_answer_schema(instruction, task, False) == free


@pytest.mark.parametrize(
    ("task", "schema"),
    [
        ("NER", {"date": "as YYYY-MM-DD", "person": ""}),
        ("RE", {"met": "the place: lat, long"}),
        ("EE", {"meet": {"meet": "", "trigger": True, "arguments": {"date": "as YYYY-MM-DD"}}}),
    ],
)
def test_a_description_may_ask_for_other_strings(task: str, schema: object) -> None:
    instruction = instruction_of(task, schema)
    assert "x-text" not in read_answer_schema(instruction, task)
    assert read_answer_schema(instruction, task, True)["x-text"] == TEXT


@pytest.mark.parametrize("task", sorted(BY_DEFAULT))
def test_what_the_library_describes_is_free(task: str) -> None:
    schema = Schema(("meet",), ("date",), {"meet": ("date",)})
    for described in (False, True):
        texts = {"meet": "an encounter", "date": "as YYYY-MM-DD"} if described else {}
        batching = SchemaBatching(task, "en", "x", schema, negatives="all", descriptions=texts)
        (instance,) = batching.instances("", TEXT, None)
        assert ("x-text" in read_answer_schema(instance["instruction"], task)) != described


@pytest.mark.parametrize(
    ("examples", "copied"),
    [
        ([], True),
        ([{"input": "on 4 June", "output": {"date": ["4 June"]}}, {"input": "no date", "output": {"date": []}}], True),
        ([{"input": "on 4 June", "output": {"date": ["06-04"]}}], False),
        (
            [{"input": "on 4 June", "output": {"date": ["4 June"]}}, {"input": "1 May", "output": {"date": "05-01"}}],
            False,
        ),
        ([{"input": "on 4 June", "output": '{"date": ["4 June"]}'}], False),
        ("on 4 June: 06-04", False),
        (5, False),
    ],
)
def test_examples_may_show_other_strings(examples: object, copied: bool) -> None:
    instruction = instruction_of("NER", ["date"], example=examples)
    assert ("x-text" in read_answer_schema(instruction, "NER")) == copied


def test_what_cannot_be_read() -> None:
    for instruction, task, message in [
        ("Find the cities.", "NER", "not JSON"),
        ('{"schema": []}', "NER", "no 'schema' list or no 'input' text"),
        (instruction_of("NER", ["date"]), "NRE", "unknown task 'NRE'"),
        (instruction_of("EE", ["date"]), "EE", "not schema items of EE"),
    ]:
        with pytest.raises(InputError, match=message):
            read_answer_schema(instruction, task)
