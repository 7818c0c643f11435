"""A prompt with its answer so far, and the choice of its next token."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from iepile_builder.engines.decisions import Vocabulary, find_repeat, first_decision, item_starts
from iepile_builder.errors import InputError


if TYPE_CHECKING:
    from llguidance import LLMatcher

# How many tokens are drafted
_LONGEST_DRAFT = 8
_LONGEST_NOTHING = 32

# The chance that a drafted token is accepted if the one before it was: a copied one, and one that leaves labels empty
_HIT = 0.6
_HIT_NOTHING = 0.9


class Question(NamedTuple):
    """Ask the logits at a place which of the allowed tokens is best."""

    place: int
    allowed: bytes  # a bit for each token
    barred: Sequence[int] = ()  # tokens that are not allowed either
    raised: Sequence[int] = ()  # tokens to whose logits the bias is added
    bias: float = 0.0


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
        nothing (`Sequence[int]`, *optional*, defaults to `()`):
            The tokens of the answer in which all labels are empty, of which drafts are made.
        schema (`dict[str, Any]`, *optional*):
            The answer's schema, for a bias.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        prefix: tuple[int, ...] = (),
        matcher: LLMatcher | None = None,
        vocabulary: Vocabulary | None = None,
        empty_bias: float = 0.0,
        nothing: Sequence[int] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokens = list(prompt)
        self.start = len(prompt)
        self.prefix = prefix
        self.matcher = matcher
        self.vocabulary = vocabulary
        self.empty_bias = empty_bias
        self.starts = item_starts(schema)
        self.shifted: tuple[int, set[int]] = (-1, set())  # a decision, and tokens that settle it but do not show it
        self.computed = len(prefix)  # how many of the tokens the cache holds
        self.ended = False
        self.earlier = ""
        self.nothing = "".join(map(chr, nothing))
        self._text = ""

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

    def choose(self, token: int, place: int) -> Generator[Question, int, int]:
        """Append the best token that the grammar allows, given the best of all and its place, and return it."""
        assert self.matcher is not None
        raised = self.find_raised() if self.empty_bias else []
        barred: list[int] = []
        while True:
            if raised or barred or self.matcher.try_consume_tokens([token]) == 0:
                token = yield Question(place, self.matcher.compute_bitmask(), barred, raised, self.empty_bias)
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

    def find_raised(self) -> list[int]:
        """List the tokens that open a label's first item, if the next token settles whether it has one."""
        assert self.matcher is not None and self.vocabulary is not None
        remainder = self.matcher.compute_ff_bytes()
        said = self.said() + remainder
        choice = first_decision(said, remainder, self.starts)
        place, settling = self.shifted
        if choice is None or (place == len(said) and self.tokens[-1] in settling):
            return []
        opening, _ = self.vocabulary.settling(choice)
        self.shifted = len(said), {token for token in opening if remainder.startswith(self.vocabulary.texts[token])}
        return opening

    def as_text(self) -> str:
        """Write the tokens as a string, one character each, for fast substring search."""
        self._text += "".join(map(chr, self.tokens[len(self._text) :]))
        return self._text

    def draft(self) -> tuple[list[int], float]:
        """
        Draft the next tokens: those that followed an earlier occurrence of the last ones, in the answer in which all
        labels are empty, else in an earlier answer or in this row. Return them with the chance that each is accepted.
        """
        text = self.as_text()
        for source, end, longest, hit in (
            (self.nothing, len(self.nothing), _LONGEST_NOTHING, _HIT_NOTHING),
            (self.earlier, len(self.earlier), _LONGEST_DRAFT, _HIT),
            (text, len(text) - 1, _LONGEST_DRAFT, _HIT),
        ):
            for size in (3, 2):
                found = source.rfind(text[-size:], 0, end)
                if found >= 0:
                    return [ord(token) for token in source[found + size : min(found + size + longest, end)]], hit
        return [], _HIT


def settle(choosing: Iterable[Generator[Question, int, Any]], logits: torch.Tensor) -> None:
    """Run several choices side by side, so that the logits answer a question of each at once."""
    going: list[tuple[Generator[Question, int, Any], int | None]] = [(each, None) for each in choosing]
    while going:
        asking: list[tuple[Generator[Question, int, Any], Question]] = []
        for each, token in going:
            with suppress(StopIteration):
                asking.append((each, next(each) if token is None else each.send(token)))
        tokens = find_best([question for _, question in asking], logits) if asking else []
        going = [(each, token) for (each, _), token in zip(asking, tokens, strict=True)]


def find_best(questions: Sequence[Question], logits: torch.Tensor) -> list[int]:
    """Answer questions, with one copy to the logits' device and one back."""
    bits = np.stack([np.frombuffer(question.allowed, dtype=np.uint8) for question in questions])
    for row, question in zip(bits, questions, strict=True):
        for token in question.barred:
            row[token // 8] &= ~np.uint8(1 << token % 8)
    scores = logits[[question.place for question in questions]].float()
    raised = [(row, token) for row, question in enumerate(questions) for token in question.raised]
    if raised:
        rows, tokens = torch.tensor(raised, device=logits.device).T
        scores[rows, tokens] += torch.tensor([question.bias for question in questions], device=logits.device)[rows]
    packed = torch.from_numpy(bits).to(logits.device)
    allowed = (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=logits.device)) & 1
    allowed = allowed.flatten(1)[:, : logits.shape[-1]]
    return scores.masked_fill(allowed == 0, -torch.inf).argmax(dim=-1).tolist()
