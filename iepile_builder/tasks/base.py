"""What the tasks have in common."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks.facts import MALFORMED, NOTHING, Annotation, Event, Fact, Texts


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
        has_events (`bool`): whether the facts of an answer belong to events.
        keyed (`bool`): whether a schema with descriptions is an object from label to item, or else a list of items.
        blocks (`tuple[str, ...]`): the kinds of facts with scores of their own; `("",)` where all are scored together.
        triggers_given (`bool`): whether an instruction gives the record's event types and triggers away.
    """

    name: str
    field: str
    mentions: tuple[str, ...]
    names: tuple[str, ...]
    split_num = 4
    nothing: Any = []
    keyed = True
    has_events = False
    blocks: tuple[str, ...] = ("",)
    triggers_given = False

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

    def parse_groups(self, answer: dict[str, Any], schema: Schema) -> list[list[Fact]]:
        """The facts of an answer, those that belong together (of one event) in one list."""
        return [[fact] for fact in self.parse(answer, schema)]

    def own_facts(self, facts: Iterable[Fact]) -> list[Fact]:
        """The facts that the task asks for, without those that its instructions give away."""
        return list(facts)

    def to_event(self, group: Sequence[Fact]) -> Event:
        """The event of which these are the facts; of tasks that have events."""
        raise NotImplementedError

    def is_asked(self, fact: Fact, schema: Schema) -> bool:
        """Whether the names in a fact are those of a schema."""
        return fact.asked_label in self.labels(schema)

    def block_of(self, fact: Fact) -> str:
        """The block of scores that a fact belongs to."""
        return fact.block if fact.block in self.blocks else ""

    def label_text(self, label: Sequence[str]) -> str:
        """A fact's label as reports show it: roles and attributes after their type."""
        return ": ".join(label)


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
