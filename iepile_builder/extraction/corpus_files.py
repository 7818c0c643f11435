"""Read the documents of a corpus: Parquet, JSON lines or text files on any file system, or a dataset on the Hub."""

from __future__ import annotations

import io
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from iepile_builder.data.instructions import LANGUAGES
from iepile_builder.errors import InputError
from iepile_builder.extraction.passages import detect_language
from iepile_builder.io import SURROGATE, first_line, read_json


JSON_LINES = (".jsonl", ".json", ".ndjson")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
NO_TEXT = (".csv", ".tsv", ".xlsx", ".arrow", ".pdf", ".docx", ".zip", ".tar", ".tgz")  # nor lines of JSON
PIECE_BYTES = 64 << 20  # of JSON lines, or of a Parquet file, that are read by one process
PIECE_FILES = 1000  # text files that are
ROWS = 256  # of a Parquet file that are in memory at once


@dataclass
class DocumentOptions:
    """
    Documents.

    Args:
        documents (`str`):
            Parquet, JSON lines (also compressed) or text files: a path, a folder or a glob, also on another file
            system such as `s3://bucket/news/*.parquet`; or the Hub id of a dataset of such files.
        split (`str`, *optional*, defaults to `"train"`):
            Split of a dataset on the Hub.
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of the text.
        id_column (`str`, *optional*):
            Column of an id; by default a document is called by its file and number.
        language_column (`str`, *optional*):
            Column of the language; instructions are in Chinese for zh, else in English. By default it is detected.
        schema_column (`str`, *optional*):
            Column of the schema, as JSON or as a list or struct, where each document has its own.
    """

    documents: str
    split: str = "train"
    text_column: str = "text"
    id_column: str | None = None
    language_column: str | None = None
    schema_column: str | None = None

    @property
    def columns(self) -> list[str]:
        """List the columns that are read."""
        named = (self.text_column, self.id_column, self.language_column, self.schema_column)
        return [name for name in named if name is not None]


class Piece(NamedTuple):
    """Files, or a part of one, that are read together: row groups of Parquet, or bytes of JSON lines."""

    files: tuple[str, ...]
    start: int = 0
    end: int | None = None


class Document(NamedTuple):
    """A document, or why there is none in its place."""

    id: str
    text: str = ""
    language: str | None = None
    schema: str | None = None  # JSON
    error: str | None = None


def find_pieces(options: DocumentOptions) -> tuple[list[Piece], str]:
    """
    Find the files of a corpus and divide them into pieces that can be read side by side.

    Returns:
        `tuple[list[Piece], str]`: The pieces, in order, and a hash of the names and sizes of the files.

    Raises:
        `InputError`: If there are none, they cannot be read, or the first document has not the columns.
    """
    files = _find_files(options)
    if wrong := next((name for name, _ in files if _bare(name).endswith(NO_TEXT)), None):
        raise InputError(f"{wrong}: neither Parquet, JSON lines nor text; convert it, or leave it out")
    pieces: list[Piece] = []
    texts = [name for name, _ in files if _kind(name) == "text"]
    for name, size in files:
        if _kind(name) == "parquet" and size is not None and size > PIECE_BYTES:
            with _located(name):
                groups = _open_parquet(name).num_row_groups
            each = max(1, groups * PIECE_BYTES // size)
            pieces += [Piece((name,), first, min(first + each, groups)) for first in range(0, groups, each)]
        elif _kind(name) == "json" and size is not None and not name.endswith(COMPRESSED):
            pieces += [Piece((name,), first, first + PIECE_BYTES) for first in range(0, size, PIECE_BYTES)]
        elif _kind(name) != "text":
            pieces.append(Piece((name,)))
    pieces += [Piece(tuple(texts[first : first + PIECE_FILES])) for first in range(0, len(texts), PIECE_FILES)]
    if next((True for piece in pieces for _ in read_documents(piece, options, strict=True)), None) is None:
        raise InputError(f"{options.documents}: no document in it")
    return pieces, sha256(orjson.dumps(files)).hexdigest()[:16]


def check_not_among_documents(options: DocumentOptions, pieces: list[Piece], output_dir: str) -> None:
    """Raise an `InputError` if the output folder is, holds or lies in the documents, so that it would change them."""
    output, place = _absolute(output_dir), _absolute(options.documents)
    folders = {os.path.dirname(name) for piece in pieces for name in piece.files}
    written = [f"{output}/{name}" for name in ("run.json", "report.json", "README.md", "data/00000-00000.parquet")]
    if output == place:
        how = "is"
    elif any(_lies_in(_absolute(folder), output) for folder in folders):
        how = "holds"
    elif _lies_in(output, place) or any(re.match(glob_translate(place), name) for name in written):
        how = "lies in"
    else:
        return
    raise InputError(f"{output_dir}: the output folder {how} the documents {options.documents}; give another folder")


def _absolute(name: str) -> str:
    """Name a place so that one on the same file system has the same name."""
    system, path = fsspec.url_to_fs(name)
    if isinstance(system, LocalFileSystem):
        return Path(os.path.realpath(path)).as_posix()
    return f"{type(system).__name__}:{path}"


def _lies_in(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def read_documents(piece: Piece, options: DocumentOptions, strict: bool = False) -> Iterator[Document]:
    """
    Read the documents of a piece, in order. What is no document is in its place, with an `error`.

    Raises:
        `InputError`: If a file cannot be read or has not the columns; `strict`: also if a line of JSON has them not.
    """
    for name in piece.files:
        with _located(name):
            if _kind(name) == "text":
                yield _read_text(name)
            elif _kind(name) == "parquet":
                group = f"{piece.start}:" if piece.start else ""
                for number, row in enumerate(_read_parquet(name, piece, options), start=1):
                    here = f"{name}:{group}{number}"
                    yield Document(here, error=row) if isinstance(row, str) else _to_document(row, here, options)
            else:
                yield from _read_json_lines(name, piece, options, strict)


def _find_files(options: DocumentOptions) -> list[tuple[str, int | None]]:
    """List the files of a corpus, in the order of their names, with their sizes, `None` where a server tells none."""
    name = options.documents
    if "::" in name:  # the files in it would not be found by their names
        raise InputError(f"{name}: a chained address cannot be read; unpack the files or copy them")
    try:
        system, path = fsspec.url_to_fs(name)
        exists = system.exists(path)  # else "[" in its name is of a glob
        is_glob = not exists and any(sign in name for sign in "*?[")
        if not exists and not is_glob and "://" not in name:
            return _find_on_hub(options)
        if system.isdir(path):
            found = system.find(path, detail=True)
            inner = {each: each[len(path) :].split("/") for each in found}
            known = (".parquet", *JSON_LINES, ".txt")
            found = {
                each: found[each]
                for each, parts in inner.items()
                if not any(part.startswith((".", "_")) for part in parts) and _bare(each).endswith(known)
            }
        elif is_glob:
            found = {
                each: info
                for each, info in system.glob(path, detail=True).items()
                if info["type"] == "file" and not each.rpartition("/")[2].startswith(".")  # as in a shell
            }
        else:
            found = {path: system.info(path)}
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{name}: cannot be read: {first_line(error)}") from None
    if not found:
        raise InputError(f"{name}: no Parquet, JSON lines (.jsonl) or text file (.txt) there")
    if wrong := next((each for each in found if SURROGATE.search(each)), None):
        raise InputError(f"{wrong!r}: the name of this file is not UTF-8; rename it")
    local = isinstance(system, LocalFileSystem)
    return sorted((each if local else system.unstrip_protocol(each), info["size"]) for each, info in found.items())


def _find_on_hub(options: DocumentOptions) -> list[tuple[str, int | None]]:
    """List the files of a split of a dataset on the Hub."""
    from datasets import load_dataset_builder

    name = options.documents
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise InputError(f"{name}: no such file or folder")
    try:
        files = load_dataset_builder(name).config.data_files or {}
    except Exception as error:  # of many kinds, of which the Hub's own have several
        raise InputError(
            f"{name}: no such file or folder, and no dataset that the Hub gives by its name alone "
            f"({first_line(error)}); one of several configurations is hf://datasets/{name}/FOLDER"
        ) from None
    if options.split not in files:
        raise InputError(f"{name}: no {options.split} split, only {', '.join(map(str, files))}")
    system = fsspec.filesystem("hf")
    return [(str(each), int(system.info(str(each))["size"])) for each in files[options.split]]


def _bare(name: str) -> str:
    """Give a file's name without the ending of its compression."""
    return next((name.removesuffix(ending) for ending in COMPRESSED if name.endswith(ending)), name)


def _kind(name: str) -> str:
    bare = _bare(name)
    return "parquet" if bare.endswith(".parquet") else "json" if bare.endswith(JSON_LINES) else "text"


@contextmanager
def _located(name: str) -> Iterator[None]:
    """Name the file in errors of reading it."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException) as error:
        raise InputError(f"{name}: cannot be read: {first_line(error)}") from None


def _open_parquet(name: str) -> Any:
    return pq.ParquetFile(fsspec.open(name, "rb").open())


def _read_parquet(name: str, piece: Piece, options: DocumentOptions) -> Iterator[dict[str, Any] | str]:
    """Read rows; why there is none where one is not UTF-8."""
    with _open_parquet(name) as file:
        for column in options.columns:
            if column not in file.schema_arrow.names:
                raise InputError(f"{name}: no column {column!r}, only {', '.join(file.schema_arrow.names)}")
        end = file.num_row_groups if piece.end is None else piece.end
        for batch in file.iter_batches(ROWS, row_groups=range(piece.start, end), columns=options.columns):
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:
                yield from map(_read_row, (batch.slice(number, 1) for number in range(len(batch))))


def _read_row(batch: pa.RecordBatch) -> dict[str, Any] | str:
    try:
        [row] = batch.to_pylist()
        return row
    except UnicodeDecodeError as error:
        return _describe_bytes(error)


def _describe_bytes(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 ({error.reason} at byte {error.start})"


def _read_json_lines(name: str, piece: Piece, options: DocumentOptions, strict: bool) -> Iterator[Document]:
    """Read the lines that start in a part of a file."""
    with fsspec.open(name, "rb", compression="infer") as raw:
        file: Any = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, 1 << 20)
        place = piece.start
        if place:
            file.seek(place - 1)
            place += len(file.readline()) - 1
        while piece.end is None or place < piece.end:
            line = file.readline()
            if not line:
                break
            start, place = place, place + len(line)
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            here = f"{name}:{start}"
            try:
                row = read_json(line.removeprefix(b"\xef\xbb\xbf") if start == 0 else line)
            except InputError as error:
                if strict:
                    raise InputError(f"{here}: {error}") from None
                yield Document(here, error=str(error))
                continue
            missing = next((column for column in options.columns if column not in row), None)
            if missing is not None and strict:
                raise InputError(f"{name}: no column {missing!r}, only {', '.join(row)}")
            yield _to_document(row, here, options)


def _read_text(name: str) -> Document:
    with fsspec.open(name, "rb", compression="infer") as file:
        content = file.read()
    try:
        return _checked(Document(name, content.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        return Document(name, error=_describe_bytes(error))


def _to_document(row: dict[str, Any], here: str, options: DocumentOptions) -> Document:
    identity = row.get(options.id_column) if options.id_column is not None else None
    name = here if identity is None else str(identity)
    schema = row.get(options.schema_column) if options.schema_column is not None else None
    try:
        if schema is not None and not isinstance(schema, str):
            schema = orjson.dumps(_without_nulls(schema)).decode()
    except (TypeError, RecursionError) as error:
        return Document(name, error=f"its schema cannot be JSON: {first_line(error)}")
    language = row.get(options.language_column) if options.language_column is not None else None
    document = _checked(Document(name, row.get(options.text_column), language, schema))  # type: ignore[arg-type]
    if options.schema_column is not None and schema is None and document.error is None:
        return Document(name, error="no schema")
    return document


def _without_nulls(value: Any) -> Any:
    """Leave out the fields of a struct that are null: Parquet gives each row those of all rows."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _checked(document: Document) -> Document:
    """Put the reason in the place of a document that cannot be asked about."""
    if not isinstance(document.text, str) or not document.text.strip():
        reason = "no text" if not document.text or isinstance(document.text, str) else "the text is not a string"
        return Document(document.id, error=reason)
    text = SURROGATE.sub("\ufffd", document.text)
    language = document.language if document.language in LANGUAGES else "en" if document.language else None
    return document._replace(text=text, language=language or detect_language(text))
