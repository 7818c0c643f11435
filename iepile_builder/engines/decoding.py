"""
Decode a batch of prompts greedily, with drafts: answers are mostly copied from the text, the schema and other answers.

At each step every row drafts the tokens that it expects next, and the model verifies all drafts in one pass: the
answer is that of greedy decoding, one token at a time. Rows accept different numbers of drafted tokens, so the
attention mask, not the position in the cache, says which tokens belong to an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from iepile_builder.engines.rows import Question, Row, settle


# Prefixes to keep, unless a single batch has more
MOST_PREFIXES = 16

# The keys and values of a prefix, layer by layer
KeysValues = list[tuple[torch.Tensor, torch.Tensor]]


class PassCost(NamedTuple):
    """
    Tell what a pass costs besides its tokens, in the time of one more token.

    Args:
        fixed (`float`):
            The cost of any pass.
        context (`float`, *optional*, defaults to 0.0):
            The cost of each token that the cache holds, of each row, if rows are fed more than one token:
            attention then copies the keys and values.
    """

    fixed: float
    context: float = 0.0

    @classmethod
    def assume(cls, model: Any) -> PassCost:
        """
        Give the cost that is usual on the model's device, the same in all processes.

        On a CPU it is not measured each time: the least that shows anything takes 1.7 CPU seconds for a model of 135M,
        as long as three answers.
        """
        if model.device.type == "cpu":
            return cls(12 if model.dtype == torch.float32 else 48)
        return cls(2048)


class GrowingLayer(DynamicLayer):
    """A cache layer that allocates ahead; [`~transformers.cache_utils.DynamicLayer`] copies itself at every step."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = [key_states[:, :, :0], value_states[:, :, :0]]
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for index, states in enumerate((key_states, value_states)):
            room = self.room[index]
            if end > room.shape[-2]:
                self.room[index] = states.new_empty(*states.shape[:2], end + 128, states.shape[-1])
                self.room[index][:, :, :start] = room[:, :, :start]
            self.room[index][:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values

    def select(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Keep some rows of the batch, and some positions of the sequence."""
        held = (room[:, :, : self.get_seq_length()] for room in self.room)
        rows, columns = (index.to(self.room[0].device) for index in (rows, columns))  # layers may be on several GPUs
        self.room = [room.index_select(0, rows).index_select(2, columns) for room in held]
        self.keys, self.values = self.room


class GreedyDecoder:
    """
    Decode prompts greedily.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A model whose layers all attend to the whole text, see [`GreedyDecoder.supports`].
        end_tokens (`set[int]`):
            The tokens that end an answer.
        max_new_tokens (`int`):
            The longest answer, in tokens.
        batch_size (`int`):
            The largest batch.
        lookup (`bool`, *optional*, defaults to `True`):
            Whether to draft tokens from the prompt and from earlier answers.
        cost ([`PassCost`], *optional*):
            What a pass costs, by which drafts are chosen. By default it is assumed.
    """

    def __init__(
        self,
        model: Any,
        end_tokens: set[int],
        max_new_tokens: int,
        batch_size: int,
        lookup: bool = True,
        cost: PassCost | None = None,
    ) -> None:
        self.model = model
        self.end_tokens = end_tokens
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.lookup = lookup
        self.cost = cost or PassCost.assume(model)
        self.computed: dict[tuple[int, ...], KeysValues] = {(): []}  # of prefixes
        self.answered: dict[tuple[int, ...], str] = {}  # the last answer to a prompt with this prefix

    @staticmethod
    def supports(model: Any) -> bool:
        """Whether any token can be removed from the cache of a model."""
        return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)

    def prefill(self, prefixes: Sequence[tuple[int, ...]]) -> None:
        """Compute the keys and values of prefixes."""
        for start in range(0, len(prefixes), self.batch_size):
            batch = prefixes[start : start + self.batch_size]
            cache, mask = self.fill([()] * len(batch))
            self.forward(cache, mask, [Row(prefix) for prefix in batch], batch, [range(0)] * len(batch))
            for index, prefix in enumerate(batch):
                self.computed[prefix] = [
                    (layer.keys[index, :, : len(prefix)].clone(), layer.values[index, :, : len(prefix)].clone())
                    for layer in cache.layers
                ]

    def fill(self, prefixes: Sequence[tuple[int, ...]]) -> tuple[Any, torch.Tensor]:
        """Make the cache of a batch whose rows start with these computed prefixes, and its attention mask."""
        device = self.model.device
        width = max(map(len, prefixes))
        mask = torch.tensor([[1] * len(prefix) + [0] * (width - len(prefix)) for prefix in prefixes]).long()
        if width == 0:
            return Cache(layer_class_to_replicate=GrowingLayer), mask.to(device)
        distinct = {prefix: place for place, prefix in enumerate(dict.fromkeys(prefixes))}
        place_of_row = torch.tensor([distinct[prefix] for prefix in prefixes])
        layers: list[Any] = []
        for number, pair in enumerate(self.computed[max(distinct, key=len)]):
            states = []
            for index, one in enumerate(pair):
                padded = one.new_zeros(len(distinct), one.shape[0], width, one.shape[2])
                for prefix, place in distinct.items():
                    if prefix:
                        padded[place, :, : len(prefix)] = self.computed[prefix][number][index]
                states.append(padded.index_select(0, place_of_row.to(one.device)))
            layer = GrowingLayer()  # type: ignore[no-untyped-call]
            layer.update(*states)
            layers.append(layer)
        return Cache(layers=layers), mask.to(device)

    def begin(self, rows: Sequence[Row]) -> tuple[Any, torch.Tensor]:
        """Make the cache of a batch that holds the prefixes of its rows, and its attention mask."""
        prefixes = dict.fromkeys(row.prefix for row in rows)
        if len(self.computed) > MOST_PREFIXES:
            self.computed = {
                (): [],
                **{prefix: self.computed[prefix] for prefix in prefixes if prefix in self.computed},
            }
        self.prefill([prefix for prefix in prefixes if prefix not in self.computed])
        return self.fill([row.prefix for row in rows])

    def forward(
        self,
        cache: Any,
        mask: torch.Tensor,
        rows: Sequence[Row],
        feeds: Sequence[Sequence[int]],
        asked: Sequence[range],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Feed tokens to each row.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: The logits after those tokens of each row that are `asked` for, one
            row after the other, and the extended mask.
        """
        lengths = np.array([len(feed) for feed in feeds])[:, None]
        places = np.arange(lengths.max())
        fed = places < lengths
        ids = np.zeros(fed.shape, dtype=np.int64)
        ids[fed] = np.fromiter(chain.from_iterable(feeds), dtype=np.int64)
        positions = (np.array([row.computed for row in rows])[:, None] + places) * fed
        first, last = (np.array([[each.start, each.stop] for each in asked])[:, place, None] for place in (0, 1))
        wanted = (first <= places) & (places < last)
        # One copy to the device
        inputs = torch.from_numpy(np.stack([ids, positions, fed, wanted])).to(mask.device)
        mask, kept = torch.cat([mask, inputs[2]], dim=1), inputs[3].bool()
        # Of a model on several devices, the hidden states are on another one than the inputs
        is_spread = len(set(getattr(self.model, "hf_device_map", {}).values())) > 1
        logits = self.model(
            input_ids=inputs[0],
            attention_mask=mask,
            position_ids=inputs[1],
            cache=cache,
            use_cache=cache is not None,
            logits_to_keep=0 if is_spread else kept,
        ).logits
        return logits[kept] if is_spread else logits, mask

    @torch.no_grad()
    def read(self, rows: Sequence[Row], starts: Sequence[int]) -> list[torch.Tensor]:
        """
        Compute, for each row, the log-probabilities over the vocabulary at each token of its answer, in one pass.
        `starts` says where each answer starts.
        """
        feeds = [row.tokens[row.computed :] for row in rows]
        asked = [
            range(start - 1 - row.computed, len(feed) - 1)
            for row, feed, start in zip(rows, feeds, starts, strict=True)
        ]
        cache, mask = self.begin(rows) if self.supports(self.model) else (None, torch.ones(len(rows), 0).long())
        logits, _ = self.forward(cache, mask.to(self.model.device), rows, feeds, asked)
        return list(torch.split(logits.float().log_softmax(-1).cpu(), [len(each) for each in asked]))

    @torch.no_grad()
    def measure(self, rows: int, context: int) -> PassCost:
        """Measure what a pass costs, over this many rows and tokens of each."""
        widths = (1, 2, 34)
        batch = [Row([0] * context) for _ in range(rows)]
        cache, mask = self.fill([()] * rows)
        _, mask = self.forward(cache, mask, batch, [row.tokens for row in batch], [range(0)] * rows)
        for row in batch:
            row.computed = context
        seconds: dict[int, list[float]] = {width: [] for width in widths}
        for width in widths * 4:
            start = time.perf_counter()
            logits, mask = self.forward(cache, mask, batch, [[0] * width] * rows, [range(width - 1, width)] * rows)
            logits.argmax(dim=-1).tolist()  # waits for the pass
            seconds[width].append(time.perf_counter() - start)
        one, two, many = (sorted(seconds[width][1:])[1] for width in widths)  # the first of each warms up
        # Where tokens are lost in the noise of the fixed cost, 16,384 of them take as long as a pass
        token = max((many - two) / (rows * (widths[2] - widths[1])), one / 2**14)
        return PassCost(one / token, max(0.0, two - one - rows * token) / (rows * context * token))

    @torch.no_grad()  # FSDP2 cannot train after `inference_mode`
    def __call__(self, rows: Sequence[Row]) -> None:
        """Answer a batch of prompts: the answers are appended to the rows."""
        cache, mask = self.begin(rows)
        for row in rows:
            row.earlier = self.answered.get(row.prefix, "")
            self.force(row)
        active = list(rows)
        while any(not row.ended for row in active):
            if 4 * sum(row.ended for row in active) >= len(active):
                kept = torch.tensor([index for index, row in enumerate(active) if not row.ended], device=mask.device)
                used = mask[kept].any(dim=0).nonzero().flatten()
                mask = mask[kept][:, used]
                for layer in cache.layers:
                    layer.select(kept, used)
                active = [row for row in active if not row.ended]

            feeds = self.feeds(active, mask.shape[1])
            # After a row's last token, and after each token drafted. Of a row that has ended, or has more tokens than
            # are fed at once, one that nobody reads: on a CPU a head over 15 rows takes longer than over 16.
            asked = [
                (not row.ended and range(len(row.tokens) - row.computed - 1, len(feed))) or range(1)
                for row, feed in zip(active, feeds, strict=True)
            ]
            logits, mask = self.forward(cache, mask, active, feeds, asked)
            best = logits.argmax(dim=-1).tolist()
            firsts = np.cumsum([0, *map(len, asked)]).tolist()
            settle(
                (
                    self.extend(row, feed, best, first)
                    for row, feed, first in zip(active, feeds, firsts[:-1], strict=True)
                ),
                logits,
            )
            right = [
                len(os.path.commonprefix([feed, row.tokens[row.computed :]]))
                for row, feed in zip(active, feeds, strict=True)
            ]
            for row, count in zip(active, right, strict=True):
                row.computed += count
            width = max(map(len, feeds))
            mask[:, -width:] = torch.from_numpy(np.arange(width) < np.array(right)[:, None]).to(mask.device)
        for row in rows:
            self.answered[row.prefix] = row.as_text()[row.start :]

    def extend(self, row: Row, feed: Sequence[int], best: Sequence[int], place: int) -> Generator[Question, int, None]:
        """Append the tokens that the logits from `place` on choose, until one is not that of the draft."""
        first = right = len(row.tokens) - row.computed
        while not row.ended and right <= len(feed):
            token = best[place + right - first]
            if row.matcher is None:
                row.tokens.append(token)
            else:
                token = yield from row.choose(token, place + right - first)
            row.ended = token in self.end_tokens or len(row.answer) >= self.max_new_tokens
            if not row.ended:
                self.force(row)
            known = row.tokens[row.computed :]
            if feed[: len(known)] != known:
                break
            right = len(known)

    def feeds(self, rows: Sequence[Row], context: int) -> list[list[int]]:
        """
        Choose what to feed each row, over a cache of `context` tokens: tokens that are not computed yet, and drafts,
        in the width that pays best.
        """
        needed = [[] if row.ended else row.tokens[row.computed :] for row in rows]
        drafting = [self.lookup and not row.ended and len(row.tokens) > row.start for row in rows]
        drawn = [row.draft() if may else ([], 0.0) for row, may in zip(rows, drafting, strict=True)]
        drafts, hits = [draft for draft, _ in drawn], np.array([hit for _, hit in drawn])
        known, guessed = (np.array([len(each) for each in tokens]) for tokens in (needed, drafts))
        # A prompt is read in any case: its tokens are neither gained nor paid for, else they would hide the drafts'
        prompts = np.array([max(0, row.start - row.computed) for row in rows]) * (known > 0)
        widths = np.arange(1, (known + guessed).max() + 1)
        guesses = np.clip(widths[:, None] - known, 0, guessed)
        read = np.minimum(widths[:, None], prompts)
        gained = np.minimum(widths[:, None], known) - read + ((known > 0) & (known <= widths[:, None]))
        gained = gained + hits * (1 - hits**guesses) / (1 - hits)
        attended = (widths > 1) * context * self.cost.context
        costs = self.cost.fixed + len(rows) * (widths + attended) - read.sum(axis=1)
        width = int(widths[(gained.sum(axis=1) / costs).argmax()])
        return [(tokens + draft)[:width] for tokens, draft in zip(needed, drafts, strict=True)]

    def force(self, row: Row) -> None:
        """Append the tokens that a row's grammar forces."""
        if row.matcher is None:
            return
        tokens = row.matcher.compute_ff_tokens()[: self.max_new_tokens - len(row.answer)]
        row.matcher.consume_tokens(tokens)
        row.tokens += tokens
        row.ended = row.matcher.is_stopped() or len(row.answer) >= self.max_new_tokens


class GrammarProcessor(LogitsProcessor):
    """Hold [`~transformers.GenerationMixin.generate`] to the tokens that each row chooses."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        chosen: dict[int, int] = {}
        settle((self.choose(place, chosen) for place, row in enumerate(self.rows) if row.matcher is not None), scores)
        if chosen:
            places, tokens = torch.tensor(list(chosen.items()), device=scores.device).T
            scores[places] = -torch.inf
            scores[places, tokens] = 0.0
        return scores

    def choose(self, place: int, chosen: dict[int, int]) -> Generator[Question, int, None]:
        """Choose the token of a row."""
        matcher = self.rows[place].matcher
        assert matcher is not None
        # Not the best of all: where bytes are forced, a matcher takes tokens that its mask does not allow
        token = yield Question(place, matcher.compute_bitmask())
        chosen[place] = token if matcher.is_stopped() else (yield from self.rows[place].choose(token, place))


def generate_padded(model: Any, rows: Sequence[Row], end_tokens: set[int], max_new_tokens: int) -> None:
    """Answer a batch with the model's own `generate`, for models that [`GreedyDecoder`] does not support."""
    pad = min(end_tokens)
    config = GenerationConfig(
        do_sample=False,
        repetition_penalty=1.0,  # else the model's own settings apply
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_tokens),
        pad_token_id=pad,
    )
    width = max(row.start for row in rows)
    with torch.no_grad():
        generated = model.generate(
            input_ids=torch.tensor([[pad] * (width - row.start) + row.tokens for row in rows], device=model.device),
            attention_mask=torch.tensor(
                [[0] * (width - row.start) + [1] * row.start for row in rows], device=model.device
            ),
            generation_config=config,
            logits_processor=LogitsProcessorList([GrammarProcessor(rows)]),
        )
    for row, tokens in zip(rows, generated[:, width:].tolist(), strict=True):
        end = next((place for place, token in enumerate(tokens) if token in end_tokens), len(tokens))
        row.tokens = row.tokens[: row.start] + tokens[: end + 1]
