"""Published instances, read back to corpora."""

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers.corpora import ALL_TASKS, SAMPLE_CORPUS, assert_one_clear_line, write_lines
from helpers.strategies import annotated
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import IEPile, InputError, SchemaBatching
from iepile_builder.data.convert import convert
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.index import read_split
from iepile_builder.data.instructions import asked_schema
from iepile_builder.data.readers import read_instances
from iepile_builder.tasks import TASKS


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
    read_instances({tmp_path / "in" / f"{split}.json": split}, tmp_path / "out")
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


def instance(text: str, **fields: str) -> dict[str, str]:
    instruction = {"instruction": "Find", "schema": ["person"], "input": text}
    return {
        "task": "NER", "source": "x", "instruction": json.dumps(instruction),
        "output": json.dumps({"person": [text]}), **fields,
    }  # fmt: skip


def texts(folder: Path) -> dict[str, list[str]]:
    read = {}
    for file in folder.glob("IE-en/NER/*/[!s]*.json"):
        rows = [json.loads(line)["text"] for line in file.read_text().splitlines()]
        read[f"{file.parent.name}/{file.name}"] = rows
    return read


def test_the_files_that_are_named_are_read_with_the_split_of_their_names(tmp_path: Path) -> None:
    for name, text in (("some.json", "Ada"), ("train.json", "Bob"), ("valid.json", "Cy"), ("test.jsonl", "Dee")):
        write_lines(tmp_path / "in" / name, [instance(text)])
    convert([str(tmp_path / "in" / "some.json")], tmp_path / "one")
    assert texts(tmp_path / "one") == {"x/train.json": ["Ada"]}
    (tmp_path / "in" / "some.json").unlink()
    everything = {"x/train.json": ["Bob"], "x/dev.json": ["Cy"], "x/test.json": ["Dee"]}
    convert([str(tmp_path / "in")], tmp_path / "folder")
    assert texts(tmp_path / "folder") == everything
    convert([str(file) for file in (tmp_path / "in").iterdir()], tmp_path / "files")
    assert texts(tmp_path / "files") == everything


def test_no_corpus_of_instances_overwrites_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_lines(tmp_path / name / "train.json", [instance("Ada")])
    with pytest.raises(InputError, match="b/train.json: another file of the same split has a corpus 'x' of NER, too"):
        convert([str(tmp_path / name) for name in ("a", "b")], tmp_path / "instances")
    unified = tmp_path / "IE-en" / "NER" / "x"
    write_lines(unified / "train.json", [{"text": "Ada", "entity": [{"entity": "Ada", "entity_type": "person"}]}])
    for number, places in enumerate(([tmp_path / "a", unified], [unified, tmp_path / "a"])):
        with pytest.raises(InputError, match="a/train.json: another input has a corpus 'x' of NER, too"):
            convert([str(place) for place in places], tmp_path / str(number))


def test_the_source_of_an_instance_is_one_folder(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in" / "train.json", [instance("Ada", source="../../../news/2020")])
    convert([str(path)], tmp_path / "out")
    assert texts(tmp_path / "out") == {".. .. .. news 2020/train.json": ["Ada"]}
    for source in ("", ".", ".."):
        write_lines(path, [instance("Ada", source=source)])
        with pytest.raises(InputError, match="train.json, line 1: field 'source' is '.*', which is no name"):
            convert([str(path)], tmp_path / "no")


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
        ({"output": '{"wife": [{"head": "Ada", "tail": "Bob"}]}'}, "the output is not one of RE"),
        ({"output": "{"}, "the output is not one of RE"),
        ({"output": "[]"}, "the output is not one of RE"),
        ({"label": "Ada"}, "the label is not an annotation of RE"),
        ({"label": "{}"}, "the label is not an annotation of RE"),
        ({"instruction": '{"schema": ["wife"], "input": "Ada"}'}, "the instruction has no 'instruction' sentence"),
    ],
)
def test_instances_that_are_none_name_file_and_line(tmp_path: Path, changed: dict, message: str) -> None:
    row = {
        "task": "RE", "source": "x", "output": '{"wife": []}',
        "instruction": '{"instruction": "", "schema": ["wife"], "input": "Ada"}',
    }  # fmt: skip
    write_lines(tmp_path / "in" / "train.json", [row, {**row, **changed}])
    with pytest.raises(InputError, match=f"train.json, line 2: {message}"):
        read_instances({tmp_path / "in" / "train.json": "train"}, tmp_path / "out")
