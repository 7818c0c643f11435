"""Which characters of an answer are decisions, and which follow from the schema and what precedes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from iepile_builder.io import to_json


FORCED, DECIDED, NOTHING = 0, 1, 2

_OTHER = ""  # any character of a string that has no step of its own


class _Automaton:
    """
    The characters of the answers that satisfy a schema of `Task.answer_schema`, as `lark_grammar` writes them.

    It is built from the end: a part is given the state that follows it, and gives its own first state.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.steps: list[dict[str, int]] = []  # state to character to the next state
        self.jumps: list[list[int]] = []  # state to the states that it also is
        self.end = self.state()
        self.start = self.build(schema, self.end)

    def state(self, steps: Mapping[str, int] | None = None, jumps: Iterable[int] = ()) -> int:
        self.steps.append(dict(steps or {}))
        self.jumps.append(list(jumps))
        return len(self.steps) - 1

    def literal(self, text: str, following: int) -> int:
        for character in reversed(text):
            following = self.state({character: following})
        return following

    def choice(self, *states: int) -> int:
        return self.state(jumps=states)

    def build(self, node: Mapping[str, Any], following: int) -> int:
        if "$ref" in node:
            escaped, content = self.state(), self.state({'"': following})
            inside = {"\\": escaped, _OTHER: content}
            self.steps[escaped][_OTHER] = content
            self.steps[content].update(inside)
            return self.literal('"', self.state({'"': self.state(), **inside}))  # nothing follows on an empty string
        if "const" in node:
            return self.literal(to_json(node["const"]), following)
        if "enum" in node:
            return self.choice(*(self.literal(to_json(value), following) for value in node["enum"]))
        if "anyOf" in node:
            return self.choice(*(self.build(each, following) for each in node["anyOf"]))
        if node["type"] == "array":
            return self.items(node["items"], "[]", node["minItems"], following)
        if "properties" not in node:
            return self.items(node, "{}", 0, following)
        entries = [(to_json(key) + ": ", value) for key, value in node["properties"].items()]
        if node["required"] or not entries:
            state, before = self.literal("}", following), ""
            for key, value in reversed(entries):
                state, before = self.literal(key, self.build(value, self.literal(before, state))), ", "
            return self.literal("{", state)
        more, firsts = self.literal("}", following), []  # any of them but not none, in order
        for key, value in reversed(entries):
            entry = self.literal(key, self.build(value, more))
            firsts.append(entry)
            more = self.choice(self.literal(", ", entry), more)
        return self.literal("{", self.choice(*firsts))

    def items(self, node: Mapping[str, Any], brackets: str, at_least: int, following: int) -> int:
        """Build a list, or an object from any mention to values of the same schema."""
        after, close = self.state(), self.literal(brackets[1], following)

        def item(then: int) -> int:
            if brackets == "[]":
                return self.build(node, then)
            value = self.literal(": ", self.build(node["additionalProperties"], then))
            return self.build({"$ref": ""}, value)

        more = item(after)
        self.jumps[after] += [close, self.literal(", ", more)]
        if at_least == 2:
            return self.literal(brackets[0], item(self.literal(", ", more)))
        return self.literal(brackets[0], self.choice(close, more))

    def closure(self, states: Iterable[int]) -> set[int]:
        found: set[int] = set()
        waiting = list(states)
        while waiting:
            if (state := waiting.pop()) not in found:
                found.add(state)
                waiting += self.jumps[state]
        return found

    def mark(self, text: str) -> list[int] | None:
        """Mark the characters that are not the only one that can follow; `None` if the text is not accepted."""
        marks: list[int] = []
        states = self.closure([self.start])
        for character in text:
            possible = {each for state in states for each in self.steps[state]}
            marks.append(FORCED if possible == {character} else DECIDED)
            steps = [self.steps[state] for state in states]
            following = (each.get(character, each.get(_OTHER)) for each in steps)
            states = self.closure(state for state in following if state is not None)
            if not states:
                return None
        return marks if self.end in states else None


def mark_answer(schema: Mapping[str, Any], output: str) -> list[int] | None:
    """
    Mark each character of an answer that satisfies a schema of `Task.answer_schema`; `None` if it does not, or is not
    written as the format is.

    `FORCED`: no other can follow, as in keys, separators and most brackets. `NOTHING`: the bracket that closes the
    empty value of a label. `DECIDED`: all others.
    """
    marks = _Automaton(schema).mark(output)
    if marks is None or to_json(answer := json.loads(output)) != output:
        return None
    end = 0
    for key, value in answer.items():
        end += len(to_json({key: value})) - 1  # with "{" or ","; without "}"
        if not value:
            marks[end - 1] = NOTHING
        end += 1  # the space, or "}"
    return marks
