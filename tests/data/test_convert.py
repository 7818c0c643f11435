"""Files of annotation tools to the unified tree: what is found, its split, its task, its schema."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from helpers.columns import BIO, PEOPLE, RECORDS, make_dataset
from helpers.corpora import SAMPLE_CORPUS, assert_one_clear_line, write_lines

from iepile_builder import InputError
from iepile_builder.data.convert import convert
from iepile_builder.data.corpus import SPLIT_FILES, Corpus, find_corpora
from iepile_builder.data.detect import in_place
from iepile_builder.data.index import read_split
from iepile_builder.tasks import TASKS


ANN = "T1\tPER 0 3\tAda\nT2\tPER 8 11\tBob\nT3\tMeeting 4 7\tmet\nR1\tknows Arg1:T1 Arg2:T2\nE1\tMeeting:T3 Guest:T2\n"


def converted(tmp_path: Path, *places: Any, **options: Any) -> dict[tuple[str, str, str], Corpus]:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    convert([str(place) for place in places], tmp_path / "out", **{"languages": ["en"], **options})
    corpora = find_corpora([tmp_path / "out"])
    for corpus in corpora:
        assert not corpus.derived
        for split in ("train", "validation", "test"):
            list(read_split(corpus, split))  # checks the records, and their offsets
    return {(corpus.task, corpus.language, corpus.source): corpus for corpus in corpora}


def count(corpus: Corpus) -> tuple[int, ...]:
    return tuple(len(list(read_split(corpus, split))) for split in ("train", "validation", "test"))


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("train.conll", "dev.conll", "test.conll"),
        ("train.txt", "valid.txt", "test.txt"),
        ("eng.train", "eng.testa", "eng.testb"),
        ("deu.train", "deu.testa", "deu.testb"),
        ("en_ewt-ud-train.iob2", "en_ewt-ud-dev.iob2", "en_ewt-ud-test.iob2"),
        ("wnut17train.conll", "emerging.dev.conll", "emerging.test.bio"),
        ("train.tsv", "devel.tsv", "test.tsv"),
        ("train/a.bmes", "validation/a.bmes", "test/a.bmes"),
    ],
)
def test_the_usual_names_of_the_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / "in" / "news" / name, BIO)
    ((key, corpus),) = converted(tmp_path, tmp_path / "in").items()
    assert key == ("NER", "en", "news")
    assert count(corpus) == (2, 2, 2)
    assert corpus.schema.types == ("LOC", "PER")
    records = [{"text": record["text"], "entity": record["entity"]} for record in read_split(corpus, "train")]
    assert records == RECORDS


def test_two_files_of_a_split_are_an_error_unless_they_are_its_parts(tmp_path: Path) -> None:
    for name in ("train_1.conll", "train_2.conll"):
        write(tmp_path / "in" / "news" / name, BIO)
    (corpus,) = converted(tmp_path, tmp_path / "in").values()
    assert count(corpus) == (4, 0, 0)
    for name in ("valid.conll", "dev.conll"):
        write(tmp_path / "in" / "news" / name, BIO)
    with pytest.raises(InputError, match="valid.conll: dev.conll beside it is the same split; keep one of them"):
        converted(tmp_path, tmp_path / "in")
    (tmp_path / "in" / "news" / "dev.conll").rename(tmp_path / "in" / "news" / "valid.txt")
    with pytest.raises(InputError, match="valid.conll beside it is the same split"):
        converted(tmp_path, tmp_path / "in")


def test_a_file_without_a_split_is_training_data_and_gives_the_corpus_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "people.conll", BIO)
    ((key, corpus),) = converted(tmp_path, path).items()
    assert (key, count(corpus)) == (("NER", "en", "people"), (2, 0, 0))
    ((key, _),) = converted(tmp_path, tmp_path / "in").items()
    assert key == ("NER", "en", "in")


def test_a_file_without_a_split_is_cut_into_shares_by_its_texts(tmp_path: Path) -> None:
    entity = {"entity": "Ada", "entity_type": "x"}
    rows = [{"text": f"Ada {number // 2}", "entity": [entity]} for number in range(400)]
    path = write_lines(tmp_path / "people.jsonl", rows)
    (corpus,) = converted(tmp_path, path, validation=0.2, test=0.3).values()
    train, validation, test = ({record["text"] for record in read_split(corpus, split)} for split in SPLIT_FILES)
    assert not train & validation and not train & test and not validation & test
    assert (len(train), len(validation), len(test)) == pytest.approx((100, 40, 60), abs=20)
    first = {record["text"] for record in read_split(corpus, "test")}
    (corpus,) = converted(tmp_path, write_lines(path, rows[::-1]), validation=0.2, test=0.3).values()
    assert {record["text"] for record in read_split(corpus, "test")} == first
    (corpus,) = converted(tmp_path, path.rename(tmp_path / "people.dev.jsonl"), validation=0.2, test=0.3).values()
    assert count(corpus) == (0, 400, 0)
    with pytest.raises(InputError, match="the shares 0.5 and 0.5 of validation and test"):
        converted(tmp_path, path, validation=0.5, test=0.5)


def test_labels_that_no_training_record_has_are_named(tmp_path: Path) -> None:
    def record(*types: str) -> dict[str, Any]:
        return {"text": "Ada", "entity": [{"entity": "Ada", "entity_type": name} for name in types]}

    write_lines(tmp_path / "people" / "test.jsonl", [record("a", "b", "c")])
    assert convert([str(tmp_path / "people")], tmp_path / "out", languages=["en"])[1] == []  # no training data at all
    for types, note in ((("b",), "no training record has a, c"), (("a", "b", "c"), None)):
        write_lines(tmp_path / "people" / "train.jsonl", [record(), record(*types)])
        shutil.rmtree(tmp_path / "out")
        _, notes = convert([str(tmp_path / "people")], tmp_path / "out", languages=["en"])
        assert notes == ([f"NER people: {note}"] if note else [])
    write_lines(tmp_path / "people" / "test.jsonl", [record(*"defghij")])
    shutil.rmtree(tmp_path / "out")
    _, notes = convert([str(tmp_path / "people")], tmp_path / "out", languages=["en"])
    assert notes == ["NER people: no training record has d, e, f, g, h and 2 more"]


def test_folders_say_task_and_language(tmp_path: Path) -> None:
    write(tmp_path / "IE-zh" / "NER" / "人民" / "dev.bmes", "明 B-PER\n治 M-PER\n皇 E-PER\n生 O\n")
    write(tmp_path / "IE-de" / "NER" / "zeitung" / "train.conll", "Köln B-LOC\n! O\n")
    corpora = converted(tmp_path, tmp_path / "IE-zh", tmp_path / "IE-de", languages=None)
    assert set(corpora) == {("NER", "zh", "人民"), ("NER", "de", "zeitung")}
    (record,) = read_split(corpora["NER", "zh", "人民"], "validation")
    mention = {"entity": "明治皇", "entity_type": "PER", "start": 0, "end": 3}
    assert (record["text"], record["entity"]) == ("明治皇生", [mention])
    with pytest.raises(InputError, match="its path does not say the language .* give --languages"):
        converted(tmp_path, write(tmp_path / "x" / "train.conll", BIO), languages=None)


def test_each_field_of_a_record_is_a_corpus(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / "docs" / "train" / f"doc-{number}.txt", "Ada met Bob")
        write(tmp_path / "docs" / "train" / f"doc-{number}.ann", ANN)
    write(tmp_path / "docs" / "test" / "doc-3.txt", "Nothing")
    write(tmp_path / "docs" / "test" / "doc-3.ann", "")
    write(tmp_path / "docs" / "annotation.conf", "[entities]\nPER\n")
    corpora = converted(tmp_path, tmp_path / "docs")
    assert [(task, name, count(corpus)) for (task, _, name), corpus in corpora.items()] == [
        ("NER", "docs", (2, 0, 1)), ("RE", "docs", (2, 0, 1)), ("EE", "docs", (2, 0, 1)),
    ]  # fmt: skip
    assert corpora["EE", "en", "docs"].schema.type_roles == {"Meeting": ("Guest",)}
    assert corpora["RE", "en", "docs"].schema.roles == ("knows",)
    assert find_corpora([tmp_path / "out"], ["SPO"])[0].schema.types == ("PER_knows_PER",)
    for tasks, found in ((["NER"], {"NER"}), (["EET", "SPO"], {"EE", "RE"}), (["KG"], {"KG"})):
        corpora = converted(tmp_path, tmp_path / "docs", tasks=tasks)
        assert {task for task, _, _ in corpora} == found
    assert corpora["KG", "en", "docs"].schema.type_roles == {"PER": ("knows",)}


def test_what_nobody_annotated_is_no_corpus(tmp_path: Path) -> None:
    rows = [
        {"text": "Ada", "entity": [], "relation": []},
        {"text": "Bob", "entity": [{"entity": "Bob", "entity_type": "x"}]},
    ]
    path = write_lines(tmp_path / "in" / "people.json", rows)
    assert set(converted(tmp_path, path)) == {("NER", "en", "people")}
    with pytest.raises(InputError, match="people.json: no annotation in any record"):
        converted(tmp_path, write_lines(path, rows[:1]))
    with pytest.raises(InputError, match="people.json: no annotation in any record"):
        converted(tmp_path, write_lines(path, rows), tasks=["EE"])


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    skipped = {"result": [], "was_cancelled": True}
    rows: list[Any] = [{"data": {"text": "Ada"}, "annotations": of} for of in ([], [skipped])]
    value = {"start": 0, "end": 3, "text": "Bob", "labels": ["PER"]}
    done = {"result": [{"value": value, "type": "labels"}]}
    rows.append({"data": {"text": "Bob"}, "annotations": [done, skipped, {"result": []}, done]})
    path = write(tmp_path / "in" / "people.json", json.dumps(rows))
    corpora, notes = convert([str(path)], tmp_path / "out", languages=["en"])
    assert notes == [
        "records without annotation, left out: 2", "second and further annotations of a text, not used: 2",
    ]  # fmt: skip
    assert [corpus.describe() for corpus in corpora] == ["NER people (en): train 1 record; 1 label, of its records"]


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        (None, ("LOC", "PER")),
        ('["PER", "LOC", "ORG"]', ("PER", "LOC", "ORG")),
        ('["PER", "LOC"]\n[]\n{}', ("PER", "LOC")),
    ],
)
def test_the_schema_beside_the_files_wins(tmp_path: Path, schema: str | None, types: tuple[str, ...]) -> None:
    write(tmp_path / "news" / "train.conll", BIO)
    if schema is not None:
        write(tmp_path / "news" / "schema.json", schema)
    (corpus,) = converted(tmp_path, tmp_path / "news").values()
    assert corpus.schema.types == types
    origin = "of its records" if schema is None else "in its schema.json"
    shutil.rmtree(tmp_path / "out")
    assert convert([str(tmp_path / "news")], tmp_path / "out", languages=["en"])[0][0].describe().endswith(origin)


def test_instructie_is_a_corpus_for_each_topic(tmp_path: Path) -> None:
    def row(id: str, topic: str, text: str, *triple: str) -> dict[str, Any]:
        names = ("head", "head_type", "relation", "tail", "tail_type")
        return {"id": id, "cate": topic, "text": text, "relation": [dict(zip(names, triple, strict=True))]}

    rows = [
        row("1", "Person", "Ada was born in London.", "Ada", "person", "born in", "London", "place"),
        row("2", "Event", "The fair was in Oslo.", "The fair", "event", "held in", "Oslo", "place"),
        row("3", "Person", "Bob died in Rome.", "Bob", "person", "died in", "Rome", "place"),
    ]
    write_lines(tmp_path / "in" / "train_en.json", rows)
    write_lines(tmp_path / "in" / "valid_en.json", rows[:1])
    write_lines(
        tmp_path / "in" / "test_zh.json",
        [row("4", "人物", "王芳生于杭州。", "王芳", "人物", "出生地点", "杭州", "地点")],
    )
    corpora = converted(tmp_path, tmp_path / "in", languages=None)
    assert set(corpora) == {
        ("RE", "en", "InstructIE_Person"), ("RE", "en", "InstructIE_Event"), ("RE", "zh", "InstructIE_人物"),
    }  # fmt: skip
    person = corpora["RE", "en", "InstructIE_Person"]
    assert (person.schema.roles, count(person)) == (("born in", "died in"), (2, 1, 0))
    assert [corpus.schema.types for corpus in find_corpora([tmp_path / "out"], ["SPO"], ["zh"])] == [
        ("人物_出生地点_地点",)
    ]
    assert set(converted(tmp_path, tmp_path / "in", languages=["zh"])) == {("RE", "zh", "InstructIE_人物")}


def test_a_dataset_that_was_saved_or_is_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = datasets.DatasetDict({name: make_dataset(["O", "B-PER"]) for name in ("train", "test")})
    made.save_to_disk(tmp_path / "people")
    loaded = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: loaded.append(arguments) or made)
    for place in (tmp_path / "people", "user/people", "user/people:all"):
        (corpus,) = converted(tmp_path, place).values()
        assert (corpus.source, count(corpus)) == ("people", (2, 0, 2))
        records = [{"text": record["text"], "entity": record["entity"]} for record in read_split(corpus, "test")]
        assert records == PEOPLE
    assert loaded == [("user/people", None), ("user/people", "all")]


def test_what_the_hub_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^user/nowhere: no file or folder, and not loaded from the Hub"):
        converted(tmp_path, "user/nowhere")


@pytest.mark.parametrize("task", ["NER", "RE", "EE", "KG"])
def test_a_unified_corpus_comes_out_as_it_went_in(tmp_path: Path, task: str) -> None:
    (own,) = find_corpora([SAMPLE_CORPUS], [task], ["en"])
    (corpus,) = converted(tmp_path, own.path, languages=None).values()
    assert corpus.names() == own.names()
    assert corpus.schema == own.schema
    for split in ("train", "validation", "test"):
        assert list(read_split(corpus, split)) == list(read_split(own, split))


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    write(tmp_path / "in" / "notes.txt", "Ada was here.\n")
    known = "known: conll, label_studio, doccano, brat, spacy, datasets, csv, instructie, unified, instances; "
    with pytest.raises(
        InputError, match=f"in: no file of a known format; {known}if it is one of them, give --input_format"
    ):
        converted(tmp_path, tmp_path / "in")
    write(tmp_path / "in" / "train.conll", BIO)
    write_lines(tmp_path / "in" / "all.jsonl", [{"text": "Ada", "label": []}])
    with pytest.raises(
        InputError, match=r"files of several formats, (conll|doccano) \(.*; give --input_format or one"
    ):
        converted(tmp_path, tmp_path / "in")
    assert set(converted(tmp_path, tmp_path / "in", input_format="conll")) == {("NER", "en", "in")}
    with pytest.raises(InputError, match="all.jsonl, line 1: 'cate' is missing"):
        converted(tmp_path, tmp_path / "in", input_format="instructie")
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        converted(tmp_path, "nowhere")
    with pytest.raises(InputError, match="has the same task and name"):
        shutil.copytree(tmp_path / "in", tmp_path / "again" / "in")
        converted(tmp_path, tmp_path / "in", tmp_path / "again" / "in", input_format="conll")
    entity = {"entity": "Ada"}
    path = write_lines(tmp_path / "records.json", [{"text": "Ada", "entity": []}, {"text": "Ada", "entity": [entity]}])
    with pytest.raises(InputError, match="records.json, record 2: field 'entity_type' is missing"):
        converted(tmp_path, path)
    for row, message in (
        ({"text": None, "entity": []}, "line 1: no record with a 'text' string"),
        ({"tokens": ["Ada", None], "ner_tags": ["B-PER", "O"]}, "record 1: field 'tokens' is not all strings"),
        ({"text": "Ada", "entity": [{"entity": "Ada", "entity_type": ""}]}, "record 1: an empty label in {'entity'"),
    ):
        with pytest.raises(InputError, match=f"^{write_lines(path, [row])}, {message}"):
            converted(tmp_path, path)


def test_a_unified_validation_file_of_another_name_is_not_passed_over(tmp_path: Path) -> None:
    rows = [{"text": "Ada", "entity": [{"entity": "Ada", "entity_type": "x"}]}]
    for name in ("train.json", "valid.json"):
        write_lines(tmp_path / "IE-en" / "NER" / "people" / name, rows)
    assert not in_place(str(tmp_path))
    (corpus,) = converted(tmp_path, tmp_path / "IE-en", languages=None).values()
    assert count(corpus) == (1, 1, 0)
    shutil.rmtree(tmp_path / "out")
    (described,) = (corpus.describe() for corpus in convert([str(tmp_path / "IE-en")], tmp_path / "out")[0])
    assert described == "NER people (en): train 1, validation 1 records; 1 label, of its records"


@pytest.mark.parametrize("name", ["train.conll", "train.csv", "train.ann", "train.json"])
def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.txt").write_bytes("K\xf6ln O\n".encode("latin-1"))
    (tmp_path / name).write_bytes('text,entity,label\n"K\xf6ln",K\xf6ln O\n'.encode("latin-1"))
    place = {"train.ann": "train.txt", "train.json": name}.get(name, f"{name}, line 2")
    reason = rf"/{place}: .*not UTF-8, .* at byte \d+: save the file as UTF-8"
    with pytest.raises(InputError, match=reason):
        converted(tmp_path, tmp_path / name)


def test_a_line_that_is_not_utf_8_is_found_in_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_bytes(b"Ada B-PER\n\n" * 9000 + b"K\xf6ln B-LOC\n")  # Python decodes it in blocks
    with pytest.raises(InputError, match=r"train.conll, line 18001: not UTF-8, invalid start byte at byte 2:"):
        converted(tmp_path, path)


@pytest.mark.parametrize("command", ["convert", "build"])
def test_no_file_is_passed_over_in_silence(tmp_path: Path, run_command: Any, command: str) -> None:
    row = {"text": "Ada", "entity": [{"entity": "Ada", "entity_type": "x"}]}
    folder = write_lines(tmp_path / "IE-en" / "NER" / "people" / "train.json", [row]).parent
    arguments = (command, "--corpus_dir", "IE-en", "--output_dir", "out")
    (folder / "dev.json.gz").write_bytes(gzip.compress(b"{}\n"))
    assert_one_clear_line(run_command(*arguments, check=False), "dev.json.gz: a compressed file: unpack it first")
    (folder / "dev.json.gz").rename(folder / "dev.json")
    done = run_command(*arguments, check=False)
    assert_one_clear_line(done, "dev.json", "not ", "(a compressed file: unpack it first)")
    write_lines(folder / "dev.json", [row])
    write_lines(folder / "more.jsonl", [{"id": 1}])
    (folder / "dev.json.gz").touch()  # it is unpacked
    done = run_command("convert", *arguments[1:])
    assert "not read, of no known format: more.jsonl\n" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train.json", '{"text": "Ada", "entity": []}\n', True),
        ("dev.json", "", True),
        ("dev.json", '{"text": ', True),  # the build says what is wrong with it
        ("dev.json", "no JSON", True),
        ("train.json", '[{"text": "Ada", "entity": []}]', False),
        ("train.json", '[{"data": {"text": "Ada"}, "annotations": []}]', False),
        ("train.json", '{"task": "NER", "source": "x", "instruction": "{}"}', False),
        ("train.conll", BIO, False),
        ("records.json", '{"text": "Ada", "entity": []}\n', False),
    ],
)
def test_corpora_that_are_read_in_place(tmp_path: Path, name: str, content: str, expected: bool) -> None:
    write(tmp_path / "IE-en" / "NER" / "x" / name, content)
    assert in_place(str(tmp_path)) == expected
    assert in_place(str(tmp_path), "unified")
    assert not in_place(str(tmp_path), "conll")
    assert in_place("sample_corpus") and in_place("nowhere") and not in_place("user/nowhere")


def test_facts_are_the_same_through_any_format(tmp_path: Path) -> None:
    """The English sample of NER as doccano, spaCy pairs, CSV and records has the facts that it has."""
    (own,) = find_corpora([SAMPLE_CORPUS], ["NER"], ["en"])
    records = [{"text": record["text"], "entity": record["entity"]} for record in read_split(own, "test")]
    spans = [
        [(start := record["text"].index(each["entity"]), start + len(each["entity"]), each["entity_type"])
         for each in record["entity"]]
        for record in records
    ]  # fmt: skip
    texts = [record["text"] for record in records]
    write_lines(
        tmp_path / "doccano.jsonl", [{"text": text, "label": of} for text, of in zip(texts, spans, strict=True)]
    )
    pairs = [[text, {"entities": of}] for text, of in zip(texts, spans, strict=True)]
    write(tmp_path / "spacy.json", json.dumps(pairs))
    cells = [[text, json.dumps(of)] for text, of in zip(texts, spans, strict=True)]
    quoted = [
        ",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in [["text", "spans"], *cells]
    ]
    write(tmp_path / "csv.csv", "".join(quoted))
    write_lines(tmp_path / "unified.jsonl", records)
    for name in ("doccano.jsonl", "spacy.json", "csv.csv", "unified.jsonl"):
        (corpus,) = converted(tmp_path, tmp_path / name).values()
        read = [TASKS["NER"].facts(record["entity"], corpus.schema) for record in read_split(corpus, "train")]
        assert read == [TASKS["NER"].facts(record["entity"], own.schema) for record in records]
