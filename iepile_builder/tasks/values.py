"""Strings in annotation and in answers: check them, find them in the text, order them, read them, ask for them."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rapidfuzz import fuzz, process

from iepile_builder.errors import InputError
from iepile_builder.tasks.facts import MALFORMED, NOTHING, Annotation


MENTION = {"$ref": "#/$defs/mention"}  # in the JSON schema of an answer


def check_strings(value: object, keys: Iterable[str], field: str) -> Annotation:
    """Give `value` as a dictionary that has a string at each of `keys`, or raise an `InputError`."""
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


class UnknownNameError(InputError):
    """A name that is not in the schema; the closest one is looked for only when somebody reads the message."""

    def __str__(self) -> str:
        name, known, kind = self.args
        close = process.extractOne(name, list(known), scorer=fuzz.ratio)
        hint = f"; the closest that it has is {close[0]!r}" if close else ""
        return f"{kind} {name!r} is not in schema.json{hint}"


def check_known(name: str, known: Collection[str], kind: str) -> None:
    """Raise an `InputError` that names the closest known name if `name` is none of them."""
    if name not in known:
        raise UnknownNameError(name, known, kind)


def find_spelling(mention: str, text: str) -> str | None:
    """Find a mention in the text, ignoring case and white space; `None` where it is not."""
    # Narrower than grounding, which also folds quotes, dashes and full width: what is put into training data by itself
    # differs from the annotation in nothing that a reader would see.
    if mention in text:
        return mention
    words = r"\s*".join(map(re.escape, mention.split()))
    found = re.search(words, text, re.IGNORECASE)
    return found.group() if found else None


def position(mention: str, text: str) -> int:
    """Give the start of a mention in the text; that of a string that is not in it comes last."""
    start = text.find(mention) if mention else -1
    return start if start >= 0 else len(text)


def distinct_in_text(mentions: Iterable[str], text: str) -> list[str]:
    """List distinct mentions in order of first occurrence in the text."""
    distinct = list(dict.fromkeys(mentions))
    return distinct if len(distinct) == 1 else sorted(distinct, key=lambda mention: position(mention, text))


def one_or_list(mentions: list[str], text: str) -> str | list[str]:
    """Give a single mention as a string, several as a list."""
    if len(mentions) == 1:
        return mentions[0]
    values = distinct_in_text(mentions, text)
    return values[0] if len(values) == 1 else values


def malformed(value: Any) -> list[str]:
    """Give a text that equals no gold, or none for a value that says "nothing"."""
    return [] if value in (None, "", NOTHING, [], {}) else [MALFORMED + json.dumps(value, ensure_ascii=False)]


def parse_list(value: Any) -> list[str]:
    """Read the strings of a JSON list; `null`, `""` and `"NAN"` mean nothing."""
    if not isinstance(value, list):
        return malformed(value)
    texts = []
    for text in value:
        texts += [text] if isinstance(text, str) and text not in ("", NOTHING) else malformed(text)
    return texts


def parse_one_or_list(value: Any) -> list[str]:
    """Read the strings of a value that is one string or a list of them."""
    return parse_list([value] if isinstance(value, str) else value)


def parse_pairs(value: Any) -> list[tuple[str, str]]:
    """Read the (subject, object) pairs of a relation's value."""
    pairs = []
    for pair in value if isinstance(value, list) else [value]:
        if isinstance(pair, dict) and isinstance(pair.get("subject"), str) and isinstance(pair.get("object"), str):
            pairs.append((pair["subject"], pair["object"]))
        else:
            pairs += [(text, "") for text in malformed(pair)]
    return pairs


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Make the JSON schema of an object that has all of these properties and no other."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def list_schema(items: Mapping[str, Any], at_least: int = 0) -> dict[str, Any]:
    """Make the JSON schema of a list."""
    return {"type": "array", "items": items, "minItems": at_least}


def one_or_list_schema(single: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the JSON schema of a single value, which has one of the given schemas, or a list of several mentions."""
    return {"anyOf": [*single, list_schema(MENTION, at_least=2)]}
