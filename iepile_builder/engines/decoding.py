"""
Decode a batch of prompts greedily, with drafts: answers are mostly copied from the text, the schema and other answers.

At each step every row drafts the tokens that it expects next, and the model verifies all drafts in one pass: the
answer is that of greedy decoding, one token at a time. Rows accept different numbers of drafted tokens, so the
attention mask, not the position in the cache, says which tokens belong to an answer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from iepile_builder.engines.rows import Row, allowed, as_text


# The chance that a drafted token is accepted if the one before it was
_HIT = 0.6

# Prefixes to keep, unless a single batch has more
_PREFIXES = 16

# The keys and values of a prefix, layer by layer
KeysValues = list[tuple[torch.Tensor, torch.Tensor]]


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
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
    """

    def __init__(
        self, model: Any, end_tokens: set[int], max_new_tokens: int, batch_size: int, lookup: bool = True
    ) -> None:
        self.model = model
        self.end_tokens = end_tokens
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.lookup = lookup
        # The fixed cost of a pass, in tokens; measured on a CPU, far higher elsewhere
        self.overhead = 256
        if model.device.type == "cpu":
            self.overhead = 12 if model.dtype == torch.float32 else 24
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
            cache, mask = self.fill([[]] * len(batch))
            self.forward(cache, mask, [Row(prefix) for prefix in batch], batch, keep=1)
            for index, prefix in enumerate(batch):
                self.computed[prefix] = [
                    (layer.keys[index, :, : len(prefix)].clone(), layer.values[index, :, : len(prefix)].clone())
                    for layer in cache.layers
                ]

    def fill(self, seeds: Sequence[KeysValues]) -> tuple[Any, torch.Tensor]:
        """Make the cache of a batch whose rows start with these keys and values, and its attention mask."""
        device = self.model.device
        lengths = [seed[0][0].shape[1] if seed else 0 for seed in seeds]
        width = max(lengths)
        mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths], device=device)
        if width == 0:
            return Cache(layer_class_to_replicate=GrowingLayer), mask.long()
        layers: list[Any] = []
        filled = next(seed for seed in seeds if seed)
        for number, pair in enumerate(filled):
            states = [one.new_zeros(len(seeds), one.shape[0], width, one.shape[2]) for one in pair]
            for row, (seed, length) in enumerate(zip(seeds, lengths, strict=True)):
                if seed:
                    states[0][row, :, :length], states[1][row, :, :length] = seed[number]
            layer = GrowingLayer()  # type: ignore[no-untyped-call]
            layer.update(*states)
            layers.append(layer)
        return Cache(layers=layers), mask

    def begin(self, rows: Sequence[Row]) -> tuple[Any, torch.Tensor]:
        """Make the cache of a batch that holds the prefixes of its rows, and its attention mask."""
        prefixes = dict.fromkeys(row.prefix for row in rows)
        if len(self.computed) > _PREFIXES:
            self.computed = {
                (): [],
                **{prefix: self.computed[prefix] for prefix in prefixes if prefix in self.computed},
            }
        self.prefill([prefix for prefix in prefixes if prefix not in self.computed])
        return self.fill([self.computed[row.prefix] for row in rows])

    def forward(
        self, cache: Any, mask: torch.Tensor, rows: Sequence[Row], feeds: Sequence[Sequence[int]], keep: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Feed tokens to each row.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: The logits of the last `keep` positions, and the extended mask.
        """
        width = max(map(len, feeds))
        fed = torch.tensor([[1] * len(feed) + [0] * (width - len(feed)) for feed in feeds])
        ids = torch.tensor([[*feed, *[0] * (width - len(feed))] for feed in feeds])
        positions = (torch.tensor([row.computed for row in rows])[:, None] + torch.arange(width)) * fed
        mask = torch.cat([mask, fed.to(mask.device)], dim=1)
        logits = self.model(
            input_ids=ids.to(mask.device),
            attention_mask=mask,
            position_ids=positions.to(mask.device),
            cache=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
        ).logits
        return logits, mask

    @torch.no_grad()
    def read(self, rows: Sequence[Row], starts: Sequence[int]) -> list[torch.Tensor]:
        """
        Compute, for each row, the log-probabilities over the vocabulary at each token of its answer, in one pass.
        `starts` says where each answer starts.
        """
        feeds = [row.tokens[row.computed :] for row in rows]
        firsts = [start - 1 - row.computed for row, start in zip(rows, starts, strict=True)]
        width, first = max(map(len, feeds)), min(firsts)
        cache, mask = self.begin(rows) if self.supports(self.model) else (None, torch.ones(len(rows), 0))
        logits, _ = self.forward(cache, mask.to(self.model.device), rows, feeds, keep=width - first)
        return [
            logits[index, begin - first : len(feed) - 1 - first].float().log_softmax(-1).cpu()
            for index, (feed, begin) in enumerate(zip(feeds, firsts, strict=True))
        ]

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

            feeds = self.feeds(active)
            # The first position, in any row, after which the next token is unknown
            first = min(len(row.tokens) - row.computed for row in active if not row.ended) - 1
            width = max(map(len, feeds))
            first = min(first, width - 1)  # a row may have more tokens than are fed at once
            logits, mask = self.forward(cache, mask, active, feeds, keep=width - first)
            best = logits.argmax(dim=-1).tolist()
            wrong = torch.zeros(len(active), width, dtype=torch.bool)
            for index, (row, feed) in enumerate(zip(active, feeds, strict=True)):
                if row.ended:
                    continue
                right = len(row.tokens) - row.computed
                while not row.ended and right <= len(feed):
                    self.add(row, best[index][right - 1 - first], logits[index, right - 1 - first])
                    known = row.tokens[row.computed :]
                    if feed[: len(known)] != known:
                        break
                    right = len(known)
                row.computed += (right := len(os.path.commonprefix([feed, row.tokens[row.computed :]])))
                wrong[index, right:] = True
            mask[:, -width:].masked_fill_(wrong.to(mask.device), 0)
        for row in rows:
            self.answered[row.prefix] = as_text(row.answer)

    def feeds(self, rows: Sequence[Row]) -> list[list[int]]:
        """Choose what to feed each row: tokens that are not computed yet, and drafts, in the width that pays best."""
        needed = [[] if row.ended else row.tokens[row.computed :] for row in rows]
        drafts = [row.draft() if self.lookup and not row.ended and len(row.tokens) > row.start else [] for row in rows]

        def pays(width: int) -> float:
            kept = 0.0
            for tokens, draft in zip(needed, drafts, strict=True):
                guesses = max(0, min(len(draft), width - len(tokens)))
                kept += min(width, len(tokens)) + _HIT * (1 - _HIT**guesses) / (1 - _HIT)
            return kept / (self.overhead + len(rows) * width)

        longest = max(len(tokens) + len(draft) for tokens, draft in zip(needed, drafts, strict=True))
        width = max(range(1, longest + 1), key=pays)
        return [(tokens + draft)[:width] for tokens, draft in zip(needed, drafts, strict=True)]

    def add(self, row: Row, token: int, logits: torch.Tensor) -> None:
        """Append the best token that the grammar allows to a row, and the tokens that it forces."""
        if row.matcher is None:
            row.tokens.append(token)
        else:
            token = row.choose(token, logits)
        row.ended = token in self.end_tokens or len(row.answer) >= self.max_new_tokens
        if not row.ended:
            self.force(row)

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
        for row, logits in zip(self.rows, scores, strict=True):
            if row.matcher is None:
                continue
            masked = logits.masked_fill(~allowed(row.matcher, logits), -torch.inf)
            token = int(masked.argmax())
            if not row.matcher.is_stopped():
                token = row.choose(token, masked)
            logits.fill_(-torch.inf)
            logits[token] = 0.0
        return scores


def generate_padded(model: Any, rows: Sequence[Row], end_tokens: set[int], max_new_tokens: int) -> None:
    """Answer a batch with the model's own `generate`, for models that [`GreedyDecoder`] does not support."""
    pad = min(end_tokens)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
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
