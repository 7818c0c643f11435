"""
Text that is nearly JSON to a JSON object.

One pass over the tokens and no recursion, so that no text takes long or fails: `json-repair`, the library for this,
takes 13 seconds for 20 kB of `{'`. And what is repaired is fixed here because scores depend on it.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from iepile_builder.io import to_json
from iepile_builder.tasks.facts import NOTHING


MAX_DEPTH = 32  # answers nest five deep
MAX_TOKENS = 200_000
NOTHINGS = {"", "nan", "none", "null", "n/a"}
SAID_NOTHING = re.compile(r"\b(?:nan|none|null|n/a)\b", re.IGNORECASE | re.ASCII)

# A quote ends a string if what follows could follow a string: then quotes within need no backslash.
STRING = r"""{0}(?:[^{0}\\]+|\\.?|{0}(?!\s*(?:[,:\]}}]|\Z)|\s+["']))*{0}?"""
TOKEN = re.compile(
    rf"""(?P<open>[{{\[])|(?P<close>[}}\]])|(?P<comma>,)|(?P<string>{STRING.format('"')}|{STRING.format("'")})"""
    r"""|(?P<word>[^\s{}\[\],:"'][^{}\[\],:\n]*)|[\s:]+""",
    re.DOTALL,
)
ESCAPE = re.compile(r"(?P<cut>\\(?:u[0-9a-fA-F]{0,3})?\Z)|\\.|\"", re.DOTALL)
ESCAPED = {'"': r"\"", r"\'": "'"}  # as JSON has them


def repair_json(text: str, source: str = "") -> dict[str, Any] | None:
    """
    The JSON object in a text, or `None` if there is none. Never raises.

    Read besides JSON: text and code fences around the object, a cut tail (all that is open is closed), single quotes,
    no quotes, quotes within quotes, commas too many or missing, brackets that do not match. A key that occurs twice in
    an object has the values of both; of several objects, the first that has a key gives its value. What says "nothing"
    (`None`, `null`, `NAN`, `N/A`, nothing at all) becomes the format's own word for it, or is left out of a list;
    not where the `source`, the text that was asked about, has the word as it is written: "Nan" may be a person.
    """
    if text.strip().lower() in (*NOTHINGS, "[]"):
        return {}
    try:
        value = json.loads(text, object_pairs_hook=merge_pairs)
    except (ValueError, RecursionError):
        value = None
    try:
        return without_nothings(
            value if isinstance(value, dict) else read_objects(text), set(SAID_NOTHING.findall(source))
        )
    except RecursionError:  # JSON nested nearly as deep as it can be read
        return None


def read_objects(text: str) -> dict[str, Any] | None:
    """The objects in a text as one, read token by token."""
    objects: list[dict[str, Any]] = []
    containers: list[dict[str, Any] | list[Any]] = []  # all that are open, the innermost last
    keys: list[str | None] = []  # of each, the key that waits for its value

    def put(value: Any) -> None:
        container, key = containers[-1], keys[-1]
        if isinstance(container, list):
            container.append(value)
        elif key is not None:
            container[key] = merge(container[key], value) if key in container else value
            keys[-1] = None
        elif isinstance(value, str):
            keys[-1] = value

    def close() -> None:
        container = containers.pop()
        keys.pop()
        if containers:
            put(container)
        elif isinstance(container, dict):  # the outermost one always is
            objects.append(container)

    position = text.find("{")
    for _ in range(MAX_TOKENS):
        if not containers:
            position = text.find("{", position)
        if position in (-1, len(text)):
            break
        token = TOKEN.match(text, position)
        assert token is not None  # some alternative takes every character
        position = token.end()
        kind, part = token.lastgroup, token[0]
        if kind == "open":
            if len(containers) == MAX_DEPTH:
                return None
            containers.append({} if part == "{" else [])
            keys.append(None)
        elif kind == "close":
            closed = dict if part == "}" else list
            if any(isinstance(container, closed) for container in containers):
                while not isinstance(containers[-1], closed):
                    close()
                close()
        elif kind == "comma":
            keys[-1] = None
        elif kind == "string":
            put(read_string(part))
        elif kind == "word":
            put(read_word(part.strip()))
    else:
        return None
    while containers:
        close()
    if not objects:
        return None
    result: dict[str, Any] = {}
    for found in objects:
        for key, value in found.items():
            result.setdefault(key, value)
    return result


def read_string(token: str) -> str:
    """A quoted string, its end quote missing where the text was cut."""
    quote = token[0]
    inner = token[1:-1] if len(token) > 1 and token.endswith(quote) else token[1:]
    if "\\" not in inner:
        return inner
    escaped = ESCAPE.sub(lambda found: "" if found["cut"] else ESCAPED.get(found[0], found[0]), inner)
    try:
        return json.loads(f'"{escaped}"', strict=False)
    except ValueError:
        return inner


def read_word(word: str) -> Any:
    """A number, a constant, or a string that has no quotes."""
    try:
        return json.loads(word, parse_constant=str)
    except ValueError:
        return word


def merge_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which a repeated key has all its values."""
    result = dict(pairs)
    if len(result) < len(pairs):
        result = {}
        for key, value in pairs:
            result[key] = merge(result[key], value) if key in result else value
    return result


def merge(first: Any, second: Any) -> Any:
    """Two values of one key as one; changes them."""
    if isinstance(first, dict) and isinstance(second, dict):
        if len(first) < len(second):  # the small into the large: else deep repetition would take long
            first, second = second, first
        for key, value in second.items():
            first[key] = merge(first[key], value) if key in first else value
        return first
    values = first if isinstance(first, list) else [first]
    values.extend(second if isinstance(second, list) else [second])
    return values


def without_nothings(value: Any, mentions: Collection[str]) -> Any:
    """A value with the format's own word where it says "nothing", and lists without such elements; not `mentions`."""
    if isinstance(value, dict):
        return {key: without_nothings(inner, mentions) for key, inner in value.items()}
    if isinstance(value, list):
        found = [without_nothings(inner, mentions) for inner in value]
        return [inner for inner in found if not says_nothing(inner)]
    if isinstance(value, str) and value.strip().lower() in NOTHINGS and value.strip() not in mentions:
        return NOTHING
    return value


def without_repeats(text: str) -> str:
    """
    Take out of an answer the items that its lists, and the keys that its objects, have already.

    A list inside an item of which one value is left becomes that value. An answer that repeats nothing, or is no JSON
    object, is returned as it is.
    """
    repeated = False

    def first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found: dict[str, Any] = {}
        for key, value in pairs:
            found.setdefault(key, value)
        repeated |= len(found) < len(pairs)
        return found

    def distinct(value: Any, depth: int = 0) -> Any:
        nonlocal repeated
        if isinstance(value, dict):
            return {key: distinct(inner, depth + 1) for key, inner in value.items()}
        if not isinstance(value, list):
            return value
        values = {json.dumps(inner): inner for inner in [distinct(inner, depth + 1) for inner in value]}
        if len(values) < len(value):
            repeated = True
            if depth > 1 and len(values) == 1:
                return next(iter(values.values()))
        return list(values.values())

    try:
        value = json.loads(text, object_pairs_hook=first_of_each)
        value = distinct(value)
    except (ValueError, RecursionError):
        return text
    return to_json(value) if repeated and isinstance(value, dict) else text


def says_nothing(value: Any) -> bool:
    """Whether a list can do without this element: "nothing", or an object of nothing else."""
    if isinstance(value, dict):
        return all(inner in (None, NOTHING) for inner in value.values())
    return value in (None, NOTHING)
