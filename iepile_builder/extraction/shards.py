"""Write the results of a corpus in Parquet shards, each whole and once, whatever was killed in between."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from iepile_builder.errors import InputError
from iepile_builder.extraction.corpus import Part, Result, join_parts, to_rows
from iepile_builder.extraction.result import COUNTS, Extraction
from iepile_builder.io import first_line, pluralize, write_whole


RECEIPTS = ".shards"  # a file for each shard that is whole: a store may have no renaming
BEGUN = f"{RECEIPTS}/begun"
_NAME = r"(\d{5,})-(\d{5,})"  # of a shard: piece and number
CARD = "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
TOTALS = ("documents", "failed", "facts", *COUNTS)
# In a folder that counts as empty: what a killed run, a file system or the Hub puts there
NOT_CONTENT = {".run.json.lock", ".run.json.incomplete", "lost+found", ".gitattributes"}


@dataclass
class _Open:
    """A shard that waits for documents."""

    numbers: set[int] = field(default_factory=set)
    rows: list[pa.RecordBatch] = field(default_factory=list)
    parts: dict[int, dict[int, tuple[Part, Extraction | str]]] = field(default_factory=dict)


class Shards:
    """
    Collect results in any order, and write a shard when all of its documents are there.

    Args:
        output_dir (`str`):
            A folder on any file system of `fsspec`.
        shard_size (`int`):
            Number of documents in a shard; the last one of a piece of the corpus has fewer.
        keep_text (`bool`):
            Whether rows have the text.
        max_failures (`int`):
            Number of documents one after the other without an answer after which it ends; 0 for no end.

    Attributes:
        done (`dict[int, set[int]]`): the shards of each piece that are whole.
        ended (`set[int]`): the pieces all of whose shards are.
        totals (`Counter`): what is in the shards that are whole.

    Raises:
        `InputError`: If the folder cannot be read or written.
    """

    def __init__(self, output_dir: str, shard_size: int, keep_text: bool, max_failures: int) -> None:
        self.output_dir, self.shard_size = output_dir, shard_size
        self.keep_text, self.max_failures = keep_text, max_failures
        self.done: dict[int, set[int]] = {}
        self.ended: set[int] = set()
        self.totals: Counter[str] = Counter(dict.fromkeys(TOTALS, 0))
        self.usage: Counter[str] = Counter()
        self.open: dict[tuple[int, int], _Open] = {}
        self._documents: dict[int, int] = {}  # of pieces that are read to their end
        self._failures = 0
        with self._clear_errors():
            self.system, self.path = fsspec.url_to_fs(output_dir)

    def read(self, name: str) -> bytes | None:
        """Read a file; `None` if there is none."""
        with self._clear_errors():
            return self.system.cat_file(f"{self.path}/{name}") if self.system.exists(f"{self.path}/{name}") else None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole where the file system can rename or shows a file only when it is."""
        path = f"{self.path}/{name}"
        if isinstance(self.system, LocalFileSystem):
            write_whole(Path(path), content)
            return
        with self._clear_errors():
            self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.system.pipe_file(path, content)

    def find_run(self) -> dict[str, Any] | None:
        """Read the description of the run that wrote the folder; `None` if the folder is empty."""
        run = _parse(self.read("run.json"))
        if isinstance(run, dict) and "documents_version" in run:
            return run
        if self._list().keys() <= NOT_CONTENT:
            return None
        raise InputError(
            f"{self.output_dir}: not empty, and without the run.json of iepile extract-corpus; give another folder, "
            "or empty it yourself"
        )

    def find_begun(self) -> dict[str, int]:
        """Read what an earlier run began and did not end."""
        content = self.read(BEGUN)
        begun = _parse(content) if content else {}
        if not isinstance(begun, dict) or not all(isinstance(times, int) for times in begun.values()):
            raise InputError(f"{self.output_dir}/{BEGUN}: damaged; remove it")
        return begun

    def remove(self) -> None:
        """Remove what an earlier run wrote, except `run.json`, which says whose folder it is, and no other file."""
        leaving = [f"data/{name}.parquet" for name in self._find_shards()]
        leaving += [f"{RECEIPTS}/{name}.json" for name in self.find_receipts()]
        with self._clear_errors():
            for name in (*leaving, BEGUN, "report.json"):
                if self.system.exists(f"{self.path}/{name}"):
                    self.system.rm_file(f"{self.path}/{name}")

    def resume(self, retry_failed: bool = False) -> None:
        """Find the shards that are whole; with `retry_failed`, without those that have a failed document."""
        names, written, lost = self.find_receipts(), self._find_shards(), 0
        paths = [f"{self.path}/{RECEIPTS}/{name}.json" for name in names]
        with self._clear_errors():
            # Many at a time, from a store; its `cat` would take "[" in a name for a pattern
            contents = self.system.cat_ranges(paths, None, None, on_error="raise")
        for content, (name, (piece, shard)) in zip(contents, names.items(), strict=True):
            receipt = _parse(content)
            if written.get(name, 0) == 0 or not _is_receipt(receipt):
                lost += 1
            elif not (retry_failed and receipt["failed"]):
                self.done.setdefault(piece, set()).add(shard)
                if receipt["shards"] is not None:
                    self._documents[piece] = receipt["shards"]
                self.totals.update({name: receipt[name] for name in TOTALS})
        if lost:
            print(f"{self.output_dir}: {pluralize(lost, 'shard')} lost or damaged, answered again", file=sys.stderr)
        self.ended = {piece for piece, shards in self._documents.items() if len(self.done.get(piece, ())) == shards}
        self._documents.clear()

    def add(self, result: Result) -> int:
        """Add the result of a parcel; returns how many documents are complete by it."""
        piece, shard, _, documents = result.parcel
        if documents is not None:
            self._documents[piece] = documents
            for key in [key for key in self.open if key[0] == piece]:
                self._close(*key)
            return 0
        self._check_failures(result)
        self.usage.update(result.usage)
        if shard in self.done.get(piece, ()):
            return 0
        opened = self.open.setdefault((piece, shard), _Open())
        before = len(opened.numbers)
        self._add_rows(opened, result.rows)
        for part, found in result.parts:
            if part.number not in opened.numbers:
                parts = opened.parts.setdefault(part.number, {})
                parts[part.place] = (part, found)
                if len(parts) == part.parts:
                    self._add_rows(opened, _join(opened.parts.pop(part.number)))
        added = len(opened.numbers) - before
        self._close(piece, shard)
        return added

    def check_complete(self, pieces: int) -> None:
        """Raise an `InputError` if a document is missing."""
        if self.open or len(self.ended | self._documents.keys()) < pieces:
            raise InputError(f"{self.output_dir}: some documents have no answer; the same command resumes")

    def find_receipts(self) -> dict[str, tuple[int, int]]:
        """Find the names of the shards that have receipts: piece and number."""
        found = (re.fullmatch(rf"({_NAME})\.json", name) for name in sorted(self._list(RECEIPTS)))
        return {name[1]: (int(name[2]), int(name[3])) for name in found if name}

    def _find_shards(self) -> dict[str, int | None]:
        """Find the names and sizes of the shards, also of one whose run was killed before it wrote the receipt."""
        found = {name: size for name, size in self._list("data").items() if name.endswith(".parquet")}
        if other := next((name for name in sorted(found) if not re.fullmatch(rf"{_NAME}\.parquet", name)), None):
            raise InputError(
                f"{self.output_dir}: holds data/{other}, which readers would take for one of the shards; move it, or "
                "give another folder"
            )
        return {name.removesuffix(".parquet"): size for name, size in found.items()}

    def _list(self, folder: str = "") -> dict[str, int | None]:
        """List what is in a folder, with sizes; nothing if there is none."""
        path = f"{self.path}/{folder}".rstrip("/")
        with self._clear_errors():
            entries = self.system.ls(path, detail=True) if self.system.isdir(path) else []
        names = {each["name"].rstrip("/"): each.get("size") for each in entries}  # a store may list the folder itself
        return {name.rpartition("/")[2]: size for name, size in names.items() if name != path}

    def _add_rows(self, opened: _Open, rows: pa.RecordBatch) -> None:
        """Add the rows of documents that the shard does not have; a process that is killed may repeat some."""
        numbers = rows.column("number").to_pylist()
        if opened.numbers.isdisjoint(numbers):
            opened.rows.append(rows)
        else:
            opened.rows.append(rows.filter(pa.array([number not in opened.numbers for number in numbers])))
        opened.numbers.update(numbers)

    def _close(self, piece: int, shard: int) -> None:
        """Write a shard if it is complete."""
        opened = self.open[piece, shard]
        documents = self._documents.get(piece)
        end = (shard + 1) * self.shard_size
        expected = (end if documents is None else min(end, documents)) - shard * self.shard_size
        if len(opened.numbers) < expected:
            return
        table = pa.Table.from_batches(opened.rows).sort_by("number").drop_columns(["number"])
        if not self.keep_text:
            table = table.drop_columns(["text"])
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        name = f"{piece:05}-{shard:05}"
        self.write(f"data/{name}.parquet", buffer.getvalue().to_pybytes())
        facts = sum(table["facts"].combine_chunks().value_lengths().to_pylist())
        counts = {name: sum(table[name].to_pylist()) for name in COUNTS}
        failed = len(table) - table["error"].null_count
        receipt = {"documents": len(table), "failed": failed, "facts": facts, **counts}
        shards = None if documents is None else -(-documents // self.shard_size)
        self.write(f"{RECEIPTS}/{name}.json", json.dumps({**receipt, "shards": shards}).encode())
        self.totals.update(receipt)
        self.done.setdefault(piece, set()).add(shard)
        del self.open[piece, shard]

    def _check_failures(self, result: Result) -> None:
        """Raise an `InputError` if so many documents failed that it is not the documents."""
        if result.answered:
            self._failures = 0
        self._failures += len(result.errors)
        if result.errors and 0 < self.max_failures <= self._failures and not result.answered:
            raise InputError(
                f"{self._failures} documents one after the other have no answer, the last one: {result.errors[-1]}; "
                "the same command resumes"
            )

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, ImportError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise InputError(f"{self.output_dir}: {reason}") from None


def _parse(content: bytes | None) -> Any:
    """Parse JSON; `None` where it is none."""
    try:
        return json.loads(content or b"")
    except ValueError:
        return None


def _is_receipt(content: Any) -> bool:
    """Check that nothing of a receipt was lost."""
    return isinstance(content, dict) and "shards" in content and all(type(content.get(name)) is int for name in TOTALS)


def _join(parts: dict[int, tuple[Part, Extraction | str]]) -> pa.RecordBatch:
    """Join the results of the parts of a document; it fails where one does."""
    first = parts[0][0]
    results = [(part.start, found) for _, (part, found) in sorted(parts.items())]
    errors = [found for _, found in results if isinstance(found, str)]
    whole = (
        join_parts((start, found) for start, found in results if not isinstance(found, str)) if not errors else None
    )
    return to_rows([(first, whole or errors[0])])
