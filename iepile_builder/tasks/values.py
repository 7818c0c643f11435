"""Strings in annotation and in answers: check them, find them in the text, order them, read them, ask for them."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rapidfuzz import fuzz, process

from iepile_builder.errors import InputError
from iepile_builder.tasks.facts import MALFORMED, NOTHING, Annotation


MENTION = {"$ref": "#/$defs/mention"}  # in the JSON schema of an answer


class Place(NamedTuple):
    """The keys of a mention in an annotation, and of its optional offsets in the text, in characters."""

    mention: str
    start: str = "start"
    end: str = "end"


ARGUMENT = Place("argument")


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


def check_place(annotation: Annotation, place: Place, text: str) -> None:
    """Raise an `InputError` if an annotation has offsets at which its mention is not in the text."""
    mention, start, end = (annotation.get(key) for key in place)
    assert isinstance(mention, str)  # as checked before
    if start is None and end is None:
        return
    if type(start) is not int or type(end) is not int:
        raise InputError(f"{place.start!r} and {place.end!r} are {start!r} and {end!r}; give whole numbers")
    if start < 0 or end != start + len(mention) or not text.startswith(mention, start):
        found = f"where the text has {text[start:end]!r}" if 0 <= start < end <= len(text) else "outside of the text"
        raise InputError(
            f"{place.mention!r} is {mention!r}, but its offsets are {start} and {end}, {found}; offsets count "
            "characters, and the end is behind the last one"
        )


def fix_place(annotation: Annotation, place: Place, text: str) -> Annotation:
    """Give an annotation without offsets at which its mention is not."""
    try:
        check_place(annotation, place, text)
        return annotation
    except InputError:
        return {key: value for key, value in annotation.items() if key not in place[1:]}


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


def position(annotation: Annotation, place: Place, text: str) -> int:
    """
    Give the start of a mention in the text: as annotated, else where the string occurs first. A string that is not in
    the text comes last.
    """
    start: int | None = annotation.get(place.start)
    if start is not None:
        return start
    mention = annotation[place.mention]
    start = text.find(mention) if mention else -1
    return start if start >= 0 else len(text)


def distinct_in_text(annotations: list[Annotation], place: Place, text: str) -> list[str]:
    """List the distinct mentions of annotations in the order of the text."""
    if len(annotations) > 1:
        annotations = sorted(annotations, key=lambda annotation: position(annotation, place, text))
    return list(dict.fromkeys([annotation[place.mention] for annotation in annotations]))


def one_or_list(annotations: list[Annotation], place: Place, text: str) -> str | list[str]:
    """Give a single mention as a string, several as a list."""
    values = distinct_in_text(annotations, place, text)
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
