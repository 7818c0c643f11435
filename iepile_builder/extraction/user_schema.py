"""What a user asks for, in any of the forms that are natural in Python, to the schema of a task."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from iepile_builder.data.instructions import Description
from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS


# what the labels of each task are called, and how a schema of them is written
FORMS = {
    "NER": ("entity types", '["person", "city"]'),
    "RE": ("relations", '["founder", "spouse"]'),
    "SPO": ("typed relations", '["person_founder_company"]'),
    "EE": ("event types with their roles", '{"resign": ["employee", "employer"]}'),
    "EET": ("event types", '["resign", "strike"]'),
    "EEA": ("event types with their roles", '{"resign": ["employee", "employer"]}'),
    "KG": ("entity types with their attributes", '{"city": ["mayor", "population"]}'),
}
WITH_ROLES = ("EE", "EEA", "KG")  # the tasks whose labels have roles or attributes


def read_schema(schema: Any, task: str) -> tuple[Schema, dict[str, Description]]:
    """
    A schema of a task, and the descriptions of its labels.

    Args:
        schema (`list`, `dict`, `str`, `Path`, [`Schema`] or a class of `pydantic.BaseModel`):
            - a list of labels: entity types (NER), relations (RE), event types (EET), `"person_founder_company"` or
              `("person", "founder", "company")` (SPO);
            - a list of schema items as instructions have them;
            - a dictionary from label to description (NER, RE, SPO, EET);
            - a dictionary from event type to its roles (EE, EEA), or from entity type to its attributes (KG): a list,
              or a dictionary from each to its description, in which the type's own name stands for the type's;
            - the path of a `schema.json`, or of a JSON file with any of the above;
            - a [`Schema`];
            - a Pydantic model, whose fields are the labels, with their descriptions; for EE, EEA and KG a field's type
              is a model of its own, whose fields are the roles or attributes. A field is called as its `title` says,
              or its `alias`, or its name with spaces for underscores.
        task (`str`):
            One of the seven tasks.

    Raises:
        `InputError`: if there is nothing in it, a label stands twice, or the task does not take it.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; give one of {', '.join(TASKS)}")
    if isinstance(schema, (str, Path)):
        if not Path(schema).is_file():
            raise InputError(f"schema {str(schema)!r}: no such file; give its path, or {wanted(task)}")
        try:
            schema = json.loads(Path(schema).read_bytes())
        except ValueError:
            schema = Schema.read(schema)
    if isinstance(schema, Schema):
        check_labels(TASKS[task].labels(schema), task)
        for label in TASKS[task].labels(schema):
            TASKS[task].item(label, TASKS[task].roles(label, schema), ())  # raises if SPO cannot split it
        return schema, {}
    if is_pydantic(schema):
        schema = read_pydantic(schema)
    if isinstance(schema, Mapping):
        return read_mapping(schema, task)
    if isinstance(schema, Iterable) and not isinstance(schema, str):
        return read_list(list(schema), task), {}
    raise InputError(f"a schema of {task} cannot be made of {str(schema)[:80]!r}; give {wanted(task)}")


def wanted(task: str) -> str:
    """What a task asks for, with an example."""
    kind, example = FORMS[task]
    return f"the {kind}, such as {example}"


def check_labels(labels: Iterable[Any], task: str, what: str = "the schema") -> None:
    """Raise an `InputError` unless there are labels, all of them distinct strings that are not empty."""
    labels = list(labels)
    if not labels:
        raise InputError(f"{what} is empty; give {task} {wanted(task)}")
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"{what}: {str(label)[:80]!r} is no label of {task}; give {wanted(task)}")
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        raise InputError(f"{what}: label {label!r} stands {count} times; give each once")


def read_list(labels: list[Any], task: str) -> Schema:
    """The schema of a list of labels, or of schema items."""
    if labels and all(isinstance(label, Mapping) for label in labels):
        try:
            schema = TASKS[task].read_items(labels)
        except (KeyError, TypeError):
            raise InputError(f"the schema's items are none of {task}; give {wanted(task)}") from None
        names = [str(label.get("event_type", label.get("entity_type"))) for label in labels]
        check_labels(TASKS[task].labels(schema) if task == "SPO" else names, task)
        return checked_roles(schema, task)
    if task == "SPO" and labels and all(isinstance(label, (list, tuple)) and len(label) == 3 for label in labels):
        triples = [dict(zip(("subject_type", "predicate", "object_type"), label, strict=True)) for label in labels]
        return read_list(triples, task)
    check_labels(labels, task)
    if task in WITH_ROLES:
        raise InputError(f"{task} does not take a list of labels; give {wanted(task)}")
    for label in labels:
        TASKS[task].item(label, (), ())
    return Schema(roles=tuple(labels)) if task == "RE" else Schema(types=tuple(labels))


def read_mapping(schema: Mapping[Any, Any], task: str) -> tuple[Schema, dict[str, Description]]:
    """The schema of a dictionary from label to description, or from type to roles."""
    check_labels(schema, task)
    values = list(schema.values())
    if task in WITH_ROLES:
        if any(isinstance(value, str) or not isinstance(value, Iterable) for value in values):
            raise InputError(f"{task} does not take labels without a list of roles; give {wanted(task)}")
        # in a dictionary of descriptions the type's own name describes the type
        roles = {
            label: tuple(role for role in value if role != label or not isinstance(value, Mapping))
            for label, value in schema.items()
        }
        texts = {label: dict(value) for label, value in schema.items() if isinstance(value, Mapping)}
        for label, of_label in texts.items():
            check_texts(of_label.values(), f"the schema's {label!r}")
        described = any(any(of_label.values()) for of_label in texts.values())
        return checked_roles(Schema(types=tuple(schema), type_roles=roles), task), dict(texts) if described else {}
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"{task} does not take labels with roles; give {wanted(task)}, or their descriptions")
    return read_list(list(schema), task), dict(schema) if any(values) else {}


def check_texts(texts: Iterable[Any], where: str) -> None:
    """Raise an `InputError` unless all descriptions are strings."""
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{where}: {str(text)[:80]!r} is no description; give a string")


def checked_roles(schema: Schema, task: str) -> Schema:
    """A schema whose roles are distinct strings for each type."""
    for label, roles in schema.type_roles.items():
        if roles or task == "KG":  # an event may have a trigger alone
            check_labels(roles, task, f"the schema's {label!r}")
    return schema


def is_pydantic(schema: Any) -> bool:
    """Whether it is a Pydantic model's class; who has one has imported Pydantic."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(schema, type) and issubclass(schema, pydantic.BaseModel)


def read_pydantic(model: Any) -> dict[str, Any]:
    """A Pydantic model's fields: label to description, or to the labels of the fields of the model that it holds."""
    schema: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        label = field_label(name, field)
        if label in schema:
            raise InputError(f"two fields of {model.__name__} are called {label!r}; give one of them another title")
        inner = next(filter(is_pydantic, parts(field.annotation)), None)
        if inner is None:
            schema[label] = field.description or ""
        else:
            schema[label] = {label: field.description or "", **read_pydantic(inner)}
    return schema


def field_label(name: str, field: Any) -> str:
    """What a field of a Pydantic model is called in an instruction."""
    return field.title or field.alias or name.replace("_", " ")


def parts(annotation: Any) -> Iterable[Any]:
    """A type and all that it is put together from: `list[City] | None` has `City` in it."""
    yield annotation
    for part in get_args(annotation):
        yield from parts(part)
