"""Facts that a user corrects become records that a build reads: extract, correct, train."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from helpers.rules import AnswerEngine

from iepile_builder import Extractor, InputError, Schema
from iepile_builder.extraction.corrections import Corrected, collect, dump, pack, row_columns, to_correct, to_rows
from iepile_builder.iepile import IEPile
from iepile_builder.tasks import TASKS


TEXT = "Clara Osei resigned from Tallis Foods in Bergen. Tallis Foods hired Jonas Weber; Jonas Weber smiled."
ANSWER = {
    "person": ["Clara Osei", "Kari Nobody"],
    "employee of": [{"subject": "Jonas Weber", "object": "Tallis Foods"}],
    "resign": [{"trigger": "resigned", "arguments": {"employee": "Clara Osei", "employer": "Nordlys"}}],
    "hire": [{"trigger": "hired", "arguments": {"employee": "Jonas Weber", "employer": "NAN"}}],
}
SCHEMA = {
    "entities": ["person", "city"],
    "relations": ["employee of", "spouse"],
    "events": {"resign": ["employee", "employer"], "hire": ["employee", "employer"]},
}
EVENT_ROWS = [
    ["1", "resign", "resigned", "", ""],
    ["1", "", "", "employee", "Clara Osei"],
    ["2", "hire", "hired", "", ""],
    ["2", "", "", "employee", "Jonas Weber"],
]


def rows_of(found: str) -> dict[str, list[list[str]]]:
    return json.loads(found)["rows"]


@pytest.fixture(scope="module")
def found() -> str:
    return to_correct(Extractor(AnswerEngine(ANSWER))(TEXT, SCHEMA))


def test_rows_have_what_is_in_the_text(found: str) -> None:
    assert rows_of(found) == {
        "NER": [["person", "Clara Osei"]],
        "RE": [["employee of", "Jonas Weber", "Tallis Foods"]],
        "EE": EVENT_ROWS,
    }
    assert row_columns(TASKS["EE"]) == ["no.", "event_type", "event_trigger", "role", "argument"]


def test_corrected_texts_are_built_into_instances(found: str, tmp_path: Path) -> None:
    rows = rows_of(found)
    rows["NER"] += [["city", "Bergen"], ["", ""]]
    rows["EE"] += [["1", "", "", "employer", "Tallis Foods"]]
    records = collect(found, "", rows)
    records = collect(found, dump(records), {**rows, "NER": [["person", "Jonas Weber"], ["city", "Bergen"]]})
    other = to_correct(Extractor(AnswerEngine(ANSWER))("Clara Osei left.", "NER", ["person"]))
    records = collect(other, dump(records), rows_of(other))
    assert len(records) == 4  # the second collection of a text is in place of the first

    ZipFile(BytesIO(pack(records))).extractall(tmp_path)
    built = IEPile(data_dir=str(tmp_path / "corpora"), tasks=["NER", "RE", "EE"], cache_dir=str(tmp_path / "cache"))
    answers: dict[str, dict[str, Any]] = {}
    for row in built.as_dataset(split="train"):
        answers.setdefault(row["source"] + row["task"], {}).update(json.loads(row["output"]))
    assert answers == {
        "corrected_1NER": {"person": ["Jonas Weber"], "city": ["Bergen"]},
        "corrected_2NER": {"person": ["Clara Osei"]},  # which was not asked for cities
        "corrected_1RE": {"employee of": [{"subject": "Jonas Weber", "object": "Tallis Foods"}], "spouse": []},
        "corrected_1EE": {
            "resign": [{"trigger": "resigned", "arguments": {"employee": "Clara Osei", "employer": "Tallis Foods"}}],
            "hire": [{"trigger": "hired", "arguments": {"employee": "Jonas Weber", "employer": "NAN"}}],
        },
    }


def test_what_is_unchanged_keeps_its_offsets(found: str) -> None:
    rows = {**rows_of(found), "NER": [["person", "Clara Osei"], ["person", "Jonas Weber"]]}
    (record,) = (each.record for each in collect(found, "", rows) if each.task == "NER")
    assert record["entity"] == [
        {"entity": "Clara Osei", "entity_type": "person", "start": 0, "end": 10},
        {"entity": "Jonas Weber", "entity_type": "person"},
    ]


@pytest.mark.parametrize("task", TASKS)
def test_rows_of_every_task_are_its_annotations(task: str) -> None:
    example, several = TASKS[task].examples["en"], {}
    schema = TASKS[task].read_items(example.schema)
    if TASKS[task].triggers_given:
        several = {"triggers": {item["event_type"]: item["trigger"] for item in example.schema}}
    result = Extractor(AnswerEngine(dict(example.answer)))(example.text, task, schema, **several)
    assert result.facts and not result.ungrounded
    (record,) = collect(to_correct(result), "", {task: to_rows(result)})
    assert record == Corrected(
        task, "en", schema, {"text": example.text, TASKS[task].field: TASKS[task].distinct(result.annotations())}
    )
    assert isinstance(record.schema, Schema)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("NER", ["person", "Clara Oseil"], "NER, row 1: 'Clara Oseil' is not in the text"),
        ("NER", ["persn", "Clara Osei"], "NER, row 1: entity_type 'persn' is not in schema.json.*'person'"),
        ("NER", ["person", ""], "NER, row 1: 'entity' is ''"),
        ("NER", ["Clara Osei"], "NER: give the columns entity_type, entity"),
        ("NER", ["person", "Clara Osei", ""], "NER: give the columns entity_type, entity"),
        ("RE", ["spouse", "Clara Osei", None], "RE, row 1: 'tail' is ''"),
        ("EE", ["7", "", "", "employee", "Clara Osei"], "EE, row 1: no row above has the type of event '7'"),
        ("EE", ["1", "hire", "hired", "boss", "Clara Osei"], "EE, row 1: .*'boss' is not"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(found: str, task: str, row: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        collect(found, "", {**rows_of(found), task: [row]})


def test_an_event_has_one_type(found: str) -> None:
    rows = [*EVENT_ROWS, ["1", "hire", "hired", "", ""]]
    with pytest.raises(InputError, match="EE, row 5: event '1' has a type already"):
        collect(found, "", {**rows_of(found), "EE": rows})
