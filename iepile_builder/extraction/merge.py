"""Merge the facts of passages and schema batches into those of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from iepile_builder.answers.grounding import as_mention
from iepile_builder.answers.parse import load_answer, strip_fence
from iepile_builder.answers.repair import repair_json
from iepile_builder.answers.scores import Decision, Decisions, decide_facts
from iepile_builder.data.instructions import read_asked
from iepile_builder.engines.base import Completion
from iepile_builder.io import SURROGATE
from iepile_builder.schema import Schema
from iepile_builder.tasks.base import Task
from iepile_builder.tasks.facts import MALFORMED, NOTHING, Fact


def read_answer(
    completion: Completion, instruction: str, task: Task, repair: bool
) -> tuple[list[list[Fact]], list[Decision | None], Counter[str]]:
    """
    Read the usable facts of a completion: those that belong together in one list, the decision of each list, and the
    counts `cut`, `repaired`, `unparsed` and `left_out`. With `repair`, near-JSON is read as well.
    """
    asked, source = read_asked(instruction, task.name)
    text = completion.text
    value, repaired = load_answer(text), False
    if value is None and (repair or completion.cut):
        if completion.cut:
            text = text[: text.rfind('"') + 1].removesuffix('"')  # not the string that was being written
        value = repair_json(strip_fence(text), source)
        repaired = value is not None and not completion.cut
    try:
        groups, decisions, left_out = read_groups(value or {}, task, asked.schema, completion.decisions)
    except RecursionError:  # nested nearly as deep as JSON can be read
        value, groups, decisions, left_out = None, [], [], 0
    counts = Counter(cut=completion.cut, repaired=repaired, unparsed=value is None, left_out=left_out)
    return groups, decisions, counts


def read_groups(
    value: dict[str, Any], task: Task, schema: Schema, decisions: Decisions | None
) -> tuple[list[list[Fact]], list[Decision | None], int]:
    """
    Read the usable facts of an answer: those that belong together in one list, the decision behind each list where it
    is known, and how many facts are not usable.
    """
    decided = decide_facts(value, decisions, task.name, schema)
    skipped = 0
    kept: list[list[Fact]] = []
    kept_decisions: list[Decision | None] = []
    for group in task.parse_groups(value, schema):
        usable = [fact for fact in group if has_usable_form(fact) and task.is_asked(fact, schema)]
        skipped += len(group) - len(usable)
        if usable and usable[0] is not group[0]:  # the event's trigger is not usable
            usable = [fact.unlinked() for fact in usable]
        if usable:
            kept.append(usable)
            kept_decisions.append(decided.get(group[0]))
    return kept, kept_decisions, skipped


def has_usable_form(fact: Fact) -> bool:
    """Tell whether the mentions of a fact are strings that a text can have, in the form of the task."""
    return not any(
        not mention.strip() or mention == NOTHING or mention.startswith(MALFORMED) or SURROGATE.search(mention)
        for mention in fact.mentions
    )


def add_units(
    units: dict[Any, list[Fact]],
    best: dict[Any, Decision],
    groups: list[list[Fact]],
    decisions: Sequence[Decision | None],
    offset: int,
    events: bool,
) -> None:
    """
    Add a passage's facts to those of the text, once where it has them already; of two decisions the one with the
    higher score is kept.
    """
    seen: Counter[Any] = Counter()
    for group, decision in zip(groups, decisions, strict=True):
        moved = [move(fact, offset) for fact in group]
        names = list(map(place_key, moved))
        if decision is not None:
            best.update((name, max(best.get(name, decision), decision, key=attrgetter("logit"))) for name in names)
        name = names[0]
        if not events:
            units.setdefault(name, moved)
            continue
        # an event without a trigger is identified by its arguments
        key = (name, seen[name]) if moved[0].leads else tuple(map(place_key, moved))
        seen[name] += 1  # two events of one passage may have the same trigger
        unit = units.setdefault(key, [])
        known = set(map(place_key, unit))
        unit += [fact for fact in moved if place_key(fact) not in known]


def drop_repeats(units: list[list[Fact]]) -> list[list[Fact]]:
    """Drop facts of one passage that another passage has, too, with more of the strings in its text."""
    best: dict[Any, int] = {}
    found = []
    for unit in units:
        mentions = [as_mention(string) for string in unit[0].strings]
        answer = (*unit[0].label, *(mention.answer.casefold() for mention in mentions))
        grounded = sum(mention.grounded for mention in mentions)
        best[answer] = max(grounded, best.get(answer, 0))
        found.append((unit, answer, grounded))
    return [unit for unit, answer, grounded in found if grounded == best[answer]]


def move(fact: Fact, offset: int) -> Fact:
    """Give the same fact in a longer text that has `offset` characters before this text."""
    return fact.map_strings(lambda string: as_mention(string).moved(offset))


def place_key(fact: Fact) -> tuple[Any, ...]:
    """Make a key that is equal for facts with the same names and the same spans."""
    return fact.block, *fact.map_strings(place_of)


def place_of(string: str) -> Any:
    """Give the place of a grounded string, or the string without case where it has none."""
    mention = as_mention(string)
    return str(mention).casefold() if mention.start is None else (mention.start, mention.end)


def first_place(unit: list[Fact], end: int) -> int:
    """Give the start of the string that names facts that belong together; `end` where it is not in the text."""
    start = as_mention(unit[0].mentions[0]).start if unit[0].mentions else None
    return end if start is None else start
