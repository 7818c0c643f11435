"""Check the records of a corpus once, and read them again by their offset in the file."""

import gc
import logging
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import ceil
from multiprocessing import Pool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iepile_builder.data.cleaning import PERMUTATIONS, CleaningOptions, is_near_repeat, is_noise, signature
from iepile_builder.data.corpus import Corpus
from iepile_builder.data.sampling import draws
from iepile_builder.errors import InputError
from iepile_builder.io import fold, read_json, read_lines, to_json
from iepile_builder.tasks import TASKS


logger = logging.getLogger(__name__)
SHARD_RECORDS = 1000
PART_BYTES = 8_000_000  # of a corpus file, read in one go by one process


@dataclass(frozen=True, eq=False)
class Shard:
    """Consecutive records of a corpus file, with their ids in the whole file."""

    corpus: Corpus
    split: str  # `"train"`, `"validation"` or `"test"`
    offsets: np.ndarray  # of each record, the byte offset of its line
    occurrences: np.ndarray  # of each record, 1 for its text's first in the file, 2 for the second, ...
    repetition: int = 0  # number of earlier repetitions of these records
    fix: bool = False  # whether to fix the records
    state: tuple[int, int] | None = None  # size and time of the file when it was indexed; a change invalidates offsets


class Index(NamedTuple):
    """
    Offsets and hashes of the checked records of a split, or of a part of its file.

    The columns of `rows`: the byte offset of each record's line; and 64 bits of the hashes of its text, of the
    normalized text (or 0), and of text and annotation (or 0).
    """

    rows: np.ndarray
    signatures: np.ndarray  # of each record the MinHash, if near duplicates are removed
    report: Counter[str]  # number of records read, and of records skipped by reason
    first_fault: str | None  # file, line and error of the first record that cannot be used as it is
    state: tuple[int, int] | None = None  # size and time of the file, before it was read

    def keep(self, kept: np.ndarray, reason: str) -> "Index":
        """Keep some of the records and count the others under `reason`."""
        signatures = self.signatures[kept] if len(self.signatures) else self.signatures
        return self._replace(
            rows=self.rows[kept], signatures=signatures, report=self.report + Counter({reason: int((~kept).sum())})
        )


OFFSET, TEXT, NORMAL_TEXT, CONTENT = range(4)  # the columns of an index


def check_record(record: dict[str, Any], corpus: Corpus, split: str) -> None:
    """Raise an `InputError` if this is not a record of the corpus's task with labels of its schema."""
    task = TASKS[corpus.task]
    if "text" not in record:
        raise InputError("field 'text' is missing")
    if not isinstance(record["text"], str) or not record["text"].strip():
        raise InputError("'text' is empty or not a string")
    annotations = record.get(task.field)
    if annotations is None:
        if split == "train":
            raise InputError(f"field {task.field!r} is missing")
        return
    if not isinstance(annotations, list):
        raise InputError(f"{task.field!r} is not a list")
    for annotation in annotations:
        task.check(annotation, corpus.schema)
        task.check_places(annotation, record["text"])


def index_split(corpus: Corpus, split: str, cleaning: CleaningOptions, num_proc: int | None = None) -> Index:
    """
    Check every record of a split: an index in file order, empty if the corpus has no such split.

    Raises:
        `InputError`: With `on_error="raise"`, naming file and line of the first record that cannot be used.
    """
    path = corpus.file(split)
    state = file_state(path)
    spans = file_parts(path) if cleaning.max_records is None else [(0, sys.maxsize)]
    arguments = [(corpus, split, *span, cleaning) for span in spans]
    if num_proc is not None and num_proc > 1 and len(spans) > 1:
        with Pool(min(num_proc, len(spans))) as pool:
            parts = pool.starmap(index_part, arguments, chunksize=1)
    else:
        parts = [index_part(*each) for each in arguments]
    index = Index(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.signatures for part in parts]),
        sum((part.report for part in parts), Counter()),
        next((part.first_fault for part in parts if part.first_fault is not None), None),
        state,
    )
    if split == "train" and cleaning.deduplicate != "none":
        index = index.keep(count_occurrences(index.rows[:, CONTENT]) == 1, "duplicates")
        if cleaning.deduplicate == "near":
            index = index.keep(~is_near_repeat(index.signatures), "near duplicates")
    if index.first_fault is not None:
        done, number = ("fixed", "fixed") if cleaning.on_error == "fix" else ("left out", "unusable")
        logger.warning("%s: %s %d records; the first: %s", path, done, index.report[number], index.first_fault)
    return index


def leave_out_evaluation_texts(indices: dict[tuple[Corpus, str], Index]) -> None:
    """Skip training records whose normalized text is in a validation or test split of any of the corpora."""
    evaluation = [index.rows[:, NORMAL_TEXT] for (_, split), index in indices.items() if split != "train"]
    texts = np.concatenate(evaluation)
    for (corpus, split), index in indices.items():
        if split == "train":
            kept = ~np.isin(index.rows[:, NORMAL_TEXT], texts)
            indices[corpus, split] = index.keep(kept, "texts of an evaluation split")


@contextmanager
def collector_off() -> Iterator[None]:
    """Switch off the garbage collector, which takes a third of the time: records have no cycles for it to find."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def file_state(path: Path) -> tuple[int, int] | None:
    """Read the size and the time of a file."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def file_parts(path: Path) -> list[tuple[int, int]]:
    """Cut a file into parts of whole lines: start and end of each."""
    if not path.exists():
        return [(0, 0)]
    size = path.stat().st_size
    cuts = {0, max(1, size)}
    with path.open("rb") as file:
        for start in range(PART_BYTES, size, PART_BYTES):
            file.seek(start)
            file.readline()
            cuts.add(file.tell())
    return list(pairwise(sorted(cuts)))


@collector_off()
def index_part(corpus: Corpus, split: str, start: int, end: int, cleaning: CleaningOptions) -> Index:
    """Check the records of a part of a split's file; see [`index_split`]."""
    task, path = TASKS[corpus.task], corpus.file(split)
    rows = array("Q")
    signatures: list[np.ndarray] = []
    report: Counter[str] = Counter()
    first_fault = None
    for number, offset, line in read_lines(path, start, end):
        if report["records"] - report["unusable"] == cleaning.max_records:
            break
        report["records"] += 1
        try:
            record = read_json(line)
            if cleaning.on_error == "fix":
                report["fixed"] += fix_record(record, corpus)
            check_record(record, corpus, split)
        except InputError as error:
            if first_fault is None:
                first_fault = f"{path}, line {number + lines_before(path, start)}: {error}"
            if cleaning.on_error == "raise":
                raise InputError(first_fault) from None
            report["unusable"] += 1
            continue
        text, annotations = record["text"], record.get(task.field) or ()
        for annotation in annotations:
            report["mentions not in the text"] += task.absent(annotation, text)
        if cleaning.clean and is_noise(text, bool(annotations), corpus.language):
            report["noise"] += 1
            continue
        normal_text = hash64(fold(text)) if cleaning.drop_evaluation_texts else 0
        content = hash64(to_json([text, annotations])) if cleaning.deduplicate != "none" else 0
        rows.extend((offset, hash64(text), normal_text, content))
        if cleaning.deduplicate == "near" and split == "train":
            signatures.append(signature(text))
    return Index(
        np.array(rows, dtype=np.uint64).reshape(-1, 4),
        np.array(signatures, dtype=np.uint32).reshape(-1, PERMUTATIONS),
        report,
        first_fault,
    )


def hash64(text: str) -> int:
    """Hash a text to 64 bits."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def lines_before(path: Path, offset: int) -> int:
    """Count the lines that end before an offset."""
    with path.open("rb") as file:
        return file.read(offset).count(b"\n")


def fix_record(record: dict[str, Any], corpus: Corpus) -> bool:
    """Drop unusable annotations of a record, and give mentions the spelling of the text."""
    task, text = TASKS[corpus.task], record.get("text")
    annotations = record.get(task.field)
    if not isinstance(text, str) or not isinstance(annotations, list):
        return False  # there is nothing to go by
    fixed = [task.fix(annotation, text, corpus.schema) for annotation in annotations]
    record[task.field] = [annotation for annotation in fixed if annotation is not None]
    return record[task.field] != annotations


def to_shards(
    corpus: Corpus, split: str, index: Index, weight: float = 1.0, seed: str = "", on_error: str = "raise"
) -> list[Shard]:
    """
    Cut the records of a split into shards.

    `weight` is the number of repetitions of each record: 0.1 gives about every tenth one, 2.5 all of them twice and
    half of them again; another `seed` selects others. With `on_error="fix"`, as in [`index_split`], shards give fixed
    records.
    """
    draw = draws(index.rows[:, TEXT] ^ np.uint64(hash64(seed)), 0, 1)[:, 0] * 2.0**-64
    given = [index.rows[draw < weight - repetition] for repetition in range(ceil(weight))]
    occurrences = count_occurrences(np.concatenate([rows[:, TEXT] for rows in given])) if given else np.empty(0)
    shards, before = [], 0
    for repetition, rows in enumerate(given):
        for start in range(0, len(rows), SHARD_RECORDS):
            offsets = rows[start : start + SHARD_RECORDS, OFFSET]
            of_shard = occurrences[before : before + len(offsets)]
            shards.append(Shard(corpus, split, offsets, of_shard, repetition, on_error == "fix", index.state))
            before += len(offsets)
    return shards


def count_occurrences(values: np.ndarray) -> np.ndarray:
    """Number the occurrences of each value: `[7, 9, 7]` gives `[1, 1, 2]`."""
    order = np.argsort(values, kind="stable")
    index = np.arange(len(values))
    first = np.ones(len(values), dtype=bool)
    first[1:] = values[order][1:] != values[order][:-1]
    occurrences = np.empty(len(values), dtype=np.int64)
    occurrences[order] = index - np.maximum.accumulate(np.where(first, index, 0)) + 1
    return occurrences


def read_shard(shard: Shard) -> Iterator[dict[str, Any]]:
    """
    Read the records of a shard: `id`, `text` and the task's annotation (`None` where it has none).

    The id is the sha256 of the text, with `-2`, `-3`, ... behind it for further records of the same text in the file.
    """
    field, path = TASKS[shard.corpus.task].field, shard.corpus.file(shard.split)
    lines = []
    with path.open("rb") as file:
        for offset in shard.offsets.tolist():
            file.seek(offset)
            lines.append(file.readline())
    if file_state(path) != shard.state:
        raise InputError(f"{path}: changed while it was read; give the command again")
    for line, occurrence in zip(lines, shard.occurrences.tolist(), strict=True):
        record = read_json(line)
        if shard.fix:
            fix_record(record, shard.corpus)
        id = sha256(record["text"].encode()).hexdigest() + (f"-{occurrence}" if occurrence > 1 else "")
        yield {"id": id, "text": record["text"], field: record.get(field)}


def read_split(corpus: Corpus, split: str, on_error: str = "raise") -> Iterator[dict[str, Any]]:
    """Read and check the records of a split in file order; see [`index_split`] and [`read_shard`]."""
    index = index_split(corpus, split, CleaningOptions(on_error=on_error))
    for shard in to_shards(corpus, split, index, on_error=on_error):
        yield from read_shard(shard)
