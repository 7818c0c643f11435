"""Find, read and check annotated corpora."""

import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iepile_builder.errors import InputError
from iepile_builder.instructions import LANGUAGES
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS, check_types


logger = logging.getLogger(__name__)

SPLIT_FILES = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
SHARD_RECORDS = 1000


@dataclass(frozen=True)
class Corpus:
    """
    A corpus folder in the role of one task.

    Args:
        path (`Path`):
            The folder with `schema.json` and some of `train.json`, `dev.json` and `test.json`.
        task (`str`):
            The task that it serves; an EE folder also serves EET and EEA, an RE folder with typed triples SPO.
        language (`str`):
            `"en"` or `"zh"`.
        source (`str`):
            Its name, the folder's.
        schema (`Schema`):
            What it may be asked.
    """

    path: Path
    task: str
    language: str
    source: str
    schema: Schema

    def file(self, split: str) -> Path:
        """The file of a split."""
        return self.path / SPLIT_FILES[split]


@dataclass(frozen=True, eq=False)
class Shard:
    """
    Some consecutive records of a corpus file, to be read with the ids that they have in the whole file.

    Args:
        corpus (`Corpus`):
            The corpus.
        split (`str`):
            `"train"`, `"validation"` or `"test"`.
        offsets (`np.ndarray` of shape `(records,)`):
            Where each record's line starts, in bytes.
        occurrences (`np.ndarray` of shape `(records,)`):
            1 for a text's first record in the file, 2 for its second, ...
    """

    corpus: Corpus
    split: str
    offsets: np.ndarray
    occurrences: np.ndarray


def find_corpora(
    corpus_dirs: Sequence[str | Path],
    tasks: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> list[Corpus]:
    """
    Find corpora in folders: each a corpus itself or a tree `{IE-en,IE-zh}/{TASK}/{corpus}`, or any part of such a
    tree.

    Args:
        corpus_dirs (`Sequence` of `str` or `Path`):
            The folders.
        tasks (`Sequence[str]`, *optional*):
            The tasks that are wanted, by default each folder's own. EET and EEA are also served by EE folders, SPO by
            RE folders whose triples are typed, unless a folder of their own has the same name.
        languages (`Sequence[str]`, *optional*):
            The languages that are wanted.
        sources (`Sequence[str]`, *optional*):
            Names of the corpora that are wanted.

    Returns:
        `list[Corpus]`: sorted by task, language and name.

    Raises:
        `InputError`: if nothing is found, a `schema.json` is missing or wrong, or a folder's task or language is
        neither in its path nor given.
    """
    check_choices("task", tasks, TASKS)
    check_choices("language", languages, LANGUAGES)
    folders: dict[tuple[str, str, str], Path] = {}
    for corpus_dir in corpus_dirs:
        if not Path(corpus_dir).is_dir():
            raise InputError(f"{corpus_dir}: no such folder of corpora")
        root = Path(corpus_dir).resolve()
        found = sorted({file.parent for name in SPLIT_FILES.values() for file in root.rglob(name)})
        if not found:
            raise InputError(f"{corpus_dir}: no train.json, dev.json or test.json in it")
        for path in found:
            for task, language in folder_roles(path, tasks, languages):
                if folders.setdefault((task, language, path.name), path) != path:
                    raise InputError(f"{path}: {folders[task, language, path.name]} has the same task and name")
    if sources is not None:
        check_choices("corpus", sources, sorted({name for _, _, name in folders}))
    corpora = []
    for (own_task, language, name), path in folders.items():
        if (languages is not None and language not in languages) or (sources is not None and name not in sources):
            continue
        for task in [own_task] if tasks is None else tasks:
            derived = (own_task, task) in (("EE", "EET"), ("EE", "EEA"), ("RE", "SPO"))
            if task == own_task or (derived and (task, language, name) not in folders):
                corpus = Corpus(path, task, language, name, Schema.read(path / "schema.json"))
                if task == "SPO" and not corpus.schema.types:
                    types = triple_types(corpus)
                    if not types and derived:  # an RE folder without types has no SPO to give
                        continue
                    corpus = replace(corpus, schema=Schema(tuple(types), corpus.schema.roles))
                check_schema(corpus)
                corpora.append(corpus)
    if not corpora:
        wanted = [str(name) for names in (tasks, languages, sources) for name in names or ()]
        raise InputError(f"{', '.join(map(str, corpus_dirs))}: no corpus for {', '.join(wanted)}")
    order = list(TASKS)
    return sorted(corpora, key=lambda corpus: (order.index(corpus.task), corpus.language, corpus.source))


def folder_roles(
    path: Path, tasks: Sequence[str] | None, languages: Sequence[str] | None
) -> Iterator[tuple[str, str]]:
    """The task and language of a corpus folder, from its path or else as they are given."""
    language = path.parent.parent.name.removeprefix("IE-")
    if language in LANGUAGES and path.parent.name in TASKS:
        yield path.parent.name, language
        return
    if not tasks:
        raise InputError(f"{path}: its path does not say the task (IE-en/NER/NAME would); give --tasks")
    if not languages or len(languages) > 1:
        raise InputError(f"{path}: its path does not say the language (IE-en/NER/NAME would); give --languages")
    for task in tasks:
        yield task, languages[0]


def check_choices(kind: str, names: Sequence[str] | None, known: Iterable[str]) -> None:
    """Raise an `InputError` that lists the known names if one of `names` is none of them."""
    if isinstance(names, str):
        raise InputError(f"{kind} {names!r}: give a list, [{names!r}]")
    for name in names or ():
        if name not in known:
            raise InputError(f"unknown {kind} {name!r}; known: {', '.join(known)}")


def check_schema(corpus: Corpus) -> None:
    """Raise an `InputError` if a corpus's schema does not serve its task."""
    path, task, schema = corpus.path / "schema.json", TASKS[corpus.task], corpus.schema
    labels = task.labels(schema)
    if not labels:
        raise InputError(f"{path}: no labels for {corpus.task}")
    if corpus.task == "KG":
        owners = Counter(attribute for attributes in schema.type_roles.values() for attribute in attributes)
        for attribute, count in owners.items():
            if count > 1:
                raise InputError(f"{path}, line 3: attribute {attribute!r} belongs to {count} entity types; rename it")
    if corpus.task == "SPO":
        for label in labels:
            try:
                task.answer_key(label)
            except InputError as error:
                raise InputError(f"{path}, line 1: {error}") from None


def triple_types(corpus: Corpus) -> list[str]:
    """The sorted SPO labels of all splits; none where a triple is without types."""
    labels = set()
    for split in SPLIT_FILES:
        for number, _, line in read_lines(corpus.file(split)):
            with located(corpus.file(split), number):
                for triple in read_json(line).get("relation") or []:
                    if not isinstance(triple, dict) or not {"head_type", "relation", "tail_type"} <= triple.keys():
                        return []
                    check_types(triple)
                    labels.add(TASKS["SPO"].label(triple, corpus.schema))
    return sorted(labels)


def read_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), offset in bytes and content of each line that is not blank; none if there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset, line
            offset += len(line)


@contextmanager
def located(path: Path, number: int) -> Iterator[None]:
    """Say in which file and line an `InputError` was raised."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}, line {number}: {error}") from None


def read_json(line: bytes) -> dict[str, Any]:
    """The JSON object in a line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not one JSON object a line ({error})") from None
    if not isinstance(record, dict):
        raise InputError(f"not one JSON object a line ({type(record).__name__})")
    return record


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


def index_split(
    corpus: Corpus, split: str, on_error: Literal["raise", "skip"] = "raise", max_records: int | None = None
) -> list[Shard]:
    """
    Check every record of a split and cut the file into shards.

    Args:
        corpus (`Corpus`):
            The corpus.
        split (`str`):
            `"train"`, `"validation"` or `"test"`.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves records out that cannot be used, and logs how many and the first one's fault.
        max_records (`int`, *optional*):
            The first so many records only.

    Returns:
        `list[Shard]`: in file order; empty if the corpus has no such split.

    Raises:
        `InputError`: that names file and line of the first record that cannot be used, with `on_error="raise"`.
    """
    path = corpus.file(split)
    offsets, digests = array("Q"), array("Q")
    faults: list[InputError] = []
    for number, offset, line in read_lines(path):
        if len(offsets) == max_records:
            break
        try:
            with located(path, number):
                record = read_json(line)
                check_record(record, corpus, split)
        except InputError as error:
            if on_error == "raise":
                raise
            faults.append(error)
            continue
        offsets.append(offset)
        digests.append(int.from_bytes(sha256(record["text"].encode()).digest()[:8], "big"))
    if faults:
        logger.warning("%s: left out %d records; the first: %s", path, len(faults), faults[0])
    occurrences = count_occurrences(np.array(digests))
    cuts = range(SHARD_RECORDS, len(offsets), SHARD_RECORDS)
    parts = zip(np.split(np.array(offsets), cuts), np.split(occurrences, cuts), strict=True)
    return [Shard(corpus, split, *part) for part in parts if len(part[0])]


def count_occurrences(values: np.ndarray) -> np.ndarray:
    """For each value how often it has occurred up to and with it: `[7, 9, 7]` gives `[1, 1, 2]`."""
    order = np.argsort(values, kind="stable")
    index = np.arange(len(values))
    first = np.ones(len(values), dtype=bool)
    first[1:] = values[order][1:] != values[order][:-1]
    occurrences = np.empty(len(values), dtype=np.int64)
    occurrences[order] = index - np.maximum.accumulate(np.where(first, index, 0)) + 1
    return occurrences


def read_shard(shard: Shard) -> Iterator[dict[str, Any]]:
    """
    The records of a shard: `id`, `text` and the task's annotation (`None` where it has none).

    The id is the sha256 of the text, with `-2`, `-3`, ... behind it for further records of the same text in the file.
    """
    field = TASKS[shard.corpus.task].field
    with shard.corpus.file(shard.split).open("rb") as file:
        for offset, occurrence in zip(shard.offsets.tolist(), shard.occurrences.tolist(), strict=True):
            file.seek(offset)
            record = read_json(file.readline())
            id = sha256(record["text"].encode()).hexdigest() + (f"-{occurrence}" if occurrence > 1 else "")
            yield {"id": id, "text": record["text"], field: record.get(field)}


def read_split(
    corpus: Corpus, split: str, on_error: Literal["raise", "skip"] = "raise", max_records: int | None = None
) -> Iterator[dict[str, Any]]:
    """The records of a split in file order, checked; see [`index_split`] and [`read_shard`]."""
    for shard in index_split(corpus, split, on_error, max_records):
        yield from read_shard(shard)
