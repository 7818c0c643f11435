"""Read what a user gives, in any form that is natural in Python: the schema of a task, examples, triggers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard, get_args, get_origin

from iepile_builder.answers.grounding import Mention
from iepile_builder.data.batching import SchemaBatching
from iepile_builder.data.instructions import Description, check_language
from iepile_builder.errors import InputError
from iepile_builder.extraction.passages import Passage
from iepile_builder.extraction.result import Extraction
from iepile_builder.io import SURROGATE
from iepile_builder.schema import Schema, check_labels
from iepile_builder.tasks import TASKS, find_task
from iepile_builder.tasks.base import Task
from iepile_builder.tasks.facts import Annotation, Trigger


if TYPE_CHECKING:
    from pydantic import BaseModel

Triggers = Mapping[str, Iterable[str]]  # event type to triggers
_TRIGGERS = '{"event type": ["trigger"]} or the result of EET for the same text'


class CallOptions(TypedDict, total=False):
    """The options of a call for several tasks; see [`~iepile_builder.extraction.extractor.Extractor.__call__`]."""

    examples: Sequence[Mapping[str, Any]]
    language: str | None
    triggers: Triggers | Extraction | Iterable[Triggers | Extraction] | None
    split_num: int | None


def show(value: Any) -> str:
    """Show a value of a wrong type in an error: its start, and its type."""
    return "None" if value is None else f"{' '.join(repr(value).split())[:80]} ({type(value).__name__})"


def check_numbers(options: Any) -> None:
    """Raise an `InputError` unless the options of an extractor are numbers that it can work with."""
    for name, least in (("max_new_tokens", 1), ("passage_tokens", 1), ("overlap", 0), ("requests_at_once", 1)):
        value = getattr(options, name)
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} is {value!r}; give a whole number from {least} on")
    for name in ("min_similarity", "min_score"):
        value = getattr(options, name)
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InputError(f"{name} is {value!r}; give a number from 0 to 1")
    if not isinstance(options.max_seconds, (int, float, type(None))):
        raise InputError(f"max_seconds is {options.max_seconds!r}; give a number")


def check_call(text: Any, task: Any, schema: Any, triggers: Any) -> None:
    """Raise an `InputError` unless the arguments of a call of the extractor may be what they should be."""
    if isinstance(text, (bytes, Mapping)) or not isinstance(text, Iterable):
        raise InputError(f"the text is {show(text)}; give a string, a list of them, or read_document(path)")
    if not isinstance(task, (str, Mapping)) and not is_model(task):
        parts = [*_list_types(task), *(task if isinstance(task, (list, tuple)) else ()), type(task)]
        model = next(filter(is_model, parts), None)
        raise InputError(
            f"give the model itself, {model.__name__}, not {show(task)}: all of its instances in a text are asked "
            "for, and are the `records` of the result"
            if model
            else f'the task is {show(task)}; give its name and a schema, such as "NER", ["person"], or those of '
            'several, such as {"entities": ["person"]}, or a Pydantic model'
        )
    if schema is not None and not isinstance(task, str):
        raise InputError(f'a schema has a task; give its name, such as "NER", not {str(task)[:80]}')
    several = isinstance(triggers, Iterable) and not isinstance(triggers, (str, Mapping))
    if triggers is not None and not several and not isinstance(text, str):
        raise InputError("EEA with several texts needs the triggers of each: give a list of them")


def read_tasks(schema: Mapping[Any, Any]) -> dict[str, Task]:
    """
    Find the tasks of a schema of several: `{"entities": ["person"], "relations": {"founder": "who founded it"}}`. A
    key is what the task calls its facts, or the task's name.

    Raises:
        `InputError`: If there is none, a key is unknown, or a task occurs twice.
    """
    keys = {task.schema_key or task.name: task for task in TASKS.values()}
    found: dict[str, Task] = {}
    for key in schema:
        task = keys.get(key) or TASKS.get(key)
        if task is None:
            raise InputError(f"unknown task {str(key)[:80]!r}; known: {', '.join((*keys, *TASKS))}")
        if task in found.values():
            raise InputError(f"{key!r} asks for {task.name} a second time; give each task once")
        found[key] = task
    if not found:
        raise InputError(f"the schema is empty; give one for each task: {', '.join(keys)}")
    return found


def make_batchings(
    schemas: Mapping[str, Any],
    tasks: Mapping[str, Task],
    examples: Sequence[Mapping[str, Any]],
    language: str | None,
    triggers: Any,
    split_num: int | None,
) -> list[SchemaBatching]:
    """
    Make what asks for all labels of each task's schema, both by the same keys; the other arguments are those of a call
    of the extractor. Of several tasks, each takes the examples that it finds annotated.
    """
    given = [task.name for task in tasks.values() if task.triggers_given]
    if given and triggers is None:
        raise InputError(f"{given[0]} asks for the arguments of known events; give triggers={_TRIGGERS}, or use EE")
    if not given and triggers is not None:
        raise InputError(f"{', '.join(task.name for task in tasks.values())} takes no triggers, only EEA does")
    if language is not None:
        check_language(language)
    if split_num is not None and (not isinstance(split_num, int) or (split_num < 1 and split_num != -1)):
        raise InputError(f"split_num is {split_num!r}; give a number from 1 on, or -1 for all labels at once")
    if not isinstance(examples, Iterable):
        raise InputError(f"the examples are {show(examples)}; give a list of annotated records")
    examples = list(examples)
    batchings = []
    for key, task in tasks.items():
        asked, descriptions = read_schema(schemas[key], task.name)
        shown = [each for each in examples if len(tasks) == 1 or not isinstance(each, Mapping) or task.field in each]
        batchings.append(
            SchemaBatching(
                task.name,
                language or "",
                "",
                asked,
                negatives="all",
                split_num=split_num,
                schema_order="schema",
                labels=task.labels(asked),  # so that examples may have others, too
                descriptions=descriptions,
                examples=read_examples(shown, task.name),
                num_examples=len(shown),
            )
        )
    return batchings


def read_schema(schema: Any, task: str) -> tuple[Schema, dict[str, Description]]:
    """
    Read a schema of a task, and the descriptions of its labels.

    Args:
        schema (`list`, `dict`, `str`, `Path`, [`Schema`] or a class of `pydantic.BaseModel`):
            - a list of labels: entity types (NER), relations (RE), event types (EET), `"company_founder_person"` or
              `("company", "founder", "person")` (SPO);
            - a list of schema items as instructions have them;
            - a dictionary from label to description (NER, RE, SPO, EET);
            - a dictionary from event type to its roles (EE, EEA), or from entity type to its attributes (KG): a list,
              or a dictionary from each to its description, where the type's own name has the type's description;
            - the path of a `schema.json`, or of a JSON file with any of the above;
            - a [`Schema`];
            - a Pydantic model, whose fields are the labels, with their descriptions; for EE, EEA and KG a field's type
              is a model of its own, whose fields are the roles or attributes. A field is called as its `title` says,
              or its `alias`, or its name with spaces for underscores.
        task (`str`):
            Its name.

    Raises:
        `InputError`: if it is empty, a label occurs twice, or the task does not take it.
    """
    asked = find_task(task)
    schema = open_schema(schema, task)
    if isinstance(schema, Schema):
        _check_labels(list(asked.labels(schema)), asked)
        _check_items(asked, schema)
        return schema, {}
    if is_model(schema):
        schema = _read_pydantic(schema)
    if isinstance(schema, Mapping):
        return _read_mapping(schema, asked)
    if isinstance(schema, Iterable) and not isinstance(schema, str):
        return _read_list(list(schema), asked), {}
    raise InputError(f"a schema of {task} cannot be made of {str(schema)[:80]!r}; give {asked.wanted}")


def open_schema(schema: Any, task: str | None = None) -> Any:
    """Read a schema that is given as JSON or as the path of a file; any other is left as it is."""
    if not isinstance(schema, (str, Path)):
        return schema
    if not os.path.isfile(schema):  # `Path` raises an error for a name that is too long
        if str(schema).lstrip().startswith(("[", "{")):
            return parse_json(str(schema))
        wanted = find_task(task or "NER").wanted
        raise InputError(f"schema {str(schema)[:80]!r}: no such file; give its path, or {wanted}")
    try:
        return json.loads(Path(schema).read_bytes())
    except RecursionError:
        raise InputError(f"{schema}: nested too deeply") from None
    except ValueError:
        return Schema.read(schema)


def parse_json(text: str) -> Any:
    """Parse a schema that is JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError("the schema is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"the schema is not JSON: {error}") from None


def _check_labels(labels: list[Any], task: Task, where: str = "the schema") -> None:
    """Raise an `InputError` unless there are labels, all of them distinct strings that are not empty."""
    if not labels:
        raise InputError(f"{where} is empty; give {task.name} {task.wanted}")
    check_labels(labels, where, f"{task.name} {task.wanted}")
    _check_characters(labels, where)


def _check_characters(strings: Iterable[str], where: str) -> None:
    """Raise an `InputError` if a string cannot be written as UTF-8, which tokenizers read."""
    for string in strings:
        if SURROGATE.search(string):
            raise InputError(f"{where}: {string[:80]!r} is not valid Unicode: half of a surrogate pair")


def _read_list(labels: list[Any], task: Task) -> Schema:
    """Read a list of labels, or of schema items."""
    if labels and all(isinstance(label, Mapping) for label in labels):
        try:
            schemas = [task.read_items([item]) for item in labels]
        except (KeyError, TypeError):
            raise InputError(f"the schema's items are none of {task.name}; give {task.wanted}") from None
        items = [(label, task.roles(label, schema)) for schema in schemas for label in task.labels(schema)]
        _check_labels([label for label, _ in items], task)
        return _checked_roles(dict(items), task)
    labels = [task.read_label(label) for label in labels]
    _check_labels(labels, task)
    if task.roles_name:
        raise InputError(f"{task.name} does not take a list of labels; give {task.wanted}")
    return _checked_roles(dict.fromkeys(labels, ()), task)


def _read_mapping(schema: Mapping[Any, Any], task: Task) -> tuple[Schema, dict[str, Description]]:
    """Read a dictionary from label to description, or from type to roles."""
    _check_labels(list(schema), task)
    values = list(schema.values())
    if task.roles_name:
        if any(isinstance(value, str) or not isinstance(value, Iterable) for value in values):
            raise InputError(f"{task.name} does not take labels without a list of roles; give {task.wanted}")
        # in a dictionary of descriptions the type's own name describes the type
        roles = {
            label: tuple(role for role in value if role != label or not isinstance(value, Mapping))
            for label, value in schema.items()
        }
        texts = {label: dict(value) for label, value in schema.items() if isinstance(value, Mapping)}
        for label, of_label in texts.items():
            if wrong := [text for text in of_label.values() if not isinstance(text, str)]:
                raise InputError(f"the schema's {label!r}: {str(wrong[0])[:80]!r} is no description; give a string")
            _check_characters(of_label.values(), f"the schema's {label!r}")
        described = any(any(of_label.values()) for of_label in texts.values())
        return _checked_roles(roles, task), dict(texts) if described else {}
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"{task.name} does not take labels with roles; give {task.wanted}, or their descriptions")
    _check_characters(values, "the schema")
    return _read_list(list(schema), task), dict(schema) if any(values) else {}


def _checked_roles(labels: Mapping[str, Sequence[Any]], task: Task) -> Schema:
    """Make the schema of labels whose roles are distinct strings for each."""
    for label, roles in labels.items():
        if roles or task.roles_required:  # an event may have a trigger alone
            _check_labels(list(roles), task, f"the schema's {label!r}")
    schema = task.to_schema(labels)
    _check_items(task, schema)
    return schema


def _check_items(task: Task, schema: Schema) -> None:
    """Raise an `InputError` if the task has no item for a label."""
    for label in task.labels(schema):
        task.item(label, task.roles(label, schema), ())


def is_model(schema: Any) -> TypeGuard[type[BaseModel]]:
    """Tell whether a schema is a class of Pydantic models. (If it is one, Pydantic is imported already.)"""
    pydantic = sys.modules.get("pydantic")
    is_class = isinstance(schema, type) and get_origin(schema) is None  # `list[X]` is a type in Python 3.10
    return pydantic is not None and is_class and issubclass(schema, pydantic.BaseModel)


def _read_pydantic(model: Any) -> dict[str, Any]:
    """Read the fields of a Pydantic model: label to description, or to the fields of the model that it holds."""
    schema: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        label = field_label(name, field)
        if label in schema:
            raise InputError(f"two fields of {model.__name__} are called {label!r}; give one of them another title")
        inner = next(filter(is_model, _list_types(field.annotation)), None)
        if inner is None:
            schema[label] = field.description or ""
        else:
            schema[label] = {label: field.description or "", **_read_pydantic(inner)}
    return schema


def field_label(name: str, field: Any) -> str:
    """Name a field of a Pydantic model as instructions do."""
    return field.title or field.alias or name.replace("_", " ")


def _list_types(annotation: Any) -> Iterable[Any]:
    """List a type and all types in it: `list[City] | None` has `City` in it."""
    yield annotation
    for part in get_args(annotation):
        yield from _list_types(part)


def read_triggers(
    triggers: Triggers | Extraction | None, text: str, batching: SchemaBatching
) -> Callable[[Passage], list[Annotation] | None]:
    """Read the triggers that a user gives; the result gives those of a passage, as annotation."""
    if triggers is None:
        return lambda passage: None
    known = set(batching.asked_labels())
    places: list[tuple[str, Mention | str]]
    if isinstance(triggers, Extraction):
        places = [(fact.asked_label, fact.mentions[0]) for fact in triggers.facts if fact.leads]
        places = [(label, trigger) for label, trigger in places if label in known]
    else:
        if not isinstance(triggers, Mapping):
            raise InputError(f"the triggers are {show(triggers)}; give {_TRIGGERS}")
        for label, found in triggers.items():
            if isinstance(found, str) or not isinstance(found, Iterable):
                raise InputError(f"the triggers of {label!r} are {show(found)}; give {_TRIGGERS}")
        places = [(label, trigger) for label, found in triggers.items() for trigger in found]
    for label, trigger in places:
        if not isinstance(trigger, str) or not trigger.strip():
            raise InputError(f"a trigger of {label!r} is {show(trigger)}; give a string of the text")
        if label not in known:
            raise InputError(f"triggers are given for {label!r}, which is not in the schema; add it, with its roles")
        if trigger not in text and not isinstance(trigger, Mention):
            raise InputError(f"trigger {trigger!r} of {label!r} is not in the text; give it as it is written there")

    def of_passage(passage: Passage) -> list[Annotation]:
        return [
            Trigger(label, trigger).to_annotation()
            for label, trigger in places
            if (
                passage.start <= trigger.start and trigger.end <= passage.end
                if isinstance(trigger, Mention) and trigger.start is not None and trigger.end is not None
                else trigger in text[passage.start : passage.end]
            )
        ]

    return of_passage


def read_examples(examples: Sequence[Mapping[str, Any]], task: str) -> tuple[tuple[str, str], ...]:
    """Read annotated records that instructions are to show."""
    asked, shown = find_task(task), []
    for number, record in enumerate(examples, start=1):
        try:
            text, annotations = record["text"], list(record[asked.field])
            strings = [text]
            for annotation in annotations:
                asked.identity(annotation)
                asked.label(annotation, Schema())
                strings += [*asked.strings(annotation), *chain.from_iterable(asked.arguments(annotation))]
            if not all(isinstance(string, str) for string in strings):
                raise TypeError
            _check_characters(strings, f"example {number}")
            shown.append((text, json.dumps(annotations, ensure_ascii=False)))
        except (KeyError, TypeError):
            raise InputError(
                f'example {number} is no annotated record of {task}: give {{"text": ..., '
                f'"{asked.field}": [...]}} as a corpus of {task} has it'
            ) from None
    return tuple(shown)
