"""Write and read the `instruction` string of an instance."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from iepile_builder.data.hard_negatives import load_table
from iepile_builder.errors import InputError
from iepile_builder.io import to_json
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS, find_task
from iepile_builder.tasks.base import Task, plain_items
from iepile_builder.tasks.facts import Annotation


EXAMPLE_TEXT = {"en": " You can refer to the example for extraction.", "zh": "你可以参考example进行抽取。"}
LANGUAGES = ("en", "zh")  # of the instructions; that of a text may be any, and its instruction is English
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my"})  # languages that are written without spaces
_MOST_ITEMS = 1 << 16  # schema items to keep in memory
Description = str | dict[str, str]  # of a label, or of a label and its roles by name


def is_language(code: str) -> bool:
    """Tell whether this may be the code of a language: `en`, `de`, `yue`."""
    return re.fullmatch("[a-z]{2,3}", code) is not None


def check_language(code: str) -> None:
    """Raise an `InputError` unless this may be the code of a language."""
    if not isinstance(code, str) or not is_language(code):
        raise InputError(f"unknown language {code!r}; give the two or three letters of its code, such as en, zh or de")


# An instruction as the IEPile dataset writes it is JSON with the keys `instruction`, `schema` (a list of schema items;
# with descriptions an object from label to item, except in SPO and KG), `example` (if any: objects with
# the keys `input` and `output`) and `input`.
@cache
def instruction_start(task: str, language: str, keyed: bool = False, examples: bool = False) -> str:
    """Write an instruction up to its first schema item; all instructions of a task and language share it."""
    texts = TASKS[task].instructions
    text = texts.get(language, texts["en"]) + (EXAMPLE_TEXT.get(language, EXAMPLE_TEXT["en"]) if examples else "")
    return f'{{"instruction": {to_json(text)}, "schema": {"{" if keyed else "["}'


def instruction_end(text: str, keyed: bool = False, examples: str = "") -> str:
    """Write an instruction after its last schema item; all instructions of a text share it. `examples` is JSON."""
    example = f', "example": {examples}' if examples else ""
    return f'{"}" if keyed else "]"}{example}, "input": {to_json(text)}}}'


def load_descriptions(path: str | Path) -> dict[str, Any]:
    """
    Read descriptions of labels from a JSON file: `{task: {corpus: {label: description}}}`, or `{label: description}`.
    A description is a text. For a label with roles or attributes it may be an object that maps their names, and the
    label's own, to texts.

    Raises:
        `InputError`: if the file is missing or has neither form.
    """
    return load_table(path, are_descriptions, "descriptions", "text")


def are_descriptions(table: object) -> bool:
    """Check whether a table is a dictionary from label to its description."""
    return isinstance(table, dict) and all(
        isinstance(text, str) or (isinstance(text, dict) and all(isinstance(each, str) for each in text.values()))
        for text in table.values()
    )


def corpus_descriptions(table: dict[str, Any], task: str, source: str) -> dict[str, Description]:
    """Select the descriptions of a corpus's labels; empty if the table does not have the corpus."""
    found: dict[str, Description] = table if are_descriptions(table) else table.get(task, {}).get(source, {})
    return found


def description_texts(label: str, description: Description) -> dict[str, str]:
    """Map the names in a label's description (its own, its roles') to their texts."""
    return {label: description} if isinstance(description, str) else description


def read_instruction(instruction: str) -> dict[str, Any]:
    """
    Read the JSON object in an `instruction` string, with its `schema` as a list of items without descriptions.

    Raises:
        `InputError`: if it is not JSON with a `schema` and an `input` text.
    """
    value = _load_instruction(instruction)
    return {**value, "schema": plain_items(value["schema"])}


def _load_instruction(instruction: str) -> dict[str, Any]:
    """Load the JSON object in an `instruction` string, with its `schema` as it is."""
    try:
        value = json.loads(instruction)
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"the instruction is not JSON: {str(instruction)[:80]!r}") from None
    if not (
        isinstance(value, dict)
        and isinstance(value.get("schema"), (list, dict))
        and isinstance(value.get("input"), str)
    ):
        raise InputError(f"the instruction has no 'schema' list or no 'input' text: {instruction[:80]!r}")
    return value


def read_answer_schema(instruction: str, task: str, copied: bool | None = None) -> dict[str, Any]:
    """
    Make the JSON schema of the answer to an instruction; see [`~iepile_builder.tasks.base.Task.answer_schema`].

    `copied`: whether strings must be copied from the text. By default where the task's answers score better for it
    (`Task.copied`), unless the instruction asks for other strings than those of the text, or may do so: it has
    descriptions ("the date as YYYY-MM-DD"), or an example with a string that is not in its text.

    Raises:
        `InputError`: If the task is unknown, or the instruction is not JSON with a schema of its items.
    """
    asked, of_task = _load_instruction(instruction), find_task(task)
    items = plain_items(asked["schema"])
    if copied is None:
        shown = asked.get("example", [])
        examples = shown if isinstance(shown, list) else [shown]
        described = items != asked["schema"]
        copied = of_task.copied and not described and all(_is_copied(each, of_task) for each in examples)
    return of_task.answer_schema(items, asked["input"] if copied else None)


def _is_copied(example: Any, task: Task) -> bool:
    """Tell whether the answer of an instruction's example has only strings of its text."""
    try:
        facts = task.parse(example["output"], Schema())
        return all(string in example["input"] for fact in facts for string in fact.strings)
    except (AttributeError, KeyError, TypeError):  # of another form than ours
        return False


def read_annotations(output: Any, instruction: str, task: str) -> list[Annotation]:
    """
    List the annotations behind the reference answer to an instruction.

    Raises:
        `InputError`: If it is not an answer of the task in JSON, or the instruction is none of the task.
    """
    schema = asked_schema(instruction, task)
    try:
        return TASKS[task].annotations(json.loads(output), schema)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"the output is not one of {task} in JSON: {str(output)[:80]!r}") from None


@dataclass(frozen=True)
class Asked:
    """What an instruction asks for, apart from the text."""

    schema: Schema
    language: str  # `"en"` or `"zh"` if its sentence is one of the format's, else `"other"`


def asked_schema(instruction: str, task: str) -> Schema:
    """
    Read what an instruction asks for.

    Raises:
        `InputError`: if the instruction is not JSON with a schema of the task's items.
    """
    return read_asked(instruction, task)[0].schema


def read_asked(instruction: str, task: str) -> tuple[Asked, str]:
    """
    Read what an instruction asks for, and its text.

    Many instructions differ in their text alone, which comes last: the part before it is read once.

    Raises:
        `InputError`: if the instruction is not JSON with a schema of the task's items.
    """
    head, _, tail = instruction.partition(', "input": "')
    try:
        text = json.loads('"' + tail.removesuffix("}"))
        return read_head(head + ', "input": ""}', task), text
    except ValueError:  # other keys, another order, or wrong
        return read_head(instruction, task), read_instruction(instruction)["input"]


def find_labels(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """
    List the labels that instructions ask for, by task; a row is a task and an instruction. Each schema item is read
    once.

    Raises:
        `InputError`: if an instruction is not JSON with a schema of its task's items.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    known: dict[str, set[str]] = defaultdict(set)
    for task, instruction in rows:
        items, of_task, seen = read_instruction(instruction)["schema"], find_task(task), known[task]
        new = {text: item for item in items if (text := repr(item)) not in seen}
        if not new:
            continue
        try:
            found = of_task.labels(of_task.read_items(new.values()))
            "".join(found)
        except (KeyError, TypeError):
            raise InputError(f"the instruction's schema is not one of {task}: {str(items)[:80]}") from None
        labels[task].update(found)
        if len(seen) > _MOST_ITEMS:  # as many as records: an item of EEA has triggers
            seen.clear()
        seen.update(new)
    return {task: sorted(labels[task]) for task in sorted(known)}


@lru_cache(maxsize=4096)
def read_head(instruction: str, task: str) -> Asked:
    """Read what an instruction asks for, or raise an `InputError`."""
    value = read_instruction(instruction)
    try:
        schema = TASKS[task].read_items(value["schema"])
        "".join(TASKS[task].labels(schema))  # a TypeError if a label is no string
    except (KeyError, TypeError):
        raise InputError(f"the instruction's schema is not one of {task}: {str(value['schema'])[:80]}") from None
    sentence = value.get("instruction")
    known = (pair for each in TASKS.values() for pair in each.instructions.items())
    return Asked(schema, next((language for language, text in known if text == sentence), "other"))
