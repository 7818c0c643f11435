"""
A model's text to facts.

Strictly by default: what is not JSON of the task's form counts against the model. Repair is asked for, and counted.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from iepile_builder.answers.repair import repair_json
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Fact


@dataclass(frozen=True)
class Answer:
    """A model's answer to one instruction."""

    facts: list[Fact]  # a multiset
    parsed: bool  # it is a JSON object, or repair has made it one
    outside: int  # keys that are no label of the instruction's schema
    repaired: bool = False  # repair has changed what it says


def strip_fence(text: str) -> str:
    """An answer without a code fence around the whole of it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") : -3]
    return text


def load_answer(text: str) -> dict[str, Any] | None:
    """An answer's JSON object, after one code fence around the whole answer is stripped; `None` if it is not one."""
    try:
        value = load_json(strip_fence(text))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def load_json(text: str) -> Any:
    """`json.loads`, and sooner where `orjson` can read the text: it takes no `NaN` and no half surrogate pairs."""
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)


def parse_answer(text: str, task: str, schema: Schema, repair: bool = False, source: str = "") -> Answer:
    """
    Parse the facts of a model's answer; with `repair` also of what is only nearly JSON, see [`repair_json`]. `source`
    is the text that was asked about. Never raises.
    """
    strict = answer_facts(load_answer(text), task, schema)
    if not repair:
        return strict
    lenient = answer_facts(repair_json(strip_fence(text), source), task, schema)
    if not lenient.parsed or (strict.parsed and Counter(strict.facts) == Counter(lenient.facts)):
        return strict
    return Answer(lenient.facts, True, lenient.outside, repaired=True)


def answer_facts(value: dict[str, Any] | None, task: str, schema: Schema) -> Answer:
    """The facts of an answer's JSON object."""
    if value is None:
        return Answer([], False, 0)
    try:
        facts = TASKS[task].parse(value, schema)
    except RecursionError:  # nested nearly as deep as JSON can be read
        return Answer([], False, 0)
    return Answer(facts, True, len(value.keys() - answer_keys(task, TASKS[task].labels(schema))))


@lru_cache(maxsize=4096)
def answer_keys(task: str, labels: tuple[str, ...]) -> frozenset[str]:
    """The keys that an answer may have if it was asked for these labels; many answers are asked for the same ones."""
    return frozenset(map(TASKS[task].answer_key, labels))
