"""The test sets of published benchmarks: which there are, and how their files become corpora."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from iepile_builder.data.columns import Record
from iepile_builder.data.corpus import SPLIT_FILES
from iepile_builder.data.sources import read_source
from iepile_builder.errors import InputError
from iepile_builder.io import RESOURCES, to_json, write_whole
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS


_NOT_CHECKED = "The number of records of at least one corpus is not checked: no source tells it."


@dataclass
class BenchmarkSet:
    """A test set: an entry of `resources/benchmark.yaml`, which describes the fields."""

    name: str
    suite: str
    task: str
    language: str
    corpora: dict[str, dict[str, Any]]
    reader: str = "unified"
    source: str = "corpora in the unified format"
    labels: dict[str, str] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)
    split_by_type: bool = False
    shuffled: bool = False
    published: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def checked(self) -> bool:
        """Whether a number of records or annotations is known of each corpus."""
        return all(of_corpus.keys() & {"records", "annotations"} for of_corpus in self.corpora.values())

    def place(self, corpus: str) -> Path:
        """Give the folder of a corpus in a tree of the unified format."""
        return Path(f"IE-{self.language}", self.task, corpus)

    def patterns(self, corpus: str, split: str) -> list[str]:
        """List the files of a split of a corpus, as patterns."""
        patterns = self.corpora[corpus].get(split, [])
        return [patterns] if isinstance(patterns, str) else patterns

    def find_files(self, corpus: str, data_dir: Path) -> tuple[str, dict[str, list[Path]]]:
        """Find the reader of a corpus and its files by split: those of the source, or those in the unified format."""
        found = {}
        for split in ("test", "train"):
            files = [sorted(data_dir.glob(pattern)) for pattern in self.patterns(corpus, split)]
            if files and all(files):
                found[split] = [file for of_pattern in files for file in of_pattern]
        if "test" in found:
            return self.reader, found
        folder = data_dir / self.place(corpus)
        unified = {split: folder / SPLIT_FILES[split] for split in ("test", "train")}
        return "unified", {split: [file] for split, file in unified.items() if file.is_file()}


def read_benchmark() -> tuple[dict[str, str], list[str], list[BenchmarkSet]]:
    """Read the published systems with the sources of their scores, those to print, and the test sets."""
    table = yaml.safe_load((RESOURCES / "benchmark.yaml").read_text(encoding="utf-8"))
    sets = [BenchmarkSet(**entry) for entry in table["sets"]]
    for each in sets:
        if not each.checked:
            each.notes.append(_NOT_CHECKED)
    return table["systems"], table["shown"], sets


def convert(
    benchmark: BenchmarkSet,
    corpus: str,
    reader: str,
    files: dict[str, list[Path]],
    tree: Path,
    keep_misc: bool = False,
    seed: int = 0,
    unchecked: bool = False,
) -> list[str]:
    """
    Write a corpus of a test set to a tree of the unified format, without the labels of `drop` unless `keep_misc`;
    return the corpora that were written: this one, or one for each first part of an event type.

    Labels are in the order of the schema, or alphabetical; that of a set that is `shuffled` is drawn with `seed`.

    Raises:
        `InputError`: If a file is not of the reader's format, or, unless `unchecked`, holds another number of
            records than the published one.
    """
    task = TASKS[benchmark.task]
    key = task.names[0]
    records = {split: read_source(reader, of_split) for split, of_split in files.items()}
    for split, of_split in records.items():
        others = len(files[split]) - 1
        place = f"{files[split][0]}{f' and {others} more' if others else ''}"
        _check_records(of_split, place, task.field, key)
    counts = {
        "records": len(records["test"]),
        "annotations": sum(len(record.get(task.field) or ()) for record in records["test"]),
    }
    if not counts["annotations"]:
        raise InputError(f"{files['test'][0]}: no record has an annotation to score answers with")
    for name, number in counts.items():
        expected = benchmark.corpora[corpus].get(name, number)
        if number != expected and not unchecked:
            raise InputError(
                f"{files['test'][0]}: {number} {name}, not the {expected} of the published test set; --unchecked "
                "scores it all the same"
            )
    dropped = () if keep_misc else benchmark.drop
    given = Schema.read(files["test"][0].with_name("schema.json")) if reader == "unified" else Schema()

    parts: dict[str, dict[str, list[Record]]] = {}
    for split, of_split in records.items():
        for record in of_split:
            kept = [
                {**each, key: benchmark.labels.get(each[key], each[key])}
                for each in record.get(task.field) or ()
                if each[key] not in dropped
            ]
            for name, of_part in _split_by_type(kept, key, corpus) if benchmark.split_by_type else [(corpus, kept)]:
                parts.setdefault(name, {}).setdefault(split, []).append({"text": record["text"], task.field: of_part})

    for name, of_splits in parts.items():
        roles = {
            benchmark.labels.get(label, label): [*task.roles(label, given)]
            for label in task.labels(given)
            if label not in dropped and (not benchmark.split_by_type or _part(label, corpus) == name)
        }
        if not roles:
            every = [each for of_split in of_splits.values() for record in of_split for each in record[task.field]]
            for label in sorted({each[key] for each in every}):
                arguments = [
                    argument for each in every if each[key] == label for argument in each.get("arguments", ())
                ]
                roles[label] = sorted({argument["role"] for argument in arguments})
        labels = list(roles)
        if benchmark.shuffled:
            random.Random(f"{seed} {name}").shuffle(labels)
        for split, of_split in of_splits.items():
            lines = "".join(to_json(record) + "\n" for record in of_split)
            write_whole(tree / benchmark.place(name) / SPLIT_FILES[split], lines)
        task.to_schema({label: roles[label] for label in labels}).write(tree / benchmark.place(name) / "schema.json")
    return sorted(parts)


def _check_records(records: list[Record], place: str, field: str, key: str) -> None:
    """Raise an `InputError` if there are none, or one that cannot be converted; `place` names the files."""
    if not records:
        raise InputError(f"{place}: no records")
    for number, record in enumerate(records, start=1):
        annotations = record.get(field) or []
        if "text" not in record or not isinstance(annotations, list):
            raise InputError(f"{place}: record {number} has no text, or no list {field!r}")
        for each in annotations:
            arguments = each.get("arguments", []) if isinstance(each, dict) else None
            if not isinstance(arguments, list) or not isinstance(each.get(key), str):
                raise InputError(f"{place}: record {number}: an entry of {field!r} has no {key!r}")
            if not all(isinstance(part, dict) and isinstance(part.get("role"), str) for part in arguments):
                raise InputError(f"{place}: record {number}: an argument has no 'role'")


def _split_by_type(annotations: list[Record], key: str, corpus: str) -> Iterator[tuple[str, list[Record]]]:
    """Split annotations by the first part of their label, with the name of the corpus of each part."""
    for part in sorted({_part(each[key], corpus) for each in annotations}):
        yield part, [each for each in annotations if _part(each[key], corpus) == part]


def _part(label: str, corpus: str) -> str:
    """Name the corpus of a label by its first part, `Life.Die`."""
    return f"{corpus}_{label.partition('.')[0]}"
