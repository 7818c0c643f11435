"""What a corpus may be asked: its types, roles or relations, and the roles of each type."""

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.io import check_file, describe_encoding, load_json, located, write_whole


@dataclass(frozen=True)
class Schema:
    """
    The content of a corpus's `schema.json`.

    Args:
        types (`tuple[str, ...]`, *optional*, defaults to `()`):
            Entity types (NER), event types (EE, EET, EEA) or `subjecttype_predicate_objecttype` strings (SPO).
        roles (`tuple[str, ...]`, *optional*, defaults to `()`):
            Relations (RE), argument roles (EE, EEA), predicates (SPO) or attributes (KG).
        type_roles (`dict[str, tuple[str, ...]]`, *optional*, defaults to `{}`):
            Event type to its roles, or entity type to its attributes, in the order in which they are asked.
    """

    types: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    type_roles: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> "Schema":
        """
        Read a `schema.json` of three lines: types, roles, and a dictionary from type to roles.

        Raises:
            `InputError`: If the file is missing or is not three lines of JSON of these shapes, or repeats a label.
        """
        try:
            path = Path(path)
            check_file(path)
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise InputError(f"{path}: missing; a corpus needs one beside its train, dev and test.json") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: {describe_encoding(error)}") from None
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) != 3:
            shape = f"{path}: {len(lines)} lines, not 3 (types; roles or relations; type to roles)"
            load_json(text.encode(), f"{shape}, and not one JSON value")  # raises with the reason
            raise InputError(shape)
        values = []
        for number, line in enumerate(lines, start=1):
            with located(path, number):
                values.append(load_json(line.encode()))
        types, roles, type_roles = values
        for number, labels in ((1, types), (2, roles)):
            check_labels(labels, f"{path}, line {number}")
        if not isinstance(type_roles, dict):
            raise InputError(f"{path}, line 3: not a JSON object from type to its roles")
        for name, labels in type_roles.items():
            check_labels(labels, f"{path}, line 3, {name!r}")
        return cls(tuple(types), tuple(roles), {name: tuple(labels) for name, labels in type_roles.items()})

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return Schema, (self.types, self.roles, self.type_roles)  # without what is cached: fingerprints stay the same

    @cached_property
    def type_index(self) -> dict[str, int]:
        """Type to its place."""
        return {name: place for place, name in enumerate(self.types)}

    @cached_property
    def role_index(self) -> dict[str, int]:
        """Role or relation to its place."""
        return {name: place for place, name in enumerate(self.roles)}

    @cached_property
    def owners(self) -> dict[str, str]:
        """Attribute to the one entity type that owns it (KG)."""
        return {role: name for name, roles in self.type_roles.items() for role in roles}

    def to_text(self) -> str:
        """Make the three lines that `read` reads."""
        lines = [list(self.types), list(self.roles), {key: list(value) for key, value in self.type_roles.items()}]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def write(self, path: str | Path) -> None:
        """Write them to a file."""
        write_whole(Path(path), self.to_text())


def check_labels(labels: object, where: str, wanted: str = "a JSON list of label names") -> None:
    """Raise an `InputError` unless `labels` is a list of distinct strings that are not empty."""
    if not isinstance(labels, list):
        raise InputError(f"{where}: {str(labels)[:80]!r} is no list; give {wanted}")
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"{where}: {str(label)[:80]!r} is no label; give {wanted}")
    for label, count in Counter(labels).items():
        if count > 1:
            raise InputError(f"{where}: label {label!r} occurs {count} times; give each once")
