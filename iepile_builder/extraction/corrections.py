"""Facts as rows that a user corrects, and corrected rows as the records of corpora to train on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.base import Task
from iepile_builder.tasks.facts import Annotation


if TYPE_CHECKING:  # a result writes itself with this file
    from iepile_builder.extraction.result import Extraction, Result


class Corrected(NamedTuple):
    """A corrected record, and what its text was asked for."""

    task: str
    language: str
    schema: Schema
    record: Annotation


def to_correct(result: Result) -> str:
    """
    Write a result as JSON for a page: `rows` to correct by task, and what [`collect`] needs to know of the text. The
    page keeps it, so that the server stores nothing.
    """
    tasks = {
        each.task: {"language": each.language, "schema": asdict(each.schema), "annotations": each.annotations()}
        for each in result.results
    }
    rows = {each.task: to_rows(each) for each in result.results}
    return json.dumps({"text": result.results[0].text, "tasks": tasks, "rows": rows})


def collect(found: str, collected: str, rows: Mapping[str, Iterable[Sequence[Any]]]) -> list[Corrected]:
    """
    Add the records of a text to those that [`dump`] wrote, in place of earlier ones of the same task and text.

    Args:
        found (`str`):
            What [`to_correct`] wrote.
        collected (`str`):
            The records so far, or `""`.
        rows (`dict[str, list[list[str]]]`):
            Task to corrected rows.

    Raises:
        `InputError`: If a row cannot be used, see [`to_record`].
    """
    records = {(each["task"], each["record"]["text"]): _load(each) for each in json.loads(collected or "[]")}
    asked = json.loads(found)
    for name, of_task in asked["tasks"].items():
        schema = _load_schema(of_task["schema"])
        record = to_record(rows[name], asked["text"], TASKS[name], schema, of_task["annotations"])
        records[name, asked["text"]] = Corrected(name, of_task["language"], schema, record)
    return list(records.values())


def dump(corrected: Iterable[Corrected]) -> str:
    """Write records as JSON."""
    return json.dumps([{**each._asdict(), "schema": asdict(each.schema)} for each in corrected])


def _load(each: dict[str, Any]) -> Corrected:
    return Corrected(each["task"], each["language"], _load_schema(each["schema"]), each["record"])


def _load_schema(schema: dict[str, Any]) -> Schema:
    type_roles = {label: tuple(roles) for label, roles in schema["type_roles"].items()}
    return Schema(tuple(schema["types"]), tuple(schema["roles"]), type_roles)


def row_columns(task: Task) -> list[str]:
    """Name the columns of [`to_rows`]: the keys of an annotation; of events also number, roles and arguments."""
    columns = [*task.names, *task.mentions]
    return ["no.", *columns, "role", "argument"] if task.has_events else columns


def to_rows(result: Extraction) -> list[list[str]]:
    """
    List the facts of a result as rows of strings, without those that are not in the text.

    An event has a row with its number, type and trigger, and one for each argument with its number, role and argument.
    """
    task = TASKS[result.task]
    rows = []
    for number, annotation in enumerate(result.annotations(), start=1):
        mentions = [annotation[key] for key in task.mentions]
        if any(mention not in result.text for mention in mentions):
            continue
        cells = [annotation[key] for key in task.names] + mentions
        if not task.has_events:
            rows.append(cells)
            continue
        rows.append([str(number), *cells, "", ""])
        blank = [""] * len(cells)
        rows += [
            [str(number), *blank, role, argument]
            for role, argument in task.arguments(annotation)
            if argument in result.text
        ]
    return rows


def to_record(
    rows: Iterable[Sequence[Any]], text: str, task: Task, schema: Schema, found: Iterable[Annotation] = ()
) -> Annotation:
    """
    Make the record of a text from corrected rows in the form of [`to_rows`]; empty rows are ignored. `found` are the
    annotations before correction: those that are unchanged keep their offsets.

    Raises:
        `InputError`: If a row is no annotation of the task, asks for what is not in the schema, or has a string that
            is not in the text.
    """
    known = {task.identity(annotation): annotation for annotation in found}
    annotations = [
        known.get(task.identity(annotation), annotation) for annotation in _read_rows(rows, text, task, schema)
    ]
    return {"text": text, task.field: task.distinct(annotations)}


def to_corrected(result: Result) -> list[Corrected]:
    """Make the records of a result in which nothing is corrected; facts that are not in the text are left out."""
    return [
        Corrected(
            each.task,
            each.language,
            each.schema,
            to_record(to_rows(each), each.text, TASKS[each.task], each.schema, each.annotations()),
        )
        for each in result.results
    ]


def _read_rows(rows: Iterable[Sequence[Any]], text: str, task: Task, schema: Schema) -> Iterator[Annotation]:
    """Yield the checked annotations of rows."""
    events: dict[str, Annotation] = {}
    arguments: dict[str, list[tuple[str, str]]] = defaultdict(list)
    columns = row_columns(task)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):  # a page can add and delete columns
            raise InputError(f"{task.name}: give the columns {', '.join(columns)}; extract again to have them back")
        cells = {column: str(cell or "").strip() for column, cell in zip(columns, row, strict=True)}
        if not any(cells[column] for column in columns if column != "no."):
            continue
        where = f"{task.name}, row {number}"
        for column in (*task.mentions, "argument"):
            if cells.get(column, "") not in text:
                raise InputError(f"{where}: {cells[column]!r} is not in the text; write it as it is there")
        annotation: Annotation = {key: cells[key] for key in (*task.names, *task.mentions)}
        event = cells.get("no.", "")
        if task.has_events and not any(annotation.values()):
            if event not in events:
                raise InputError(f"{where}: no row above has the type of event {event!r}")
            arguments[event].append((cells["role"], cells["argument"]))
            annotation = task.with_arguments(events[event], arguments[event])
        elif task.has_events:
            if event in events:
                raise InputError(f"{where}: event {event!r} has a type already; give this one another number")
            events[event] = annotation = task.with_arguments(annotation, [])
            if cells["role"] or cells["argument"]:
                arguments[event].append((cells["role"], cells["argument"]))
                annotation = task.with_arguments(annotation, arguments[event])
        try:
            task.check(annotation, schema)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not task.has_events:
            yield annotation
    for event, annotation in events.items():
        yield task.with_arguments(annotation, arguments[event])


def pack(corrected: Iterable[Corrected]) -> bytes:
    """
    Pack records as the tree of corpora that `iepile build --corpus_dir corpora` reads, in a zip file.

    Texts that were asked for different labels are in different corpora: what was not asked for is no negative.
    """
    folders: dict[str, list[Annotation]] = defaultdict(list)
    schemas: dict[tuple[str, str, str], str] = {}
    packed = BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED) as file:
        for each in corrected:
            lines = each.schema.to_text()
            key = (each.language, each.task, lines)
            if key not in schemas:
                number = sum(other[:2] == key[:2] for other in schemas) + 1
                schemas[key] = f"corpora/IE-{each.language}/{each.task}/corrected_{number}"
                file.writestr(f"{schemas[key]}/schema.json", lines)
            folders[schemas[key]].append(each.record)
        for folder, records in folders.items():
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            file.writestr(f"{folder}/train.json", text)
    return packed.getvalue()
