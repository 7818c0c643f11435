"""Answer with a model of `transformers` in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from iepile_builder.answers.grammar import Grammars
from iepile_builder.answers.repair import without_repeats
from iepile_builder.chat import break_control_tokens, encode, load_tokenizer, render
from iepile_builder.engines.base import Completion, Decisions, Request, check_room
from iepile_builder.engines.decisions import AllSteps, Vocabulary, read_decisions
from iepile_builder.engines.loading import load_model, tokenizer_of
from iepile_builder.errors import InputError
from iepile_builder.io import first_line


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from iepile_builder.engines.decoding import GreedyDecoder, KeysValues, PassCost
    from iepile_builder.engines.rows import Row


_INPUT = ', "input": "'  # before the text of an instruction


class TransformersEngine:
    """
    Answers with a model of `transformers`, greedily, in batches of requests of similar length.

    The prefix that requests share is computed once; tokens that are copied from the request or from an earlier answer
    are drafted and verified several at a time; finished answers leave the batch. This changes the speed and the last
    bits of the logits, not the method: answers are those of greedy decoding.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, used as it is, also in the middle of training.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, with a chat template.
        batch_size (`int`, *optional*):
            How many requests are answered at once. By default 16 on a CPU, on a GPU up to 256, as its memory allows.
        constrain (`str`, *optional*, defaults to `"auto"`):
            Whether answers are held to the schemas of the requests: `"on"`, `"off"`, or where `llguidance` is
            installed.
        share_prefix (`bool`, *optional*, defaults to `True`):
            Whether to compute shared prefixes once.
        lookup (`bool`, *optional*, defaults to `True`):
            Whether to draft tokens from the prompt and from earlier answers.
        scores (`bool`, *optional*, defaults to `False`):
            Whether completions have `decisions`; costs one more pass over prompts and answers.
        empty_bias (`float` or `dict[str, float]`, *optional*, defaults to 0.0):
            What is added to the log-odds that a label has an item, in nats; or that of each task.
        pass_cost ([`~iepile_builder.engines.decoding.PassCost`], *optional*):
            What a pass over the model costs, by which drafts are chosen. By default it is measured on a GPU.
        keep_prefixes (`bool`, *optional*, defaults to `False`):
            Whether to keep what was computed of the last 16 schemas for later calls, which must be of the same
            weights. A single text is then read in two passes, the first of which only a new schema needs.

    Raises:
        `InputError`: If answers are to be constrained, scored or biased and `llguidance` is not installed.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None = None,
        constrain: str = "auto",
        share_prefix: bool = True,
        lookup: bool = True,
        scores: bool = False,
        empty_bias: float | dict[str, float] = 0.0,
        pass_cost: PassCost | None = None,
        keep_prefixes: bool = False,
    ) -> None:
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.batch_size = batch_size
        self.most_scored = sys.maxsize  # how many answers are scored at once, as the memory allows
        self.share_prefix = share_prefix
        self.lookup = lookup
        self.scores = scores
        self.empty_bias = empty_bias
        self.pass_cost = pass_cost
        self.keep_prefixes = keep_prefixes
        self.kept: dict[tuple[int, ...], KeysValues] = {}  # what is computed of prefixes
        self.end_tokens: set[int] = {tokenizer.eos_token_id}
        if (configured := model.generation_config.eos_token_id) is not None:
            self.end_tokens |= {configured} if isinstance(configured, int) else set(configured)
        self.window = 4 * (batch_size or (256 if self.on_gpu else 16))  # requests to be given at once
        self.context: int = model.config.get_text_config().max_position_embeddings
        self.constrained = constrain != "off" and find_spec("llguidance") is not None
        if constrain == "on" and not self.constrained:
            raise InputError("answers are constrained with llguidance: pip install 'iepile-builder[extract]'")
        if scores and find_spec("llguidance") is None:
            raise InputError("answers are scored with llguidance: pip install 'iepile-builder[extract]'")
        if empty_bias and not self.constrained:
            raise InputError(
                "empty_bias shifts the decisions of constrained answers: leave out --constrain off, and "
                "pip install 'iepile-builder[extract]'"
            )

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        adapter: str | None = None,
        chat_template_path: str | None = None,
        dtype: str = "auto",
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> TransformersEngine:
        """
        Load a model, and an adapter for it.

        Args:
            model (`str`):
                A folder or a Hub id.
            adapter (`str`, *optional*):
                Folder or Hub id of a PEFT adapter. Its tokenizer is used where it has one.
            chat_template_path (`str`, *optional*):
                A Jinja file to use in place of the tokenizer's own template.
            dtype (`str`, *optional*, defaults to `"auto"`):
                `"float32"`, `"bfloat16"` or `"float16"`; by default the precision that the weights are stored in.
            load_in_4bit (`bool`, *optional*, defaults to `False`):
                Whether to quantize the model to 4 bits (NF4, with `bitsandbytes`).
            load_in_8bit (`bool`, *optional*, defaults to `False`):
                Whether to quantize the model to 8 bits (with `bitsandbytes`).
            attn_implementation (`str`, *optional*):
                The attention of the model, such as `"sdpa"`, `"eager"` or `"flash_attention_2"`.
            **kwargs:
                Passed to [`TransformersEngine`].

        Raises:
            `InputError`: If one of them cannot be loaded.
        """
        import torch
        from accelerate import PartialState
        from transformers import BitsAndBytesConfig

        from iepile_builder.engines.packed import pack_linears

        quantized = load_in_4bit or load_in_8bit
        config = None
        if load_in_4bit and load_in_8bit:
            raise InputError("load_in_4bit and load_in_8bit exclude each other: choose one")
        if quantized:
            config = BitsAndBytesConfig(
                load_in_4bit=load_in_4bit,
                load_in_8bit=load_in_8bit,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
            )
        tokenizer = load_tokenizer(tokenizer_of(model, adapter), chat_template_path)
        network: Any = load_model(
            model,
            adapter,
            dtype=dtype,
            device_map={"": PartialState().device},
            quantization_config=config,
            attn_implementation=attn_implementation,
        )
        if adapter is not None and not quantized:
            network = network.merge_and_unload()
        if network.device.type == "cpu" and not quantized:
            pack_linears(network)
            for weight in network.parameters():  # a pass over weights mapped from the file takes a tenth longer
                weight.data = weight.data.clone()
        engine = cls(network.eval(), tokenizer, **kwargs)
        if engine.constrained:
            _ = engine.vocabulary  # half a second that the first answer does not wait for
        return engine

    @property
    def on_gpu(self) -> bool:
        """Tell whether the model is on a GPU."""
        is_there: bool = self.model.device.type == "cuda"
        return is_there

    def prompt_ids(self, request: Request) -> list[int]:
        """Encode the prompt of a request."""
        return encode([render(request.messages, self.tokenizer)], self.tokenizer)[0]

    def context_left(self, request: Request, max_new_tokens: int) -> int:
        return self.context - max_new_tokens - len(self.prompt_ids(request))

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        from iepile_builder.engines.decoding import GreedyDecoder, generate_padded

        prompts = [render(request.messages, self.tokenizer) for request in requests]
        token_ids = encode(prompts, self.tokenizer)
        check_room(token_ids, max_new_tokens, self.context)

        own_loop = GreedyDecoder.supports(self.model)
        prefixes: list[tuple[int, ...]] = [()] * len(prompts)
        if own_loop and self.share_prefix:
            prefixes = self.schema_prefixes(prompts, token_ids) or shared_prefixes(prompts, token_ids)
        size = self.find_batch_size(max(map(len, token_ids), default=0), max_new_tokens)
        decoder = GreedyDecoder(self.model, self.end_tokens, max_new_tokens, size, self.lookup, self.pass_cost)
        decoder.computed |= self.kept
        if own_loop and self.pass_cost is None and prompts:
            if self.on_gpu:
                context = min(512, self.context // 2)
                rows = min(64, max(1, self.count_fitting(context, 0) // 2))

                def measure(batch: Sequence[int]) -> None:
                    decoder.cost = decoder.measure(len(batch), context)

                if (left := self.run_batches(measure, range(rows), rows, decoder)) < rows:
                    self.batch_size = size = decoder.batch_size = min(size, left)
            self.pass_cost = decoder.cost
        completions = {}

        def answer(batch: Sequence[int]) -> None:
            rows = [self.row(requests[index], token_ids[index], prefixes[index]) for index in batch]
            if own_loop:
                decoder(rows)
            else:
                generate_padded(self.model, rows, self.end_tokens, max_new_tokens)
            for index, row in zip(batch, rows, strict=True):
                completions[index] = self.completion(row, requests[index])

        order = sorted(range(len(prompts)), key=lambda index: len(token_ids[index]) - len(prefixes[index]))
        if (left := self.run_batches(answer, order, size, decoder)) < size:
            self.batch_size = left
        if self.keep_prefixes:
            self.kept = decoder.computed
        answers = [completions[index] for index in range(len(prompts))]
        if not self.scores:
            return answers
        decisions = self.score_decisions(requests, [answer.text for answer in answers])
        return [answer._replace(decisions=each) for answer, each in zip(answers, decisions, strict=True)]

    def score_decisions(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Decisions | None]:
        """
        Read the decisions of given answers off the model, in one pass over each prompt with its answer.

        In bfloat16, logits have 8 bits, so that log-odds are steps of about 0.1; load the model in float32 to rank by
        them. The decisions of each answer are as in [`~iepile_builder.engines.base.Completion`].

        Raises:
            `InputError`: If a request with its answer does not fit into the model's context.
        """
        from iepile_builder.engines.decoding import GreedyDecoder
        from iepile_builder.engines.rows import Row

        prompts = [render(request.messages, self.tokenizer) for request in requests]
        asked = encode(prompts, self.tokenizer)
        told = encode([break_control_tokens(answer, self.tokenizer) for answer in answers], self.tokenizer)
        tokens = [prompt + answer for prompt, answer in zip(asked, told, strict=True)]
        check_room(tokens, 0, self.context)
        shares = GreedyDecoder.supports(self.model) and self.share_prefix
        prefixes = shared_prefixes(prompts, asked) if shares else [()] * len(prompts)
        batch_size = min(self.most_scored, self.find_batch_size(max(map(len, tokens), default=0), 0))
        decoder = GreedyDecoder(self.model, self.end_tokens, 0, batch_size)
        # The logits are the largest tensor: no more than about a gigabyte
        longest = max(map(len, told), default=0) + 1
        size = max(1, min(batch_size, 2**28 // (longest * len(self.vocabulary.texts))))
        decisions: list[Decisions | None] = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(tokens[index]) - len(prefixes[index]))

        def read(batch: Sequence[int]) -> None:
            rows = [Row(tokens[index], prefixes[index]) for index in batch]
            for index, log_probs in zip(batch, decoder.read(rows, [len(asked[i]) for i in batch]), strict=True):
                steps = AllSteps(told[index], log_probs.numpy(), self.vocabulary)
                decisions[index] = read_decisions(steps, requests[index].answer_schema)

        if (left := self.run_batches(read, order, size, decoder)) < size:
            self.most_scored = left
        return decisions

    def run_batches(
        self, run: Callable[[Sequence[int]], None], order: Sequence[int], size: int, decoder: GreedyDecoder
    ) -> int:
        """Run batches of requests, by their numbers; halve what does not fit into the memory and return the size."""
        import torch

        start = 0
        while start < len(order):
            batch = order[start : start + size]
            try:
                run(batch)
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise InputError(f"a single request does not fit into the memory: {first_line(error)}") from None
                size = decoder.batch_size = len(batch) // 2
            else:
                start += len(batch)
                continue
            # Only here, behind the handler, is what the batch had in memory free.
            torch.cuda.empty_cache()
            print(f"out of memory: from here on {size} requests at a time", file=sys.stderr)
        return size

    def schema_prefixes(self, prompts: Sequence[str], token_ids: Sequence[list[int]]) -> list[tuple[int, ...]]:
        """
        Find the part of each prompt before its text, the same for all texts with this schema, if prefixes are kept.
        Give nothing if there are more of them than are kept.
        """
        from iepile_builder.engines.decoding import MOST_PREFIXES

        heads = [prompt[: prompt.find(_INPUT) + len(_INPUT)] if _INPUT in prompt else "" for prompt in prompts]
        distinct = list(dict.fromkeys(heads))
        if not self.keep_prefixes or len(distinct) > MOST_PREFIXES:
            return []
        # Without the last token, which the text may change
        prefix_of = {
            head: tuple(ids[:-1]) for head, ids in zip(distinct, encode(distinct, self.tokenizer), strict=True)
        }
        prefixes = [prefix_of[head] for head in heads]
        return [
            prefix if len(prefix) < len(ids) and tuple(ids[: len(prefix)]) == prefix else ()
            for prefix, ids in zip(prefixes, token_ids, strict=True)
        ]

    def find_batch_size(self, prompt: int, answer: int) -> int:
        """Give the batch size, by default that for which a GPU has memory, with prompts and answers of this length."""
        if self.batch_size is not None:
            return self.batch_size
        return min(256, self.count_fitting(prompt, answer)) if self.on_gpu else 16

    def count_fitting(self, prompt: int, answer: int) -> int:
        """
        Estimate how many requests can be answered at once in two thirds of the GPU's free memory: their cache, what a
        layer computes of the prompts, and logits. It need not be exact: a batch that does not fit is halved.
        """
        import torch

        device, config = self.model.device, self.model.config.get_text_config()
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        cache = 2 * config.num_hidden_layers * groups * head * (prompt + answer + 128)  # it grows 128 ahead
        layer = (8 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)) * prompt
        values = cache + layer + 16 * config.vocab_size
        return max(1, 2 * free // (3 * values * self.model.dtype.itemsize))

    def completion(self, row: Row, request: Request) -> Completion:
        """Decode the answer to a request; close it if it was cut."""
        text: str = self.tokenizer.decode(row.answer, skip_special_tokens=True)
        cut = not row.complete(self.end_tokens)
        if cut and row.matcher is not None and request.answer_schema is not None:
            text = self.grammars.close(request.answer_schema, text)
        elif row.matcher is not None:
            text = without_repeats(text)
        return Completion(text, cut)

    def row(self, request: Request, prompt: Sequence[int], prefix: tuple[int, ...] = ()) -> Row:
        """Start the answer to a request."""
        from iepile_builder.engines.rows import Row

        if not self.constrained or request.answer_schema is None:
            return Row(prompt, prefix)
        schema, grammars = request.answer_schema, self.grammars
        bias = self.empty_bias.get(request.task, 0.0) if isinstance(self.empty_bias, dict) else self.empty_bias
        return Row(prompt, prefix, grammars.matcher(schema), self.vocabulary, bias, grammars.nothing(schema), schema)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Read the texts of the tokens, when they are first needed."""
        return Vocabulary(self.grammars.tokenizer)

    @cached_property
    def grammars(self) -> Grammars:
        """Compile grammars for this tokenizer, when they are first needed."""
        return Grammars(self.tokenizer, self.model.get_output_embeddings().weight.shape[0], self.end_tokens)


def shared_prefixes(prompts: Sequence[str], token_ids: Sequence[list[int]]) -> list[tuple[int, ...]]:
    """Find the prefix that each prompt shares with others of its schema, else with others of its task."""
    shared: list[tuple[int, ...]] = [()] * len(prompts)
    # An instruction is JSON: its sentence, the schema items, and last the text.
    for marker in (', "schema": ', _INPUT):
        groups: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            if marker in prompt:
                groups.setdefault(prompt[: prompt.index(marker)], []).append(index)
        for group in groups.values():
            if len(group) > 1:
                common = tuple(os.path.commonprefix([token_ids[index] for index in group]))
                for index in group:
                    shared[index] = common[: min(len(token_ids[index]) for index in group) - 1]
    return shared
