"""
Convert corpora in other formats to the unified one: `{IE-en,IE-zh}/{TASK}/{corpus}`.

Each reader takes input folders, the output folder, and languages, for files that do not say theirs.
"""

import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

from iepile_builder.data.corpus import SPLIT_FILES, folder_roles
from iepile_builder.data.index import lines_before
from iepile_builder.data.instructions import EXAMPLE_TEXT, LANGUAGES, asked_schema, read_instruction
from iepile_builder.errors import InputError
from iepile_builder.io import located, read_json, read_lines, to_json
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS, find_task
from iepile_builder.tasks.facts import Annotation


CONLL_SUFFIXES = (".conll", ".bio", ".bmes", ".iob", ".txt", ".tsv")
# File names of the splits; `testa` and `testb` are those of CoNLL-2003.
CONLL_SPLITS = {
    **dict.fromkeys(("train",), "train.json"),
    **dict.fromkeys(("dev", "valid", "val", "validation", "testa"), "dev.json"),
    **dict.fromkeys(("test", "testb"), "test.json"),
}


def read_conll(corpus_dirs: Sequence[str], output_dir: Path, languages: Sequence[str] | None = None) -> None:
    """
    Read CoNLL columns: a word (first column) and its BIO, IOBES or BMES tag (last column) on a line, and an empty line
    after each sentence. A file is called `train`, `dev` (or `valid`, `val`, `validation`) or `test`, with one of
    the suffixes `.conll`, `.bio`, `.bmes`, `.iob`, `.txt` or `.tsv`; or `eng.train`, `eng.testa` (validation) and
    `eng.testb`, as in CoNLL-2003. Words are joined with spaces in English and without in Chinese.
    """
    for corpus_dir in corpus_dirs:
        files = {path: split for path in sorted(Path(corpus_dir).rglob("*")) if (split := _conll_split(path))}
        if not files:
            raise InputError(f"{corpus_dir}: no train, dev or test with a suffix of {' '.join(CONLL_SUFFIXES)}")
        for folder in dict.fromkeys(path.parent for path in files):
            ((task, language),) = folder_roles(folder.resolve(), ["NER"], languages)
            target = output_dir / f"IE-{language}" / "NER" / folder.resolve().name
            target.mkdir(parents=True, exist_ok=True)
            types: dict[str, None] = {}
            read: dict[str, Path] = {}
            for path, split in files.items():
                if path.parent != folder:
                    continue
                if split in read:
                    raise InputError(f"{path}: {read[split].name} beside it is the same split; keep one of them")
                read[split] = path
                with (target / split).open("w", encoding="utf-8") as file:
                    for record in conll_records(path, " " if language == "en" else ""):
                        types.update(dict.fromkeys(entity["entity_type"] for entity in record["entity"]))
                        file.write(to_json(record) + "\n")
            schema = folder / "schema.json"
            (Schema.read(schema) if schema.exists() else Schema(types=tuple(sorted(types)))).write(
                target / "schema.json"
            )


def _conll_split(path: Path) -> str | None:
    """Return the name of the unified file for a CoNLL file, or `None` for other files."""
    if path.suffix in CONLL_SUFFIXES:
        return CONLL_SPLITS.get(path.stem)
    return CONLL_SPLITS.get(path.suffix.removeprefix(".")) if path.is_file() else None


def conll_records(
    path: Path, space: str, read_word: Callable[[list[str]], str] = itemgetter(0), tag_column: int = -1
) -> Iterator[dict[str, Any]]:
    """Read the sentences of a file of columns as records; `read_word` gives the word of a line's columns."""
    words: list[str] = []
    tags: list[str] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate([*file, ""], start=1):
            # Not all white space separates columns: a word may be a no-break space
            columns = [] if line.isspace() else [column for column in re.split("[ \t\n]+", line) if column]
            if columns and columns[0] == "-DOCSTART-":
                continue
            if columns:
                with located(path, number):
                    if len(columns) < 2:
                        raise InputError(f"one column only: {line.strip()!r}; give a word and its tag")
                    tag = columns[tag_column]
                    if tag != "O" and tag[1:2] not in ("-", "_"):
                        raise InputError(f"{tag!r} is no tag of BIO, IOBES or BMES")
                words.append(read_word(columns))
                tags.append(tag)
            elif words:
                entities = [
                    {"entity": space.join(words[start:end]), "entity_type": name}
                    for start, end, name in tagged_spans(tags)
                ]
                yield {"text": space.join(words), "entity": entities}
                words, tags = [], []


def tagged_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """
    Find start, end and type of the entities in BIO, IOBES or BMES tags. An inside tag without a begin tag starts an
    entity.
    """
    spans: list[tuple[int, int, str]] = []
    open_type = None
    for index, tag in enumerate(tags):
        prefix, name = tag[:1], tag[2:]
        if tag == "O":
            open_type = None
        elif prefix in "BSU" or name != open_type:
            spans.append((index, index + 1, name))
            open_type = name
        else:
            start, _, _ = spans.pop()
            spans.append((start, index + 1, name))
        if prefix in "SEUL":
            open_type = None
    return spans


def read_instances(corpus_dirs: Sequence[str], output_dir: Path, languages: Sequence[str] | None = None) -> None:
    """
    Read instances as the IEPile dataset publishes them: `train.json`, `dev.json` and `test.json` with the fields
    `task`, `source`, `instruction`, and `output` or `label`. The instances of a task, corpus and text become one
    record again. A label that no instance asks for is indistinguishable from one that is absent in the text.
    """
    schemas: dict[tuple[str, str, str], dict[str, dict[str, None]]] = {}
    for corpus_dir in corpus_dirs:
        for name in SPLIT_FILES.values():
            path = Path(corpus_dir, name)
            where: dict[tuple[str, str, str, bytes], array] = {}
            for number, offset, line in read_lines(path):
                with located(path, number):
                    row = read_json(line)
                    task, source, instruction = check_instance(row)
                    language = language_of(instruction, task)
                    schema = asked_schema(row["instruction"], task)
                asked = schemas.setdefault((language, task, source), {})
                for label in TASKS[task].labels(schema):
                    asked.setdefault(label, {}).update(dict.fromkeys(TASKS[task].roles(label, schema)))
                digest = sha256(instruction["input"].encode()).digest()[:8]
                where.setdefault((language, task, source, digest), array("Q")).append(offset)
            write_records(path, where, output_dir)
    if not schemas:
        raise InputError(f"{', '.join(corpus_dirs)}: no instances in train.json, dev.json or test.json")
    for (language, task, source), labels in schemas.items():
        folder = output_dir / f"IE-{language}" / task / source
        TASKS[task].to_schema({label: tuple(roles) for label, roles in labels.items()}).write(folder / "schema.json")


def check_instance(row: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return task, corpus and instruction of an instance, or raise an `InputError`."""
    for field in ("task", "source", "instruction"):
        if not isinstance(row.get(field), str):
            raise InputError(f"field {field!r} is missing or not a string")
    return find_task(row["task"]).name, row["source"], read_instruction(row["instruction"])


def language_of(instruction: dict[str, Any], task: str) -> str:
    """Detect the language of an instruction's sentence."""
    sentence = instruction["instruction"]
    for language, text in TASKS[task].instructions.items():
        if sentence in (text, text + EXAMPLE_TEXT[language]):
            return language
    return "en" if sentence.isascii() else "zh"


def write_records(path: Path, where: dict[tuple[str, str, str, bytes], array], output_dir: Path) -> None:
    """Merge the instances of each text into a record and write it; `where` has the offsets of the instances."""
    if not where:
        return
    files = {}
    with path.open("rb") as file:
        for (language, task, source, _), offsets in where.items():
            annotations: list[Annotation] = []
            known = False
            text = ""
            for offset in offsets:
                file.seek(offset)
                row = read_json(file.readline())
                text = read_instruction(row["instruction"])["input"]
                try:
                    if row.get("label") is not None:
                        annotations = row["label"] if isinstance(row["label"], list) else json.loads(row["label"])
                        known = True
                        break
                    if row.get("output") is not None:
                        known = True
                        schema = asked_schema(row["instruction"], task)
                        annotations += TASKS[task].annotations(json.loads(row["output"]), schema)
                except (ValueError, KeyError, TypeError, AttributeError):
                    line = f"{path}, line {lines_before(path, offset) + 1}"
                    raise InputError(f"{line}: the label or output is not one of {task} in JSON") from None
            target = output_dir / f"IE-{language}" / task / source / path.name
            if target not in files:
                target.parent.mkdir(parents=True, exist_ok=True)
                files[target] = target.open("w", encoding="utf-8")
            record = {"text": text, TASKS[task].field: annotations} if known else {"text": text}
            files[target].write(to_json(record) + "\n")
    for open_file in files.values():
        open_file.close()


def read_instructie(corpus_dirs: Sequence[str], output_dir: Path, languages: Sequence[str] | None = None) -> None:
    """
    Read InstructIE (https://huggingface.co/datasets/zjunlp/InstructIE): `{train,valid,test}_{en,zh}.json` with the
    fields `cate` (a topic), `text` and `relation`, triples with the types of both ends. Its schemas are per topic, so
    each topic becomes a corpus, `InstructIE_{topic}`, with the relations of its records.
    """
    splits = {"train": "train.json", "valid": "dev.json", "test": "test.json"}
    relations: dict[Path, dict[str, None]] = {}
    files: dict[Path, TextIO] = {}
    with ExitStack() as stack:
        for corpus_dir in corpus_dirs:
            for language in languages or LANGUAGES:
                for stem, split in splits.items():
                    path = Path(corpus_dir, f"{stem}_{language}.json")
                    for number, _, line in read_lines(path):
                        with located(path, number):
                            row = read_json(line)
                            text, topic, triples = (row.get(name) for name in ("text", "cate", "relation"))
                            if not isinstance(topic, str) or not isinstance(triples, list):
                                raise InputError("field 'cate' is no string, or 'relation' no list")
                        folder = output_dir / f"IE-{language}" / "RE" / f"InstructIE_{topic.replace('/', ' ')}"
                        names = [triple.get("relation") for triple in triples if isinstance(triple, dict)]
                        relations.setdefault(folder, {}).update(dict.fromkeys(filter(None, names)))
                        if folder / split not in files:
                            folder.mkdir(parents=True, exist_ok=True)
                            files[folder / split] = stack.enter_context((folder / split).open("w", encoding="utf-8"))
                        files[folder / split].write(to_json({"text": text, "relation": triples}) + "\n")
    if not relations:
        raise InputError(f"{', '.join(corpus_dirs)}: no train_en.json, valid_zh.json, ... of InstructIE")
    for folder, of_topic in relations.items():
        Schema(roles=tuple(sorted(of_topic))).write(folder / "schema.json")
