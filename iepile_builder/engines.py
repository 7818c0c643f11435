"""
What answers requests: one interface, and the engine that runs a model of `transformers` in this process.

An engine is given whole lists of requests and returns their completions in the same order; how it groups them is its
own business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from iepile_builder.chat import Message, load_model, load_tokenizer
from iepile_builder.errors import InputError


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Request(NamedTuple):
    """
    What a model is asked.

    Args:
        messages (`list[dict[str, str]]`):
            The chat up to the answer.
        answer_schema (`dict[str, Any]`, *optional*):
            JSON schema that the answer must satisfy, from [`~iepile_builder.constraints.answer_schema`]; `None` leaves
            the answer free.
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
            Whether it ended at the token limit.
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


class TransformersEngine:
    """
    Answers with a model of `transformers`, in batches of requests of similar length.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model; it is used as it is, in training too.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, with a chat template.
        batch_size (`int`, *optional*, defaults to `16`):
            How many requests are answered at once.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 16
    ) -> None:
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.batch_size = batch_size
        self.end_tokens: set[int] = {tokenizer.eos_token_id}
        if (configured := model.generation_config.eos_token_id) is not None:
            self.end_tokens |= {configured} if isinstance(configured, int) else set(configured)
        self.context: int = model.config.get_text_config().max_position_embeddings

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
        Loads a model, and an adapter for it.

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
        from transformers.utils.hub import has_file

        quantized = load_in_4bit or load_in_8bit
        config = None
        if load_in_4bit and load_in_8bit:
            raise InputError("load_in_4bit and load_in_8bit exclude each other: choose one")
        if quantized:
            config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
                load_in_4bit=load_in_4bit,
                load_in_8bit=load_in_8bit,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
            )
        name = adapter if adapter is not None and has_file(adapter, "tokenizer_config.json") else model
        tokenizer = load_tokenizer(name, chat_template_path)
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
        return cls(network.eval(), tokenizer, **kwargs)

    def prompt_ids(self, request: Request) -> list[int]:
        """The tokens of a request."""
        prompt = self.tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def context_left(self, request: Request, max_new_tokens: int) -> int:
        return self.context - max_new_tokens - len(self.prompt_ids(request))

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        import torch
        from transformers import GenerationConfig

        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            repetition_penalty=1.0,  # what is not given here is taken from the model's own settings
            no_repeat_ngram_size=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.end_tokens),
            pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
        )
        token_ids = [self.prompt_ids(request) for request in requests]
        longest = max(map(len, token_ids), default=0)
        if longest + max_new_tokens > self.context:
            raise InputError(
                f"a prompt of {longest} tokens leaves no room for {max_new_tokens} more in the model's context of "
                f"{self.context}: ask for fewer labels, a shorter text or a shorter answer"
            )
        completions = {}
        order = sorted(range(len(requests)), key=lambda index: len(token_ids[index]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            width = len(token_ids[batch[-1]])
            padding = [width - len(token_ids[index]) for index in batch]
            input_ids = [[config.pad_token_id] * n + token_ids[i] for n, i in zip(padding, batch, strict=True)]
            mask = [[0] * n + [1] * (width - n) for n in padding]
            with torch.no_grad():  # FSDP2 cannot go on training after `inference_mode`
                generated = self.model.generate(
                    input_ids=torch.tensor(input_ids, device=self.model.device),
                    attention_mask=torch.tensor(mask, device=self.model.device),
                    generation_config=config,
                )
            for index, ids in zip(batch, generated[:, width:].tolist(), strict=True):
                text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
                completions[index] = Completion(text, cut=self.end_tokens.isdisjoint(ids))
        return [completions[index] for index in range(len(requests))]
