"""Character offsets of the unified format: checked, kept, and used for the order of answers."""

import json
from pathlib import Path

import pytest
from helpers.corpora import SAMPLE_CORPUS, write_corpus
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import Extraction, InputError, Schema, SchemaBatching
from iepile_builder.answers.grounding import Locator, ground
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.index import read_split
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Annotation


TEXT = "Anna met Ann 🎉 in Rome."
ANN = {"entity": "Ann", "entity_type": "person", "start": 9, "end": 12}
EVENTS = [["meet"], ["guest"], {"meet": ["guest"]}]
MEETING = {"event_trigger": "met", "event_type": "meet", "arguments": [{"argument": "Ann", "role": "guest"}]}


def read(tmp_path: Path, task: str, schema: list, annotation: Annotation, on_error: str = "raise") -> list[Annotation]:
    field = TASKS[task].field
    write_corpus(tmp_path / "IE-en" / task / "news", schema, train=[{"text": TEXT, field: [annotation]}])
    (corpus,) = find_corpora([tmp_path])
    (record,) = read_split(corpus, "train", on_error=on_error)
    return record[field]


@pytest.mark.parametrize(
    ("task", "schema", "annotation"),
    [
        ("NER", [["person"], [], {}], ANN),
        ("NER", [["person"], [], {}], {**ANN, "start": None, "end": None}),
        (
            "RE",
            [[], ["met"], {}],
            {"head": "Anna", "relation": "met", "tail": "Rome", "tail_start": 18, "tail_end": 22},
        ),
        ("EE", EVENTS, {**MEETING, "start": 5, "end": 8}),
        ("EE", EVENTS, {**MEETING, "arguments": [{"argument": "Ann", "role": "guest", "start": 9, "end": 12}]}),
    ],
)
def test_right_offsets_are_kept(tmp_path: Path, task: str, schema: list, annotation: Annotation) -> None:
    assert read(tmp_path, task, schema, annotation) == [annotation]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({**ANN, "start": 5, "end": 8}, "'entity' is 'Ann', but its offsets are 5 and 8, where the text has 'met'"),
        ({**ANN, "end": 13}, "where the text has 'Ann '"),
        ({**ANN, "start": 90, "end": 93}, "90 and 93, outside of the text; offsets count characters"),
        ({**ANN, "start": -15}, "-15 and 12, outside of the text"),
        ({**ANN, "start": 9.0}, "'start' and 'end' are 9.0 and 12; give whole numbers"),
        ({key: value for key, value in ANN.items() if key != "end"}, "'start' and 'end' are 9 and None"),
    ],
)
def test_wrong_offsets_name_file_and_line_and_are_dropped_by_fix(
    tmp_path: Path, annotation: Annotation, message: str
) -> None:
    with pytest.raises(InputError, match=f"train.json, line 1: .*{message}"):
        read(tmp_path, "NER", [["person"], [], {}], annotation)
    fixed = read(tmp_path, "NER", [["person"], [], {}], annotation, "fix")
    assert fixed == [{"entity": "Ann", "entity_type": "person"}]


@pytest.mark.parametrize("arguments", [None, [{"argument": "Ann", "role": "guest", "start": 0, "end": 3}]])
def test_offsets_of_arguments_are_checked_and_fixed(tmp_path: Path, arguments: list | None) -> None:
    event = {**MEETING, "arguments": arguments} if arguments else {**MEETING, "start": 4, "end": 7}
    with pytest.raises(InputError, match="'event_trigger' is 'met'" if arguments is None else "'argument' is 'Ann'"):
        read(tmp_path, "EE", EVENTS, {**event, "arguments": [{**arguments[0], "start": 1}]} if arguments else event)
    fixed = read(tmp_path, "EE", EVENTS, event, "fix")
    assert fixed == ([MEETING] if arguments is None else [{**MEETING, "arguments": arguments}])


def test_answers_are_in_the_order_of_the_annotated_places() -> None:
    schema = Schema(types=("person",))
    entities = [ANN, {"entity": "Anna", "entity_type": "person", "start": 0, "end": 4}]
    for annotations, order in (
        (entities, ["Anna", "Ann"]),  # the string Ann occurs first within Anna
        ([{key: each[key] for key in ("entity", "entity_type")} for each in entities], ["Ann", "Anna"]),
    ):
        (row,) = SchemaBatching("NER", "en", "news", schema).instances("id", TEXT, annotations)
        assert json.loads(row["output"]) == {"person": order}


@pytest.mark.parametrize("task", ["NER", "RE", "SPO", "EE", "EET", "KG"])
def test_facts_found_in_a_text_are_annotation_with_offsets(task: str) -> None:
    """Extract, correct, train: what the extractor gives is a record that the build takes."""
    for corpus in find_corpora([SAMPLE_CORPUS], [task]):
        for record in read_split(corpus, "test"):
            facts = TASKS[task].facts(record[TASKS[task].field], corpus.schema)
            (grounded,) = ground([facts], Locator(record["text"])) if facts else ([],)
            found = Extraction(record["text"], task, corpus.language, corpus.schema, grounded)
            for annotation in found.annotations():
                TASKS[task].check(annotation, corpus.schema)
                TASKS[task].check_places(annotation, record["text"])
                assert any(key.endswith("start") for key in annotation)


@given(st.text(max_size=20), st.text(min_size=1, max_size=5), st.text(max_size=20), st.integers(-2, 2))
def test_offsets_are_right_at_the_mention_alone(before: str, mention: str, after: str, shift: int) -> None:
    text, start = before + mention + after, len(before) + shift
    entity = {"entity": mention, "entity_type": "x", "start": start, "end": start + len(mention)}
    if start >= 0 and text[start : start + len(mention)] == mention:
        TASKS["NER"].check_places(entity, text)
    else:
        with pytest.raises(InputError, match="but its offsets are"):
            TASKS["NER"].check_places(entity, text)
