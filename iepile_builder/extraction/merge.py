"""Merge the facts of passages and schema batches into those of a text."""

from __future__ import annotations

from collections import Counter
from typing import Any

from iepile_builder.answers.grounding import as_mention, mention_fields
from iepile_builder.extraction.passages import SURROGATE
from iepile_builder.extraction.result import Event
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import (
    MALFORMED,
    MENTIONS,
    NOTHING,
    Argument,
    Attribute,
    Fact,
    Relation,
    Trigger,
    TypedRelation,
)


def read_groups(value: dict[str, Any], task: str, schema: Schema) -> tuple[list[list[Fact]], int]:
    """The facts of an answer, those that belong together in one list, and how many had to be left out."""
    left_out = 0
    groups: list[list[Fact]] = []
    if TASKS[task].has_events:
        for label, events in value.items():
            for event in events if isinstance(events, list) else [events]:
                groups.append(TASKS["EE"].parse({label: [event]}, schema))
    else:
        groups = [[fact] for fact in TASKS[task].parse(value, schema)]
    kept = []
    for group in groups:
        good = [fact for fact in group if is_usable(fact, schema)]
        left_out += len(group) - len(good)
        if good and isinstance(good[0], Argument):  # its event has no trigger, or none that can be used
            good = [fact._replace(trigger="") for fact in good if isinstance(fact, Argument)]
        kept += [good] if good else []
    return kept, left_out


def is_usable(fact: Fact, schema: Schema) -> bool:
    """Whether a fact is one that was asked for, and has the form of its task."""
    for mention in (fact[index] for index in MENTIONS[type(fact)]):
        if not mention.strip() or mention == NOTHING or mention.startswith(MALFORMED) or SURROGATE.search(mention):
            return False
    if isinstance(fact, Relation):
        return fact.relation in schema.roles
    if isinstance(fact, TypedRelation):
        return "_".join(fact[:3]) in schema.types
    if isinstance(fact, Argument):
        return fact.role in schema.type_roles.get(fact.event_type, ())
    if isinstance(fact, Attribute):
        return fact.attribute in schema.type_roles.get(fact.entity_type, ())
    return fact[0] in schema.types


def add_units(units: dict[Any, list[Fact]], groups: list[list[Fact]], offset: int, events: bool) -> None:
    """Add a passage's facts to those of the text, once where the passages before it have them already."""
    seen: Counter[Any] = Counter()
    for group in groups:
        moved = [move(fact, offset) for fact in group]
        if not events:
            units.setdefault(place_key(moved[0]), moved)
            continue
        name = place_key(moved[0])  # of the trigger; an event without one is told by its arguments
        key = (name, seen[name]) if isinstance(moved[0], Trigger) else tuple(map(place_key, moved))
        seen[name] += 1  # two events of one passage may have the same trigger
        unit = units.setdefault(key, [])
        known = set(map(place_key, unit))
        unit += [fact for fact in moved if place_key(fact) not in known]


def move(fact: Fact, offset: int) -> Fact:
    """A passage's fact in the whole text."""
    fields = list(fact)
    for index in mention_fields(fact):
        fields[index] = as_mention(fields[index]).moved(offset)
    return type(fact)(*fields)


def place_key(fact: Fact) -> tuple[Any, ...]:
    """What makes two facts of a text the same: their labels, and where their strings stand."""
    fields: list[Any] = list(fact)
    for index in mention_fields(fact):
        mention = as_mention(fields[index])
        fields[index] = str(mention).casefold() if mention.start is None else (mention.start, mention.end)
    return type(fact), *fields


def first_place(unit: list[Fact], end: int) -> int:
    """Where facts that belong together start in the text, by the string that names them."""
    start = as_mention(unit[0][MENTIONS[type(unit[0])][0]]).start
    return end if start is None else start


def event_of(unit: list[Fact]) -> Event:
    """The event of which these are the facts."""
    first = unit[0]
    assert isinstance(first, (Trigger, Argument))
    arguments = tuple(fact for fact in unit if isinstance(fact, Argument))
    return Event(first.event_type, as_mention(first.trigger), arguments)
