"""The interface of engines: requests in, completions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from iepile_builder.chat import Message
from iepile_builder.errors import InputError


class Request(NamedTuple):
    """
    A request to a model.

    Args:
        messages (`list[dict[str, str]]`):
            The chat, up to the answer.
        answer_schema (`dict[str, Any]`, *optional*):
            JSON schema that the answer must satisfy, from [`~iepile_builder.tasks.base.Task.answer_schema`]; `None`
            leaves the answer free.
        task (`str`, *optional*, defaults to `""`):
            Name of the task, where an engine has a bias for each.
    """

    messages: list[Message]
    answer_schema: dict[str, Any] | None = None
    task: str = ""


# For each label, pairs of log-odds and log-probability; see `Completion`
Decisions = dict[str, list[tuple[float, float | None]]]


class Completion(NamedTuple):
    """
    A model's answer.

    Args:
        text (`str`):
            The answer, without the end token.
        cut (`bool`, *optional*, defaults to `False`):
            Whether it ended at the token limit. An answer that a grammar constrains is then closed: an unfinished item
            is dropped, and labels that were not reached are empty.
        decisions (`dict[str, list[tuple[float, float | None]]]`, *optional*):
            How sure the model was, by the label (top-level key) of the answer: a pair for each item of the label's
            list (or object), and a last one for its end. The first of a pair is the log-odds (natural logarithm) that
            an item followed, rather than the end; the second the log-probability of the item's own tokens, `None` for
            the end. They are the model's own, without the answer's grammar. `None` if they were not asked for or the
            answer is no JSON object.
    """

    text: str
    cut: bool = False
    decisions: Decisions | None = None


class Engine(Protocol):
    """An engine that answers requests with greedy decoding."""

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        """
        Answer requests, in their order, with at most `max_new_tokens` tokens each.

        Raises:
            `InputError`: If a request cannot be answered.
        """
        ...

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        """
        Count the tokens that a request and the longest answer leave free in the model's context.

        Returns:
            `int` or `None`: The number, negative if they do not fit; `None` if the engine does not know.
        """
        ...


def check_room(token_ids: Sequence[Sequence[int]], max_new_tokens: int, context: int) -> None:
    """Raise an `InputError` if a prompt and the longest answer do not fit into the context."""
    longest = max(map(len, token_ids), default=0)
    if longest + max_new_tokens > context:
        raise InputError(
            f"a prompt of {longest} tokens leaves no room for {max_new_tokens} more in the model's context of "
            f"{context}: ask for fewer labels, a shorter text or a shorter answer"
        )
