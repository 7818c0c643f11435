"""Read CSV and TSV files of texts with their entities or relations."""

import ast
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iepile_builder.data.columns import Record
from iepile_builder.data.formats import make_entity, placed
from iepile_builder.errors import InputError
from iepile_builder.io import fold


# Names of columns in CSV files, the first that there is
TEXT = ("text", "sentence", "document")
SPANS = ("entities", "spans", "label", "labels", "annotations")
LABEL = ("label", "entity_type", "type", "tag", "entity_label", "category")
MENTION = ("entity", "mention", "span", "entity_text", "value")
START = ("start", "start_offset", "begin", "start_char")
END = ("end", "end_offset", "stop", "end_char")


def read_csv(path: Path, language: str) -> Iterator[Record]:
    """
    Read a CSV or TSV file with a header: a text on each line with a column of spans in JSON, `[[0, 5, "PER"]]` or
    `[{"start": 0, "end": 5, "label": "PER"}]`; or an entity on each line (`text`, `start`, `end`, `label`, or `text`,
    `entity`, `label`); or a relation (`text`, `head`, `relation`, `tail`). Lines with the same text are one record.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.read(1 << 16)
        header = start.partition("\n")[0]
        delimiter = max("\t,;|", key=header.count)
        file.seek(0)
        # Only where the header has spaces before its names, too: else they belong to the text, and count in offsets
        spaced = f"{delimiter} " in header
        rows = csv.DictReader(file, delimiter=delimiter, skipinitialspace=spaced, strict=True)
        try:
            names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        except csv.Error as error:
            raise _not_csv(path, 1, error) from None

        def column(aliases: Iterable[str]) -> str | None:
            return next((names[alias] for alias in aliases if alias in names), None)

        text_column, label, mention = column(TEXT), column(LABEL), column(MENTION)
        first, last = column(START), column(END)
        triple = [column(of) for of in (("head", "subject"), ("relation", "predicate"), ("tail", "object"))]
        spans = column(SPANS) if first is None and mention is None else None
        if text_column is None or not (all(triple) or spans or (label and (mention or (first and last)))):
            raise InputError(
                f"{path}, line 1: its columns are {', '.join(names)}; give text with start, end and label, with "
                "entity and label, with head, relation and tail, or with entities (a list of [start, end, label])"
            )
        records: dict[str, Record] = {}
        begun = rows.line_num + 1  # a row with a quote that is not closed is read to the end of the file
        try:
            for row in rows:
                with placed(f"{path}, line {rows.line_num}"):
                    if any(row.pop(None, ())):
                        raise InputError(
                            f"more cells than the {len(names)} columns; put quotes around a {delimiter!r}"
                        )
                    text = row[text_column]
                    if text is None:
                        raise InputError(f"fewer cells than the {len(names)} columns: it has no text")
                    record = records.setdefault(text, {"text": text, "relation" if all(triple) else "entity": []})
                    if all(triple):
                        values = [row[name or ""] for name in triple]
                        if all(values):
                            record["relation"].append(dict(zip(("head", "relation", "tail"), values, strict=True)))
                    elif spans:
                        record["entity"] += [entity for span in _list(row[spans]) for entity in _entities(text, span)]
                    elif label and row[label]:
                        record["entity"].append(_row_entity(text, row, label, mention, first, last))
                begun = rows.line_num + 1
        except csv.Error as error:
            raise _not_csv(path, begun, error) from None
    yield from records.values()


def _not_csv(path: Path, line: int, error: csv.Error) -> InputError:
    return InputError(f"{path}, line {line}: not CSV ({error}); close the quotes of a cell, and double those in it")


def _list(cell: str) -> list[Any]:
    """Read a list in a cell, in JSON or as Python writes it."""
    if not cell.strip():
        return []
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise InputError(f"{cell[:80]!r} is no list of spans, such as [[0, 5, 'PER']]") from None
    return list(value)


def _entities(text: str, span: Any) -> list[Record]:
    """Read a span of a list: start, end and label, or the several `labels` of Label Studio."""
    if not isinstance(span, dict):
        return [make_entity(text, *span)]
    start, end, label = (next((span[name] for name in of if name in span), None) for of in (START, END, LABEL))
    return [make_entity(text, start, end, each) for each in span.get("labels") or [label]]


def _row_entity(
    text: str, row: Record, label: str, mention: str | None, first: str | None, last: str | None
) -> Record:
    """Read the entity of a line; where it has both, the string must be at the offsets."""
    if not first or not last or not row[first]:
        return {"entity": row[mention or ""], "entity_type": row[label]}
    # pandas writes 3.0 in a column that has empty cells
    start, end = (int(row[name].removesuffix(".0")) for name in (first, last))
    entity = make_entity(text, start, end, row[label])
    if mention and row[mention] and fold(row[mention]) != fold(entity["entity"]):
        raise InputError(
            f"{row[mention]!r} is not at {row[first]}:{row[last]}, where the text has {entity['entity']!r}"
        )
    return entity
