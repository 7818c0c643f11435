"""Read instances, as the IEPile dataset publishes them, back to corpora of the unified tree."""

import json
from array import array
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from iepile_builder.data.corpus import SPLIT_FILES
from iepile_builder.data.index import lines_before
from iepile_builder.data.instructions import EXAMPLE_TEXT, asked_schema, read_annotations, read_instruction
from iepile_builder.errors import InputError
from iepile_builder.io import located, read_json, read_lines, to_json
from iepile_builder.tasks import TASKS, find_task
from iepile_builder.tasks.facts import Annotation


def read_instances(files: Mapping[Path, str], output_dir: Path) -> None:
    """
    Read instances as the IEPile dataset publishes them: JSON lines with the fields `task`, `source`, `instruction`,
    and `output` or `label`. The instances of a task, corpus and text become one record again. A label that no
    instance asks for is indistinguishable from one that is absent in the text.

    Args:
        files (`Mapping[Path, str]`):
            The files, each with its split.
        output_dir (`Path`):
            The folder of the unified tree.

    Raises:
        `InputError`: If a line is no instance, or a corpus is in the tree already or in two files of a split.
    """
    schemas: dict[tuple[str, str, str], dict[str, dict[str, None]]] = {}
    offsets_in: dict[Path, dict[tuple[str, str, str, bytes], array]] = {}
    for path in files:
        where = offsets_in[path] = {}
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
    for (language, task, source), labels in schemas.items():
        folder = output_dir / f"IE-{language}" / task / source
        if folder.exists():
            raise InputError(f"{', '.join(map(str, files))}: another input has a corpus {source!r} of {task}, too")
        folder.mkdir(parents=True)
        TASKS[task].to_schema({label: tuple(roles) for label, roles in labels.items()}).write(folder / "schema.json")
    for path, where in offsets_in.items():
        write_records(path, where, output_dir, SPLIT_FILES[files[path]])


def check_instance(row: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return task, corpus and instruction of an instance, or raise an `InputError`."""
    for field in ("task", "source", "instruction"):
        if not isinstance(row.get(field), str):
            raise InputError(f"field {field!r} is missing or not a string")
    source = row["source"].replace("/", " ")  # the name of a folder
    if source in ("", ".", ".."):
        raise InputError(f"field 'source' is {source!r}, which is no name of a corpus")
    return find_task(row["task"]).name, source, read_instruction(row["instruction"])


def language_of(instruction: dict[str, Any], task: str) -> str:
    """Detect the language of an instruction's sentence."""
    sentence = instruction.get("instruction")
    if not isinstance(sentence, str):
        raise InputError("the instruction has no 'instruction' sentence")
    for language, text in TASKS[task].instructions.items():
        if sentence in (text, text + EXAMPLE_TEXT[language]):
            return language
    return "en" if sentence.isascii() else "zh"


def write_records(path: Path, where: dict[tuple[str, str, str, bytes], array], output_dir: Path, name: str) -> None:
    """
    Merge the instances of each text into a record and write it to the file of this name in its corpus; `where` has the
    offsets of the instances in the file at `path`.
    """
    targets: dict[Path, TextIO] = {}
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
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
                        annotations = _read_label(row["label"], task)
                        known = True
                        break
                    if row.get("output") is not None:
                        annotations += read_annotations(row["output"], row["instruction"], task)
                        known = True
                except InputError as error:
                    raise InputError(f"{path}, line {lines_before(path, offset) + 1}: {error}") from None
            target = output_dir / f"IE-{language}" / task / source / name
            if target not in targets:
                if target.exists():
                    raise InputError(f"{path}: another file of the same split has a corpus {source!r} of {task}, too")
                targets[target] = stack.enter_context(target.open("w", encoding="utf-8"))
            record = {"text": text, TASKS[task].field: annotations} if known else {"text": text}
            targets[target].write(to_json(record) + "\n")


def _read_label(label: Any, task: str) -> list[Annotation]:
    """Read a record's annotation, a list or one in JSON."""
    try:
        annotations = label if isinstance(label, list) else json.loads(label)
    except (ValueError, TypeError):
        annotations = None
    if not isinstance(annotations, list):
        raise InputError(f"the label is not an annotation of {task} in JSON: {str(label)[:80]!r}")
    return annotations
