"""What every engine takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from iepile_builder.chat import Message


class Request(NamedTuple):
    """
    What a model is asked.

    Args:
        messages (`list[dict[str, str]]`):
            The chat up to the answer.
        answer_schema (`dict[str, Any]`, *optional*):
            JSON schema that the answer must satisfy, from [`~iepile_builder.answers.grammar.answer_schema`]; `None`
            leaves the answer free.
    """

    messages: list[Message]
    answer_schema: dict[str, Any] | None = None


class Completion(NamedTuple):
    """
    What a model answered.

    Args:
        text (`str`):
            The answer, without the end token.
        cut (`bool`, *optional*, defaults to `False`):
            Whether it ended at the token limit. Where a grammar held it to a schema, it is closed: without its last
            item, and with nothing for the labels that it has not reached.
    """

    text: str
    cut: bool = False


class Engine(Protocol):
    """What answers requests, greedily."""

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        """
        Answers requests.

        Args:
            requests (`Sequence[Request]`):
                What is asked.
            max_new_tokens (`int`):
                The longest answer, in tokens.

        Returns:
            `list[Completion]`: The answers, in the order of the requests.

        Raises:
            `InputError`: If a request cannot be answered.
        """
        ...

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        """
        Tells whether a request and the longest answer to it fit into the model's context.

        Returns:
            `int` or `None`: How many tokens would be left over, a negative number if they do not fit; `None` if the
            engine does not know.
        """
        ...
