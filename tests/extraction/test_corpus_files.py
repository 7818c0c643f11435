"""`extraction.corpus_files`: the same documents from every kind of file, however it is divided."""

import gzip
import json
import lzma
from dataclasses import replace
from decimal import Decimal
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.hub_server import LocalHub
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder.errors import InputError
from iepile_builder.extraction import corpus_files
from iepile_builder.extraction.corpus_files import Document, DocumentOptions, find_pieces, read_documents


RECORDS = [{"key": number, "body": f"Text {number}, 第{number}."} for number in range(30)]
OPTIONS = DocumentOptions("", text_column="body", id_column="key")


def read_all(options: DocumentOptions) -> list[Document]:
    pieces, _ = find_pieces(options)
    return [document for piece in pieces for document in read_documents(piece, options)]


def write_lines(path: Path, records: list[dict]) -> Path:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "folder", "glob", "memory"])
def test_every_form_gives_the_same_documents(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(tmp_path / f"corpus.{form}")
    if form.startswith("jsonl"):
        write_lines(Path(name), RECORDS)
    elif form == "parquet":  # of which each row group is a piece
        monkeypatch.setattr(corpus_files, "PIECE_BYTES", 500)
        pq.write_table(pa.Table.from_pylist(RECORDS), name, row_group_size=7)
        assert len(find_pieces(replace(OPTIONS, documents=name))[0]) == 5
    elif form == "memory":
        name = "memory://corpora/a.parquet"
        with fsspec.open(name, "wb") as file:
            pq.write_table(pa.Table.from_pylist(RECORDS), file)
    else:
        (tmp_path / "in" / "_not").mkdir(parents=True)
        write_lines(tmp_path / "in" / "a.jsonl", RECORDS[:10])
        pq.write_table(pa.Table.from_pylist(RECORDS[10:]), tmp_path / "in" / "b.parquet")
        (tmp_path / "in" / "_not" / "c.jsonl").write_text("no document")
        (tmp_path / "in" / "README.md").write_text("no document")
        (tmp_path / "in" / "._a.jsonl").write_text("no document")
        name = str(tmp_path / "in") if form == "folder" else str(tmp_path / "in" / "*[ab].*")
    found = read_all(replace(OPTIONS, documents=name))
    assert [(each.id, each.text, each.error) for each in found] == [
        (str(record["key"]), record["body"], None) for record in RECORDS
    ]


@given(size=st.integers(1, 400), texts=st.lists(st.text(max_size=30), min_size=1, max_size=8))
def test_any_division_of_json_lines_gives_each_document_once(
    size: int, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [text.encode("utf-8", "replace").decode() + "x" for text in texts]
    path = write_lines(tmp_path_factory.mktemp("lines") / "corpus.jsonl", [{"text": text} for text in texts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_files, "PIECE_BYTES", size)
        found = read_all(DocumentOptions(str(path)))
    assert [each.text for each in found if each.error is None] == [text for text in texts if text.strip()]
    assert len(found) == len(texts)


@pytest.mark.parametrize("name", ["a[1].jsonl", "a*.jsonl", "memory://a[1].jsonl"])
def test_a_file_that_exists_is_no_glob(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_lines(tmp_path / "a1.jsonl", RECORDS[:3])
    with fsspec.open(name, "wb") as file:
        file.write(path.read_bytes())
    path.write_text("no document")
    found, _ = find_pieces(replace(OPTIONS, documents=name))
    assert [piece.files[0].rpartition("/")[2] for piece in found] == [name.rpartition("/")[2]]


def test_text_files_and_languages(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ada met Bob.")
    (tmp_path / "b.txt").write_text("他们在巴黎见面。")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    found = read_all(DocumentOptions(str(tmp_path)))
    assert [(each.language, each.error) for each in found] == [
        ("en", None), ("zh", None), (None, "not UTF-8 (invalid start byte at byte 0)"),
    ]  # fmt: skip


def test_what_is_no_document_is_in_its_place(tmp_path: Path) -> None:
    lines = [{"text": "Ada"}, {"text": "  "}, {"text": 5}, {"other": "Ada"}, {"text": "Ada", "lang": "de"}]
    path = write_lines(tmp_path / "corpus.jsonl", lines)
    with path.open("a") as file:
        file.write("no JSON\n")
    pieces, _ = find_pieces(DocumentOptions(str(path)))
    found = list(read_documents(pieces[0], DocumentOptions(str(path), language_column="lang")))
    assert [each.error for each in found[:5]] == [None, "no text", "the text is not a string", "no text", None]
    assert found[4].language == "en"  # of the instruction
    assert "not one JSON object a line" in str(found[5].error)


def test_a_row_of_parquet_that_is_not_utf8_is_in_its_place(tmp_path: Path) -> None:
    buffers = pa.array([b"Ada", b"caf\xe9", b"Bob"]).buffers()
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 3, buffers)}), tmp_path / "a.parquet")
    found = read_all(DocumentOptions(str(tmp_path)))
    assert [(each.text, each.error) for each in found] == [
        ("Ada", None), ("", "not UTF-8 (unexpected end of data at byte 3)"), ("Bob", None),
    ]  # fmt: skip


def test_a_schema_that_is_none_is_in_its_place(tmp_path: Path) -> None:
    columns = {"text": ["Ada"] * 3, "ask": [None, [Decimal(1)], [Decimal(2)]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = read_all(DocumentOptions(str(tmp_path), schema_column="ask"))
    assert [each.error for each in found] == [
        "no schema", *["its schema cannot be JSON: Type is not JSON serializable: decimal.Decimal"] * 2,
    ]  # fmt: skip


def test_a_server_that_tells_no_sizes(tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def send_header(self, keyword: str, value: str) -> None:
            if keyword.lower() != "content-length":
                super().send_header(keyword, value)

        def log_message(self, *args: object) -> None:
            pass

    write_lines(tmp_path / "a.jsonl", RECORDS)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for name in ("a.jsonl", "*.jsonl", ""):
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            assert len(read_all(replace(OPTIONS, documents=url))) == len(RECORDS)
        server.shutdown()


def test_a_schema_of_a_struct_has_no_nulls_of_other_rows(tmp_path: Path) -> None:
    rows = [{"text": "Ada", "ask": {"person": "who"}}, {"text": "Rome", "ask": {"city": "where"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = read_all(DocumentOptions(str(tmp_path), schema_column="ask"))
    assert [each.schema for each in found] == ['{"person":"who"}', '{"city":"where"}']


def test_a_dataset_on_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    hub.api().create_repo("user/corpus", repo_type="dataset")
    for split, rows in (("train", RECORDS), ("test", RECORDS[:3])):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
        hub.api().upload_file(
            path_or_fileobj=tmp_path / f"{split}.parquet", path_in_repo=f"data/{split}-00000-of-00001.parquet",
            repo_id="user/corpus", repo_type="dataset",
        )  # fmt: skip
    hub.api().create_repo("user/two", repo_type="dataset")
    configs = [{"config_name": name, "data_files": f"{name}/*.jsonl"} for name in ("one", "two")]
    contents = {f"{name}/a.jsonl": json.dumps({"body": name}) for name in ("one", "two")}
    contents["README.md"] = f"---\nconfigs: {configs}\n---\n"
    for name, content in contents.items():
        hub.api().upload_file(
            path_or_fileobj=content.encode(), path_in_repo=name, repo_id="user/two", repo_type="dataset"
        )
    code = """
import json
from iepile_builder.errors import InputError
from iepile_builder.extraction.corpus_files import DocumentOptions, find_pieces, read_documents
found = []
for name, split in (
    ("user/corpus", "train"), ("user/corpus", "test"), ("user/corpus", "none"), ("user/two", "train"),
    ("hf://datasets/user/two/two", "train"),
):
    options = DocumentOptions(name, split, "body")
    try:
        found.append([each.text for piece in find_pieces(options)[0] for each in read_documents(piece, options)])
    except InputError as error:
        found.append(str(error))
print(json.dumps(found))
"""
    bodies = [record["body"] for record in RECORDS]
    assert json.loads(hub.run(code)) == [
        bodies,
        bodies[:3],
        "user/corpus: no none split, only train, test",
        "user/two: no such file or folder, and no dataset that the Hub gives by its name alone (Config name is "
        "missing.); one of several configurations is hf://datasets/user/two/FOLDER",
        ["two"],
    ]


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "corpus.jsonl", RECORDS)
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.parquet").write_text("no Parquet")
    (tmp_path / "pretty.json").write_text("[\n{}\n]")
    (tmp_path / "none").mkdir()
    (tmp_path / "table.csv.gz").touch()
    packed = bytearray(lzma.compress(path.read_bytes()))
    packed[40:60] = bytes(20)
    (tmp_path / "damaged.jsonl.xz").write_bytes(packed)
    for name, message in {
        str(path): "no column 'text', only key, body",
        str(tmp_path / "a.parquet"): "no column 'text', only key, body",
        str(tmp_path / "empty.jsonl"): "no document in it",
        str(tmp_path / "broken.parquet"): "cannot be read",
        str(tmp_path / "pretty.json"): "not one JSON object a line",
        str(tmp_path / "none"): "no Parquet, JSON lines",
        str(tmp_path / "missing.jsonl"): "no such file or folder",
        str(tmp_path / "*.none"): "no Parquet, JSON lines",
        "nothing://here": "cannot be read",
        str(tmp_path / "table.csv.gz"): "table.csv.gz: neither Parquet, JSON lines nor text; convert it",
        str(tmp_path / "damaged.jsonl.xz"): "damaged.jsonl.xz: cannot be read: Corrupt input data",
        f"zip://*.jsonl::{tmp_path}/a.zip": "a.zip: a chained address cannot be read; unpack the files",
    }.items():
        with pytest.raises(InputError, match=message):
            find_pieces(DocumentOptions(name))
