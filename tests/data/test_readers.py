"""Corpora in other formats."""

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers.corpora import ALL_TASKS, SAMPLE_CORPUS, assert_one_clear_line, write_lines
from helpers.strategies import annotated
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import IEPile, InputError, SchemaBatching
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.index import read_split
from iepile_builder.data.instructions import asked_schema
from iepile_builder.data.readers import conll_records, read_conll, read_instances, read_instructie, tagged_spans
from iepile_builder.tasks import TASKS


BIO = """-DOCSTART- -X- O

Ada NNP B-PER
Lovelace NNP I-PER
met VBD O
Bob NNP B-PER
in IN O
New NNP B-LOC
York NNP I-LOC

Nothing O
"""
IOBES = "Ada\tB-PER\nLovelace\tE-PER\nmet\tO\nBob\tS-PER\nin\tO\nNew\tB-LOC\nYork\tE-LOC\n\nNothing\tO"
SENTENCES = [
    {
        "text": "Ada Lovelace met Bob in New York",
        "entity": [
            {"entity": "Ada Lovelace", "entity_type": "PER"},
            {"entity": "Bob", "entity_type": "PER"},
            {"entity": "New York", "entity_type": "LOC"},
        ],
    },
    {"text": "Nothing", "entity": []},
]


def test_conll_words_with_odd_white_space(tmp_path: Path) -> None:
    words = ["\u00a0", "A\u2028da", "\u0085", "5\u202f000"]
    content = "\ufeff" + "".join(f"{word}\t_ B-X\r\n" for word in words) + " \t\r\nin O\r\n"
    (tmp_path / "train.conll").write_bytes(content.encode())
    first, second = conll_records(tmp_path / "train.conll", " ")
    assert first["text"] == " ".join(words)
    assert [entity["entity"] for entity in first["entity"]] == words
    assert second == {"text": "in", "entity": []}


@pytest.mark.parametrize(("name", "content"), [("train.conll", BIO), ("train.txt", IOBES)])
def test_conll_columns(tmp_path: Path, name: str, content: str) -> None:
    folder = tmp_path / "in" / "people"
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    read_conll([str(folder)], tmp_path / "out", ["en"])
    (corpus,) = find_corpora([tmp_path / "out"])
    assert (corpus.task, corpus.language, corpus.source) == ("NER", "en", "people")
    assert corpus.schema.types == ("LOC", "PER")
    records = read_split(corpus, "train")
    assert [{"text": record["text"], "entity": record["entity"]} for record in records] == SENTENCES


@pytest.mark.parametrize("names", [("train.txt", "valid.txt", "test.txt"), ("eng.train", "eng.testa", "eng.testb")])
def test_the_usual_names_of_the_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = tmp_path / "in" / "conll2003"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(BIO)
    read_conll([str(folder)], tmp_path / "out", ["en"])
    (corpus,) = find_corpora([tmp_path / "out"])
    for split in ("train", "validation", "test"):
        assert len(list(read_split(corpus, split))) == 2
    (folder / "dev.txt").write_text(BIO)
    with pytest.raises(InputError, match="is the same split; keep one of them"):
        read_conll([str(folder)], tmp_path / "out", ["en"])


def test_chinese_columns_are_joined_without_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "IE-zh" / "NER" / "people"
    folder.mkdir(parents=True)
    (folder / "dev.bmes").write_text("明 B-PER\n治 M-PER\n皇 E-PER\n生 O\n", encoding="utf-8")
    read_conll([str(tmp_path)], tmp_path / "out")
    (corpus,) = find_corpora([tmp_path / "out"])
    (record,) = read_split(corpus, "validation")
    assert (record["text"], record["entity"]) == ("明治皇生", [{"entity": "明治皇", "entity_type": "PER"}])


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["O", "PER", "LOC"])), max_size=8), st.booleans())
def test_spans_are_those_that_were_tagged(spans: list[tuple[int, str]], with_ends: bool) -> None:
    tags: list[str] = []
    expected = []
    for length, name in spans:
        if name == "O":
            tags += ["O"] * length
            continue
        expected.append((len(tags), len(tags) + length, name))
        inner = ["B", *"I" * (length - 1)]
        if with_ends:
            inner[-1] = "S" if length == 1 else "E"
        tags += [f"{prefix}-{name}" for prefix in inner]
    assert tagged_spans(tags) == expected


def test_tags_that_go_on_with_nothing_begin_an_entity() -> None:
    assert tagged_spans(["I-PER", "I-PER", "O", "I-LOC", "I-PER"]) == [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "PER")]


def test_wrong_columns_name_file_and_line(run_command, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    folder.mkdir()
    arguments = ("--corpus_dir", folder, "--languages", "en", "--input_format", "conll", "--output_dir", "out")
    assert_one_clear_line(run_command("build", *arguments, check=False), "no train, dev or test")
    (folder / "train.conll").write_text("Ada B-PER\nmet\n")
    assert_one_clear_line(run_command("build", *arguments, check=False), "train.conll, line 2: one column")
    (folder / "train.conll").write_text("Ada PER\n")
    assert_one_clear_line(run_command("build", *arguments, check=False), "line 1: 'PER' is no tag")


@pytest.mark.parametrize("task", ALL_TASKS)
@given(data=st.data())
def test_annotations_are_read_back_out_of_answers(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    distinct = TASKS[task].distinct(annotations)
    read = []
    for row in SchemaBatching(task, "en", "generated", schema).instances("id", text, annotations):
        asked = asked_schema(row["instruction"], task)
        read += TASKS[task].annotations(json.loads(row["output"]), asked)
    for annotation in read:
        TASKS[task].check(annotation, schema)
    assert Counter(TASKS[task].facts(read, schema)) == Counter(TASKS[task].facts(distinct, schema))


@pytest.mark.parametrize("split", ["train", "test"])
def test_published_instances_become_records_again(tmp_path: Path, split: str) -> None:
    built = IEPile(data_dir=str(SAMPLE_CORPUS), tasks=ALL_TASKS, negatives="all").as_dataset(split=split)
    left_out = {"id", "language", "label" if split == "train" else "output"}
    rows = [{name: value for name, value in row.items() if name not in left_out} for row in built]
    write_lines(tmp_path / "in" / f"{split}.json", rows)
    read_instances([str(tmp_path / "in")], tmp_path / "out")
    own = {(corpus.task, corpus.source): corpus for corpus in find_corpora([SAMPLE_CORPUS], ALL_TASKS)}
    corpora = find_corpora([tmp_path / "out"])
    assert {(corpus.task, corpus.source) for corpus in corpora} == own.keys()
    for corpus in corpora:
        task, original = TASKS[corpus.task], own[corpus.task, corpus.source]
        assert corpus.language == original.language
        if corpus.task != "EEA":  # asks for what is annotated alone
            assert sorted(task.labels(corpus.schema)) == sorted(task.labels(original.schema))
        expected = {record["text"]: record[task.field] for record in read_split(original, split)}
        for record in read_split(corpus, split):
            facts = Counter(task.facts(record[task.field], corpus.schema))
            assert facts == Counter(task.facts(task.distinct(expected[record["text"]]), original.schema))


def test_published_instances_are_built_from(run_command, tmp_path: Path) -> None:
    rows = IEPile(data_dir=str(SAMPLE_CORPUS), tasks=["NER"]).as_dataset(split="train").to_list()
    write_lines(tmp_path / "in" / "train.json", rows)
    arguments = ("--corpus_dir", tmp_path / "in", "--input_format", "instances", "--output_dir", tmp_path / "out")
    done = run_command("build", *arguments, "--split_num", 2)
    assert "train: " in done.stdout
    write_lines(tmp_path / "in" / "train.json", [{"task": "NERR", "source": "x", "instruction": "{}"}])
    done = run_command("build", *arguments, "--overwrite", check=False)
    assert_one_clear_line(done, "train.json, line 1: unknown task 'NERR'")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"instruction": '{"instruction": "", "schema": [{}], "input": "Ada"}'},
            "the instruction's schema is not one",
        ),
        ({"output": '{"wife": [{"head": "Ada", "tail": "Bob"}]}'}, "the label or output is not one of RE"),
        ({"output": "{"}, "the label or output is not one of RE"),
        ({"output": "[]"}, "the label or output is not one of RE"),
        ({"label": "Ada"}, "the label or output is not one of RE"),
    ],
)
def test_instances_that_are_none_name_file_and_line(tmp_path: Path, changed: dict, message: str) -> None:
    row = {
        "task": "RE", "source": "x", "output": '{"wife": []}',
        "instruction": '{"instruction": "", "schema": ["wife"], "input": "Ada"}',
    }  # fmt: skip
    write_lines(tmp_path / "in" / "train.json", [row, {**row, **changed}])
    with pytest.raises(InputError, match=f"train.json, line 2: {message}"):
        read_instances([str(tmp_path / "in")], tmp_path / "out")


def test_instructie_becomes_a_corpus_for_each_topic(run_command, tmp_path: Path) -> None:
    def triple(head: str, relation: str, tail: str) -> dict[str, str]:
        return {"head": head, "head_type": "person", "relation": relation, "tail": tail, "tail_type": "place"}

    rows = [
        {
            "id": "1",
            "cate": "Person",
            "text": "Ada was born in London.",
            "relation": [triple("Ada", "born in", "London")],
        },
        {
            "id": "2",
            "cate": "Event",
            "text": "The fair was in Oslo.",
            "relation": [triple("The fair", "held in", "Oslo")],
        },
        {"id": "3", "cate": "Person", "text": "Bob died in Rome.", "relation": [triple("Bob", "died in", "Rome")]},
    ]
    write_lines(tmp_path / "in" / "train_en.json", rows)
    write_lines(tmp_path / "in" / "valid_en.json", rows[:1])
    chinese = {"id": "4", "cate": "人物", "text": "王芳生于杭州。", "relation": [triple("王芳", "出生地点", "杭州")]}
    write_lines(tmp_path / "in" / "test_zh.json", [chinese])
    read_instructie([str(tmp_path / "in")], tmp_path / "out")
    corpora = {(corpus.language, corpus.task, corpus.source): corpus for corpus in find_corpora([tmp_path / "out"])}
    assert set(corpora) == {
        ("en", "RE", "InstructIE_Person"), ("en", "RE", "InstructIE_Event"), ("zh", "RE", "InstructIE_人物"),
    }  # fmt: skip
    person = corpora["en", "RE", "InstructIE_Person"]
    assert person.schema.roles == ("born in", "died in")
    assert [record["text"] for record in read_split(person, "train")] == [rows[0]["text"], rows[2]["text"]]
    assert [record["relation"] for record in read_split(person, "validation")] == [rows[0]["relation"]]
    typed = find_corpora([tmp_path / "out"], ["SPO"], ["zh"])
    assert [corpus.schema.types for corpus in typed] == [("person_出生地点_place",)]
    with pytest.raises(InputError, match="of InstructIE"):
        read_instructie([str(tmp_path)], tmp_path / "none")
    arguments = ("build", "--corpus_dir", "in", "--output_dir", "instances")
    assert_one_clear_line(run_command(*arguments, check=False), "--input_format reads other files")
    done = run_command(*arguments, "--input_format", "instructie")
    assert "train: 3 instances (RE 3)" in done.stdout
