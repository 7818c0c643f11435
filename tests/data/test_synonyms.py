"""Other names of labels, and labels that are dropped with their facts."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers.corpora import ALL_TASKS, ROOT, SAMPLE_CORPUS, SHARED, needs_shared
from helpers.strategies import OPTIONS, annotated, asked_labels, batching_of
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_builder import InputError, Schema, SchemaBatching
from iepile_builder.answers.parse import parse_answer
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.hard_negatives import select_corpus
from iepile_builder.data.index import read_split
from iepile_builder.data.instructions import asked_schema
from iepile_builder.data.synonyms import draw_names, load_synonyms, synonym_notes
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS


NAMES = ["a", "b", "A", "Bb", "city", "town", "c d"]  # some are labels of a schema, too


def synonyms_of(task: str, labels: tuple[str, ...]) -> st.SearchStrategy[dict[str, list[str]]]:
    names = [f"p_{name}_r" for name in NAMES] if task == "SPO" else NAMES
    return st.dictionaries(
        st.sampled_from(labels), st.lists(st.sampled_from([*names, *labels]), max_size=4), max_size=5
    )


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=40)
@given(data=st.data(), dropout=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_answers_hold_the_facts_of_the_labels_that_are_asked(task: str, data: st.DataObject, dropout: float) -> None:
    schema, text, annotations = data.draw(annotated(task))
    labels = TASKS[task].labels(schema)
    every = batching_of(task, schema, **data.draw(OPTIONS))
    some = replace(every, label_dropout=dropout)
    renamed = replace(some, label_synonyms=data.draw(synonyms_of(task, labels)))
    rows_of_every, rows, renamed_rows = (
        list(each.instances("id", text, annotations)) for each in (every, some, renamed)
    )

    asked = asked_labels(rows, task)
    assert set(asked) <= set(asked_labels(rows_of_every, task))
    assert bool(asked) == bool(rows_of_every)
    assert len(asked) == len(set(asked))
    if dropout == 1:
        assert len(asked) <= 1
    wanted = [each for each in TASKS[task].distinct(annotations) if TASKS[task].label(each, schema) in asked]
    assert facts_of(rows, task) == Counter(TASKS[task].facts(wanted, schema))

    names = asked_labels(renamed_rows, task)
    assert len({name.casefold() for name in names}) == len(names) == len(asked)
    contents = [
        Counter((type(fact), fact.content) for fact in facts_of(each, task).elements())
        for each in (rows, renamed_rows)
    ]
    assert contents[0] == contents[1]

    for of_record in (rows, renamed_rows):  # the annotation beside the answers is that of the answers
        scorer = Scorer()
        for row in of_record:
            scorer.add(row)
        if of_record:
            overall = scorer.report()["overall"]
            assert overall["gold"] == overall["pred"] == overall["tp"] == facts_of(of_record, task).total()


def facts_of(rows: list[dict], task: str) -> Counter:
    facts: Counter = Counter()
    for row in rows:
        facts.update(parse_answer(row["output"], task, asked_schema(row["instruction"], task)).facts)
    return facts


@given(
    labels=st.lists(st.sampled_from([*NAMES, "x", "y"]), min_size=1, unique_by=str.casefold),
    table=st.dictionaries(
        st.sampled_from([*NAMES, "x", "y"]), st.lists(st.sampled_from([*NAMES, "x", "z"]), max_size=4)
    ),
    seed=st.integers(0, 2**64 - 1),
)
def test_no_label_has_the_name_of_another(labels: list[str], table: dict[str, list[str]], seed: int) -> None:
    (names,) = draw_names(labels, table, np.array([seed], np.uint64))
    assert len({name.casefold() for name in names}) == len(labels)
    for label, name in zip(labels, names, strict=True):
        assert name == label or name in table[label]
        assert name.casefold() not in {other.casefold() for other in labels if other != label}


def test_every_name_is_drawn_and_the_label_only_if_it_is_listed() -> None:
    schema = Schema(types=("person", "city", "river"))
    synonyms = {"person": ["people", "individual"], "city": ["city", "town"]}
    batching = batching_of("NER", schema, negatives="all", schema_order="schema", label_synonyms=synonyms)
    record = [{"entity": "Ada", "entity_type": "person"}]
    counts: Counter[str] = Counter()
    for epoch in range(400):
        (row,) = replace(batching, epoch=epoch).instances("7", "Ada.", record)
        names = json.loads(row["instruction"])["schema"]
        assert json.loads(row["output"]) == {names[0]: ["Ada"], names[1]: [], "river": []}
        assert json.loads(row["label"]) == [{"entity": "Ada", "entity_type": names[0]}]
        counts.update(names)
    assert counts.keys() == {"people", "individual", "city", "town", "river"}
    assert all(150 < count < 250 for name, count in counts.items() if name != "river")


def test_descriptions_and_examples_take_the_names() -> None:
    batching = batching_of(
        "NER", Schema(types=("city",)), descriptions={"city": "a large town"}, label_synonyms={"city": ["town"]},
        examples=(("Oslo.", '[{"entity": "Oslo", "entity_type": "city"}]'),), num_examples=1,
    )  # fmt: skip
    (row,) = batching.instances("7", "Rome.", [{"entity": "Rome", "entity_type": "city"}])
    asked = json.loads(row["instruction"])
    assert asked["schema"] == {"town": "a large town"}
    assert asked["example"] == [{"input": "Oslo.", "output": {"town": ["Oslo"]}}]
    assert json.loads(row["output"]) == {"town": ["Rome"]}


def test_typed_relations_of_one_predicate_are_not_asked_together() -> None:
    schema = Schema(types=("a_p_b", "a_q_b"))
    synonyms = {"a_q_b": ["c_p_d"]}
    batching = batching_of("SPO", schema, negatives="all", label_synonyms=synonyms, split_num=4)
    rows = list(batching.instances("7", "x", []))
    assert sorted(asked_labels([row], "SPO") for row in rows) == [["a_p_b"], ["c_p_d"]]


def test_dropping_is_even_and_leaves_a_label() -> None:
    batching = batching_of("NER", Schema(types=tuple("abcd")), negatives="all", split_num=-1, label_dropout=0.25)
    record = [{"entity": "x", "entity_type": "a"}]
    rows = [row for epoch in range(600) for row in replace(batching, epoch=epoch).instances("7", "x", record)]
    counts = Counter(asked_labels(rows, "NER"))
    assert len(rows) == 600
    assert all(400 < count < 500 for count in counts.values())  # 450 each, give or take 5 deviations
    assert sum("x" in row["output"] for row in rows) == counts["a"]


def test_the_table_is_by_label_by_task_or_by_corpus(tmp_path: Path) -> None:
    tables = [{"a": ["b"]}, {"NER": {"a": ["b"]}}, {"NER": {"mine": {"a": ["b"]}}, "RE": {"a": ["c"]}}]
    for table in tables:
        (tmp_path / "names.json").write_text(json.dumps(table))
        read = load_synonyms(tmp_path / "names.json")
        assert select_corpus(read, "NER", "mine") == {"a": ["b"]}
    assert select_corpus(read, "NER", "other") == {}
    assert select_corpus(read, "RE", "other") == {"a": ["c"]}
    assert select_corpus(read, "EE", "mine") == {}
    (tmp_path / "names.json").write_text('{"a": "b"}')
    with pytest.raises(InputError, match=r"names\.json: neither .* nor \{label: \[names, none empty\]\}"):
        load_synonyms(tmp_path / "names.json")


@pytest.mark.parametrize("task", ["NER", "EE"])
def test_names_and_drops_are_the_same_for_any_order_and_number_of_processes(task: str) -> None:
    corpus = find_corpora([SAMPLE_CORPUS], [task], ["en"])[0]
    synonyms = {label: [f"{label} one", f"{label} two"] for label in TASKS[task].labels(corpus.schema)}
    batching = SchemaBatching(
        task, "en", corpus.source, corpus.schema, num_hard=2, schema_order="grouped", label_dropout=0.2,
        label_synonyms=synonyms, negatives_schedule=["ratio", "hard"], epoch=1,
    )  # fmt: skip
    records = datasets.Dataset.from_list(list(read_split(corpus, "train"))[:40])
    options = {"batched": True, "remove_columns": records.column_names}
    rows = records.map(batching, **options).to_list()
    order = random.Random(0).sample(range(len(records)), len(records))
    assert rows == records.map(batching, num_proc=2, **options).to_list()
    assert sorted(map(str, rows)) == sorted(map(str, records.select(order).map(batching, **options)))
    assert rows == list(records.to_iterable_dataset(3).map(batching, **options))
    batching.set_epoch(2)
    assert not {row["instruction"] for row in rows} & {*records.map(batching, **options)["instruction"]}


RECIPE = ROOT / "recipes" / "smollm2-135m-instruct" / "zero_shot" / "label_synonyms.json"


@pytest.mark.parametrize("path", [SAMPLE_CORPUS / "label_synonyms.json", RECIPE])
def test_the_shipped_names_are_distinct_and_keep_the_label(path: Path) -> None:
    table = load_synonyms(path)
    for of_task in table.values():
        for label, names in of_task.items():
            assert names[0] == label
            assert 2 <= len({name.strip() for name in names}) == len(names) <= 5


def test_every_label_of_the_sample_corpus_has_names_of_its_own() -> None:
    table = load_synonyms(SAMPLE_CORPUS / "label_synonyms.json")
    for corpus in find_corpora([SAMPLE_CORPUS]):
        labels = TASKS[corpus.task].labels(corpus.schema)
        synonyms = select_corpus(table, corpus.task, corpus.source)
        names = Counter(name.casefold() for label in labels for name in synonyms[label])
        assert names.total() == len(names), corpus.source


@needs_shared
def test_the_names_of_the_recipe_are_of_labels_of_the_corpora() -> None:
    known: dict[str, set[str]] = {"NER": set(), "RE": set(), "EE": set()}
    for corpus in find_corpora([str(SHARED / "corpora" / "IE-en")], list(known)):
        known[corpus.task].update(TASKS[corpus.task].labels(corpus.schema))
    table = load_synonyms(RECIPE)
    for task, labels in known.items():
        assert table[task].keys() <= labels


def test_an_empty_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    for table in ({"city": ["town", " "]}, {"NER": {"x": {"city": [""]}}}):
        file.write_text(json.dumps(table))
        with pytest.raises(InputError, match="names, none empty"):
            load_synonyms(file)


def test_what_is_wrong_with_a_table_of_names_is_told(tmp_path: Path) -> None:
    corpus = tmp_path / "IE-en" / "NER" / "news"
    corpus.mkdir(parents=True)
    (corpus / "schema.json").write_text('["city", "person", "river"]\n[]\n{}\n')
    (corpus / "train.json").write_text('{"text": "Rome", "entity": [{"entity": "Rome", "entity_type": "city"}]}\n')
    corpora = find_corpora([str(corpus)])
    assert synonym_notes({"city": ["town", "City"]}, corpora) == ["Labels with other names: 1 of 3."]
    assert synonym_notes({"city": ["Person"], "lake": ["pond"], "hill": []}, corpora) == [
        "Labels with other names: 1 of 3.",
        "Names for 2 labels that these corpora do not have, not used: lake, hill.",
        "Names that are those of another label, not used: Person for city (news) (1).",
    ]
