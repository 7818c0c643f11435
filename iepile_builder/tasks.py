"""
The seven tasks: annotation and answers to facts, labels to schema items, annotation to answers.

This is the only module that knows a task's shape. A *label* is what a schema batch is made of (an entity type, a
relation, an event type, ...), a *schema item* is how an instruction asks for it, and a *fact* is what gold annotation
and a model's answer are both turned into. The formats are those of the IEPile dataset
(https://huggingface.co/papers/2402.14710).
"""

import difflib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple, cast

from iepile_builder.errors import InputError
from iepile_builder.schema import Schema


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


class Task:
    """
    What the seven tasks have in common; each one below says what is its own.

    Attributes:
        name (`str`): the task's name in the format.
        field (`str`): the key of a record that holds the task's annotation.
        mentions (`tuple[str, ...]`): the keys of an annotation whose values are strings of the text.
        names (`tuple[str, ...]`): the keys of an annotation whose values are names of the schema.
        split_num (`int`): how many labels one instruction asks for, by default.
        nothing (`list` or `dict`): the value in an answer of a label of which nothing was found.
        keyed (`bool`): whether a schema with descriptions is an object from label to item, or else a list of items.
    """

    name: str
    field: str
    mentions: tuple[str, ...]
    names: tuple[str, ...]
    split_num = 4
    nothing: Any = []
    keyed = True

    def labels(self, schema: Schema) -> tuple[str, ...]:
        """All labels that a corpus may be asked for, in schema order."""
        raise NotImplementedError

    def label(self, annotation: Annotation, schema: Schema) -> str:
        """The label that an annotation belongs to."""
        return annotation[self.names[0]]

    def roles(self, label: str, schema: Schema) -> tuple[str, ...]:
        """The roles or attributes that are asked together with a label, in schema order."""
        return ()

    def given_triggers(self, annotations: Iterable[Annotation]) -> tuple[str, ...]:
        """The triggers that an instruction gives away (EEA)."""
        return ()

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        """The schema item that asks for `label`, with its `roles` in this order and the triggers that are given."""
        return label

    def described_item(self, label: str, roles: Sequence[str], triggers: Sequence[str], texts: Texts) -> Any:
        """The schema item with descriptions; in an object from label to item where the task is `keyed`."""
        return texts.get(label, "")

    def answer_key(self, label: str) -> str:
        """The key of a label in an answer; two labels with the same key cannot be asked together."""
        return label

    def read_items(self, items: Iterable[Any]) -> Schema:
        """The part of a schema that an instruction's schema items ask for: the inverse of `item`."""
        raise NotImplementedError

    def __init__(self) -> None:
        self.strings = itemgetter(*self.names, *self.mentions)

    def identity(self, annotation: Annotation) -> tuple[Any, ...]:
        """What makes two annotations of a record the same."""
        return self.strings(annotation)

    def distinct(self, annotations: Iterable[Annotation]) -> list[Annotation]:
        """A record's annotations without exact duplicates, in their order."""
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
        check_known(self.label(strings, schema), self.labels(schema), self.names[0])

    def absent(self, annotation: Annotation, text: str) -> int:
        """How many mentions of a checked annotation are not in the text."""
        return sum([annotation[key] not in text for key in self.mentions])

    def fix(self, annotation: Any, text: str, schema: Schema) -> Annotation | None:
        """An annotation with its mentions in the spelling of the text, or `None` if it cannot be used."""
        try:
            self.check(annotation, schema)
        except InputError:
            return None
        mentions = {key: spelling(annotation[key], text) for key in self.mentions}
        return None if None in mentions.values() else {**annotation, **mentions}

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        """A label's value in a reference answer; lists in order of first occurrence in `text`."""
        raise NotImplementedError

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        """The annotations of which a reference answer was made: the inverse of `answer_value`, for all labels."""
        raise NotImplementedError

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        """The facts of a record's annotation, a multiset."""
        raise NotImplementedError

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        """
        The facts of an answer to a schema batch, a multiset.

        Nothing is repaired: a value that has not the form of the task becomes a fact that equals no gold fact.

        Args:
            answer (`dict`):
                The answer as JSON gives it.
            schema (`Schema`):
                What the instruction asked for, from `read_items`.
        """
        raise NotImplementedError


class NER(Task):
    """Named entities: `{"person": ["A", "B"], "location": []}`."""

    name = "NER"
    field = "entity"
    mentions = ("entity",)
    names = ("entity_type",)
    split_num = 6

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.types

    def read_items(self, items: Iterable[Any]) -> Schema:
        return Schema(types=tuple(items))

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        return distinct_in_text((annotation["entity"] for annotation in annotations), text)

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [{"entity": entity, "entity_type": label} for label, value in answer.items() for entity in value]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [Entity(annotation["entity_type"], annotation["entity"]) for annotation in annotations]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        return [Entity(label, entity) for label, value in answer.items() for entity in parse_list(value)]


class RE(Task):
    """Relations: `{"children": [{"subject": "A", "object": "B"}]}`."""

    name = "RE"
    field = "relation"
    mentions = ("head", "tail")
    names: tuple[str, ...] = ("relation",)

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.roles

    def read_items(self, items: Iterable[Any]) -> Schema:
        return Schema(roles=tuple(items))

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        pairs = annotations
        if len(pairs) > 1:
            pairs = sorted(pairs, key=lambda pair: (position(pair["head"], text), position(pair["tail"], text)))
        return [{"subject": pair["head"], "object": pair["tail"]} for pair in pairs]

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [
            {"head": pair["subject"], "relation": label, "tail": pair["object"]}
            for label, value in answer.items()
            for pair in value
        ]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [Relation(triple["relation"], triple["head"], triple["tail"]) for triple in annotations]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        return [Relation(label, *pair) for label, value in answer.items() for pair in parse_pairs(value)]


class SPO(RE):
    """Relations with the types of both ends; a label is `subjecttype_predicate_objecttype`, the answer as in RE."""

    name = "SPO"
    names = ("relation", "head_type", "tail_type")
    keyed = False

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.types

    def label(self, annotation: Annotation, schema: Schema) -> str:
        return f"{annotation['head_type']}_{annotation['relation']}_{annotation['tail_type']}"

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        subject_type, predicate, object_type = split_label(label)
        return {"subject_type": subject_type, "predicate": predicate, "object_type": object_type}

    def described_item(self, label: str, roles: Sequence[str], triggers: Sequence[str], texts: Texts) -> Any:
        return {**self.item(label, roles, triggers), "description": texts.get(label, "")}

    def answer_key(self, label: str) -> str:
        return split_label(label)[1]

    def read_items(self, items: Iterable[Any]) -> Schema:
        labels = []
        for item in items:
            check_types({"head_type": item["subject_type"], "tail_type": item["object_type"]})
            labels.append("_".join((item["subject_type"], item["predicate"], item["object_type"])))
        return Schema(types=tuple(labels))

    def check(self, annotation: object, schema: Schema) -> None:
        super().check(annotation, schema)
        check_types(annotation)

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        types = {self.answer_key(label): split_label(label) for label in schema.types}
        return [
            {**triple, "head_type": types[triple["relation"]][0], "tail_type": types[triple["relation"]][2]}
            for triple in super().annotations(answer, schema)
        ]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [
            TypedRelation(triple["head_type"], triple["relation"], triple["tail_type"], triple["head"], triple["tail"])
            for triple in annotations
        ]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        types = {self.answer_key(label): split_label(label) for label in schema.types}
        return [
            TypedRelation(*types.get(label, ("", label, "")), *pair)
            for label, value in answer.items()
            for pair in parse_pairs(value)
        ]


class EET(Task):
    """Event triggers: `{"attack": ["fired", "shot"]}`; an event without a trigger is left out."""

    name = "EET"
    field = "event"
    mentions = ("event_trigger",)
    names = ("event_type",)

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.types

    def read_items(self, items: Iterable[Any]) -> Schema:
        return Schema(types=tuple(items))

    def check(self, annotation: object, schema: Schema) -> None:
        event = check_strings(annotation, ("event_type", "event_trigger"), self.field)
        if event["event_trigger"]:  # an event may have no trigger
            check_mention(event["event_trigger"], "event_trigger")
        check_known(event["event_type"], schema.types, "event_type")

    def distinct(self, annotations: Iterable[Annotation]) -> list[Annotation]:
        return super().distinct(event for event in annotations if event["event_trigger"])

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        return distinct_in_text((event["event_trigger"] for event in annotations), text)

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [
            {"event_trigger": trigger, "event_type": label, "arguments": []}
            for label, triggers in answer.items()
            for trigger in triggers
        ]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [Trigger(event["event_type"], event["event_trigger"]) for event in self.distinct(annotations)]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        return [Trigger(label, trigger) for label, value in answer.items() for trigger in parse_list(value)]


class EE(EET):
    """Events: `{"attack": [{"trigger": "t", "arguments": {"attacker": "v", "victim": ["v", "w"]}}]}`."""

    name = "EE"

    def roles(self, label: str, schema: Schema) -> tuple[str, ...]:
        return schema.type_roles.get(label, ())

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        return {"event_type": label, "trigger": True, "arguments": list(roles)}

    def described_item(self, label: str, roles: Sequence[str], triggers: Sequence[str], texts: Texts) -> Any:
        item = self.item(label, roles, triggers)
        return {label: texts.get(label, ""), "trigger": item["trigger"], "arguments": with_texts(roles, texts)}

    def read_items(self, items: Iterable[Any]) -> Schema:
        type_roles = {item["event_type"]: tuple(item["arguments"]) for item in items}
        return Schema(types=tuple(type_roles), type_roles=type_roles)

    def identity(self, annotation: Annotation) -> tuple[Any, ...]:
        arguments = frozenset((argument["role"], argument["argument"]) for argument in annotation["arguments"])
        return annotation["event_type"], annotation["event_trigger"], arguments

    def distinct(self, annotations: Iterable[Annotation]) -> list[Annotation]:
        events = []
        for event in annotations:
            arguments: dict[tuple[str, str], Annotation] = {}
            for argument in event["arguments"]:
                arguments.setdefault((argument["role"], argument["argument"]), argument)
            if len(arguments) < len(event["arguments"]):
                event = {**event, "arguments": list(arguments.values())}
            events.append(event)
        return Task.distinct(self, events)  # those without a trigger, too

    def check(self, annotation: object, schema: Schema) -> None:
        super().check(annotation, schema)
        event = cast(Annotation, annotation)
        if not isinstance(event.get("arguments"), list):
            raise InputError("'arguments' of an event is missing or not a list")
        roles = self.roles(event["event_type"], schema)
        for value in event["arguments"]:
            argument = check_strings(value, ("argument", "role"), "arguments")
            check_mention(argument["argument"], "argument")
            check_known(argument["role"], roles, f"role of {event['event_type']!r}")

    def absent(self, annotation: Annotation, text: str) -> int:
        arguments = [argument["argument"] not in text for argument in annotation["arguments"]]
        return super().absent(annotation, text) + sum(arguments)

    def fix(self, annotation: Any, text: str, schema: Schema) -> Annotation | None:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("arguments"), list):
            return None
        event = super().fix({**annotation, "arguments": []}, text, schema)
        if event is None:
            return None
        for argument in annotation["arguments"]:
            try:
                self.check({**event, "arguments": [argument]}, schema)
            except InputError:
                continue
            mention = spelling(argument["argument"], text)
            if mention is not None:
                event["arguments"].append({**argument, "argument": mention})
        return event

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        events = []
        for event in sorted(annotations, key=lambda event: position(event["event_trigger"], text)):
            arguments: dict[str, Any] = {}
            if event["arguments"]:
                by_role = defaultdict(list)
                for argument in event["arguments"]:
                    by_role[argument["role"]].append(argument["argument"])
                arguments = {role: one_or_list(by_role[role], text) if role in by_role else NOTHING for role in roles}
            events.append({"trigger": event["event_trigger"] or NOTHING, "arguments": arguments})
        return events

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [
            {
                "event_trigger": "" if event["trigger"] == NOTHING else event["trigger"],
                "event_type": label,
                "arguments": [
                    {"argument": text, "role": role}
                    for role, value in event["arguments"].items()
                    for text in parse_one_or_list(value)
                ],
            }
            for label, events in answer.items()
            for event in events
        ]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        facts: list[Fact] = []
        for event in annotations:
            event_type, trigger = event["event_type"], event["event_trigger"]
            if trigger:
                facts.append(Trigger(event_type, trigger))
            for argument in event["arguments"]:
                facts.append(Argument(event_type, argument["role"], argument["argument"], trigger))
        return facts

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        facts: list[Fact] = []
        for event_type, events in answer.items():
            for event in events if isinstance(events, list) else [events]:
                if not isinstance(event, dict):
                    facts += [Trigger(event_type, text) for text in malformed(event)]
                    continue
                if "trigger" in event or "arguments" in event:
                    trigger, arguments = event.get("trigger"), event.get("arguments")
                else:  # the flat form, roles without a trigger
                    trigger, arguments = None, event
                triggers = parse_list([trigger])
                facts += [Trigger(event_type, text) for text in triggers]
                trigger = triggers[0] if triggers else ""
                if isinstance(arguments, dict):
                    for role, value in arguments.items():
                        facts += [Argument(event_type, role, text, trigger) for text in parse_one_or_list(value)]
                else:
                    facts += [Argument(event_type, "", text, trigger) for text in malformed(arguments)]
        return facts


class EEA(EE):
    """Event arguments: event types and triggers are given, the answer is as in EE and only its arguments are facts."""

    name = "EEA"

    def given_triggers(self, annotations: Iterable[Annotation]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(event["event_trigger"] or NOTHING for event in annotations))

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        return {"event_type": label, "trigger": list(triggers), "arguments": list(roles)}

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [fact for fact in super().facts(annotations, schema) if isinstance(fact, Argument)]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        return [fact for fact in super().parse(answer, schema) if isinstance(fact, Argument)]


class KG(Task):
    """Entities with their attributes: `{"person": {"A": {"spouse": "B", "award": ["v", "w"]}}, "city": {}}`."""

    name = "KG"
    field = "relation"
    mentions = ("head", "tail")
    names = ("relation",)
    split_num = 1
    nothing: Any = {}
    keyed = False

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return tuple(schema.type_roles)

    def label(self, annotation: Annotation, schema: Schema) -> str:
        return schema.owners.get(annotation["relation"], "")

    def roles(self, label: str, schema: Schema) -> tuple[str, ...]:
        return schema.type_roles[label]

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        return {"entity_type": label, "attributes": list(roles)}

    def described_item(self, label: str, roles: Sequence[str], triggers: Sequence[str], texts: Texts) -> Any:
        of_type = {"description": texts[label]} if texts.get(label) else {}  # the published format has none
        return {"entity_type": label, **of_type, "attributes": with_texts(roles, texts)}

    def read_items(self, items: Iterable[Any]) -> Schema:
        return Schema(type_roles={item["entity_type"]: tuple(item["attributes"]) for item in items})

    def check(self, annotation: object, schema: Schema) -> None:
        triple = check_strings(annotation, ("head", "relation", "tail"), self.field)
        for key in self.mentions:
            check_mention(triple[key], key)
        check_known(triple["relation"], schema.owners, "attribute")

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        values: dict[str, dict[str, list[str]]] = {}
        for triple in sorted(annotations, key=lambda triple: position(triple["head"], text)):
            values.setdefault(triple["head"], defaultdict(list))[triple["relation"]].append(triple["tail"])
        return {
            entity: {role: one_or_list(found[role], text) for role in roles if role in found}
            for entity, found in values.items()
        }

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [
            {"head": entity, "relation": attribute, "tail": text}
            for entities in answer.values()
            for entity, attributes in entities.items()
            for attribute, value in attributes.items()
            for text in parse_one_or_list(value)
        ]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [
            Attribute(self.label(triple, schema), triple["head"], triple["relation"], triple["tail"])
            for triple in annotations
        ]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        facts: list[Fact] = []
        for entity_type, entities in answer.items():
            if not isinstance(entities, dict):
                facts += [Attribute(entity_type, "", "", text) for text in malformed(entities)]
                continue
            for entity, attributes in entities.items():
                if not isinstance(attributes, dict):
                    facts += [Attribute(entity_type, entity, "", text) for text in malformed(attributes)]
                    continue
                for attribute, value in attributes.items():
                    facts += [Attribute(entity_type, entity, attribute, text) for text in parse_one_or_list(value)]
        return facts


TASKS: dict[str, Task] = {task.name: task for task in (NER(), RE(), SPO(), EE(), EET(), EEA(), KG())}


def with_texts(roles: Sequence[str], texts: Texts) -> dict[str, str]:
    """Roles with their descriptions."""
    return {role: texts.get(role, "") for role in roles}


def plain_items(schema: list[Any] | dict[str, Any]) -> list[Any]:
    """The items of an instruction's schema without their descriptions."""
    if isinstance(schema, dict):
        schema = [
            {"event_type": label, "trigger": item.get("trigger"), "arguments": item.get("arguments")}
            if isinstance(item, dict)
            else label
            for label, item in schema.items()
        ]
    return [plain_item(item) if isinstance(item, dict) else item for item in schema]


def plain_item(item: dict[str, Any]) -> dict[str, Any]:
    """A schema item that is an object, without its descriptions."""
    return {
        key: list(value) if isinstance(value, dict) else value for key, value in item.items() if key != "description"
    }


@cache
def split_label(label: str) -> tuple[str, str, str]:
    """
    An SPO label's subject type, predicate (which may contain `_`) and object type.

    Raises:
        `InputError`: if the label has not two `_`.
    """
    subject_type, _, rest = label.partition("_")
    predicate, _, object_type = rest.rpartition("_")
    if not (subject_type and predicate and object_type):
        raise InputError(f"label {label!r} is not of the form subjecttype_predicate_objecttype")
    return subject_type, predicate, object_type


def check_types(triple: Any) -> None:
    """Raise an `InputError` if a type of an SPO triple contains `_`, at which its label is split."""
    for key in ("head_type", "tail_type"):
        if "_" in triple[key]:
            raise InputError(f"{key} {triple[key]!r} contains '_', at which SPO labels are split; rename it")


def check_strings(value: object, keys: Iterable[str], field: str) -> Annotation:
    """`value` as a dictionary that has a string at each of `keys`, or an `InputError`."""
    if not isinstance(value, dict):
        raise InputError(f"an element of {field!r} is not a JSON object")
    for key in keys:
        if isinstance(value.get(key), str):
            continue
        if key not in value:
            raise InputError(f"field {key!r} is missing in an element of {field!r}")
        raise InputError(f"{key!r} in {field!r} is not a string: {str(value[key])[:80]}")
    return value


def check_mention(mention: str, key: str) -> None:
    """Raise an `InputError` for a mention that no answer could carry."""
    if not mention.strip() or mention == NOTHING:
        raise InputError(f"{key!r} is {mention!r}, which cannot be an annotation")


def check_known(name: str, known: Iterable[str], kind: str) -> None:
    """Raise an `InputError` that names the closest known name if `name` is none of them."""
    if name not in known:
        close = difflib.get_close_matches(name, list(known), n=1, cutoff=0)
        hint = f"; the closest that it has is {close[0]!r}" if close else ""
        raise InputError(f"{kind} {name!r} is not in schema.json{hint}")


def spelling(mention: str, text: str) -> str | None:
    """A mention as it stands in the text, but for case and white space; `None` where it does not."""
    if mention in text:
        return mention
    words = r"\s*".join(map(re.escape, mention.split()))
    found = re.search(words, text, re.IGNORECASE)
    return found.group() if found else None


def position(mention: str, text: str) -> int:
    """Where a mention stands first in the text; strings that are not in it come last."""
    start = text.find(mention) if mention else -1
    return start if start >= 0 else len(text)


def distinct_in_text(mentions: Iterable[str], text: str) -> list[str]:
    """Distinct mentions in order of first occurrence in the text."""
    distinct = list(dict.fromkeys(mentions))
    return distinct if len(distinct) == 1 else sorted(distinct, key=lambda mention: position(mention, text))


def one_or_list(mentions: list[str], text: str) -> str | list[str]:
    """A single mention as a string, several as a list."""
    if len(mentions) == 1:
        return mentions[0]
    values = distinct_in_text(mentions, text)
    return values[0] if len(values) == 1 else values


def malformed(value: Any) -> list[str]:
    """A text that equals no gold, or none for a value that says "nothing"."""
    return [] if value in (None, "", NOTHING, [], {}) else [MALFORMED + json.dumps(value, ensure_ascii=False)]


def parse_list(value: Any) -> list[str]:
    """The strings of a JSON list; `null`, `""` and `"NAN"` stand for nothing."""
    if not isinstance(value, list):
        return malformed(value)
    texts = []
    for text in value:
        texts += [text] if isinstance(text, str) and text not in ("", NOTHING) else malformed(text)
    return texts


def parse_one_or_list(value: Any) -> list[str]:
    """The strings of a value that is one string or a list of them."""
    return parse_list([value] if isinstance(value, str) else value)


def parse_pairs(value: Any) -> list[tuple[str, str]]:
    """The (subject, object) pairs of a relation's value."""
    pairs = []
    for pair in value if isinstance(value, list) else [value]:
        if isinstance(pair, dict) and isinstance(pair.get("subject"), str) and isinstance(pair.get("object"), str):
            pairs.append((pair["subject"], pair["object"]))
        else:
            pairs += [(text, "") for text in malformed(pair)]
    return pairs
