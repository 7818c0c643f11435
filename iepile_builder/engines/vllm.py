"""
Answer with vLLM in this process: paged batches on a GPU, the adapter unmerged, guided decoding, n-gram speculation.

vLLM pins a release of PyTorch and an older `transformers` than the other extras need, so it lives in an environment of
its own: `pip install 'iepile-builder[vllm]'`. The tests ran with vLLM 0.32 built for CPUs, and check the arguments
against those of 0.33; vLLM itself has not been run on a GPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from iepile_builder.answers.grammar import close_answer, lark_grammar
from iepile_builder.answers.parse import load_answer
from iepile_builder.answers.repair import without_repeats
from iepile_builder.chat import break_control_tokens, encode, load_tokenizer, render
from iepile_builder.engines.base import Completion, Decisions, Request, check_room
from iepile_builder.engines.decisions import TopSteps, Vocabulary, find_points, find_repeat, read_decisions
from iepile_builder.engines.loading import tokenizer_of
from iepile_builder.errors import InputError
from iepile_builder.io import first_line


# The ranks that vLLM accepts
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

# The likeliest tokens that it tells, at most, if it is not told otherwise
_TOP = 20


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
        scores (`bool`, *optional*, defaults to `False`):
            Whether completions have `decisions`, from the 20 likeliest tokens; costs one more pass over prompts and
            answers, one at a time with an adapter: merge it first.
        **kwargs:
            Passed to [`~vllm.LLM`]: `dtype`, `quantization="bitsandbytes"`, `tensor_parallel_size`, `max_model_len`
            (by default the longest that fits into the memory), `gpu_memory_utilization`, ...

    Raises:
        `InputError`: If vLLM is not installed or cannot load them.
    """

    window = 4096  # requests to be given at once, so that it is busy

    def __init__(
        self,
        model: str,
        adapter: str | None = None,
        chat_template_path: str | None = None,
        speculative_tokens: int = 0,
        scores: bool = False,
        **kwargs: Any,
    ) -> None:
        take_gpus(kwargs.get("tensor_parallel_size", 1) * kwargs.get("pipeline_parallel_size", 1))
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise InputError(
                f"vllm cannot be imported ({first_line(error)}): install it in an environment of its own, "
                "pip install 'iepile-builder[vllm]'"
            ) from None
        from huggingface_hub import snapshot_download

        self.scores = scores
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
        kwargs.setdefault("max_model_len", -1)  # the model's context, or what of it the memory has room for
        try:
            self._llm = LLM(model, tokenizer=name, **kwargs)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise InputError(
                f"{model}: vLLM cannot load it: {first_line(error)} (if memory is short: --vllm_args with a smaller "
                "max_model_len or gpu_memory_utilization, with tensor_parallel_size or with quantization)"
            ) from None
        self._encode = lru_cache(maxsize=2**14)(lambda prompt: encode([prompt], self.tokenizer)[0])
        self.context: int = self._llm.model_config.max_model_len

    def prompt_ids(self, request: Request) -> list[int]:
        """Encode the prompt of a request."""
        return self._encode(render(request.messages, self.tokenizer))

    def context_left(self, request: Request, max_new_tokens: int) -> int:
        return self.context - max_new_tokens - len(self.prompt_ids(request))

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        token_ids = [self.prompt_ids(request) for request in requests]
        check_room(token_ids, max_new_tokens, self.context)
        greedy = {"temperature": 0.0, "max_tokens": max_new_tokens, "stop_token_ids": [self.tokenizer.eos_token_id]}
        greedy["detokenize"] = False  # vLLM leaves out a character that is cut in its middle
        completions = [Completion("")] * len(requests)
        waiting = {index: request.answer_schema for index, request in enumerate(requests)}
        while waiting:
            params = [
                SamplingParams(
                    structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar), **greedy
                )
                for grammar in (None if schema is None else lark_grammar(schema) for schema in waiting.values())
            ]
            outputs = self._run([{"prompt_token_ids": token_ids[index]} for index in waiting], params)
            again: dict[int, dict[str, Any] | None] = {}
            for (index, schema), output in zip(waiting.items(), outputs, strict=True):
                answer, asked = output.outputs[0], requests[index].answer_schema
                text: Any = self.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
                cut = answer.finish_reason == "length"
                if schema is not None and (fixed := fix_before_repeat(schema, text)) is not None:
                    again[index] = fixed
                elif asked is not None:
                    text = close_answer(asked, text) if cut and load_answer(text) is None else without_repeats(text)
                completions[index] = Completion(text, cut)
            waiting = again
        if not self.scores:
            return completions
        decisions = self.score_decisions(requests, [completion.text for completion in completions])
        return [answer._replace(decisions=each) for answer, each in zip(completions, decisions, strict=True)]

    def _run(self, prompts: list[Any], params: Any) -> list[Any]:
        from torch import OutOfMemoryError
        from vllm.exceptions import VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter)
        except (EngineDeadError, OutOfMemoryError):  # the latter where its engine is in this process
            raise InputError(
                "vLLM ended, and says above why: if for lack of memory, lower gpu_memory_utilization in --vllm_args"
            ) from None
        except (VLLMError, ValueError) as error:
            raise InputError(f"vLLM refuses a request: {first_line(error)}") from None

    def score_decisions(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Decisions | None]:
        """Read the decisions of given answers, as [`~iepile_builder.engines.transformers.TransformersEngine`] does."""
        from vllm import SamplingParams

        asked = [self.prompt_ids(request) for request in requests]
        told = encode([break_control_tokens(answer, self.tokenizer) for answer in answers], self.tokenizer)
        tokens = [prompt + answer for prompt, answer in zip(asked, told, strict=True)]
        check_room(tokens, 1, self.context)
        # The prompt's log-probabilities are the model's own; those of an answer would be what its grammar leaves
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=_TOP, detokenize=False)
        prompts = [{"prompt_token_ids": ids} for ids in tokens]
        # With an adapter, vLLM 0.32 computes the log-probabilities of one prompt at a time, and fails at several
        at_once = len(prompts) if self._adapter is None else 1
        batches = (prompts[start : start + at_once] for start in range(0, len(prompts), at_once))
        outputs = [output for batch in batches for output in self._run(batch, params)]
        decisions = []
        for request, prompt, answer, output in zip(requests, asked, told, outputs, strict=True):
            texts = self.vocabulary.texts
            tops = [
                {texts[token]: found.logprob for token, found in step.items()}
                for step in output.prompt_logprobs[len(prompt) :]
            ]
            steps = TopSteps([texts[token] for token in answer], tops, self.vocabulary)
            decisions.append(read_decisions(steps, request.answer_schema))
        return decisions

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Read the texts of the tokens, when they are first needed."""
        from llguidance.hf import from_tokenizer

        tokenizer: Any = self.tokenizer
        return Vocabulary(from_tokenizer(tokenizer))


def fix_before_repeat(schema: Mapping[str, Any], text: str) -> dict[str, Any] | None:
    """
    Fix what an answer says up to an item that its label's list has already, in the schema of its next attempt: there
    the list ends before it, and the labels after it are free. `None` if no label repeats an item.
    """
    said, start = text.encode(), 0
    while (start := find_repeat(said, start) or 0) > 0:
        point = find_points(said[: start + 1])[-1]
        if point.place == start:  # of the label's own list, not of one within an item
            values = json.loads(without_repeats((said[:start] + point.close + b"}").decode()))
            properties = {
                label: {"const": values[label]} if label in values else node
                for label, node in schema["properties"].items()
            }
            return {**schema, "properties": properties}
        start += 1
    return None


def take_gpus(number: int) -> None:
    """
    Leave to this process, one of several of `accelerate launch` or `torchrun`, its own `number` of the visible GPUs.

    Raises:
        `InputError`: If there are too few.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if processes == 1:
        return
    from torch import cuda

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(index) for index in range(cuda.device_count())] if visible is None else visible.split(",")
    if len(gpus) < processes * number:
        raise InputError(
            f"{processes} processes, GPUs for each of them: {number}, but only {len(gpus)} are visible: give "
            f"--num_processes {len(gpus) // number or 1}"
        )
    # A forked engine would take the group of these processes, which it inherits, for its own
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    first = int(os.environ["LOCAL_RANK"]) * number
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + number])


def _rank(adapter: str) -> int:
    config = json.loads(Path(adapter, "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    for room in _LORA_RANKS:
        if rank <= room:
            return room
    raise InputError(f"{adapter}: a LoRA of rank {rank}, more than vLLM takes: merge it with iepile merge")
