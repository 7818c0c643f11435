"""A model's text to facts, strictly: what is not JSON of the task's form counts against the model."""

import json
from dataclasses import dataclass
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.instructions import read_instruction
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS, Fact


@dataclass(frozen=True)
class Answer:
    """
    A model's answer to one instruction.

    Args:
        facts (`list[Fact]`):
            What it says, a multiset.
        parsed (`bool`):
            Whether it is a JSON object.
        outside (`int`):
            How many of its keys are no label of the instruction's schema.
    """

    facts: list[Fact]
    parsed: bool
    outside: int


def load_answer(text: str) -> dict[str, Any] | None:
    """An answer's JSON object, after one code fence around the whole answer is stripped; `None` if it is not one."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") : -3]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_answer(text: str, task: str, schema: Schema) -> Answer:
    """
    The facts of a model's answer. Never raises, whatever the text.

    Args:
        text (`str`):
            What the model wrote.
        task (`str`):
            One of the seven tasks.
        schema (`Schema`):
            What the instruction asked for, from [`asked_schema`].
    """
    value = load_answer(text)
    if value is None:
        return Answer([], False, 0)
    try:
        facts = TASKS[task].parse(value, schema)
    except RecursionError:  # nested nearly as deep as JSON can be read
        return Answer([], False, 0)
    asked = {TASKS[task].answer_key(label) for label in TASKS[task].labels(schema)}
    return Answer(facts, True, len(value.keys() - asked))


def asked_schema(instruction: str, task: str) -> Schema:
    """
    What an instruction asks for.

    Raises:
        `InputError`: if the instruction is not JSON with a schema of the task's items.
    """
    items = read_instruction(instruction)["schema"]
    try:
        schema = TASKS[task].read_items(items)
        "".join(TASKS[task].labels(schema))  # a TypeError if a label is no string
    except (KeyError, TypeError):
        raise InputError(f"the instruction's schema is not one of {task}: {str(items)[:80]}") from None
    return schema
