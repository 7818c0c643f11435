"""Schema batching: the instances of a record, on generated records of every task."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from helpers.corpora import ALL_TASKS, ROOT, SAMPLE_CORPUS
from helpers.pages import blocks
from helpers.strategies import OPTIONS, annotated, asked_labels, batching_of
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_builder import IEPile, InputError, Schema, SchemaBatching
from iepile_builder.answers.parse import parse_answer
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.index import read_split
from iepile_builder.data.instructions import asked_schema, read_instruction
from iepile_builder.data.lengths import halve
from iepile_builder.io import to_json
from iepile_builder.tasks import TASKS


# the published way to describe labels, and where there is none, the nearest to it
ARGUMENTS = '"arguments": {"who": "a person", "when": ""}'
DESCRIBED = {
    "NER": '{"city": "a large town"}',
    "EET": '{"leave": "goes away"}',
    "EE": '{"leave": {"leave": "goes away", "trigger": true, ' + ARGUMENTS + "}}",
    "EEA": '{"leave": {"leave": "goes away", "trigger": ["left"], ' + ARGUMENTS + "}}",
    "SPO": '[{"subject_type": "person", "predicate": "leaves", "object_type": "city", "description": "went"}]',
    "KG": '[{"entity_type": "city", "attributes": {"mayor": "who governs it", "area": ""}}]',
}


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=60)
@given(data=st.data())
def test_reference_answers_round_trip(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    for annotation in annotations:
        TASKS[task].check(annotation, schema)
    instances = list(batching_of(task, schema, **data.draw(OPTIONS)).instances("id", text, annotations))
    answered = Counter()
    for row in instances:
        answer = parse_answer(row["output"], task, asked_schema(row["instruction"], task))
        assert answer.parsed
        assert answer.outside == 0
        answered.update(answer.facts)
    assert answered == Counter(TASKS[task].facts(TASKS[task].distinct(annotations), schema))


def test_worked_example() -> None:
    schema = Schema(types=("person", "city", "river", "date"))
    annotations = [{"entity": "Rome", "entity_type": "city"}, {"entity": "Ada", "entity_type": "person"}]
    batching = batching_of("NER", schema, negatives="all", schema_order="schema", split_num=4)
    (row,) = batching.instances("7", "Ada saw Rome.", annotations)
    assert list(json.loads(row["instruction"])) == ["instruction", "schema", "input"]
    assert '"schema": ["person", "city", "river", "date"], "input": "Ada saw Rome."}' in row["instruction"]
    assert row["output"] == '{"person": ["Ada"], "city": ["Rome"], "river": [], "date": []}'
    assert json.loads(row["label"]) == annotations
    assert (row["id"], row["task"], row["source"], row["language"]) == ("7", "NER", "generated", "en")


def test_a_role_is_asked_in_the_order_of_the_schema() -> None:
    schema = Schema(("hire",), ("who", "boss", "date"), {"hire": ("who", "boss", "date")})
    annotations = [{"event_trigger": "hired", "event_type": "hire", "arguments": [{"argument": "Ada", "role": "who"}]}]
    orders = {}
    for order in ("schema", "sorted"):
        (row,) = batching_of("EE", schema, schema_order=order).instances("7", "Ada was hired.", annotations)
        orders[order] = json.loads(row["instruction"])["schema"][0]["arguments"]
        assert list(json.loads(row["output"])["hire"][0]["arguments"]) == orders[order]
    assert orders == {"schema": ["who", "boss", "date"], "sorted": ["boss", "date", "who"]}


def test_another_seed_epoch_or_repetition_is_another_draw() -> None:
    schema = Schema(types=tuple("abcdefghijklmnop"))
    batching = batching_of("NER", schema)
    changed = [batching, *(replace(batching, **{name: 1}) for name in ("seed", "epoch", "repetition"))]
    draws = [tuple(asked_labels(list(each.instances("7", "Ada.", [])), "NER")) for each in (batching, *changed)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4


def sample_rows(task: str) -> tuple[SchemaBatching, datasets.Dataset]:
    corpus = find_corpora([SAMPLE_CORPUS], [task], ["en"])[0]
    batching = SchemaBatching(corpus.task, corpus.language, corpus.source, corpus.schema)
    return batching, datasets.Dataset.from_list(list(read_split(corpus, "train")))


@pytest.mark.parametrize("task", ["NER", "EE"])
def test_map_gives_the_same_for_any_processes_and_order(task: str) -> None:
    batching, records = sample_rows(task)
    remove = records.column_names
    one = records.map(batching, batched=True, remove_columns=remove)
    two = records.map(batching, batched=True, remove_columns=remove, num_proc=2)
    streamed = records.to_iterable_dataset(3).map(batching, batched=True, remove_columns=remove)
    order = random.Random(0).sample(range(len(records)), len(records))
    shuffled = records.select(order).map(batching, batched=True, remove_columns=remove)
    assert one.to_list() == two.to_list() == list(streamed)
    assert sorted(map(str, one)) == sorted(map(str, shuffled))
    assert one.num_rows > records.num_rows


def test_map_is_cached_and_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "from test_batching import sample_rows\n"
        "from datasets.fingerprint import Hasher\n"
        "batching, records = sample_rows('NER')\n"
        "rows = [row for r in records for row in batching.instances(r['id'], r['text'], r['entity'])]\n"
        "print(Hasher.hash(batching), Hasher.hash(rows))\n"
    )
    printed = set()
    for seed in ("0", "1", "2"):
        folders = [os.path.dirname(__file__), str(ROOT / "tests"), str(ROOT)]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(folders)}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout)
    assert len(printed) == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_is_written_as_the_standard_library_does(value: object) -> None:
    assert to_json(value) == json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=30)
@given(data=st.data())
def test_a_batch_of_records_gives_what_each_of_them_gives(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    batching = batching_of(task, schema, **data.draw(OPTIONS))
    records = [("1", text, annotations), ("2", text + ".", []), ("3", text, None), ("4", text, annotations[:1])]
    ids, texts, of_records = zip(*records, strict=True)
    columns = batching({"id": list(ids), "text": list(texts), TASKS[task].field: list(of_records)})
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert rows == [row for record in records for row in batching.instances(*record)]


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=30)
@given(data=st.data())
def test_labels_that_are_left_out_are_neither_asked_nor_answered(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    every = TASKS[task].labels(schema)
    kept = tuple(label for label in every if data.draw(st.booleans())) or every[:1]
    instances = list(batching_of(task, schema, labels=kept, **data.draw(OPTIONS)).instances("id", text, annotations))
    assert set(asked_labels(instances, task)) <= set(kept)
    for row in instances:
        left = [TASKS[task].label(annotation, schema) for annotation in json.loads(row["label"])]
        distinct = TASKS[task].distinct(annotations)
        assert left == [label for label in (TASKS[task].label(each, schema) for each in distinct) if label in kept]


def test_descriptions_make_the_schema_a_dictionary() -> None:
    descriptions = {"city": "a large town"}
    batching = batching_of("NER", Schema(types=("person", "city")), schema_order="schema", descriptions=descriptions)
    (row,) = batching.instances("7", "Ada saw Rome.", [{"entity": "Rome", "entity_type": "city"}])
    assert '"schema": {"person": "", "city": "a large town"}, "input": "Ada saw Rome."}' in row["instruction"]
    assert row["output"] == '{"person": [], "city": ["Rome"]}'
    assert read_instruction(row["instruction"])["schema"] == ["person", "city"]
    assert TASKS["NER"].labels(asked_schema(row["instruction"], "NER")) == ("person", "city")


@pytest.mark.parametrize("task", DESCRIBED)
def test_descriptions_stand_as_published(task: str) -> None:
    events = Schema(types=("leave",), roles=("who", "when"), type_roles={"leave": ("who", "when")})
    leaving = [{"event_trigger": "left", "event_type": "leave", "arguments": []}]
    triple = {"head": "Ada", "relation": "leaves", "tail": "Rome", "head_type": "person", "tail_type": "city"}
    schema, annotations = {
        "NER": (Schema(types=("city",)), []),
        "EET": (events, []),
        "EE": (events, []),
        "EEA": (events, leaving),
        "SPO": (Schema(types=("person_leaves_city",)), [triple]),
        "KG": (Schema(type_roles={"city": ("mayor", "area")}), []),
    }[task]
    descriptions = {
        "city": {"mayor": "who governs it"} if task == "KG" else "a large town",
        "leave": {"leave": "goes away", "who": "a person"},
        "person_leaves_city": "went",
    }
    batching = batching_of(task, schema, schema_order="schema", descriptions=descriptions)
    (row,) = batching.instances("7", "Ada left Rome.", annotations)
    assert f'"schema": {DESCRIBED[task]}, "input": ' in row["instruction"]
    (plain,) = replace(batching, descriptions={}).instances("7", "Ada left Rome.", annotations)
    assert read_instruction(row["instruction"]) == json.loads(plain["instruction"])


def test_an_entity_type_is_described_where_there_is_a_text() -> None:
    descriptions = {"city": {"city": "a large town", "area": "in km2"}}
    batching = batching_of("KG", Schema(type_roles={"city": ("area",)}), descriptions=descriptions)
    (row,) = batching.instances("7", "Rome.", [])
    (item,) = json.loads(row["instruction"])["schema"]
    assert item == {"entity_type": "city", "description": "a large town", "attributes": {"area": "in km2"}}


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=30)
@given(data=st.data())
def test_descriptions_change_nothing_but_the_schema(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    batching = batching_of(task, schema, **data.draw(OPTIONS))
    labels = TASKS[task].labels(schema)
    names = st.sampled_from([*labels, *(role for label in labels for role in TASKS[task].roles(label, schema))])
    texts = st.one_of(st.text(max_size=9), st.dictionaries(names, st.text(max_size=9), max_size=4))
    descriptions = data.draw(st.dictionaries(st.sampled_from(labels), texts, min_size=1, max_size=4))
    plain = list(batching.instances("7", text, annotations))
    described = list(replace(batching, descriptions=descriptions).instances("7", text, annotations))
    for row, with_texts in zip(plain, described, strict=True):
        assert read_instruction(with_texts["instruction"]) == json.loads(row["instruction"])
        assert asked_schema(with_texts["instruction"], task) == asked_schema(row["instruction"], task)
        assert {**with_texts, "instruction": ""} == {**row, "instruction": ""}
        first, second = halve(with_texts) or [with_texts, {**with_texts, "instruction": None}]
        if second["instruction"] is not None:
            halves = [asked_schema(half["instruction"], task) for half in (first, second)]
            together = [label for half in halves for label in TASKS[task].labels(half)]
            assert together == list(TASKS[task].labels(asked_schema(row["instruction"], task)))
            assert {**json.loads(first["output"]), **json.loads(second["output"])} == json.loads(row["output"])


def test_an_epoch_draws_anew_in_a_map_and_in_a_stream() -> None:
    corpus = find_corpora([SAMPLE_CORPUS], ["NER"], ["en"])[0]
    records = datasets.Dataset.from_list(list(read_split(corpus, "train"))[:30])
    batching = SchemaBatching("NER", "en", corpus.source, corpus.schema)
    options = {"batched": True, "remove_columns": records.column_names}
    stream = records.to_iterable_dataset().map(batching, **options)
    epochs = []
    for epoch in (0, 1, 0):
        batching.set_epoch(epoch)
        rows = records.map(batching, **options).to_list()
        assert list(stream) == rows
        epochs.append([row["instruction"] for row in rows])
    assert epochs[0] == epochs[2]
    assert len(set(epochs[0]) & set(epochs[1])) < len(epochs[0]) / 4


def test_examples_are_other_records_with_their_answers() -> None:
    records = {
        "Ada left.": [{"entity": "Ada", "entity_type": "person"}],
        "Oslo.": [{"entity": "Oslo", "entity_type": "city"}],
        "Hm.": [],
    }
    batching = batching_of(
        "NER", Schema(types=("person", "city")), schema_order="schema", split_num=1, num_examples=2,
        examples=tuple((text, to_json(annotations)) for text, annotations in records.items()),
    )  # fmt: skip
    first, second = batching.instances("7", "Ada left.", records["Ada left."])
    asked = json.loads(second["instruction"])
    assert list(asked) == ["instruction", "schema", "example", "input"]
    assert asked["instruction"].endswith("You can refer to the example for extraction.")
    assert asked["schema"] == ["city"]
    assert asked["example"][0] == {"input": "Oslo.", "output": {"city": ["Oslo"]}}  # it answers the instruction
    assert asked["example"][1] == {"input": "Hm.", "output": {"city": []}}  # "Ada left." is the text itself
    assert [len(json.loads(row["instruction"])["example"]) for row in (first, second)] == [2, 2]
    assert json.loads(second["output"]) == {"city": []}


@pytest.mark.parametrize(
    "task, schema, annotation, message",
    [
        ("NER", Schema(types=("city",)), {"entity": "Ada", "entity_type": "cites"}, "entity_type 'cites' .*'city'"),
        ("NER", Schema(types=("city",)), {"entity": "Ada"}, "'entity_type' is missing"),
        ("KG", Schema((), ("mayor",), {"city": ("mayor",)}), {"head": "A", "relation": "b", "tail": "C"}, "'b'"),
    ],
)
def test_an_annotation_outside_of_the_schema(task: str, schema: Schema, annotation: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"record 'r7': .*{message}"):
        list(batching_of(task, schema).instances("r7", "Ada", [annotation]))


def test_nothing_to_ask() -> None:
    with pytest.raises(InputError, match="generated has no labels for NER"):
        batching_of("NER", Schema(roles=("mayor",)))
    with pytest.raises(InputError, match="split_num is 0; give"):
        batching_of("NER", Schema(types=("city",)), split_num=0)
    for negatives in ("hard", "random", "ratio", "all"):  # every label is held out
        batching = batching_of("NER", Schema(types=("city",)), labels=(), negatives=negatives)
        assert not list(batching.instances("1", "Ada", []))


# Defects of the code that was published with IEPile


@pytest.mark.parametrize("hard_negatives", [{}, {"person": ["city"]}, {"city": ["town", "person"]}])
def test_published_defect_what_the_dictionary_lacks_was_a_key_error(hard_negatives: dict) -> None:
    schema = Schema(types=("person", "city", "river"))
    batching = batching_of("NER", schema, hard_negatives=hard_negatives, split_num=1, num_random=0)
    rows = list(batching.instances("1", "Ada", [{"entity": "Ada", "entity_type": "person"}]))
    asked = {"person", *hard_negatives.get("person", [])}
    assert set(asked_labels(rows, "NER")) == asked


def test_published_defect_kg_conversion_crashed() -> None:
    batching = batching_of("KG", Schema((), ("mayor",), {"city": ("mayor",)}))
    (row,) = batching.instances("1", "Ada, Rome", [{"head": "Rome", "relation": "mayor", "tail": "Ada"}])
    assert json.loads(row["instruction"])["schema"] == [{"entity_type": "city", "attributes": ["mayor"]}]
    assert json.loads(row["output"]) == {"city": {"Rome": {"mayor": "Ada"}}}


def test_published_defect_unlabelled_input_was_a_key_error() -> None:
    batching = replace(batching_of("NER", Schema(types=("person",))), negatives="all")
    (row,) = batching.instances("1", "Ada", None)
    assert (row["output"], row["label"]) == (None, None)


def test_the_documented_transform_makes_the_instances_of_a_build(tmp_path: Path) -> None:
    [code] = [each["code"] for each in blocks("docs/walkthrough.md") if "records.map(batching" in each["code"]]
    made: dict[str, Any] = {}
    exec(code, made)
    built = IEPile(data_dir=str(SAMPLE_CORPUS), corpora=["daily_news"], cache_dir=str(tmp_path)).as_dataset("train")
    assert made["instances"]["instruction"] == built["instruction"]
    assert made["instances"]["output"] == built["output"]
