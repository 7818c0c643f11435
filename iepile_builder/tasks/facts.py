"""The facts of all tasks: what gold annotation and a model's answer are both turned into."""

from collections.abc import Mapping
from typing import Any, NamedTuple


NOTHING = "NAN"  # a role without an argument, an event without a trigger
MALFORMED = "\ufffd"  # starts the text of an answer's value that has not its task's form: it equals no gold


class Entity(NamedTuple):
    entity_type: str
    entity: str


class Relation(NamedTuple):
    relation: str
    head: str
    tail: str


class TypedRelation(NamedTuple):
    head_type: str
    relation: str
    tail_type: str
    head: str
    tail: str


class Trigger(NamedTuple):
    event_type: str
    trigger: str


class Argument(NamedTuple):
    event_type: str
    role: str
    argument: str
    trigger: str  # of its event, "" where there is none


class Attribute(NamedTuple):
    entity_type: str
    entity: str
    attribute: str
    value: str


MENTIONS: dict[type, tuple[int, ...]] = {  # which fields of a fact are strings of the text
    Entity: (1,),
    Relation: (1, 2),
    TypedRelation: (3, 4),
    Trigger: (1,),
    Argument: (2,),
    Attribute: (1, 3),
}
Fact = Entity | Relation | TypedRelation | Trigger | Argument | Attribute
Annotation = dict[str, Any]  # one entity, triple or event of a record
Texts = Mapping[str, str]  # descriptions of a label and of its roles, by their names
