"""An engine that answers from rules, exactly and from the passage alone."""

import json
import re
from collections.abc import Callable, Sequence

from iepile_builder.engines.base import Completion, Request


def words(request: Request) -> dict:
    """The instruction of a request."""
    return json.loads(request.messages[-1]["content"])


class RuleEngine:
    """
    Answers with what a rule finds.

    `rule` gets a schema item and the passage and returns the item's value; `room` is the context, of which a character
    takes one token; answers are cut as a model's would be.
    """

    def __init__(self, rule: Callable, room: int | None = None) -> None:
        self.rule = rule
        self.room = room
        self.requests: list[Request] = []

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        return None if self.room is None else self.room - max_new_tokens - len(request.messages[-1]["content"])

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        self.requests += requests
        completions = []
        for request in requests:
            instruction = words(request)
            answer = {key_of(item): self.rule(item, instruction["input"]) for item in instruction["schema"]}
            text = json.dumps(answer, ensure_ascii=False)
            completions.append(Completion(text[:max_new_tokens], cut=len(text) > max_new_tokens))
        return completions


def key_of(item: object) -> str:
    """The key of a schema item in an answer."""
    if isinstance(item, dict):
        return str(item.get("predicate") or item.get("event_type") or item["entity_type"])
    return str(item)


def tagged(item: object, text: str) -> list[str]:
    """NER: the words that the text tags with a label, as in `person:Ada`."""
    return list(dict.fromkeys(re.findall(rf"{re.escape(str(item))}:(\w+)", text)))


class AnswerEngine:
    """Answers each request with the part of one answer that it asks for, `[]` where there is none."""

    def __init__(self, answer: dict) -> None:
        self.answer = answer

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        return None

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        answers = [
            {key_of(item): self.answer.get(key_of(item), []) for item in words(each)["schema"]} for each in requests
        ]
        return [Completion(json.dumps(answer, ensure_ascii=False)) for answer in answers]
