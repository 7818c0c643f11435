"""`extraction.user_schema`: every natural way to write a schema, and one clear line for all else."""

from pathlib import Path
from typing import Any

import pytest
from helpers.corpora import ALL_TASKS
from pydantic import BaseModel, Field

from iepile_builder import InputError, Schema
from iepile_builder.extraction.user_schema import open_schema, read_schema
from iepile_builder.tasks import TASKS


class Person(BaseModel):
    name: str = Field(description="a person's full name")
    place_of_birth: str | None = None
    employer: list[str] = Field(default=[], title="works for")


class Resignation(BaseModel):
    employee: str = Field(description="who leaves")
    last_day: str = Field(alias="last day at work", default="")


class News(BaseModel):
    resign: list[Resignation] = Field(description="leaves a job")
    hire: Person | None


@pytest.mark.parametrize(
    ("task", "schema", "labels", "roles"),
    [
        ("NER", ["person", "city"], ["person", "city"], {}),
        ("NER", ("person",), ["person"], {}),
        ("RE", ["founder"], ["founder"], {}),
        ("EET", ["strike"], ["strike"], {}),
        ("SPO", ["person_founder_company"], ["person_founder_company"], {}),
        ("SPO", [("person", "lives_in", "city")], ["person_lives_in_city"], {}),
        ("SPO", [{"subject_type": "a", "predicate": "b", "object_type": "c"}], ["a_b_c"], {}),
        ("EE", {"resign": ["employee"], "strike": []}, ["resign", "strike"], {"resign": ("employee",), "strike": ()}),
        ("EE", [{"event_type": "a", "trigger": True, "arguments": ["b"]}], ["a"], {"a": ("b",)}),
        ("EEA", {"resign": ("employee",)}, ["resign"], {"resign": ("employee",)}),
        ("KG", {"city": ["mayor"], "town": ["mayor"]}, ["city", "town"], {"city": ("mayor",), "town": ("mayor",)}),
        ("NER", Person, ["name", "place of birth", "works for"], {}),
        ("EE", News, ["resign", "hire"], {"resign": ("employee", "last day at work")}),
        ("EE", {"resign": {"employee": "", "resign": ""}}, ["resign"], {"resign": ("employee",)}),
        ("KG", News, ["resign", "hire"], {"hire": ("name", "place of birth", "works for")}),
        ("NER", Schema(types=("person",)), ["person"], {}),
    ],
)
def test_forms_of_a_schema(task: str, schema: Any, labels: list[str], roles: dict) -> None:
    read, descriptions = read_schema(schema, task)
    assert list(TASKS[task].labels(read)) == labels
    for label, of_label in roles.items():
        assert TASKS[task].roles(label, read) == of_label
    if schema is Person:
        assert descriptions == {"name": "a person's full name", "place of birth": "", "works for": ""}
    elif schema is News:
        assert descriptions["resign"] == {"resign": "leaves a job", "employee": "who leaves", "last day at work": ""}
    else:
        assert descriptions == {}


@pytest.mark.parametrize("task", ["NER", "RE", "EET"])
def test_descriptions(task: str) -> None:
    schema = {"boss": "who is in charge", "staff": "who is not"}
    assert read_schema(schema, task)[1] == schema
    assert read_schema(dict.fromkeys(schema, ""), task)[1] == {}


def test_descriptions_of_roles() -> None:
    schema = {"resign": {"resign": "leaves a job", "employee": "who leaves"}, "strike": ["participant"]}
    read, descriptions = read_schema(schema, "EE")
    assert read.type_roles == {"resign": ("employee",), "strike": ("participant",)}
    assert descriptions == {"resign": {"resign": "leaves a job", "employee": "who leaves"}}
    assert read_schema({"person_founder_company": "who made it"}, "SPO")[1] == {
        "person_founder_company": "who made it"
    }


def test_the_schema_of_a_corpus(people: Path) -> None:
    path = people / "IE-en" / "NER" / "people" / "schema.json"
    assert read_schema(path, "NER") == read_schema(str(path), "NER") == (Schema.read(path), {})
    with pytest.raises(InputError, match="is empty; give RE the relations"):
        read_schema(path, "RE")
    path.write_text('{"meet": ["who"]}')
    assert read_schema(path, "EE")[0].type_roles == {"meet": ("who",)}
    path.write_text("no schema")
    with pytest.raises(InputError, match="1 lines, not 3"):
        read_schema(path, "EE")


@pytest.mark.parametrize("task", ALL_TASKS)
@pytest.mark.parametrize("schema", [[], {}, Schema()])
def test_an_empty_schema(task: str, schema: Any) -> None:
    with pytest.raises(InputError, match=f"the schema is empty; give {task} the"):
        read_schema(schema, task)


class Twice(BaseModel):
    first: str = Field(title="name")
    name: str


@pytest.mark.parametrize(
    ("task", "schema", "message"),
    [
        ("NER", ["a", "b", "a"], "label 'a' occurs 2 times; give each once"),
        ("EE", {"a": ["b", "b"]}, "the schema's 'a': label 'b' occurs 2 times"),
        ("EE", [{"event_type": "a", "arguments": []}] * 2, "label 'a' occurs 2 times"),
        ("SPO", [("a", "b", "c")] * 2, "label 'a_b_c' occurs 2 times"),
        ("NER", Twice, "two fields of Twice are called 'name'"),
        ("NER", ["a", " "], "' ' is no label; give NER the entity types"),
        ("NER", ["a", 3], "'3' is no label; give NER the entity types"),
        ("EE", ["a"], "EE does not take a list of labels; give the event types with their roles"),
        ("KG", ["a"], "KG does not take a list of labels; give the entity types with their attributes"),
        ("NER", {"a": ["b"]}, "NER does not take labels with roles"),
        ("EE", {"a": "b"}, "EE does not take labels without a list of roles"),
        ("EE", {"a": {"b": 3}}, "the schema's 'a': '3' is no description"),
        ("EE", Person, "EE does not take labels without a list of roles"),
        ("RE", News, "RE does not take labels with roles"),
        ("KG", {"a": []}, "the schema's 'a' is empty"),
        ("EE", {"a": 3}, "EE does not take labels without a list of roles"),
        ("SPO", ["founder"], "'founder' is not of the form subjecttype_predicate_objecttype"),
        ("SPO", [("a_b", "c", "d")], "contains '_'"),
        ("EE", [{"type": "a"}], "the schema's items are none of EE"),
        ("SPO", [{"a": "b"}], 'give the typed relations, such as ["company_founder_person"]'),
        ("NER", "no/such/file.json", "no such file"),
        ("NER", "x" * 5000, "no such file"),
        ("NER", '["person", ', "the schema is not JSON: Expecting value"),
        ("NER", '["per\\ud800son"]', r"the schema: 'per\ud800son' is not valid Unicode"),
        ("NER", {"person": "\ud800"}, r"the schema: '\ud800' is not valid Unicode"),
        ("EE", {"a": ["b\udc00"]}, r"the schema's 'a': 'b\udc00' is not valid Unicode"),
        ("EE", {"a": {"b": "\udc00"}}, r"the schema's 'a': '\udc00' is not valid Unicode"),
        ("NER", 3, "a schema of NER cannot be made of '3'"),
        ("XX", ["a"], "unknown task 'XX'; known: NER, RE"),
    ],
)
def test_what_is_no_schema(task: str, schema: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_schema(schema, task)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_json_that_is_nested_too_deeply(tmp_path: Path) -> None:
    deep = "[" * 100_000
    (file := tmp_path / "deep.json").write_text(deep)
    for schema, message in ((deep, "the schema is nested too deeply"), (file, "deep.json: nested too deeply")):
        with pytest.raises(InputError, match=message):
            open_schema(schema)
