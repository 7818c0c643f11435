"""Events: with triggers and arguments (EE), triggers alone (EET), arguments alone (EEA)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks.base import Example, Task, with_texts
from iepile_builder.tasks.facts import NOTHING, Annotation, Argument, Event, Fact, Texts, Trigger
from iepile_builder.tasks.values import (
    ARGUMENT,
    MENTION,
    check_known,
    check_mention,
    check_place,
    check_strings,
    find_spelling,
    fix_place,
    list_schema,
    malformed,
    object_schema,
    one_or_list,
    one_or_list_schema,
    parse_list,
    parse_one_or_list,
    position,
)


class EET(Task):
    """Event triggers: `{"attack": ["fired", "shot"]}`; an event without a trigger is left out."""

    name = "EET"
    title = "event triggers"
    schema_key = "triggers"
    field = "event"
    mentions = ("event_trigger",)
    names = ("event_type",)
    label_name = "event type"
    form: Any = ["resign", "strike"]
    examples: Mapping[str, Example] = {
        "en": Example(["resign", "hire"], "Ada Wong resigned in May.", {"resign": ["resigned"], "hire": []}),
        "zh": Example(["辞职", "入职"], "王芳五月辞职。", {"辞职": ["辞职"], "入职": []}),
    }

    def check(self, annotation: object, schema: Schema) -> None:
        event = check_strings(annotation, ("event_type", "event_trigger"), self.field)
        if event["event_trigger"]:  # an event may have no trigger
            check_mention(event["event_trigger"], "event_trigger")
        check_known(event["event_type"], self.known(schema), "event_type")

    def distinct(self, annotations: Iterable[Annotation]) -> list[Annotation]:
        return super().distinct(event for event in annotations if event["event_trigger"])

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
    title = "events"
    schema_key = "events"
    roles_name = "roles"
    form = {"resign": ["employee", "employer"]}
    examples: Mapping[str, Example] = {
        "en": Example(
            [{"event_type": "resign", "trigger": True, "arguments": ["person", "time"]}],
            "Ada Wong resigned in May.",
            {"resign": [{"trigger": "resigned", "arguments": {"person": "Ada Wong", "time": "May"}}]},
        ),
        "zh": Example(
            [{"event_type": "辞职", "trigger": True, "arguments": ["人物", "时间"]}],
            "王芳五月辞职。",
            {"辞职": [{"trigger": "辞职", "arguments": {"人物": "王芳", "时间": "五月"}}]},
        ),
    }
    has_events = True
    blocks: tuple[str, ...] = ("trigger", "argument")
    also_serves: tuple[str, ...] = ("EET", "EEA")
    copied = True

    def to_schema(self, labels: Mapping[str, Sequence[str]]) -> Schema:
        roles = dict.fromkeys(role for of_label in labels.values() for role in of_label)
        return Schema(tuple(labels), tuple(roles), {label: tuple(of_label) for label, of_label in labels.items()})

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        return {"event_type": label, "trigger": True, "arguments": list(roles)}

    def described_item(self, label: str, roles: Sequence[str], triggers: Sequence[str], texts: Texts) -> Any:
        item = self.item(label, roles, triggers)
        return {label: texts.get(label, ""), "trigger": item["trigger"], "arguments": with_texts(roles, texts)}

    def read_items(self, items: Iterable[Any]) -> Schema:
        type_roles = {item["event_type"]: tuple(item["arguments"]) for item in items}
        return Schema(types=tuple(type_roles), type_roles=type_roles)

    def value_schema(self, item: Any) -> dict[str, Any]:
        nothing = {"const": NOTHING}
        roles = object_schema({role: one_or_list_schema([nothing, MENTION]) for role in item["arguments"]})
        trigger = {"enum": item["trigger"]} if self.triggers_given else {"anyOf": [nothing, MENTION]}
        arguments = {"anyOf": [object_schema({}), roles]} if item["arguments"] else object_schema({})
        return list_schema(object_schema({"trigger": trigger, "arguments": arguments}))

    def annotated_roles(self, annotation: Any) -> list[str]:
        arguments = annotation.get("arguments")
        if not isinstance(arguments, list):
            raise InputError("'arguments' of an event is missing or not a list")
        return [check_strings(argument, ("role",), "arguments")["role"] for argument in arguments]

    def arguments(self, annotation: Annotation) -> list[tuple[str, str]]:
        return [(argument["role"], argument["argument"]) for argument in annotation["arguments"]]

    def with_arguments(self, annotation: Annotation, arguments: Iterable[tuple[str, str]]) -> Annotation:
        return {**annotation, "arguments": [{"argument": text, "role": role} for role, text in arguments]}

    def identity(self, annotation: Annotation) -> tuple[Any, ...]:
        return annotation["event_type"], annotation["event_trigger"], frozenset(self.arguments(annotation))

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

    def check_places(self, annotation: Annotation, text: str) -> None:
        super().check_places(annotation, text)
        for argument in annotation["arguments"]:
            check_place(argument, ARGUMENT, text)

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
            mention = find_spelling(argument["argument"], text)
            if mention is not None:
                event["arguments"].append(fix_place({**argument, "argument": mention}, ARGUMENT, text))
        return event

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        events = []
        for event in sorted(annotations, key=lambda event: position(event, self.places[0], text)):
            arguments: dict[str, Any] = {}
            if event["arguments"]:
                by_role = defaultdict(list)
                for argument in event["arguments"]:
                    by_role[argument["role"]].append(argument)
                arguments = {
                    role: one_or_list(by_role[role], ARGUMENT, text) if role in by_role else NOTHING for role in roles
                }
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
        return [fact for event in self.parse_groups(answer, schema) for fact in event]

    def parse_groups(self, answer: dict[str, Any], schema: Schema) -> list[list[Fact]]:
        return [
            parse_event(event_type, event)
            for event_type, events in answer.items()
            for event in (events if isinstance(events, list) else [events])
        ]

    def to_event(self, group: Sequence[Fact]) -> Event:
        arguments = tuple(fact for fact in group if isinstance(fact, Argument))
        first = group[0]
        assert isinstance(first, (Trigger, Argument))
        return Event(first.event_type, first.trigger, arguments)

    def is_asked(self, fact: Fact, schema: Schema) -> bool:
        if isinstance(fact, Argument):
            return fact.role in schema.type_roles.get(fact.event_type, ())
        return super().is_asked(fact, schema)


class EEA(EE):
    """Event arguments: event types and triggers are given, the answer is as in EE and only its arguments are facts."""

    name = "EEA"
    title = "event arguments"
    schema_key = "arguments"
    examples = {
        language: Example(
            [{**item, "trigger": [event["trigger"]]} for item in schema for event in answer[item["event_type"]]],
            text,
            answer,
        )
        for language, (schema, text, answer) in EE.examples.items()
    }
    triggers_given = True
    blocks = ("argument",)
    also_serves = ()
    copied = False

    def given_triggers(self, annotations: Iterable[Annotation]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(event["event_trigger"] or NOTHING for event in annotations))

    def given_annotations(self, items: Iterable[Any]) -> list[Annotation]:
        return [Trigger(item["event_type"], trigger).to_annotation() for item in items for trigger in item["trigger"]]

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        return {"event_type": label, "trigger": list(triggers), "arguments": list(roles)}

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return self.own_facts(super().facts(annotations, schema))

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        return self.own_facts(super().parse(answer, schema))

    def own_facts(self, facts: Iterable[Fact]) -> list[Fact]:
        return [fact for fact in facts if isinstance(fact, Argument)]


def parse_event(event_type: str, event: Any) -> list[Fact]:
    """The facts of one event of an answer, the trigger first."""
    if not isinstance(event, dict):
        return [Trigger(event_type, text) for text in malformed(event)]
    if "trigger" in event or "arguments" in event:
        trigger, arguments = event.get("trigger"), event.get("arguments")
    else:  # the flat form, roles without a trigger
        trigger, arguments = None, event
    triggers = parse_list([trigger])
    facts: list[Fact] = [Trigger(event_type, text) for text in triggers]
    trigger = triggers[0] if triggers else ""
    if isinstance(arguments, dict):
        for role, value in arguments.items():
            facts += [Argument(event_type, role, text, trigger) for text in parse_one_or_list(value)]
    else:
        facts += [Argument(event_type, "", text, trigger) for text in malformed(arguments)]
    return facts
