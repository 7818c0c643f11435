"""Instruction texts per task and language, and the `instruction` string of an instance."""

import json
from functools import cache
from importlib.resources import files
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from iepile_builder.errors import InputError


TEXT: dict[str, dict[str, str]] = json.loads(files("iepile_builder").joinpath("data/instructions.json").read_bytes())
EXAMPLE_TEXT = {"en": " You can refer to the example for extraction.", "zh": "你可以参考example进行抽取。"}
LANGUAGES = ("en", "zh")

# json.dumps makes a new encoder at each call, which takes longer than most of what is encoded here
_encode = c_make_encoder(None, None, encode_basestring, None, ": ", ", ", False, False, True)


def to_json(value: Any) -> str:
    """`value` as JSON, as `json.dumps` writes it with `ensure_ascii=False`."""
    return "".join(_encode(value, 0))


# An instruction as the IEPile dataset writes it is JSON with the keys `instruction`, `schema` (a list of schema items,
# or an object from label to description), `example` (if any: objects with the keys `input` and `output`) and `input`.


@cache
def instruction_start(task: str, language: str, descriptions: bool = False, examples: bool = False) -> str:
    """An instruction up to its first schema item, which the instructions of a task and language share."""
    text = TEXT[task][language] + (EXAMPLE_TEXT[language] if examples else "")
    return f'{{"instruction": {to_json(text)}, "schema": {"{" if descriptions else "["}'


def instruction_end(text: str, descriptions: bool = False, examples: str = "") -> str:
    """An instruction from its last schema item on, which the instructions of a text share; examples come as JSON."""
    example = f', "example": {examples}' if examples else ""
    return f'{"}" if descriptions else "]"}{example}, "input": {to_json(text)}}}'


def load_descriptions(path: str | Path) -> dict[str, Any]:
    """
    Read descriptions of labels from a JSON file: `{task: {corpus: {label: description}}}`, or `{label: description}`.

    Raises:
        `InputError`: if the file is missing or has neither form.
    """
    try:
        table: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give descriptions in JSON") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None

    def is_flat(value: object) -> bool:
        return isinstance(value, dict) and all(isinstance(description, str) for description in value.values())

    nested = isinstance(table, dict) and all(
        isinstance(corpora, dict) and all(map(is_flat, corpora.values())) for corpora in table.values()
    )
    if not nested and not is_flat(table):
        raise InputError(f"{path}: neither {{task: {{corpus: {{label: text}}}}}} nor {{label: text}}")
    return table


def corpus_descriptions(table: dict[str, Any], task: str, source: str) -> dict[str, str]:
    """A corpus's labels with their descriptions; none for tasks whose schema items are no plain labels."""
    if task not in ("NER", "RE", "EET"):
        return {}
    flat = any(isinstance(description, str) for description in table.values())
    found: dict[str, str] = table if flat else table.get(task, {}).get(source, {})
    return found


def read_instruction(instruction: str) -> dict[str, Any]:
    """
    The JSON object in an `instruction` string; a `schema` of descriptions becomes the list of its labels.

    Raises:
        `InputError`: if it is not JSON with a `schema` and an `input` text.
    """
    try:
        value = json.loads(instruction)
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"the instruction is not JSON: {str(instruction)[:80]!r}") from None
    if isinstance(value, dict) and isinstance(value.get("schema"), dict):
        value["schema"] = list(value["schema"])
    if not (isinstance(value, dict) and isinstance(value.get("schema"), list) and isinstance(value.get("input"), str)):
        raise InputError(f"the instruction has no 'schema' list or no 'input' text: {instruction[:80]!r}")
    return value
