"""Several tasks in one call: one schema, one `generate`, one result."""

import json
import re
from collections.abc import Sequence

import pytest
from helpers.rules import key_of, words

from iepile_builder import Extractions, Extractor, InputError
from iepile_builder.engines.base import Completion, Request
from iepile_builder.extraction.user_schema import read_tasks
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Argument, Attribute, Entity, Relation, Trigger


TEXT = "Ada Lovelace founded Acme in Rome. She resigned on Monday."
SCHEMA = {
    "entities": ["person", "city"],
    "relations": {"founder": "who founded it"},
    "events": {"resign": ["employee", "time"]},
    "attributes": {"company": ["city"]},
}
ANSWERS = {
    "person": ["Ada Lovelace"],
    "city": ["Rome"],
    "founder": [{"subject": "Acme", "object": "Ada Lovelace"}],
    "resign": [{"trigger": "resigned", "arguments": {"employee": "She", "time": "Monday"}}],
    "company": {"Acme": {"city": "Rome"}},
}


class Engine:
    """Answers each schema item from a table, and counts the calls."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Request]] = []

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        return None

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        self.calls.append(requests)
        asked = [[key_of(item) for item in words(each)["schema"]] for each in requests]
        return [Completion(json.dumps({key: ANSWERS[key] for key in keys})) for keys in asked]


def test_one_call_asks_for_all_tasks() -> None:
    engine = Engine()
    result = Extractor(engine)(TEXT, SCHEMA)
    assert [request.task for request in engine.calls[0]] == ["NER", "RE", "EE", "KG"] and len(engine.calls) == 1
    assert isinstance(result, Extractions)
    assert list(result) == list(SCHEMA)
    assert result["entities"].facts == [Entity("person", "Ada Lovelace"), Entity("city", "Rome")]
    assert result["relations"].facts == [Relation("founder", "Acme", "Ada Lovelace")]
    assert result["events"].facts == [
        Trigger("resign", "resigned"),
        Argument("resign", "employee", "She", "resigned"),
        Argument("resign", "time", "Monday", "resigned"),
    ]
    assert result["attributes"].facts == [Attribute("company", "Acme", "city", "Rome")]
    assert len(result.facts) == 7
    assert all(result.text[each.start : each.end] == each for fact in result.facts for each in fact.mentions)


def test_each_task_gives_what_it_gives_alone() -> None:
    extractor = Extractor(Engine())
    for key, result in extractor(TEXT, SCHEMA).items():
        assert result == extractor(TEXT, read_tasks(SCHEMA)[key].name, SCHEMA[key])


def test_graph_json_and_page_are_of_all_tasks() -> None:
    result = Extractor(Engine())(TEXT, SCHEMA)
    assert {(node, data["type"]) for node, data in result.to_networkx().nodes(data=True)} == {
        ("Ada Lovelace", "person"), ("Rome", "city"), ("Acme", "company"), ("event 1", "resign"), ("She", ""),
        ("Monday", ""),
    }  # fmt: skip
    data = json.loads(result.to_json())
    assert data == result.to_dict() and data["text"] == TEXT
    assert {key: each["task"] for key, each in data["tasks"].items()} == {
        "entities": "NER", "relations": "RE", "events": "EE", "attributes": "KG",
    }  # fmt: skip
    html = result.to_html()
    assert "NER, RE, EE, KG: 7 facts" in html and "4 answers about 1 passage" in html
    heads = re.findall("<h2>(.*)</h2>", html)
    assert heads == ["Graph", "Named entities", "Relations", "Events", "Entities with attributes", "Data"]


def test_several_texts_and_names_of_tasks() -> None:
    engine = Engine()
    results = list(Extractor(engine)([TEXT, TEXT + " "] * 20, {"NER": ["person"], "RE": ["founder"]}))
    assert [result.text for result in results] == [TEXT, TEXT + " "] * 20
    assert all(list(result) == ["NER", "RE"] and len(result.facts) == 2 for result in results)
    assert len(engine.calls) == 2  # 80 requests, 64 at once


def test_examples_go_to_the_tasks_that_they_annotate() -> None:
    example = {"text": "Eva left.", "entity": [{"entity": "Eva", "entity_type": "person"}]}
    engine = Engine()
    Extractor(engine)(TEXT, {"entities": ["person"], "relations": ["founder"]}, examples=[example])
    asked = [words(request) for request in engine.calls[0]]
    assert asked[0]["example"] == [{"input": "Eva left.", "output": {"person": ["Eva"]}}]
    assert "example" not in asked[1]


def test_arguments_of_known_events() -> None:
    schema = {"entities": ["person"], "arguments": {"resign": ["employee"]}}
    result = Extractor(Engine())(TEXT, schema, triggers={"resign": ["resigned"]})
    assert result["arguments"].facts == [Argument("resign", "employee", "She", "resigned")]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "the schema is empty; give one for each task: entities, relations, "),
        ({"entitys": ["person"]}, "unknown task 'entitys'; known: entities, relations, "),
        ({"entities": ["person"], "NER": ["city"]}, "'NER' asks for NER a second time; give each task once"),
        ({"entities": []}, "the schema is empty; give NER the entity types"),
        ({"arguments": {"resign": ["who"]}}, "EEA asks for the arguments of known events"),
        ({"events": ["resign"]}, "EE does not take a list of labels; give the event types with their roles"),
    ],
)
def test_bad_input(schema: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        Extractor(Engine())(TEXT, schema)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="a schema has a task"):
        Extractor(Engine())(TEXT, {"entities": ["person"]}, ["person"])  # type: ignore[call-overload]


def test_every_task_has_a_key() -> None:
    assert len({task.schema_key for task in TASKS.values()}) == len(TASKS)
