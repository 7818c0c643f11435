"""Reading corpora: what is found, ids, and one clear line for whatever is wrong."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.corpora import ALL_TASKS, SAMPLE_CORPUS, SHARED, needs_shared, write_corpus, write_lines
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import IEPile, InputError, Schema
from iepile_builder.data.cleaning import CleaningOptions
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.hard_negatives import load_hard_negatives, select_corpus
from iepile_builder.data.index import count_occurrences, index_split, read_split
from iepile_builder.data.instructions import EXAMPLE_TEXT
from iepile_builder.tasks import TASKS


SCHEMA = [["person", "city", "river"], [], {}]


def found(*args: object) -> list[tuple[str, str, str]]:
    return [(corpus.task, corpus.language, corpus.source) for corpus in find_corpora(*args)]


def test_each_folder_serves_its_own_task_unless_others_are_asked_for() -> None:
    assert found([SAMPLE_CORPUS]) == [
        ("NER", "en", "daily_news"),
        ("NER", "zh", "daily_news_zh"),
        ("RE", "en", "lives_and_works"),
        ("RE", "zh", "lives_and_works_zh"),
        ("EE", "en", "working_life"),
        ("EE", "zh", "working_life_zh"),
        ("KG", "en", "places_and_people"),
        ("KG", "zh", "places_and_people_zh"),
    ]
    assert found([SAMPLE_CORPUS], ["EEA", "SPO", "EET"], ["en"]) == [
        ("SPO", "en", "lives_and_works"),
        ("EET", "en", "working_life"),
        ("EEA", "en", "working_life"),
    ]
    assert found([SAMPLE_CORPUS], None, None, ["daily_news"]) == [("NER", "en", "daily_news")]
    assert found([SAMPLE_CORPUS / "IE-zh" / "EE"]) == [("EE", "zh", "working_life_zh")]
    assert found([SAMPLE_CORPUS / "IE-zh" / "EE" / "working_life_zh"], ["EET"]) == [("EET", "zh", "working_life_zh")]


def test_a_folder_of_its_own_comes_before_a_derived_one(tmp_path: Path) -> None:
    event = {"text": "Shots.", "event": [{"event_trigger": "Shots", "event_type": "attack", "arguments": []}]}
    for task, types in (("EE", ["attack"]), ("EET", ["attack", "meet"])):
        write_corpus(tmp_path / "IE-en" / task / "news", [types, [], {}], train=[event])
    (corpus,) = find_corpora([tmp_path], ["EET"])
    assert corpus.schema.types == ("attack", "meet")


def test_task_and_language_are_given_where_the_path_does_not_say_them(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "mine", SCHEMA, test=[{"text": "Ada."}])
    assert found([folder], ["NER"], ["en"]) == [("NER", "en", "mine")]
    with pytest.raises(InputError, match="give --tasks"):
        find_corpora([folder])
    with pytest.raises(InputError, match="give --languages"):
        find_corpora([folder], ["NER"])


def test_spo_labels_come_from_the_triples_of_all_splits() -> None:
    (corpus,) = find_corpora([SAMPLE_CORPUS], ["SPO"], ["en"])
    labels = TASKS["SPO"].labels(corpus.schema)
    assert list(labels) == sorted(labels)
    assert {"person_place of birth_city", "person_place of birth_country"} <= set(labels)


def test_an_re_folder_without_types_serves_no_spo(tmp_path: Path) -> None:
    triple = {"head": "Ada", "relation": "wife", "tail": "Bob"}
    typed = {**triple, "head_type": "person", "tail_type": "person"}
    folder = tmp_path / "IE-en" / "RE" / "people"
    write_corpus(folder, [[], ["wife"], {}], train=[{"text": "Ada, Bob", "relation": [typed]}])
    assert found([tmp_path], ["SPO"]) == [("SPO", "en", "people")]
    write_lines(folder / "dev.json", [{"text": "Ada, Bob", "relation": [triple]}])
    with pytest.raises(InputError, match="no corpus for SPO"):
        find_corpora([tmp_path], ["SPO"])
    assert found([tmp_path], ["RE"]) == [("RE", "en", "people")]
    write_lines(folder / "dev.json", [{"text": "Ada, Bob", "relation": [{**typed, "tail_type": "a_b"}]}])
    with pytest.raises(InputError, match=r"dev.json, line 1: tail_type 'a_b' contains '_'"):
        find_corpora([tmp_path], ["SPO"])


@pytest.mark.parametrize("task", ["NER", "RE", "SPO", "EE", "KG"])
@pytest.mark.parametrize("wrong", [0.5, "x", {"a": 1}, [0.5], [{"head_type": 0.5, "tail_type": 1, "relation": "x"}]])
def test_wrong_annotations_without_a_schema_are_named(task: str, wrong: object, tmp_path: Path) -> None:
    field = TASKS[task].field
    write_lines(tmp_path / "IE-en" / task / "people" / "train.json", [{"text": "Ada", field: wrong}])
    with pytest.raises(InputError, match=f"train.json, line 1: .*'{field}'|no record has a label of SPO"):
        [list(read_split(corpus, "train")) for corpus in find_corpora([tmp_path], [task])]


def test_ids_tell_records_of_one_text_apart(tmp_path: Path) -> None:
    texts = ["Ada.", "Bob.", "Ada.", "Ada."]
    write_corpus(tmp_path / "IE-en" / "NER" / "people", SCHEMA, train=[{"text": text, "entity": []} for text in texts])
    (corpus,) = find_corpora([tmp_path])
    ada, bob = (sha256(text.encode()).hexdigest() for text in ("Ada.", "Bob."))
    assert [record["id"] for record in read_split(corpus, "train")] == [ada, bob, f"{ada}-2", f"{ada}-3"]
    assert len(index_split(corpus, "train", CleaningOptions(max_records=3)).rows) == 3
    assert list(read_split(corpus, "test")) == []


@given(st.lists(st.integers(0, 5)))
def test_count_occurrences(values: list[int]) -> None:
    expected = [values[: index + 1].count(value) for index, value in enumerate(values)]
    assert count_occurrences(np.array(values)).tolist() == expected


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "IE-en" / "NER" / "people", SCHEMA)
    (folder / "train.json").write_bytes(
        b'\xef\xbb\xbf{"text": "Ada.", "entity": []}\n\n{"text": "Bob.", "entity": []}'
    )
    (corpus,) = find_corpora([tmp_path])
    assert [record["text"] for record in read_split(corpus, "train")] == ["Ada.", "Bob."]


GOOD = {"text": "Ada.", "entity": [{"entity": "Ada", "entity_type": "person"}]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "Ada.", "entity": []', "not one JSON object a line"),
        ('["Ada"]', "not one JSON object a line"),
        ("\udcff", "not one JSON object a line"),
        ('{"entity": []}', "field 'text' is missing"),
        ('{"text": " ", "entity": []}', "'text' is empty"),
        ('{"text": "Ada."}', "field 'entity' is missing"),
        ('{"text": "Ada.", "entity": {}}', "'entity' is not a list"),
        ('{"text": "Ada.", "entity": [{"entity": "Ada"}]}', "field 'entity_type' is missing"),
        ('{"text": "Ada.", "entity": [{"entity": 7, "entity_type": "person"}]}', "not a string"),
        ('{"text": "Ada.", "entity": [{"entity": "", "entity_type": "person"}]}', "cannot be an annotation"),
        ('{"text": "Ada.", "entity": [{"entity": "NAN", "entity_type": "person"}]}', "cannot be an annotation"),
        (
            '{"text": "Ada.", "entity": [{"entity": "Ada", "entity_type": "persons"}]}',
            "entity_type 'persons' is not in schema.json; the closest that it has is 'person'",
        ),
    ],
)
def test_a_wrong_record_names_file_line_and_fault(
    tmp_path: Path, line: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_corpus(tmp_path / "IE-en" / "NER" / "people", SCHEMA)
    lines = [json.dumps(GOOD), line, json.dumps(GOOD)]
    (folder / "train.json").write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    (corpus,) = find_corpora([tmp_path])
    with pytest.raises(InputError) as raised:
        index_split(corpus, "train", CleaningOptions())
    assert str(raised.value).startswith(f"{folder / 'train.json'}, line 2: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(list(read_split(corpus, "train", on_error="skip"))) == 2
    assert "left out 1 records" in caplog.text
    assert "line 2" in caplog.text


def test_an_event_with_a_role_of_another_type_names_the_closest(tmp_path: Path) -> None:
    schema = [["attack", "meet"], ["attacker", "place"], {"attack": ["attacker"], "meet": ["place"]}]
    event = {"event_trigger": "shot", "event_type": "attack", "arguments": [{"argument": "Rome", "role": "place"}]}
    write_corpus(tmp_path / "IE-en" / "EE" / "news", schema, train=[{"text": "shot in Rome", "event": [event]}])
    (corpus,) = find_corpora([tmp_path])
    with pytest.raises(InputError, match="role of 'attack' 'place' is not in schema.json; .* 'attacker'"):
        index_split(corpus, "train", CleaningOptions())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[]", "[]"], "2 lines, not 3"),
        (["[]", "[", "{}"], "line 2: not JSON"),
        (["{}", "[]", "{}"], "line 1: '{}' is no list; give a JSON list of label names"),
        (['["a", "a"]', "[]", "{}"], "label 'a' occurs 2 times; give each once"),
        (["[]", "[]", "[]"], "line 3: not a JSON object"),
        (["[]", "[]", "{}"], "no labels for NER"),
        (["[]"], "no labels for NER"),
        (["{", '"entities": ["person"', "}"], "line 1: not JSON"),
        (["{", '"entities":', '["person"', "}"], "4 lines, not 3 .* and not one JSON value"),
        (['["person", "person"]'], "schema.json: label 'person' occurs 2 times"),
        (['{"person": ["name"]}'], "'person' has roles, which NER does not take; give the entity types, such as"),
        (['{"relations": ["wife"]}'], "no labels for NER"),
        (['"person"'], "'person' is no schema; give the entity types"),
    ],
)
def test_a_wrong_schema_names_file_and_line(tmp_path: Path, lines: list[str], message: str) -> None:
    folder = write_corpus(tmp_path / "IE-en" / "NER" / "people", SCHEMA, train=[GOOD])
    (folder / "schema.json").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        find_corpora([tmp_path])


@pytest.mark.parametrize(
    ("task", "content", "schema"),
    [
        ("NER", ["person", "city"], Schema(("person", "city"))),
        ("NER", {"person": "a human being", "city": ""}, Schema(("person", "city"))),
        ("NER", {"entities": ["person"], "relations": ["wife"]}, Schema(("person",))),
        ("RE", {"entities": ["person"], "relations": ["wife"]}, Schema(roles=("wife",))),
        ("SPO", {"relations": ["person_wife_person"]}, Schema(("person_wife_person",))),
        ("EE", {"attack": ["who"], "go": []}, Schema(("attack", "go"), ("who",), {"attack": ("who",), "go": ()})),
        ("EE", {"events": {"attack": {"who": "the attacker"}}}, Schema(("attack",), ("who",), {"attack": ("who",)})),
        ("EET", ["attack"], Schema(("attack",))),
        ("KG", {"city": ["mayor"]}, Schema((), ("mayor",), {"city": ("mayor",)})),
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_a_schema_may_be_one_json_value(
    tmp_path: Path, task: str, content: Any, schema: Schema, indent: int | None
) -> None:
    folder = write_corpus(tmp_path / "IE-en" / task / "news", [], train=[{"text": "Ada.", TASKS[task].field: []}])
    (folder / "schema.json").write_text("\ufeff" + json.dumps(content, indent=indent), encoding="utf-8")
    (corpus,) = find_corpora([tmp_path])
    assert TASKS[task].labels(corpus.schema) == TASKS[task].labels(schema)
    assert corpus.schema == schema
    assert not corpus.derived


@pytest.mark.parametrize("task", ["NER", "RE", "EE"])
def test_a_schema_that_is_missing_has_the_labels_of_the_records(tmp_path: Path, task: str) -> None:
    (own,) = find_corpora([SAMPLE_CORPUS], [task], ["en"])
    for split in ("train", "validation", "test"):
        shutil.copy(own.file(split), tmp_path)
    (corpus,) = find_corpora([tmp_path], None, ["en"])
    assert (corpus.task, corpus.derived) == (task, True)
    of_task = TASKS[task]
    labels = {of_task.label(each, own.schema) for split in ("train", "validation", "test")
              for record in read_split(own, split) for each in record[of_task.field]}  # fmt: skip
    assert list(of_task.labels(corpus.schema)) == sorted(labels)
    for label in labels:
        assert set(of_task.roles(label, corpus.schema)) <= set(of_task.roles(label, own.schema))
    for split in ("train", "validation", "test"):
        assert len(list(read_split(corpus, split))) == len(list(read_split(own, split)))


@pytest.mark.parametrize(
    ("task", "annotation", "message"),
    [
        ("NER", None, "schema.json: missing, and no record has a label of NER"),
        ("NER", {"entity": "Ada"}, "train.json, line 1: field 'entity_type' is missing"),
        ("EE", {"event_type": "meet"}, "train.json, line 1: 'arguments' of an event is missing"),
        (
            "KG",
            {"head": "Rome", "relation": "mayor", "tail": "Ada"},
            "train.json, line 1: field 'head_type' is missing",
        ),
    ],
)
def test_a_schema_that_cannot_be_derived(tmp_path: Path, task: str, annotation: dict | None, message: str) -> None:
    record = {"text": "Ada, Rome", TASKS[task].field: [annotation] if annotation else []}
    folder = write_corpus(tmp_path / "IE-en" / task / "news", [], train=[record])
    (folder / "schema.json").unlink()
    with pytest.raises(InputError, match=message):
        find_corpora([tmp_path])


def test_an_attribute_of_two_entity_types_is_an_error(tmp_path: Path) -> None:
    schema = [[], ["name"], {"person": ["name"], "city": ["name"]}]
    write_corpus(tmp_path / "IE-en" / "KG" / "wiki", schema, train=[{"text": "Ada.", "relation": []}])
    with pytest.raises(InputError, match="attribute 'name' belongs to 2 entity types"):
        find_corpora([tmp_path])


def test_what_cannot_be_found_is_said(tmp_path: Path, people: Path) -> None:
    for args, message in (
        ([[tmp_path / "nowhere"]], "no such folder"),
        ([[tmp_path / "tree" / "IE-en" / "NER" / "people" / "train.json"]], "no such folder"),
        ([[people], ["NERR"]], "unknown task 'NERR'; known: NER, RE"),
        ([[people], None, ["French"]], "unknown language 'French'; give the two or three letters"),
        ([[people], None, ["fr"]], "no corpus for fr"),
        ([[people], None, None, ["animals"]], "unknown corpus 'animals'; known: people"),
        ([[people], ["RE"]], "no corpus for RE"),
        ([[people], "NER"], "give a list"),
    ):
        with pytest.raises(InputError, match=message):
            find_corpora(*args)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no train.json"):
        find_corpora([tmp_path / "empty"])
    shutil.copytree(people, tmp_path / "copy")
    with pytest.raises(InputError, match="same task and name"):
        find_corpora([people, tmp_path / "copy"])


def test_schema_is_written_as_it_is_read(tmp_path: Path) -> None:
    for path in SAMPLE_CORPUS.rglob("schema.json"):
        Schema.read(path).write(tmp_path / "schema.json")
        assert Schema.read(tmp_path / "schema.json") == Schema.read(path)


def test_hard_negatives_are_nested_or_flat(tmp_path: Path) -> None:
    published = load_hard_negatives()
    assert sum(len(corpora) for corpora in published.values()) == 55
    assert (
        sum(len(near) for corpora in published.values() for table in corpora.values() for near in table.values())
        == 5615
    )
    assert "genre" in select_corpus(published, "NER", "mit-movie")
    assert select_corpus(published, "NER", "no such corpus") == {}
    assert select_corpus(published, "KG", "mit-movie") == {}
    path = tmp_path / "flat.json"
    path.write_text('{"person": ["city"]}')
    assert select_corpus(load_hard_negatives(path), "NER", "any") == {"person": ["city"]}
    for text, message in (("{", "not JSON"), ('{"person": "city"}', "neither"), ("[]", "neither")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_hard_negatives(path)
    with pytest.raises(InputError, match="No such file"):
        load_hard_negatives(tmp_path / "nowhere.json")


# The corpora that come with the package, and the real ones


def test_the_sample_corpus_is_as_rich_as_it_says() -> None:
    corpora = find_corpora([SAMPLE_CORPUS], ALL_TASKS)
    assert {(corpus.task, corpus.language) for corpus in corpora} == {
        (task, language) for task in ALL_TASKS for language in ("en", "zh")
    }
    assert sum(len(TASKS[corpus.task].labels(corpus.schema)) >= 12 for corpus in corpora if corpus.task == "NER") == 2
    table = load_hard_negatives(SAMPLE_CORPUS / "hard_negatives.json")
    texts = []
    for corpus in corpora:
        labels = TASKS[corpus.task].labels(corpus.schema)
        near = select_corpus(table, corpus.task, corpus.source)
        assert near or corpus.task == "EEA"
        for label, others in near.items():
            assert {label, *others} <= set(labels)
            assert label not in others
        for split in ("train", "validation", "test"):
            records = list(read_split(corpus, split))
            assert records
            texts += [record["text"] for record in records if corpus.task in ("NER", "RE", "EE", "KG")]
            for record in records:
                for annotation in record[TASKS[corpus.task].field]:
                    mentions = [annotation[key] for key in TASKS[corpus.task].mentions]
                    mentions += [argument["argument"] for argument in annotation.get("arguments", [])]
                    assert all(mention in record["text"] for mention in mentions), record
    assert len(texts) == len(set(texts)) >= 500


@needs_shared
def test_the_real_corpora_are_found() -> None:
    found = find_corpora([SHARED / "corpora"], ["NER", "RE", "SPO", "EE", "EET", "EEA"])
    sources = {task: {corpus.source for corpus in found if corpus.task == task} for task in ALL_TASKS}
    for task in ("NER", "RE", "EE"):
        folders = {folder.name for folder in SHARED.glob(f"corpora/IE-*/{task}/*") if folder.is_dir()}
        assert sources[task] == folders
        assert folders
    assert sources["EET"] == sources["EEA"] == sources["EE"]
    assert sources["SPO"] < sources["RE"], "those whose triples carry types"
    assert sources["SPO"] and not sources["KG"]


def test_a_corpus_of_another_language_is_asked_in_english(tmp_path: Path) -> None:
    record = {"text": "Ada kam z. B. am 3. Mai nach Köln.", "entity": [{"entity": "Köln", "entity_type": "Ort"}]}
    write_corpus(
        tmp_path / "IE-de" / "NER" / "zeitung", [["Ort"], [], {}], train=[record, {"text": "z", "entity": []}]
    )
    assert found([tmp_path]) == found([tmp_path], None, ["de"]) == [("NER", "de", "zeitung")]
    row, _ = IEPile(data_dir=str(tmp_path), languages=["de"], num_examples=1).as_dataset(split="train")
    instruction = json.loads(row["instruction"])
    assert instruction["instruction"] == TASKS["NER"].instructions["en"] + EXAMPLE_TEXT["en"]
    assert (row["language"], json.loads(row["output"])) == ("de", {"Ort": ["Köln"]})
    assert (instruction["schema"], instruction["input"]) == (["Ort"], record["text"])
