"""What the tasks have in common."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

from iepile_builder.errors import InputError
from iepile_builder.io import RESOURCES
from iepile_builder.schema import Schema
from iepile_builder.tasks.facts import Annotation, Event, Fact, Texts
from iepile_builder.tasks.values import (
    MENTION,
    Place,
    check_known,
    check_mention,
    check_place,
    check_strings,
    distinct_in_text,
    find_spelling,
    fix_place,
    list_schema,
    object_schema,
)


INSTRUCTIONS: dict[str, dict[str, str]] = json.loads((RESOURCES / "instructions.json").read_bytes())  # the published


class Example(NamedTuple):
    """A text, the schema items that are asked for, and the answer."""

    schema: list[Any]
    text: str
    answer: dict[str, Any]


class Task:
    """
    All that differs by task. A new task is a class like those beside this file, put into `TASKS`.

    Attributes:
        name (`str`): the task's name in the format.
        title (`str`): its name in words, a plural noun.
        schema_key (`str`): its key in a schema of several tasks, such as "entities"; `""` for its name alone.
        field (`str`): the key of a record that holds the task's annotation.
        mentions (`tuple[str, ...]`): the keys of an annotation whose values are strings of the text.
        places (`tuple[Place, ...]`): these keys, each with the keys of its offsets: `start` and `end`, or where an
            annotation has several mentions `head_start`, `head_end`, ....
        names (`tuple[str, ...]`): the keys of an annotation whose values are names of the schema.
        split_num (`int`): how many labels one instruction asks for, by default.
        nothing (`list`, `dict` or `str`): the value in an answer of a label without facts.
        label_name (`str`): what a label is called, such as "entity type".
        roles_name (`str`): what the roles of a label are called; `""` for a task whose labels have none.
        roles_required (`bool`): whether a label without roles cannot be asked for.
        form (`list` or `dict`): a schema as a user writes it.
        examples (`dict[str, Example]`): language to an example.
        keyed (`bool`): whether a schema with descriptions is an object from label to item, or else a list of items.
        has_events (`bool`): whether the facts of an answer belong to events.
        triggers_given (`bool`): whether an instruction gives the record's event types and triggers away.
        blocks (`tuple[str, ...]`): the kinds of facts with scores of their own; `("",)` where all are scored together.
        also_serves (`tuple[str, ...]`): the tasks that a corpus of this one can serve, too.
        labels_in_annotations (`bool`): whether a schema without labels has those of the annotations.
        one_label (`bool`): whether a mention has one label, so that of several the likeliest is the answer.
        copied (`bool`): whether answers are held to strings of the text by default: where this was measured to score
            better (see docs/method.md).
    """

    name: str
    title: str
    schema_key = ""
    field: str
    mentions: tuple[str, ...]
    names: tuple[str, ...]
    split_num = 4
    nothing: Any = []
    label_name: str
    roles_name = ""
    roles_required = False
    form: Any  # of JSON
    examples: Mapping[str, Example]
    keyed = True
    has_events = False
    triggers_given = False
    blocks: tuple[str, ...] = ("",)
    also_serves: tuple[str, ...] = ()
    labels_in_annotations = False
    one_label = False
    copied = False

    def __init__(self) -> None:
        self.strings = itemgetter(*self.names, *self.mentions)
        several = len(self.mentions) > 1
        self.places = tuple(
            Place(key, f"{key}_start", f"{key}_end") if several else Place(key) for key in self.mentions
        )

    @cached_property
    def instructions(self) -> Mapping[str, str]:
        """Language to the sentence that an instruction begins with."""
        return INSTRUCTIONS[self.name]

    @property
    def wanted(self) -> str:
        """Say what a user's schema must hold, with an example."""
        roles = f" with their {self.roles_name}" if self.roles_name else ""
        return f"the {self.label_name}s{roles}, such as {json.dumps(self.form)}"

    @property
    def hint(self) -> str:
        """Say how a user types a schema, a label a line."""
        first = next(iter(self.form))
        if self.roles_name:
            return (
                f"One {self.label_name} per line, with its {self.roles_name}: `{first}: {', '.join(self.form[first])}`"
            )
        return f"One {self.label_name} per line, such as `{first}`, with a description after a colon if you like"

    # Schemas

    def labels(self, schema: Schema) -> tuple[str, ...]:
        """List all labels that a corpus may be asked for, in schema order."""
        return schema.types

    def known(self, schema: Schema) -> Collection[str]:
        """Give the labels as a collection in which a name is looked up at once, however many they are."""
        labels = self.labels(schema)
        indices = ((schema.types, schema.type_index), (schema.roles, schema.role_index))
        return next((index for names, index in indices if labels is names), labels)

    def roles(self, label: str, schema: Schema) -> tuple[str, ...]:
        """List the roles or attributes that are asked together with a label, in schema order."""
        return schema.type_roles.get(label, ()) if self.roles_name else ()

    def to_schema(self, labels: Mapping[str, Sequence[str]]) -> Schema:
        """Make the schema of labels with their roles: the inverse of `labels` and `roles`."""
        return Schema(types=tuple(labels))

    def check_schema(self, schema: Schema) -> None:
        """Raise an `InputError` that names the line of `schema.json` if the task cannot ask for what it holds."""

    def annotated_label(self, annotation: Any) -> str | None:
        """Read the label of an unchecked annotation; `None` if it does not tell it."""
        return check_strings(annotation, self.names[:1], self.field)[self.names[0]]

    def annotated_roles(self, annotation: Any) -> list[str]:
        """List the roles of an unchecked annotation's label that it has."""
        return []

    def read_label(self, label: Any) -> Any:
        """Read a label that a user gives in a form of the task's own."""
        return label

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        """Make the schema item that asks for `label`, with its `roles` in this order and the given triggers."""
        return label

    def described_item(self, label: str, roles: Sequence[str], triggers: Sequence[str], texts: Texts) -> Any:
        """Make the schema item with descriptions; in an object from label to item where the task is `keyed`."""
        return texts.get(label, "")

    def read_items(self, items: Iterable[Any]) -> Schema:
        """Read the part of a schema that an instruction's schema items ask for: the inverse of `item`."""
        return Schema(types=tuple(items))

    # Annotations

    def label(self, annotation: Annotation, schema: Schema) -> str:
        """Tell the label that an annotation belongs to."""
        return annotation[self.names[0]]

    def given_triggers(self, annotations: Iterable[Annotation]) -> tuple[str, ...]:
        """List the triggers that an instruction gives away; see `triggers_given`."""
        return ()

    def given_annotations(self, items: Iterable[Any]) -> list[Annotation]:
        """List the events that schema items give away, without arguments; see `triggers_given`."""
        return []

    def arguments(self, annotation: Annotation) -> list[tuple[str, str]]:
        """List the arguments of an event, each with its role before it; see `has_events`."""
        return []

    def with_arguments(self, annotation: Annotation, arguments: Iterable[tuple[str, str]]) -> Annotation:
        """Give an event with these arguments in place of its own, or another annotation as it is."""
        return annotation

    def identity(self, annotation: Annotation) -> tuple[Any, ...]:
        """Give what makes two annotations of a record the same."""
        return self.strings(annotation)

    def distinct(self, annotations: Iterable[Annotation]) -> list[Annotation]:
        """List a record's annotations without exact duplicates, in their order."""
        annotations = list(annotations)
        if len(annotations) < 2:
            return annotations
        first: dict[tuple[Any, ...], Annotation] = {}
        for annotation in annotations:
            first.setdefault(self.identity(annotation), annotation)
        return list(first.values())

    def check(self, annotation: object, schema: Schema) -> None:
        """
        Check one annotation of a record.

        Raises:
            `InputError`: if a key is missing, a value is no usable string, or a name is not in the schema.
        """
        strings = check_strings(annotation, (*self.names, *self.mentions), self.field)
        for key in self.mentions:
            check_mention(strings[key], key)
        check_known(self.label(strings, schema), self.known(schema), self.names[0])

    def check_places(self, annotation: Annotation, text: str) -> None:
        """Raise an `InputError` if a checked annotation has offsets at which its mention is not in the text."""
        for place in self.places:
            check_place(annotation, place, text)

    def absent(self, annotation: Annotation, text: str) -> int:
        """Count the mentions of a checked annotation that are not in the text."""
        return sum([annotation[key] not in text for key in self.mentions])

    def fix(self, annotation: Any, text: str, schema: Schema) -> Annotation | None:
        """Give an annotation with its mentions in the spelling of the text, or `None` if it cannot be used."""
        try:
            self.check(annotation, schema)
        except InputError:
            return None
        mentions = {key: find_spelling(annotation[key], text) for key in self.mentions}
        if None in mentions.values():
            return None
        fixed = {**annotation, **mentions}
        for place in self.places:
            fixed = fix_place(fixed, place, text)
        return fixed

    # Answers

    def answer_key(self, label: str) -> str:
        """Give the key of a label in an answer; two labels with the same key cannot be asked together."""
        return label

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        """Make a label's value in a reference answer, by default its mentions; in order of occurrence in `text`."""
        return distinct_in_text(annotations, self.places[0], text)

    def value_schema(self, item: Any) -> dict[str, Any]:
        """Make the JSON schema of the value that answers a schema item, by default a list of mentions."""
        return list_schema(MENTION)

    def answer_schema(self, items: Sequence[Any], text: str | None = None) -> dict[str, Any]:
        """
        Make the JSON schema of the answer to schema items; keys come in the order of its `properties`.

        With `text`, strings must be substrings of it. JSON schema has no word for that: the text is under `x-text`,
        which [`~iepile_builder.answers.grammar.Grammars`] knows and others ignore.

        Raises:
            `InputError`: If the items are not the task's.
        """
        try:
            labels = [self.labels(self.read_items([item]))[0] for item in items]
            values = {
                self.answer_key(label): self.value_schema(item) for label, item in zip(labels, items, strict=True)
            }
        except (KeyError, TypeError):
            raise InputError(f"not schema items of {self.name}: {str(items)[:80]}") from None
        return {
            **object_schema(values),
            "$defs": {"mention": {"type": "string", "minLength": 1}},
            **({} if text is None else {"x-text": text}),
        }

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        """List the annotations behind a reference answer: the inverse of `answer_value`, for all labels."""
        raise NotImplementedError

    # Facts

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        """List the facts of a record's annotation, a multiset."""
        raise NotImplementedError

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        """
        List the facts of an answer's JSON object, a multiset. `schema` is what the instruction asked for, from
        `read_items`.

        Nothing is repaired: a value that does not have the form of the task becomes a fact that equals no gold fact.
        """
        raise NotImplementedError

    def parse_groups(self, answer: dict[str, Any], schema: Schema) -> list[list[Fact]]:
        """List the facts of an answer, those that belong together (of one event) in one list."""
        return [[fact] for fact in self.parse(answer, schema)]

    def own_facts(self, facts: Iterable[Fact]) -> list[Fact]:
        """List those of some facts that the task asks for: not those that its instructions give away."""
        return list(facts)

    def to_event(self, group: Sequence[Fact]) -> Event:
        """Make the event with these facts; see `has_events`."""
        raise NotImplementedError

    def is_asked(self, fact: Fact, schema: Schema) -> bool:
        """Tell whether the names in a fact are those of a schema."""
        return fact.asked_label in self.labels(schema)

    def block_of(self, fact: Fact) -> str:
        """Give the block of scores that a fact belongs to."""
        return fact.block if fact.block in self.blocks else ""

    def label_text(self, label: Sequence[str]) -> str:
        """Write a fact's label as reports show it: roles and attributes after their type."""
        return ": ".join(label)


def with_texts(roles: Sequence[str], texts: Texts) -> dict[str, str]:
    """Give roles with their descriptions."""
    return {role: texts.get(role, "") for role in roles}


def plain_items(schema: list[Any] | dict[str, Any]) -> list[Any]:
    """List the items of an instruction's schema without their descriptions."""
    if isinstance(schema, dict):
        schema = [
            {"event_type": label, "trigger": item.get("trigger"), "arguments": item.get("arguments")}
            if isinstance(item, dict)
            else label
            for label, item in schema.items()
        ]
    return [plain_item(item) if isinstance(item, dict) else item for item in schema]


def plain_item(item: dict[str, Any]) -> dict[str, Any]:
    """Give a schema item that is an object, without its descriptions."""
    return {
        key: list(value) if isinstance(value, dict) else value for key, value in item.items() if key != "description"
    }
