"""Instruction texts per task and language, and the `instruction` string of an instance."""

import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from iepile_builder.errors import InputError


TEXT: dict[str, dict[str, str]] = json.loads(files("iepile_builder").joinpath("data/instructions.json").read_bytes())
LANGUAGES = ("en", "zh")

to_json = json.JSONEncoder(ensure_ascii=False).encode  # one encoder: json.dumps makes a new one at each call


def instruction_string(task: str, language: str, items: Iterable[str], text: str) -> str:
    """
    What a model is asked, as the IEPile dataset writes it: JSON with the keys `instruction`, `schema` and `input`.

    The parts come as JSON because each of them is used in many instances.

    Args:
        task (`str`):
            One of the seven tasks.
        language (`str`):
            `"en"` or `"zh"`.
        items (`Iterable[str]`):
            The schema items of one batch, each as JSON.
        text (`str`):
            The text to extract from, as JSON.
    """
    return f'{{"instruction": {to_json(TEXT[task][language])}, "schema": [{", ".join(items)}], "input": {text}}}'


def read_instruction(instruction: str) -> dict[str, Any]:
    """
    The JSON object in an `instruction` string.

    Raises:
        `InputError`: if it is not JSON with a `schema` list and an `input` text.
    """
    try:
        value = json.loads(instruction)
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"the instruction is not JSON: {str(instruction)[:80]!r}") from None
    if not (isinstance(value, dict) and isinstance(value.get("schema"), list) and isinstance(value.get("input"), str)):
        raise InputError(f"the instruction has no 'schema' list or no 'input' text: {instruction[:80]!r}")
    return value
