"""`commands.extract_corpus` in one process: rows, what is killed and resumed, bad input; rules answer."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow.dataset
import pytest
from datasets import load_dataset
from helpers.rules import RuleEngine, tagged
from helpers.servers import unused_url

from iepile_builder import Extractor, InputError
from iepile_builder.commands.extract_corpus import ExtractCorpusOptions, extract_corpus
from iepile_builder.engines import EngineOptions
from iepile_builder.engines.base import Completion, Request
from iepile_builder.extraction import corpus
from iepile_builder.extraction.cluster import ClusterOptions
from iepile_builder.extraction.corpus import join_parts, make_parcels
from iepile_builder.extraction.corpus_files import DocumentOptions, find_pieces


SCHEMA = ["person", "city"]
NAMES = ["Ada", "Bob", "Eve", "Joe"]


def write_corpus(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"id": f"n{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return str(path)


def make_texts(count: int) -> list[str]:
    """Make texts that an engine of rules finds something in, a long one among them."""
    texts = [f"Today person:{NAMES[n % 4]} was in city:Rome{n}." for n in range(count)]
    texts[count // 2] = " ".join(f"In chapter {n}, person:{NAMES[n % 4]}{n} leaves city:Town{n}." for n in range(900))
    return texts


def run(documents: str, output_dir: object, engine: Any = None, **options: Any) -> dict[str, Any]:
    given = {"schema": SCHEMA, "shard_size": 7, "documents_at_once": 3, **options}
    columns = {name: given.pop(name) for name in ("schema_column", "language_column") if name in given}
    model = {name: given.pop(name) for name in ("model_name_or_path", "scores") if name in given}
    return extract_corpus(
        DocumentOptions(documents, id_column="id", **columns),
        ExtractCorpusOptions(str(output_dir), **given),
        ClusterOptions(),
        EngineOptions(**model),
        description={"engine": "rules"},
        load=lambda options: engine or RuleEngine(tagged),
    )


def read_rows(output_dir: object) -> list[dict[str, Any]]:
    return pyarrow.dataset.dataset(f"{output_dir}/data").to_table().to_pylist()


@pytest.mark.parametrize(
    ("options", "on_gpu", "documents"),
    [
        ({}, False, 64),
        ({}, True, 512),
        ({"engine": "vllm"}, False, 512),
        ({"engine": "lookup"}, True, 64),
        ({"base_url": "http://127.0.0.1:9/v1"}, True, 64),
        ({"base_url": "http://127.0.0.1:9/v1", "batch_size": 256}, False, 512),
    ],
)
def test_a_worker_is_given_enough_documents(
    options: dict, on_gpu: bool, documents: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: on_gpu)
    extract_corpus(
        DocumentOptions(write_corpus(tmp_path / "corpus.jsonl", make_texts(3)), id_column="id"),
        ExtractCorpusOptions(str(tmp_path / "out"), SCHEMA),
        ClusterOptions(),
        EngineOptions(**options),
        description={"engine": "rules"},
        load=lambda options: RuleEngine(tagged),
    )
    assert json.loads((tmp_path / "out" / "run.json").read_bytes())["documents_at_once"] == documents


def test_rows_are_what_the_extractor_finds(tmp_path: Path) -> None:
    texts = make_texts(20)
    report = run(write_corpus(tmp_path / "corpus.jsonl", texts), tmp_path / "out", keep_text=True)
    rows = read_rows(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"n{n}" for n in range(20)]
    assert [row["text"] for row in rows] == texts
    extractor = Extractor(RuleEngine(tagged))
    for row, text in zip(rows, texts, strict=True):
        expected = extractor(text, "NER", SCHEMA)
        assert [
            (*fact["label"], *((each["text"], each["start"], each["end"], each["match"]) for each in fact["strings"]))
            for fact in row["facts"]
        ] == [(label, (str(m), m.start, m.end, m.match)) for label, m in expected.facts]
        assert row["error"] is None and row["answers"] >= row["passages"] >= 1
    assert (report["documents"], report["failed"]) == (20, 0)
    assert report["facts"] == sum(len(row["facts"]) for row in rows) == 2 * 900 + 2 * 19
    assert report["run"]["requests"] == sum(row["answers"] + row["retried"] for row in rows)


def test_datasets_and_duckdb_read_the_shards(tmp_path: Path) -> None:
    run(write_corpus(tmp_path / "corpus.jsonl", make_texts(20)[:10]), tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out"), split="train")
    assert dataset[0]["facts"][0] == {
        "label": ["person"],
        "strings": [{"text": "Ada", "start": 13, "end": 16, "match": "exact", "score": 1.0, "answer": None}],
        "event": None,
        "score": None,
    }
    query = f"""
        SELECT id, fact.strings[1].text FROM (SELECT id, unnest(facts) AS fact FROM '{tmp_path}/out/data/*.parquet')
        WHERE fact.label[1] = 'city' AND fact.strings[1].start > 20 ORDER BY id LIMIT 2
    """
    assert duckdb.sql(query).fetchall() == [("n0", "Rome0"), ("n1", "Rome1")]


def test_events_keep_their_arguments_together_over_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART", 150)

    def rule(item: Any, text: str) -> list[dict]:
        return [
            {"trigger": found[2], "arguments": {"who": found[1], "where": found[3]}}
            for found in re.finditer(r"(\w+) (met\d+) in (\w+)", text)
        ]

    text = " ".join(f"Then {NAMES[n % 4]} met{n} in Town{n}." for n in range(60))
    run(
        write_corpus(tmp_path / "corpus.jsonl", [text]), tmp_path / "out", RuleEngine(rule),
        task="EE", schema={"meet": ["who", "where"]},
    )  # fmt: skip
    facts = read_rows(tmp_path / "out")[0]["facts"]
    assert len(facts) == 3 * 60
    for n in range(60):
        of_event = [fact for fact in facts if fact["event"] == n]
        assert [fact["label"] for fact in of_event] == [["meet"], ["meet", "who"], ["meet", "where"]]
        assert [fact["strings"][0]["text"] for fact in of_event] == [f"met{n}", NAMES[n % 4], f"Town{n}"]
        assert all(text[each["start"] : each["end"]] == each["text"] for f in of_event for each in f["strings"])


def test_parts_drop_what_another_part_has_in_its_text(tmp_path: Path) -> None:
    class Knows(RuleEngine):
        def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
            return [Completion('{"person": ["Bob Smith"], "city": ["Atlantis"]}') for _ in requests]

    text = " ".join(f"In chapter {n}, someone leaves somewhere." for n in range(900)) + " Bob Smith."
    run(write_corpus(tmp_path / "corpus.jsonl", [text]), tmp_path / "out", Knows(tagged))
    facts = read_rows(tmp_path / "out")[0]["facts"]
    assert [(fact["strings"][0]["text"], fact["strings"][0]["match"]) for fact in facts] == [
        ("Bob Smith", "exact"), ("Atlantis", None),
    ]  # fmt: skip


def test_parts_have_the_higher_score_of_a_fact_that_both_have() -> None:
    extractor = Extractor(RuleEngine(tagged))
    one, two = extractor("Now person:Ada.", "NER", SCHEMA), extractor("person:Ada. Then person:Bob.", "NER", SCHEMA)
    one.scores[:], two.scores[:] = [0.4], [0.9, 0.5]
    joined = join_parts([(0, one), (4, two)])
    assert [(str(fact.entity), fact.entity.start) for fact in joined.facts] == [("Ada", 11), ("Bob", 28)]
    assert joined.scores == [0.9, 0.5]


def test_parcels_hold_documents_of_one_shard(tmp_path: Path) -> None:
    options = DocumentOptions(write_corpus(tmp_path / "corpus.jsonl", make_texts(20)))
    [piece] = find_pieces(options)[0]
    parcels = list(make_parcels(options, 7, 3, False, (0, piece, {1})))
    assert parcels[-1].documents == 20 and not parcels[-1].parts
    numbers = [part.number for parcel in parcels for part in parcel.parts]
    assert list(dict.fromkeys(numbers)) == [*range(7), *range(14, 20)]
    for parcel in parcels[:-1]:
        assert 1 <= len(parcel.parts) <= 3 and {part.number // 7 for part in parcel.parts} == {parcel.shard}
    parts = [
        part for p in make_parcels(options, 7, 3, False, (0, piece, set())) for part in p.parts if part.number == 10
    ]
    assert len(parts) > 3 and [part.place for part in parts] == list(range(len(parts)))
    assert all(len(part.document.text) <= corpus.PART for part in parts)


class Killed(BaseException):
    """What ends the process in the middle of an answer."""


@pytest.fixture(autouse=True)
def _nothing_is_done_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    end = corpus.Ledger.end
    monkeypatch.setattr(
        corpus.Ledger, "end", lambda self, keys: None if sys.exc_info()[0] is Killed else end(self, keys)
    )


class Fails(RuleEngine):
    """Fails at texts that say so: with an error, or by ending the process."""

    def __init__(self, after: int = 10**9) -> None:
        super().__init__(tagged)
        self.after = after

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        if len(self.requests) >= self.after or any(
            "POISON" in request.messages[-1]["content"] for request in requests
        ):
            raise Killed
        if any("FAIL" in request.messages[-1]["content"] for request in requests):
            raise RuntimeError("no answer to this\ud800\nand more")
        return super().generate(requests, max_new_tokens)


def test_a_run_that_is_killed_anywhere_ends_with_the_same_rows(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(30))
    run(documents, tmp_path / "whole")
    for after in (1, 20, 33, 80, 90):
        output = tmp_path / f"out{after}"
        with pytest.raises(Killed):
            run(documents, output, Fails(after))
        report = run(documents, output)
        assert read_rows(output) == read_rows(tmp_path / "whole")
        assert report["documents"] == 30 >= report["run"]["documents"]
        names = sorted(path.name for path in (output / "data").iterdir())
        assert names == [f"00000-{shard:05}.parquet" for shard in range(5)]
    report = run(documents, output)  # nothing is left to do
    assert report["run"]["documents"] == 0 and report["documents"] == 30


def test_names_that_look_like_globs(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus[1].jsonl", make_texts(20)[:10])
    with pytest.raises(Killed):
        run(documents, tmp_path / "out[1]", Fails(8), shard_size=3)
    assert run(documents, tmp_path / "out[1]", shard_size=3)["documents"] == 10 == len(read_rows(tmp_path / "out[1]"))


def test_what_kills_its_process_does_so_four_times(tmp_path: Path) -> None:
    texts = make_texts(12)
    texts[4] = "A POISON for person:Eve."
    documents = write_corpus(tmp_path / "corpus.jsonl", texts)
    for _ in range(4):
        with pytest.raises(Killed):
            run(documents, tmp_path / "out", Fails())
    report = run(documents, tmp_path / "out", Fails())
    rows = read_rows(tmp_path / "out")
    assert report["failed"] == 1 and rows[4]["error"] == "the process that answers it was killed each time"
    assert rows[4]["facts"] == [] and all(row["facts"] for row in rows if row["id"] != "n4")


def test_what_is_answered_or_interrupted_was_not_killed(tmp_path: Path) -> None:
    class Interrupted(RuleEngine):
        def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
            raise KeyboardInterrupt

    documents = write_corpus(tmp_path / "corpus.jsonl", ["FAIL", "Now person:Ada."])
    for _ in range(5):
        run(documents, tmp_path / "out", Fails(), documents_at_once=1, retry_failed=True)
        assert [row["error"] for row in read_rows(tmp_path / "out")] == ["no answer to this\ufffd", None]
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            run(documents, tmp_path / "out", Interrupted(tagged), documents_at_once=1, retry_failed=True)
    assert run(documents, tmp_path / "out", documents_at_once=1, retry_failed=True)["failed"] == 0


def test_a_document_that_fails_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    texts = make_texts(12)
    texts[4], texts[8] = "FAIL", ""
    texts[6] += " FAIL"  # the last part of a long document
    documents = write_corpus(tmp_path / "corpus.jsonl", texts)
    assert run(documents, tmp_path / "out", Fails())["failed"] == 3
    rows = read_rows(tmp_path / "out")
    assert [rows[n]["error"] for n in (4, 6, 8)] == ["no answer to this\ufffd"] * 2 + ["no text"]
    assert all(row["error"] is None and row["facts"] for n, row in enumerate(rows) if n not in (4, 6, 8))
    assert "3 failed: their rows have an error" in capsys.readouterr().err
    assert run(documents, tmp_path / "out", retry_failed=True)["failed"] == 1  # the engine of rules answers all
    run(documents, tmp_path / "again")
    assert read_rows(tmp_path / "out") == read_rows(tmp_path / "again")


def test_an_engine_that_is_down_ends_the_run(tmp_path: Path) -> None:
    texts = make_texts(40)[:15] + ["FAIL"] * 20 + ["", "FAIL"] * 5
    documents = write_corpus(tmp_path / "corpus.jsonl", texts)
    with pytest.raises(InputError, match="12 documents one after the other have no answer, the last one: no answer"):
        run(documents, tmp_path / "out", Fails(), max_failures=10)
    assert len(read_rows(tmp_path / "out")) == 21
    assert run(documents, tmp_path / "out", Fails(), max_failures=0)["failed"] == 30


def test_schemas_and_languages_of_the_documents(tmp_path: Path) -> None:
    records = [
        {"id": 1, "text": "person:Ada in city:Rome", "ask": ["city"], "in": "en"},
        {"id": 2, "text": "person:Bob in city:Rome", "ask": '["person"]', "in": "zh"},
        {"id": 3, "text": "person:Eve in city:Rome", "ask": "no JSON", "in": "fr"},
        {"id": 4, "text": "person:Joe in city:Rome", "ask": [], "in": None},
        {"id": 5, "text": "person:Joe in city:Rome", "ask": '["\\ud800"]', "in": None},
        {"id": 6, "text": "person:Joe in city:Rome", "ask": f'"{tmp_path}/corpus.jsonl"', "in": None},
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, records)))
    engine = RuleEngine(tagged)
    options = {"schema": None, "schema_column": "ask", "language_column": "in"}
    run(str(tmp_path / "corpus.jsonl"), tmp_path / "out", engine, **options)
    rows = read_rows(tmp_path / "out")
    assert [[fact["strings"][0]["text"] for fact in row["facts"]] for row in rows] == [
        ["Rome"],
        ["Bob"],
        [],
        [],
        [],
        [],
    ]
    assert [row["language"] for row in rows] == ["en", "zh", "en", "en", "en", "en"]
    assert "its schema is a string" in rows[5]["error"]  # no path of a file
    assert "its schema is not JSON" in rows[2]["error"] and "the schema is empty" in rows[3]["error"]
    assert rows[4]["error"] == r"the schema: '\ud800' is not valid Unicode: half of a surrogate pair"
    assert sum("你是" in request.messages[-1]["content"] for request in engine.requests) == 1


def test_another_file_system(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(20))
    with pytest.raises(Killed):
        run(documents, "memory://facts", Fails(15))
    assert 0 < len(fsspec.filesystem("memory").ls("/facts/data")) < 3
    run(documents, "memory://facts")
    run(documents, tmp_path / "local")
    for shard in range(3):
        content = fsspec.filesystem("memory").cat_file(f"/facts/data/00000-{shard:05}.parquet")
        assert content == (tmp_path / "local" / "data" / f"00000-{shard:05}.parquet").read_bytes()


def test_rows_of_other_options_are_not_continued(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(10))
    run(documents, tmp_path / "out")
    with pytest.raises(InputError, match=r"made with schema \[\"person\",\"city\"\], not \[\"person\"\]"):
        run(documents, tmp_path / "out", schema=["person"])
    write_corpus(tmp_path / "corpus.jsonl", make_texts(11))
    with pytest.raises(InputError, match=r"documents .*\(\w+\), not "):
        run(documents, tmp_path / "out")
    run(documents, tmp_path / "out", schema=["person"], overwrite=True)
    assert len(read_rows(tmp_path / "out")) == 11


def test_rows_of_another_calibration_are_not_continued(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(10))
    (model := tmp_path / "model").mkdir()

    def calibrate(slope: float) -> None:
        (model / "calibration.json").write_text(f'{{"empty_bias": {{}}, "score": {{"NER": [{slope}, 0.0]}}}}')

    calibrate(1.5)
    run(documents, tmp_path / "out", scores=True, model_name_or_path=str(model))
    run(documents, tmp_path / "free", model_name_or_path=str(model))
    calibrate(0.5)
    with pytest.raises(InputError, match=r"made with score_scaling \[1.5, 0.0\], not \[0.5, 0.0\]: give"):
        run(documents, tmp_path / "out", scores=True, model_name_or_path=str(model))
    run(documents, tmp_path / "free", model_name_or_path=str(model))  # whose rows have no scores


def test_other_options_go_on_where_there_are_no_rows(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(10))
    with pytest.raises(InputError, match="the model's context leaves no room"):
        run(documents, tmp_path / "out", RuleEngine(tagged, room=300))
    assert run(documents, tmp_path / "out", passage_tokens=100)["documents"] == 10


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("record", [None, "", '{"documents_ver', "5", "{}", '{"model": "mine"}'])
def test_a_folder_of_something_else_stays_as_it_is(record: str | None, overwrite: bool, tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(3))
    output = tmp_path / "out"
    (output / "data").mkdir(parents=True)
    for name in ("README.md", "report.json", "data/thesis.txt", "data/00000-00000.parquet"):
        (output / name).write_text("mine")
    if record is not None:
        (output / "run.json").write_text(record)
    before = read_tree(output)
    with pytest.raises(InputError, match=r"out: not empty, and without the run.json of iepile extract-corpus; give"):
        run(documents, output, overwrite=overwrite)
    assert read_tree(output) == before


def test_overwrite_removes_the_shards_alone(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(30))
    output = tmp_path / "out"
    output.mkdir()
    (output / ".gitattributes").touch()  # as in a new repository of the Hub
    run(documents, output)
    mine = {"README.md": b"my card", "data/thesis.txt": b"thesis", "notes/a.txt": b"a", ".shards/notes.json": b"{}"}
    (output / "notes").mkdir()
    for name, content in mine.items():
        (output / name).write_bytes(content)
    run(documents, output, overwrite=True, shard_size=20)
    assert mine.items() <= read_tree(output).items()
    assert sorted(path.stem for path in output.glob("data/*.parquet")) == ["00000-00000", "00000-00001"]
    (output / "data" / "thesis.txt").unlink()  # which pyarrow would read
    assert len(read_rows(output)) == 30
    (output / "data" / "more.parquet").write_bytes(b"mine")
    before = read_tree(output)
    for overwrite in (True, False):  # or to resume
        with pytest.raises(InputError, match="holds data/more.parquet, which readers would take for"):
            run(documents, output, overwrite=overwrite, shard_size=20)
        assert read_tree(output) == before
    (output / "data" / "more.parquet").unlink()
    (output / ".shards" / "00000-00001.json").unlink()  # as if it was killed before
    run(documents, output, overwrite=True, shard_size=30)
    assert len(read_rows(output)) == 30


@pytest.mark.parametrize(
    "documents, output, how",
    [
        ("proj/data", "proj", "holds"),
        ("proj/data", "proj/data", "is"),
        ("link", "proj", "holds"),
        ("proj/*/*.jsonl", "proj/data", "holds"),
        ("proj", "proj/data/out", "lies in"),
        ("proj/**/*.json*", "proj/out", "lies in"),
        ("memory://proj", "memory://proj/out", "lies in"),
        ("memory://proj/a.jsonl", "memory://proj", "holds"),
    ],
)
def test_the_output_is_apart_from_the_documents(
    documents: str, output: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proj" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to("proj/data")
    write_corpus(tmp_path / "proj" / "data" / "a.jsonl", make_texts(3))
    fsspec.filesystem("memory").pipe_file("/proj/a.jsonl", (tmp_path / "proj" / "data" / "a.jsonl").read_bytes())
    before = read_tree(tmp_path)
    message = f"{output}: the output folder {how} the documents {documents}; give another folder"
    with pytest.raises(InputError, match=re.escape(message)):
        run(documents, output, overwrite=True)
    assert read_tree(tmp_path) == before
    run("proj/data/*.jsonl", "proj/out")  # beside them


def test_shards_that_are_lost_or_damaged_are_answered_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(30))
    output = tmp_path / "out"
    expected = run(documents, output)
    rows = read_rows(output)
    (output / "data" / "00000-00000.parquet").unlink()
    (output / "data" / "00000-00001.parquet").write_bytes(b"")
    (output / ".shards" / "00000-00002.json").write_text("{")
    (output / ".shards" / "00000-00004.json").write_text("{}")
    (output / ".shards" / "notes.json").write_text("mine")
    capsys.readouterr()
    report = run(documents, output)
    assert "out: 4 shards lost or damaged, answered again" in capsys.readouterr().err
    assert read_rows(output) == rows and report["run"]["documents"] == 3 * 7 + 2
    assert {**report, "run": None} == {**expected, "run": None}


@pytest.mark.parametrize("begun", ["{", "5", '{"0 0": "once"}'])
def test_a_damaged_record_of_what_was_begun_is_one_clear_line(begun: str, tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(3))
    with pytest.raises(Killed):
        run(documents, tmp_path / "out", Fails(1))
    (tmp_path / "out" / ".shards" / "begun").write_text(begun)
    with pytest.raises(InputError, match=r"out/.shards/begun: damaged; remove it"):
        run(documents, tmp_path / "out")


def test_the_command(people: Path, tmp_path: Path, run_command: Callable) -> None:
    run_command("build", "--corpus_dir", people, "--output_dir", tmp_path / "data")
    (tmp_path / "a.txt").write_text("Ada met Bob in Rome.")
    command = [
        "extract-corpus", "--documents", tmp_path / "a.txt", "--output_dir", tmp_path / "out",
        "--schema", people / "IE-en" / "NER" / "people" / "schema.json",
        "--engine", "lookup", "--model_name_or_path", tmp_path / "data",
    ]  # fmt: skip
    done = run_command(*command)
    assert done.stderr.splitlines()[-2].startswith(f"1 documents, 3 facts: {tmp_path / 'out'}")
    assert [fact["label"] for fact in read_rows(tmp_path / "out")[0]["facts"]] == [["person"], ["person"], ["city"]]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["facts"] == 3


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"documents": "texts"}, r"caf\udce9.txt': the name of this file is not UTF-8; rename it"),
        ({"documents": "nowhere.jsonl"}, "nowhere.jsonl: no such file or folder"),
        ({"text_column": "content"}, "no column 'content', only id, text"),
        ({"schema": []}, "the schema is empty"),
        ({"task": "EEA"}, "use EE"),
        ({"shard_size": 0}, "--shard_size is 0"),
        ({"schema_column": "text"}, "give --schema, or --schema_column"),
        ({"output_dir": "corpus.jsonl"}, "corpus.jsonl: the output folder is the documents corpus.jsonl"),
        ({"output_dir": "notes.txt"}, "notes.txt/run.json: File exists"),
        ({"output_dir": "/proc/none"}, "/proc/none/run.json: No such file"),
        ({"output_dir": "nothing://none"}, "nothing://none: Protocol not known"),
    ],
)
def test_bad_input_is_one_clear_line(
    changed: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus.jsonl", make_texts(3))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "caf\udce9.txt").touch()  # in Latin-1
    options = {"output_dir": "out", "schema": SCHEMA, **changed}
    documents = {"documents": "corpus.jsonl"}
    documents |= {name: options.pop(name) for name in ("documents", "text_column", "schema_column") if name in options}
    with pytest.raises(InputError, match=re.escape(message)):
        extract_corpus(
            DocumentOptions(**documents), ExtractCorpusOptions(**options), ClusterOptions(), EngineOptions(),
            {"engine": "rules"}, lambda options: RuleEngine(tagged),
        )  # fmt: skip


def test_a_schema_that_fits_no_context_ends_the_run(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(3))
    with pytest.raises(InputError, match="the model's context leaves no room for the text beside 2 labels"):
        run(documents, tmp_path / "out", RuleEngine(tagged, room=300))


def test_ray_is_missing_or_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = write_corpus(tmp_path / "corpus.jsonl", make_texts(3))

    def start(**cluster: Any) -> None:
        extract_corpus(
            DocumentOptions(documents), ExtractCorpusOptions(str(tmp_path / "out"), SCHEMA), ClusterOptions(**cluster),
            EngineOptions(), {"engine": "rules"}, lambda options: RuleEngine(tagged),
        )  # fmt: skip

    address = unused_url().removeprefix("http://").removesuffix("/v1")
    with pytest.raises(InputError, match=f"no Ray cluster can be reached at {address}: .*refused"):
        start(ray_address=address)
    ray = pytest.importorskip("ray")

    def refuse(**_: Any) -> None:
        raise ConnectionError("no") from ray.exceptions.AuthenticationError("no token")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match="the Ray cluster at ray://head wants a token: export RAY_AUTH_MODE=token"):
        start(ray_address="ray://head")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=re.escape("ray is not installed: pip install 'iepile-builder[ray]'")):
        start(num_workers=2)
