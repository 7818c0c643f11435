"""
Facts: what gold annotation and a model's answer are both turned into.

A fact is a tuple of strings: names of the schema, and strings of the text. Scoring hashes millions of them.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple


NOTHING = "NAN"  # a role without an argument, an event without a trigger
MALFORMED = "\ufffd"  # starts the text of an answer's value that has not its task's form: it equals no gold
Annotation = dict[str, Any]  # one entity, triple or event of a record
Texts = Mapping[str, str]  # descriptions of a label and of its roles, by their names


def offsets(mention: str, prefix: str = "") -> Annotation:
    """Give the offsets of a mention that is grounded in a text, as an annotation has them."""
    start = getattr(mention, "start", None)
    return {} if start is None else {f"{prefix}start": start, f"{prefix}end": getattr(mention, "end", None)}


def triple(head: str, relation: str, tail: str) -> Annotation:
    """Give the annotation of a triple, with the offsets of grounded mentions."""
    places = offsets(head, "head_") | offsets(tail, "tail_")
    return {"head": str(head), "relation": relation, "tail": str(tail), **places}


class Fact(tuple[str, ...]):
    """
    What all facts have in common. The first `names` fields are names of the schema, the others strings of the text.

    Attributes:
        names (`int`): number of fields that are names.
        block (`str`): the block of scores that it belongs to, in a task whose scores have several.
        leads (`bool`): whether the facts after it in a group belong to it, as an event's arguments to its trigger.
        columns (`tuple[tuple[str, str], ...]`): of a table of such facts, the head and the field.
    """

    __slots__ = ()
    names: ClassVar[int] = 1
    block: ClassVar[str] = ""
    leads: ClassVar[bool] = False
    columns: ClassVar[tuple[tuple[str, str], ...]]

    @property
    def label(self) -> tuple[str, ...]:
        """The names of the schema in it, that of the asked label first."""
        return self[: self.names]

    @property
    def mentions(self) -> tuple[str, ...]:
        """The strings of the text that it states, the one that names it first."""
        return self[self.names :]

    @property
    def strings(self) -> tuple[str, ...]:
        """Its mentions, and the trigger of the event that it belongs to."""
        return self.mentions

    @property
    def untyped_label(self) -> tuple[str, ...]:
        """The label without the types of both ends of a relation."""
        return self.label

    @property
    def fixed_label(self) -> tuple[str, ...]:
        """The part of the label that must be right even where a match mode ignores labels."""
        return ()

    @property
    def asked_label(self) -> str:
        """The label of a schema batch that asks for it."""
        return self.label[0]

    @property
    def answer_key(self) -> str:
        """The key of an answer that it is under."""
        return self.label[0]

    @property
    def content(self) -> tuple[str, ...]:
        """What it says of its asked label: a role or attribute, and its mentions."""
        return self.label[1:] + self.mentions

    @property
    def named_mentions(self) -> tuple[tuple[str, str], ...]:
        """Its mentions, each with the name that it is marked with in the text."""
        return tuple((mention, self.label[-1]) for mention in self.mentions)

    @property
    def nodes(self) -> tuple[tuple[str, str], ...]:
        """Its nodes in a graph, one or two: each a mention and its type, `""` where it has none."""
        return self.named_mentions

    @property
    def edge(self) -> str:
        """What the edge between its two nodes is called."""
        return ""

    def map_strings(self, function: Callable[[str], Any]) -> Any:
        """Give the same fact with what `function` makes of each of its `strings`."""
        return type(self)(*self[: self.names], *map(function, self[self.names :]))

    def unlinked(self) -> "Fact":
        """Give the same fact without the trigger of its event."""
        return self

    def to_annotation(self) -> Annotation:
        """Give the annotation of a record that states it."""
        raise NotImplementedError


class _Entity(NamedTuple):
    entity_type: str
    entity: str


class Entity(_Entity, Fact):
    """A mention of an entity."""

    __slots__ = ()
    columns = (("type", "entity_type"), ("entity", "entity"))

    def to_annotation(self) -> Annotation:
        return {"entity": str(self.entity), "entity_type": self.entity_type, **offsets(self.entity)}


class _Relation(NamedTuple):
    relation: str
    head: str
    tail: str


class Relation(_Relation, Fact):
    """A relation between two mentions."""

    __slots__ = ()
    columns = (("head", "head"), ("relation", "relation"), ("tail", "tail"))

    @property
    def nodes(self) -> tuple[tuple[str, str], ...]:
        return (self.head, ""), (self.tail, "")

    @property
    def edge(self) -> str:
        return self.relation

    def to_annotation(self) -> Annotation:
        return triple(self.head, self.relation, self.tail)


class _TypedRelation(NamedTuple):
    head_type: str
    relation: str
    tail_type: str
    head: str
    tail: str


class TypedRelation(_TypedRelation, Fact):
    """A relation between two mentions whose types belong to it."""

    __slots__ = ()
    names = 3
    columns = (
        ("type", "head_type"),
        ("head", "head"),
        ("relation", "relation"),
        ("type", "tail_type"),
        ("tail", "tail"),
    )

    @property
    def untyped_label(self) -> tuple[str, ...]:
        return (self.relation,)

    @property
    def asked_label(self) -> str:
        return "_".join(self.label)

    @property
    def answer_key(self) -> str:
        return self.relation

    @property
    def content(self) -> tuple[str, ...]:
        return self.mentions

    @property
    def named_mentions(self) -> tuple[tuple[str, str], ...]:
        return (self.head, self.head_type), (self.tail, self.tail_type)

    @property
    def edge(self) -> str:
        return self.relation

    def to_annotation(self) -> Annotation:
        types = {"head_type": self.head_type, "tail_type": self.tail_type}
        return triple(self.head, self.relation, self.tail) | types


class _Trigger(NamedTuple):
    event_type: str
    trigger: str


class Trigger(_Trigger, Fact):
    """An event, by the word that says it."""

    __slots__ = ()
    block = "trigger"
    leads = True
    columns = (("event type", "event_type"), ("trigger", "trigger"))

    def to_annotation(self) -> Annotation:
        return Event(self.event_type, self.trigger, ()).to_annotation()


class _Argument(NamedTuple):
    event_type: str
    role: str
    argument: str
    trigger: str  # of its event, "" where there is none


class Argument(_Argument, Fact):
    """An argument of an event."""

    __slots__ = ()
    names = 2
    block = "argument"
    columns = (("event type", "event_type"), ("role", "role"), ("argument", "argument"))

    @property
    def mentions(self) -> tuple[str, ...]:
        return (self.argument,)

    @property
    def strings(self) -> tuple[str, ...]:
        return self.argument, self.trigger

    @property
    def fixed_label(self) -> tuple[str, ...]:
        return (self.event_type,)

    def unlinked(self) -> "Argument":
        return self._replace(trigger="")

    def to_annotation(self) -> Annotation:
        return Event(self.event_type, self.trigger, (self,)).to_annotation()


class _Attribute(NamedTuple):
    entity_type: str
    entity: str
    attribute: str
    value: str


class Attribute(_Attribute, Fact):
    """An attribute of an entity, with its value."""

    __slots__ = ()
    columns = (("type", "entity_type"), ("entity", "entity"), ("attribute", "attribute"), ("value", "value"))

    @property
    def label(self) -> tuple[str, ...]:
        return self.entity_type, self.attribute

    @property
    def mentions(self) -> tuple[str, ...]:
        return self.entity, self.value

    @property
    def named_mentions(self) -> tuple[tuple[str, str], ...]:
        return (self.entity, self.entity_type), (self.value, self.attribute)

    @property
    def nodes(self) -> tuple[tuple[str, str], ...]:
        return (self.entity, self.entity_type), (self.value, "")

    @property
    def edge(self) -> str:
        return self.attribute

    def map_strings(self, function: Callable[[str], Any]) -> "Attribute":
        return Attribute(self.entity_type, function(self.entity), self.attribute, function(self.value))

    def to_annotation(self) -> Annotation:
        return triple(self.entity, self.attribute, self.value)


class Event(NamedTuple):
    """An event with its arguments."""

    event_type: str
    trigger: str  # the word that says it; `""` where the answer has none
    arguments: tuple[Argument, ...]

    @property
    def asked_label(self) -> str:
        """The label of a schema batch that asks for it."""
        return self.event_type

    def to_annotation(self) -> Annotation:
        """Give the annotation of a record that states it."""
        return {
            "event_trigger": str(self.trigger),
            "event_type": self.event_type,
            "arguments": [
                {"argument": str(fact.argument), "role": fact.role, **offsets(fact.argument)}
                for fact in self.arguments
            ],
            **offsets(self.trigger),
        }
