"""A prompt with its answer so far, and the choice of its next token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from iepile_builder.engines.decisions import Vocabulary, find_repeat, first_decision
from iepile_builder.errors import InputError


if TYPE_CHECKING:
    from llguidance import LLMatcher

_LONGEST_DRAFT = 8


class Row:
    """
    A prompt and its answer so far.

    Args:
        prompt (`Sequence[int]`):
            The prompt's tokens, of which other prompts share the `prefix`.
        matcher (`LLMatcher`, *optional*):
            The grammar of the answer.
        vocabulary ([`~iepile_builder.engines.decisions.Vocabulary`], *optional*):
            The texts of the tokens, to end a list rather than repeat an item. Needed for a bias.
        empty_bias (`float`, *optional*, defaults to 0.0):
            What is added to the log-odds that a label has an item, in nats.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        prefix: tuple[int, ...] = (),
        matcher: LLMatcher | None = None,
        vocabulary: Vocabulary | None = None,
        empty_bias: float = 0.0,
    ) -> None:
        self.tokens = list(prompt)
        self.start = len(prompt)
        self.prefix = prefix
        self.matcher = matcher
        self.vocabulary = vocabulary
        self.empty_bias = empty_bias
        self.shifted: tuple[int, set[int]] = (-1, set())  # a decision, and tokens that settle it but do not show it
        self.computed = len(prefix)  # how many of the tokens the cache holds
        self.ended = False
        self.earlier = ""

    @property
    def answer(self) -> list[int]:
        """The answer's tokens."""
        return self.tokens[self.start :]

    def complete(self, end_tokens: set[int]) -> bool:
        """Whether the answer ended by itself."""
        if self.matcher is not None and self.matcher.is_error():
            raise InputError(f"an answer's grammar cannot be followed: {self.matcher.get_error().splitlines()[0]}")
        return self.tokens[-1] in end_tokens or (self.matcher is not None and self.matcher.is_stopped())

    def said(self) -> bytes:
        """The answer's text."""
        assert self.vocabulary is not None
        return b"".join(self.vocabulary.texts[token] for token in self.answer)

    def choose(self, token: int, logits: torch.Tensor) -> int:
        """Append the best token that the grammar allows, given the best of all, and return it."""
        assert self.matcher is not None
        if self.empty_bias:
            logits = self.shift(logits)
            token = int(logits.argmax())
        barred: list[int] = []
        while True:
            if barred or self.matcher.try_consume_tokens([token]) == 0:
                scores = logits.masked_fill(~allowed(self.matcher, logits), -torch.inf)
                scores[barred] = -torch.inf
                token = int(scores.argmax())
                self.matcher.consume_token(token)
            refused = self.refuse(token)
            if not refused:
                break
            self.matcher.rollback(1)
            barred += refused
        self.tokens.append(token)
        return token

    def refuse(self, token: int) -> list[int]:
        """List the tokens that, like this one, would continue a list after an item that it has already."""
        if self.vocabulary is None or b"," not in self.vocabulary.texts[token]:
            return []
        said = self.said()
        place = find_repeat(said + self.vocabulary.texts[token], len(said))
        if place is None:
            return []
        return self.vocabulary.starting(self.vocabulary.texts[token][: place - len(said) + 1])

    def shift(self, logits: torch.Tensor) -> torch.Tensor:
        """Add the bias to the logits of tokens that open a label's first item, if the next token settles that."""
        assert self.matcher is not None and self.vocabulary is not None
        remainder = self.matcher.compute_ff_bytes()
        said = self.said() + remainder
        choice = first_decision(said, remainder)
        place, settling = self.shifted
        if choice is None or (place == len(said) and self.tokens[-1] in settling):
            return logits
        opening, _ = self.vocabulary.settling(choice)
        self.shifted = len(said), {token for token in opening if remainder.startswith(self.vocabulary.texts[token])}
        shift = torch.zeros_like(logits, dtype=torch.float32)
        shift[opening] = self.empty_bias
        return logits + shift

    def draft(self) -> list[int]:
        """Draft the next tokens: those that followed an earlier occurrence of the last ones."""
        text = as_text(self.tokens)
        for source in (self.earlier, text[:-1]):
            for size in (3, 2):
                found = source.rfind(text[-size:])
                if found >= 0:
                    return [ord(token) for token in source[found + size : found + size + _LONGEST_DRAFT]]
        return []


def as_text(tokens: Sequence[int]) -> str:
    """Write tokens as a string, one character each, for fast substring search."""
    return "".join(map(chr, tokens))


def allowed(matcher: LLMatcher, logits: torch.Tensor) -> torch.Tensor:
    """Mask the logits of the tokens that may come next."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(bits, bitorder="little")[: logits.shape[-1]]).to(logits.device).bool()
