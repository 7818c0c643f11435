"""Find, read and check annotated corpora."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from iepile_builder.data.instructions import LANGUAGES, check_language, is_language
from iepile_builder.errors import InputError
from iepile_builder.io import SAMPLE_CORPUS, check_file, check_unpacked, load_json, located, read_json, read_lines
from iepile_builder.schema import Schema, check_labels
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.base import Task


KINDS = {"entity": "entities", "relation": "relations", "event": "events"}  # a record's field: a schema's key
SPLIT_FILES = {"train": "train.json", "validation": "dev.json", "test": "test.json"}


@dataclass(frozen=True, eq=False)
class Corpus:
    """
    A corpus folder, read for one task. An EE folder also serves EET and EEA, an RE folder with typed triples SPO.
    """

    path: Path  # with some of `train.json`, `dev.json` and `test.json`, and perhaps `schema.json`
    task: str
    language: str  # code of the texts' language: `"en"`, `"zh"`, `"de"`
    source: str  # name of the folder
    schema: Schema
    derived: bool = False  # whether the schema is made of the labels of the records

    def names(self) -> dict[str, str]:
        """Return task, language and name."""
        return {"task": self.task, "language": self.language, "source": self.source}

    def file(self, split: str) -> Path:
        """Return the file of a split."""
        return self.path / SPLIT_FILES[split]


def find_corpora(
    corpus_dirs: Sequence[str | Path],
    tasks: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> list[Corpus]:
    """
    Find corpora in folders: each a corpus itself or a tree `{IE-en,IE-zh}/{TASK}/{corpus}`, or any part of such a
    tree; sorted by task, language and name. Any language has a folder, such as `IE-de`.

    Args:
        corpus_dirs (`Sequence` of `str` or `Path`):
            The folders; `"sample_corpus"` is the corpus in this package unless there is a folder of that name.
        tasks (`Sequence[str]`, *optional*):
            Tasks to find, by default each folder's own. EET and EEA are also served by EE folders, SPO by RE
            folders whose triples are typed, unless a folder of their own has the same name.
        languages, sources (`Sequence[str]`, *optional*):
            Languages and names of corpora to find.

    Raises:
        `InputError`: If nothing is found, a `schema.json` is wrong, or a folder's task or language is unknown: the
            language must be in its path or given, the task may also be that of its first record.
    """
    check_choices("task", tasks, TASKS)
    check_languages(languages)
    folders: dict[tuple[str, str, str], Path] = {}
    for corpus_dir in corpus_dirs:
        folder = Path(corpus_dir)
        if corpus_dir == SAMPLE_CORPUS.name and not folder.exists():
            folder = SAMPLE_CORPUS
        if not folder.is_dir():
            raise InputError(f"{corpus_dir}: no such folder of corpora")
        root = folder.resolve()
        named = [file for name in SPLIT_FILES.values() for file in root.rglob(f"{name}*")]
        files = [file for file in named if file.name in SPLIT_FILES.values()]
        for file in named:
            check_unpacked(file)
        for file in files:
            check_file(file)
        found = sorted({file.parent for file in files})
        if not found:
            raise InputError(
                f"{corpus_dir}: no train.json, dev.json or test.json in it; "
                "iepile convert reads files of other formats"
            )
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
            derived = task in TASKS[own_task].also_serves
            if task == own_task or (derived and (task, language, name) not in folders):
                corpus = Corpus(path, task, language, name, read_schema(path / "schema.json", TASKS[task]))
                missing = not (path / "schema.json").exists()
                if missing or (TASKS[task].labels_in_annotations and not TASKS[task].labels(corpus.schema)):
                    schema = derive_schema(corpus)
                    if not TASKS[task].labels(schema) and derived:  # an RE folder without types does not serve SPO
                        continue
                    schema = replace(schema, roles=corpus.schema.roles or schema.roles)
                    corpus = replace(corpus, schema=schema, derived=missing)
                check_schema(corpus)
                corpora.append(corpus)
    if not corpora:
        wanted = [str(name) for names in (tasks, languages, sources) for name in names or ()]
        raise InputError(f"{', '.join(map(str, corpus_dirs))}: no corpus for {', '.join(wanted)}")
    order = list(TASKS)
    return sorted(corpora, key=lambda corpus: (order.index(corpus.task), corpus.language, corpus.source))


def folder_roles(
    path: Path, tasks: Sequence[str] | None, languages: Sequence[str] | None, file: Path | None = None
) -> Iterator[tuple[str, str]]:
    """Find the task and language of a corpus folder: in its path, else as given. An error names `file`, if given."""
    folder = path.parent.parent.name
    language = folder.removeprefix("IE-")
    if path.parent.name in TASKS and (is_language(language) if folder.startswith("IE-") else language in LANGUAGES):
        yield path.parent.name, language
        return
    tasks = tasks or annotated_tasks(path)
    if not tasks:
        raise InputError(
            f"{path}: neither its path nor its first record says the task (IE-en/NER/NAME would); give --tasks"
        )
    if not languages or len(languages) > 1:
        raise InputError(
            f"{file or path}: its path does not say the language (IE-en/NER/NAME would); give --languages, such as en"
        )
    for task in tasks:
        yield task, languages[0]


def check_languages(languages: Sequence[str] | None) -> None:
    """Raise an `InputError` unless these may be codes of languages."""
    if isinstance(languages, str):
        raise InputError(f"language {languages!r}: give a list, [{languages!r}]")
    for language in languages or ():
        check_language(language)


def check_choices(kind: str, names: Sequence[str] | None, known: Iterable[str]) -> None:
    """Raise an `InputError` that lists the known names if one of `names` is unknown."""
    if isinstance(names, str):
        raise InputError(f"{kind} {names!r}: give a list, [{names!r}]")
    for name in names or ():
        if name not in known:
            raise InputError(f"unknown {kind} {name!r}; known: {', '.join(known)}")


def check_schema(corpus: Corpus) -> None:
    """Raise an `InputError` if a corpus's schema does not serve its task."""
    path, task = corpus.path / "schema.json", TASKS[corpus.task]
    if not task.labels(corpus.schema):
        if not path.exists():
            raise InputError(f"{path}: missing, and no record has a label of {corpus.task}")
        raise InputError(f"{path}: no labels for {corpus.task}")
    try:
        task.check_schema(corpus.schema)
    except InputError as error:
        raise InputError(f"{path}, {error}") from None


def annotated_tasks(path: Path) -> list[str]:
    """Name the task of a corpus folder's first record; none if there is no annotation in it."""
    for split in SPLIT_FILES.values():
        for number, _, line in read_lines(path / split):
            with located(path / split, number):
                record = read_json(line)
            return [name for name, task in TASKS.items() if task.field in record][:1]
    return []


def read_schema(path: Path, task: Task) -> Schema:
    """
    Read a corpus's `schema.json`: three lines, see [`Schema.read`], or one JSON value. That is a list of labels, a
    dictionary from label to roles or to a description, or `{"entities": ..., "relations": ..., "events": ...}` with
    some of these. An empty schema if there is none.
    """
    if not path.exists():
        return Schema()
    check_file(path)
    try:
        value = load_json(path.read_bytes().removeprefix(BOM_UTF8))
    except InputError:
        return Schema.read(path)
    if isinstance(value, dict) and value and value.keys() <= {*KINDS.values()}:
        value = value.get(KINDS.get(task.field, ""), [])
    if isinstance(value, list):
        check_labels(value, str(path), task.wanted)
        value = dict.fromkeys(value)
    if not isinstance(value, dict):
        raise InputError(f"{path}: {str(value)[:80]!r} is no schema; give {task.wanted}")
    check_labels(list(value), str(path), task.wanted)
    labels: dict[str, list[str]] = {}
    for label, roles in value.items():
        labels[label] = list(roles) if isinstance(roles, (list, dict)) else []
        check_labels(labels[label], f"{path}, {label!r}", task.wanted)
        if labels[label] and not task.roles_name:
            raise InputError(f"{path}: {label!r} has roles, which {task.name} does not take; give {task.wanted}")
    return task.to_schema(labels)


def derive_schema(corpus: Corpus) -> Schema:
    """Make the schema of the labels in all splits, sorted; an empty one if an annotation does not say its label."""
    task = TASKS[corpus.task]
    labels: dict[str, set[str]] = {}
    for split in SPLIT_FILES:
        for number, _, line in read_lines(corpus.file(split)):
            with located(corpus.file(split), number):
                annotations = read_json(line).get(task.field) or []
                if not isinstance(annotations, list):
                    raise InputError(f"{task.field!r} is not a list")
                for annotation in annotations:
                    label = task.annotated_label(annotation)
                    if label is None:
                        return Schema()
                    labels.setdefault(label, set()).update(task.annotated_roles(annotation))
    return task.to_schema({label: sorted(roles) for label, roles in sorted(labels.items())})
