"""
Convert files of annotation tools to the unified tree `{IE-en,IE-zh,...}/{TASK}/{corpus}`.

The format of a file is detected by its name and its first record, its split by its name or its folder's.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from iepile_builder.data.columns import Record, load_from_hub, read_conll, read_datasets, token_records
from iepile_builder.data.corpus import SPLIT_FILES, check_choices, check_languages, folder_roles, read_schema
from iepile_builder.data.detect import (
    DATA,
    FIELDS,
    JSON,
    SPLITS,
    SUFFIXES,
    detect_format,
    find_split_word,
    list_files,
)
from iepile_builder.data.formats import (
    placed,
    read_brat,
    read_doccano,
    read_label_studio,
    read_records,
    read_rows,
    read_spacy,
)
from iepile_builder.data.index import hash64
from iepile_builder.data.readers import read_instances
from iepile_builder.data.tables import read_csv
from iepile_builder.errors import InputError
from iepile_builder.io import find_encoding_error, pluralize, to_json
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS, find_task


def read_instructie(path: Path, language: str) -> Iterator[Record]:
    """
    Read InstructIE (https://huggingface.co/datasets/zjunlp/InstructIE): triples with the types of both ends. Its
    schemas are per topic (`cate`), so each topic is a corpus, `InstructIE_{topic}`.
    """

    def records_of(row: Any) -> Iterator[Record]:
        topic, triples = row["cate"], row["relation"]
        if not isinstance(topic, str) or not isinstance(triples, list):
            raise InputError("field 'cate' is no string, or 'relation' no list")
        yield {"text": row["text"], "relation": triples, "source": f"InstructIE_{topic.replace('/', ' ')}"}

    return read_records(path, records_of)


def read_unified(path: Path, language: str) -> Iterator[Record]:
    """Read records of the unified format, in JSON lines or in one list."""

    def records_of(row: Any) -> Iterator[Record]:
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InputError("no record with a 'text' string")
        yield {key: row[key] for key in ("text", *FIELDS) if row.get(key) is not None}

    return read_records(path, records_of)


def read_tokens(path: Path, language: str) -> Iterator[Record]:
    """Read a dataset with the columns `tokens` and `ner_tags`: a Parquet, Arrow or JSON file."""
    if path.suffix in (".parquet", ".arrow"):
        return read_datasets(path, language)
    return token_records((row for _, row in read_rows(path)), None, str(path), language)


READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    "conll": read_conll,
    "label_studio": read_label_studio,
    "doccano": read_doccano,
    "brat": read_brat,
    "spacy": read_spacy,
    "datasets": read_tokens,
    "csv": read_csv,
    "instructie": read_instructie,
    "unified": read_unified,
}


class Source(NamedTuple):
    """The records of a file, and where they go."""

    name: str  # of the file, for messages
    home: Path | None  # the folder of the corpus, which may have a `schema.json`
    corpus: str
    split: str  # `""` where no name says it
    task: str  # `""` where the folder does not say it: the records do
    language: str
    records: Iterator[Record]


class Converted(NamedTuple):
    """A corpus that was written."""

    path: Path
    records: dict[str, int]  # by split
    labels: int
    derived: bool  # whether its schema is made of the labels of its records

    def describe(self) -> str:
        """Say it in a line."""
        language, task, name = self.path.parts[-3:]
        records = ", ".join(f"{split} {count}" for split, count in self.records.items())
        noun = "record" if sum(self.records.values()) == 1 else "records"
        origin = "of its records" if self.derived else "in its schema.json"
        labels = pluralize(self.labels, "label")
        return f"{task} {name} ({language.removeprefix('IE-')}): {records} {noun}; {labels}, {origin}"


def convert(
    places: Sequence[str],
    output_dir: Path,
    input_format: str | None = None,
    tasks: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    validation: float = 0.0,
    test: float = 0.0,
) -> tuple[list[Converted], list[str]]:
    """
    Write the records of files, folders and datasets of the Hub as corpora of the unified tree.

    Args:
        places (`Sequence[str]`):
            Files, folders, or ids of datasets on the Hub.
        output_dir (`Path`):
            The folder of the tree.
        input_format (`str`, *optional*):
            One of `SUFFIXES`; by default detected.
        tasks (`Sequence[str]`, *optional*):
            Tasks to write. By default those that the records are annotated for, triples as RE.
        languages (`Sequence[str]`, *optional*):
            The language of what does not lie in a folder `IE-en`, `IE-de`, ....
        validation, test (`float`, *optional*, defaults to 0.0):
            The shares of these splits in files whose names say none; a hash of the text decides.

    Returns:
        `tuple`: The corpora, and notes: how many records had no annotation and were left out, how many annotations of
            a text with several were not used, which files were not read, and, of a schema made of the records, labels
            without a training record.

    Raises:
        `InputError`: If a place has no files of a known format, or of several, or a file is not of its format.
    """
    check_choices("task", tasks, TASKS)
    check_languages(languages)
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise InputError(f"the shares {validation} and {test} of validation and test are not from 0 to 1 in all")
    homes: dict[Path, Path | None] = {}
    schemas: dict[Path, Schema] = {}  # those that are given
    labels: dict[Path, dict[str, set[str]]] = {}  # of the records of the others
    files: dict[Path, TextIO] = {}
    trained: set[tuple[Path, str]] = set()  # the labels of training records
    ignored: list[Path] = []
    instances: dict[Path, str] = {}
    counts: Counter[str] = Counter()  # of what is not used, by what it is
    with ExitStack() as stack:
        found = (find_sources(place, input_format, languages, ignored, instances) for place in places)
        for source in chain.from_iterable(found):
            for number, record in enumerate(source.records, start=1):
                names = _tasks_of(record, source.task, tasks)
                split = source.split or _draw_split(record["text"], validation, test)
                counts["records without annotation, left out"] += not names
                counts["second and further annotations of a text, not used"] += record.get("unused", 0)
                counts["attributes, notes and other lines of brat, not used"] += record.get("unread", 0)
                for task in map(find_task, names):
                    folder = output_dir / f"IE-{source.language}" / task.name / record.get("source", source.corpus)
                    if folder not in homes:
                        homes[folder] = source.home
                        folder.mkdir(parents=True)
                        given = Schema() if source.home is None else read_schema(source.home / "schema.json", task)
                        if task.labels(given):
                            schemas[folder] = given
                    if homes[folder] != source.home:
                        raise InputError(f"{source.name}: {homes[folder]} has the same task and name")
                    if folder not in schemas:
                        with placed(f"{source.name}, record {number}"):
                            for annotation in record[task.field]:
                                label = task.annotated_label(annotation) or ""
                                roles = task.annotated_roles(annotation)
                                if not all(name.strip() for name in (label, *roles)):
                                    raise InputError(f"an empty label in {str(annotation)[:80]}")
                                labels.setdefault(folder, {}).setdefault(label, set()).update(roles)
                                if split == "train":
                                    trained.add((folder, label))
                    path = folder / SPLIT_FILES[split]
                    if path not in files:
                        files[path] = stack.enter_context(path.open("w", encoding="utf-8"))
                    files[path].write(to_json({"text": record["text"], task.field: record[task.field]}) + "\n")
    read_instances(instances, output_dir)
    notes = [f"{what}: {count}" for what, count in counts.items() if count]
    for split, share in (("validation", validation), ("test", test)):
        if share and not any(path.name == SPLIT_FILES[split] for path in files):
            notes.append(f"no record fell into {split}: of so few, {share:g} may be none; give a higher share")
    notes += [f"not read, of no known format: {_name_some([path.name for path in ignored])}"] if ignored else []
    for folder in homes:
        task = TASKS[folder.parent.name]
        if folder in schemas:
            schemas[folder].write(folder / "schema.json")
        elif folder in labels:
            of_labels = {label: sorted(roles) for label, roles in sorted(labels[folder].items())}
            task.to_schema(of_labels).write(folder / "schema.json")
            missing = [label for label in of_labels if (folder, label) not in trained]
            if missing and folder / SPLIT_FILES["train"] in files:
                notes.append(f"{task.name} {folder.name}: no training record has {_name_some(missing)}")
        else:  # nothing of this task is annotated
            shutil.rmtree(folder)
    written = sorted(path.parent for path in output_dir.glob("IE-*/*/*/schema.json"))
    if not written:
        raise InputError(f"{', '.join(places)}: no annotation in any record")
    return [_describe(folder, folder not in schemas) for folder in written], notes


def _name_some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _describe(folder: Path, derived: bool) -> Converted:
    task = TASKS[folder.parent.name]
    records = {
        split: (folder / name).read_bytes().count(b"\n")
        for split, name in SPLIT_FILES.items()
        if (folder / name).exists()
    }
    return Converted(folder, records, len(task.labels(read_schema(folder / "schema.json", task))), derived)


def _draw_split(text: str, validation: float, test: float) -> str:
    """Draw the split of a text: the same for equal texts, whatever is beside them."""
    place = hash64(text) / 2**64
    return "test" if place < test else "validation" if place < test + validation else "train"


def _tasks_of(record: Record, own: str, wanted: Sequence[str] | None) -> list[str]:
    """Name the tasks that a record is written for, one for each of its fields."""
    names = []
    for field in FIELDS:
        serving = [
            name
            for name, task in TASKS.items()
            if task.field == field
            and own in ("", name)
            and (wanted is None or name in wanted or {*wanted} & {*task.also_serves})
        ]
        names += serving[:1] if record.get(field) is not None else []
    return names


def find_sources(
    place: str,
    input_format: str | None,
    languages: Sequence[str] | None,
    ignored: list[Path],
    instances: dict[Path, str],
) -> Iterator[Source]:
    """
    Find the files in a folder, or the one file, and what their names and folders say. `ignored` gets those that may
    hold records but are of no known format, `instances` the files of instances, which are read together, with their
    splits.
    """
    root = Path(place)
    if not root.exists():
        if root.is_absolute() or "/" not in place:
            raise InputError(f"{place}: no such file or folder")
        yield from _hub_sources(place, languages)
        return
    found = {path: input_format or detect_format(path) for path in list_files(root, input_format)}
    formats = {name: path for path, name in reversed(found.items()) if name is not None}
    unknown = [path for path, name in found.items() if name is None]
    for path in unknown:
        if path.suffix.lower() in JSON and (not formats or find_split_word(path)):
            next(read_rows(path), None)  # raises with the reason where it cannot be read
    if not formats:
        raise InputError(
            f"{place}: no file of a known format; known: {', '.join(SUFFIXES)}; if it is one of them, give "
            "--input_format"
        )
    if len(formats) > 1:
        several = ", ".join(f"{name} ({path.name})" for name, path in formats.items())
        raise InputError(f"{place}: files of several formats, {several}; give --input_format or one of the files")
    ignored += [path for path in unknown if path.suffix.lower() in DATA and not path.with_suffix(".ann").exists()]
    (name,) = formats
    splits: dict[tuple[Path, str], tuple[Path, str]] = {}
    for path in (path for path, of in found.items() if of == name):
        folder = path.parent.resolve()
        of_folder = SPLITS.get(folder.name.lower(), "") if root.is_dir() and folder != root.resolve() else ""
        home = folder.parent if of_folder else folder
        word = find_split_word(path)
        split = of_folder or SPLITS.get(word, "")
        if name == "instances":  # which say their corpus, task and language themselves
            instances[path] = split or "train"
            continue
        other, of_other = splits.setdefault((home, split), (path, word))
        if name not in ("brat", "datasets") and other != path and (word != of_other or other.stem == path.stem):
            raise InputError(f"{path}: {other.name} beside it is the same split; keep one of them")
        spoken = re.findall("_(en|zh)$", path.stem) if name == "instructie" else []
        if spoken and languages and spoken[0] not in languages:
            continue
        ((task, language),) = folder_roles(home, [""], spoken or languages, path)
        corpus = path.stem if root.is_file() and not word else home.name
        records = _decoded(path, READERS[name](path, language))
        yield Source(str(path), home, corpus, split, task, language, records)


def _decoded(path: Path, records: Iterator[Record]) -> Iterator[Record]:
    """Name the file and line that is not UTF-8."""
    try:
        yield from records
    except UnicodeDecodeError:
        raise find_encoding_error(path) from None


def _hub_sources(name: str, languages: Sequence[str] | None) -> Iterator[Source]:
    """Load the splits of a dataset of the Hub."""
    corpus = name.rpartition("/")[2].partition(":")[0]
    ((_, language),) = folder_roles(Path(name), [""], languages)
    for split, rows in load_from_hub(name).items():
        if split in SPLIT_FILES:
            records = token_records(iter(rows), rows.features, f"{name}, {split}", language)
            yield Source(name, None, corpus, split, "", language, records)
