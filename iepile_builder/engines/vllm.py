"""
Answer with vLLM in this process: paged batches on a GPU, the adapter unmerged, guided decoding, n-gram speculation.

vLLM pins a release of PyTorch, so it lives in an environment of its own: `pip install vllm iepile-builder`. The tests
ran with vLLM 0.32 built for CPUs, and check the arguments against those of 0.33; no GPU was available.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iepile_builder.answers.grammar import lark_grammar
from iepile_builder.chat import encode, load_tokenizer, render
from iepile_builder.engines.base import Completion, Request, check_room
from iepile_builder.engines.loading import tokenizer_of
from iepile_builder.errors import InputError
from iepile_builder.io import first_line


# The ranks that vLLM accepts
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VLLMEngine:
    """
    Answer with a model that vLLM runs.

    Prompts and the grammars of answers are those of [`~iepile_builder.engines.transformers.TransformersEngine`].

    Args:
        model (`str`):
            A folder or a Hub id.
        adapter (`str`, *optional*):
            Folder or Hub id of a LoRA adapter. Its tokenizer is used where it has one.
        chat_template_path (`str`, *optional*):
            A Jinja file to use in place of the tokenizer's own template.
        speculative_tokens (`int`, *optional*, defaults to `0`):
            Tokens to draft by n-gram look-up in the prompt; the answers stay the same. 8 is a good start, 0 turns it
            off.
        **kwargs:
            Passed to [`~vllm.LLM`]: `dtype`, `quantization="bitsandbytes"`, `tensor_parallel_size`, `max_model_len`,
            `gpu_memory_utilization`, ...

    Raises:
        `InputError`: If vLLM is not installed or cannot load them.
    """

    def __init__(
        self,
        model: str,
        adapter: str | None = None,
        chat_template_path: str | None = None,
        speculative_tokens: int = 0,
        **kwargs: Any,
    ) -> None:
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise InputError(
                f"vllm cannot be imported ({first_line(error)}): install it in an environment of its own, "
                "pip install vllm iepile-builder"
            ) from None
        from huggingface_hub import snapshot_download

        name = tokenizer_of(model, adapter)
        self.tokenizer = load_tokenizer(name, chat_template_path)
        self._adapter: Any = None
        if adapter is not None:
            folder = adapter if Path(adapter).is_dir() else snapshot_download(adapter)
            self._adapter = LoRARequest("adapter", 1, folder)
            kwargs |= {"enable_lora": True, "max_lora_rank": _rank(folder)}
        if speculative_tokens:
            kwargs["speculative_config"] = {
                "method": "ngram",
                "num_speculative_tokens": speculative_tokens,
                "prompt_lookup_min": 2,
                "prompt_lookup_max": 4,
            }
        # vLLM brings llguidance along, so the grammars are those of TransformersEngine
        kwargs.setdefault("structured_outputs_config", {"backend": "guidance"})
        try:
            self._llm = LLM(model, tokenizer=name, **kwargs)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{model}: vLLM cannot load it: {first_line(error)}") from None
        self.context: int = self._llm.model_config.max_model_len

    def prompt_ids(self, request: Request) -> list[int]:
        """Encode the prompt of a request."""
        return encode([render(request.messages, self.tokenizer)], self.tokenizer)[0]

    def context_left(self, request: Request, max_new_tokens: int) -> int:
        return self.context - max_new_tokens - len(self.prompt_ids(request))

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        token_ids = [self.prompt_ids(request) for request in requests]
        check_room(token_ids, max_new_tokens, self.context)
        params = [
            SamplingParams(
                temperature=0.0,
                max_tokens=max_new_tokens,
                stop_token_ids=[self.tokenizer.eos_token_id],
                detokenize=False,  # vLLM leaves out a character that is cut in its middle
                structured_outputs=None
                if request.answer_schema is None
                else StructuredOutputsParams(grammar=lark_grammar(request.answer_schema)),
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": ids} for ids in token_ids]
        outputs = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter)
        completions = []
        for output in outputs:
            answer = output.outputs[0]
            text: Any = self.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
            completions.append(Completion(text, cut=answer.finish_reason == "length"))
        return completions


def _rank(adapter: str) -> int:
    config = json.loads(Path(adapter, "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    for room in _LORA_RANKS:
        if rank <= room:
            return room
    raise InputError(f"{adapter}: a LoRA of rank {rank}, more than vLLM takes: merge it with iepile merge")
