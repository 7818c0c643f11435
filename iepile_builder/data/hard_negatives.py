"""Load the dictionary of hard negatives: from label to the labels that are easily confused with it."""

from codecs import BOM_UTF8
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.io import RESOURCES, check_file, find_table, load_json


PUBLISHED = RESOURCES / "hard_negatives.json"


def load_hard_negatives(path: str | Path = PUBLISHED) -> dict[str, Any]:
    """
    Read a hard-negative dictionary, by default the one that IEPile published (55 tables for 38 corpora).

    Args:
        path (`str` or `Path`, *optional*):
            A JSON file: nested, `{task: {corpus: {label: [labels]}}}`, or flat, `{label: [labels]}`.

    Raises:
        `InputError`: if the file is missing or has neither form.
    """
    return load_table(path, is_flat, "a hard-negative dictionary", "[labels]")


def load_table(path: str | Path, is_flat: Callable[[object], bool], what: str, value: str) -> dict[str, Any]:
    """
    Read a table by label from a JSON file: nested by task and corpus, by task alone, or flat for any of them.

    `is_flat` tells whether an object maps labels to values; `what` (the file's content) and `value` are for the error.

    Raises:
        `InputError`: If the file is missing or has neither form.
    """
    path = find_table(path)
    check_file(path)
    try:
        table: dict[str, Any] = load_json(path.read_bytes().removeprefix(BOM_UTF8))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give {what} in JSON") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    nested = isinstance(table, dict) and all(
        is_flat(of_task) or (isinstance(of_task, dict) and all(map(is_flat, of_task.values())))
        for of_task in table.values()
    )
    if not nested and not is_flat(table):
        raise InputError(f"{path}: neither {{task: {{corpus: {{label: {value}}}}}}} nor {{label: {value}}}")
    return table


def is_flat(table: object) -> bool:
    """Check whether a table is a dictionary from label to a list of labels."""
    return isinstance(table, dict) and all(
        isinstance(labels, list) and all(isinstance(label, str) for label in labels) for labels in table.values()
    )


def select_corpus(table: dict[str, Any], task: str, source: str) -> dict[str, list[str]]:
    """Select a corpus's part of a table of labels, by label; empty if the table does not have the corpus."""
    of_task: dict[str, Any] = table if is_flat(table) else table.get(task, {})
    found: dict[str, list[str]] = of_task if is_flat(of_task) else of_task.get(source, {})
    return found
