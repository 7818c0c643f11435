"""
Read the decisions of an answer off a model's log-probabilities: an item or nothing, the next item or the end.

A token often holds several characters of JSON (`["`, `[]`, `"],`). A decision is made by the first token that, after
the text so far, settles it: by the character that it contains, or because only one of the two continuations is encoded
with it (`"}` of `"}]`, where `"},` is one token). A token that settles nothing is carried on.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from iepile_builder.answers.parse import load_answer
from iepile_builder.engines.base import Decisions


if TYPE_CHECKING:
    from llguidance import LLTokenizer

# The last string may be unfinished
_LEXEME = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[][{},]|[^\s"\][{},]+', re.DOTALL)
_FENCE = re.compile(rb"\s*```[^\n]*\n")
_WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]")

# How an item starts
_IN_LIST = (b'"', b'{"')
_IN_OBJECT = (b'"',)
_NEXT = (b', "', b', {"')


class Choice(NamedTuple):
    """A decision, as it is before a token."""

    remainder: bytes  # the answer from here to the character that settles it
    opens: tuple[bytes, ...]  # how an item may start; its first character settles it
    close: bytes  # the character that closes the list or object


class Point(NamedTuple):
    """A decision in an answer."""

    label: str  # the key that it belongs to
    place: int  # offset of the character that settles it
    opens: tuple[bytes, ...]  # how an item may start
    close: bytes  # the character that closes the list or object
    closed: bool  # whether it is closed here


def item_starts(schema: Mapping[str, Any] | None) -> tuple[bytes, ...]:
    """Tell how the items of lists start in the answers that satisfy a schema of `Task.answer_schema`."""
    values = [] if schema is None else schema["properties"].values()
    objects = {"properties" in value["items"] for value in values if value.get("type") == "array"}
    return _IN_LIST if len(objects) != 1 else _IN_LIST[1:] if True in objects else _IN_LIST[:1]


def find_points(text: bytes, starts: tuple[bytes, ...] = _IN_LIST) -> list[Point]:
    """Find the decisions in an answer, a JSON object, in their order; `starts` are those of the items of its lists."""
    points = []
    depth, label, close = 0, "", b""
    opens: tuple[bytes, ...] = _NEXT
    fence = _FENCE.match(text)
    for found in _LEXEME.finditer(text, fence.end() if fence else 0):
        lexeme = found[0]
        if depth == 1 and lexeme.startswith(b'"'):
            label = json.loads(lexeme.decode(errors="replace"))
        elif depth == 1 and lexeme in (b"[", b"{"):
            close, opens = (b"]", starts) if lexeme == b"[" else (b"}", _IN_OBJECT)
        elif depth == 2 and (opens is not _NEXT or lexeme in (b",", close)):
            if opens is starts and lexeme != close:  # the item that is written tells the kind, if nothing else does
                opens = tuple(start for start in opens if start[:1] == lexeme[:1]) or opens
            points.append(Point(label, found.start(), opens, close, lexeme == close))
            opens = _NEXT
        depth += (lexeme in (b"[", b"{")) - (lexeme in (b"]", b"}"))
    return points


def first_decision(text: bytes, remainder: bytes, starts: tuple[bytes, ...]) -> Choice | None:
    """Give the first decision of a label if an answer so far, which ends with the remainder, comes to it."""
    if not text.endswith((b"[", b"{")):
        return None
    brackets = [found[0] for found in _LEXEME.finditer(text)]
    depth = sum((lexeme in (b"[", b"{")) - (lexeme in (b"]", b"}")) for lexeme in brackets)
    if depth != 2:
        return None
    return Choice(remainder, starts, b"]") if text.endswith(b"[") else Choice(remainder, _IN_OBJECT, b"}")


def find_repeat(text: bytes, start: int) -> int | None:
    """
    Find, in an answer so far, the first comma from `start` behind an item that its list has already, or a key that its
    object has.
    """
    seen: list[set[bytes]] = []  # of each open list and object
    begins: list[int] = []
    is_list: list[bool] = []
    for found in _LEXEME.finditer(text):
        lexeme, place = found[0], found.start()
        if lexeme in (b"[", b"{"):
            seen.append(set())
            begins.append(found.end())
            is_list.append(lexeme == b"[")
        elif lexeme in (b"]", b"}") and seen:
            seen.pop()
            begins.pop()
            is_list.pop()
        elif lexeme == b"," and seen:
            item = text[begins[-1] : place].strip()
            if not is_list[-1] and (key := _LEXEME.match(item)):
                item = key[0]
            if item in seen[-1] and place >= start:
                return place
            seen[-1].add(item)
            begins[-1] = found.end()
    return None


class Vocabulary:
    """Tell which tokens of a tokenizer settle a decision."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.tokenizer = tokenizer
        self.texts = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        self._sorted = sorted(zip(self.texts, range(len(self.texts)), strict=True))
        self.settling = lru_cache(maxsize=4096)(self._settling)

    def starting(self, text: bytes) -> list[int]:
        """List the tokens that start with a text."""
        first = bisect_left(self._sorted, (text, -1))
        return [token for _, token in takewhile(lambda pair: pair[0].startswith(text), self._sorted[first:])]

    def _settling(self, choice: Choice) -> tuple[list[int], list[int]]:
        """List the tokens that open an item, and those that close."""
        remainder, opens, close = choice
        starts = [opened[:1] for opened in opens]
        opening, closing = [], []
        for token in self.starting(remainder):
            following = self.texts[token][len(remainder) : len(remainder) + 1]
            if following in starts:
                opening.append(token)
            elif following == close:
                closing.append(token)
        # What only one of the continuations is encoded with settles the decision, though its text does not show it
        to_open = {self.tokenizer.tokenize_bytes(remainder + opened)[0] for opened in opens}
        to_close = {self.tokenizer.tokenize_bytes(remainder + close + after)[0] for after in (b"", b', "', b"}")}
        short = {token for token in to_open ^ to_close if remainder.startswith(self.texts[token])}
        return opening + sorted(short & to_open), closing + sorted(short & to_close)


class Steps(Protocol):
    """
    The tokens of an answer, with the model's log-probabilities.

    Attributes:
        texts (`Sequence[bytes]`): what each token says.
    """

    texts: Sequence[bytes]

    def log_prob(self, step: int) -> float:
        """Give the log-probability of a token."""
        ...

    def settle(self, step: int, choice: Choice, closed: bool) -> tuple[float, float, bool]:
        """Sum the probabilities of tokens that open and that close, as logarithms; tell if the answer's does it."""
        ...

    def least(self, step: int) -> float:
        """Give a log-probability that no unknown token exceeds."""
        ...


class AllSteps:
    """The tokens of an answer, with a row of log-probabilities of the whole vocabulary for each."""

    def __init__(self, tokens: Sequence[int], log_probs: np.ndarray[Any, Any], vocabulary: Vocabulary) -> None:
        self.tokens = tokens
        self.log_probs = log_probs
        self.vocabulary = vocabulary
        self.texts: Sequence[bytes] = [vocabulary.texts[token] for token in tokens]

    def log_prob(self, step: int) -> float:
        return float(self.log_probs[step, self.tokens[step]])

    def settle(self, step: int, choice: Choice, closed: bool) -> tuple[float, float, bool]:
        found = self.vocabulary.settling(choice)
        opening, closing = (float(np.logaddexp.reduce(self.log_probs[step, tokens])) for tokens in found)
        return opening, closing, self.tokens[step] in found[closed]

    def least(self, step: int) -> float:
        return -np.inf


class TopSteps:
    """
    The tokens of an answer, with the log-probabilities of the likeliest tokens at each, as servers and vLLM tell them.
    """

    def __init__(
        self, texts: Sequence[bytes], tops: Sequence[Mapping[bytes, float]], vocabulary: Vocabulary | None = None
    ) -> None:
        self.texts = texts
        self.tops = tops
        self.vocabulary = vocabulary

    def log_prob(self, step: int) -> float:
        return self.tops[step][self.texts[step]]

    def settle(self, step: int, choice: Choice, closed: bool) -> tuple[float, float, bool]:
        remainder, opens, close = choice
        starts = (tuple(remainder + opened[:1] for opened in opens), (remainder + close,))
        found = [{text for text in self.tops[step] if text.startswith(start)} for start in starts]
        if self.vocabulary is not None:
            for texts, tokens in zip(found, self.vocabulary.settling(choice), strict=True):
                texts |= self.tops[step].keys() & {self.vocabulary.texts[token] for token in tokens}
        opening, closing = (
            float(np.logaddexp.reduce([self.tops[step][text] for text in texts])) if texts else -np.inf
            for texts in found
        )
        return opening, closing, self.texts[step] in found[closed]

    def least(self, step: int) -> float:
        return min(self.tops[step].values())


def read_decisions(steps: Steps, schema: Mapping[str, Any] | None = None) -> Decisions | None:
    """
    Read the decisions of an answer to a schema of `Task.answer_schema`, see
    [`~iepile_builder.engines.base.Completion`]; `None` for one that is no JSON object.

    A continuation that none of the known tokens begins counts as likely as the least of them. Values that are neither
    lists nor objects, and objects with a key twice, are left out.
    """
    text = b"".join(steps.texts)
    value = load_answer(text.decode(errors="replace"))
    if value is None:
        return None
    starts = [0, *accumulate(map(len, steps.texts))]
    said = [0.0, *accumulate(map(steps.log_prob, range(len(steps.texts))))]  # the log-probability of all tokens before
    decisions: Decisions = {}
    settled = 0  # how many tokens are read
    opened: float | None = None  # the log-probability of all up to the opening of an item
    for point in find_points(text, item_starts(schema)):
        last = bisect_right(starts, point.place) - 1
        first = last
        while first > settled and not _WORD.search(text, starts[first - 1], point.place):
            first -= 1
        masses = [-np.inf, -np.inf]
        for step in range(first, last + 1):
            choice = Choice(text[starts[step] : point.place], point.opens, point.close)
            opening, closing, done = steps.settle(step, choice, point.closed)
            masses = [
                float(np.logaddexp(masses[0], said[step] + opening)),
                float(np.logaddexp(masses[1], said[step] + closing)),
            ]
            if done:
                break
        settled = step + 1
        masses = [said[step] + steps.least(step) if mass == -np.inf else mass for mass in masses]
        pairs = decisions.setdefault(point.label, [])
        if opened is not None:
            pairs[-1] = (pairs[-1][0], float(np.logaddexp.reduce(masses)) - opened)
        pairs.append((masses[0] - masses[1], None))
        opened = None if point.closed else masses[0]
    return {
        label: pairs
        for label, pairs in decisions.items()
        if isinstance(value.get(label), (list, dict)) and len(pairs) == len(value[label]) + 1
    }
