"""Models that answer requests; [`load_engine`] is the one place that chooses how a model is run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from iepile_builder.errors import InputError
from iepile_builder.io import find_adapter
from iepile_builder.tasks import find_task


if TYPE_CHECKING:
    from iepile_builder.engines.base import Engine


@dataclass
class ModelOptions:
    """
    Model.

    Args:
        model_name_or_path (`str`, *optional*):
            Folder or Hub id of the model. By default the base model that the adapter's `adapter_config.json` names;
            without an adapter, in commands that answer, SmolLM2-135M-Instruct with this package's zero-shot adapter.
        adapter_name_or_path (`str`, *optional*):
            Folder or Hub id of a LoRA adapter, or the name of one in the recipes, such as
            `smollm2-135m-instruct/zero_shot/adapter`. Its tokenizer is used if it has one.
        chat_template_path (`str`, *optional*):
            A Jinja file in place of the tokenizer's own chat template, or the name of one in the recipes, such as
            `chat_templates/llama2.jinja`.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of the weights; `auto`: as they are stored.
    """

    model_name_or_path: str | None = None
    adapter_name_or_path: str | None = None
    chat_template_path: str | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"

    def __post_init__(self) -> None:
        if self.adapter_name_or_path is not None:
            self.adapter_name_or_path = find_adapter(self.adapter_name_or_path)


@dataclass
class EngineOptions(ModelOptions):
    """
    Inference.

    Args:
        base_url (`str`, *optional*):
            Ask the model behind an OpenAI-compatible server, such as http://127.0.0.1:8000/v1. If it serves several,
            `model_name_or_path` is its name there.
        engine (`str`, *optional*, defaults to `"transformers"`):
            What runs the model if there is no `base_url`: `transformers` or `vllm`; or `lookup`, the baseline that
            looks up training mentions, whose `model_name_or_path` is a dataset of instances.
        load_in_4bit (`bool`, *optional*, defaults to `False`):
            Quantize the model to 4 bits.
        load_in_8bit (`bool`, *optional*, defaults to `False`):
            Quantize the model to 8 bits.
        attn_implementation (`str`, *optional*):
            The model's attention, such as `sdpa` or `flash_attention_2`.
        batch_size (`int`, *optional*):
            Requests answered at once; by default 16, and on a GPU as many as its memory allows, up to 256. With vLLM
            its `max_num_seqs`, by default its own; with a server the requests on their way at once.
        max_new_tokens (`int`, *optional*, defaults to 512):
            Longest answer, in tokens.
        constrain (`str`, *optional*, defaults to `"auto"`):
            Hold answers to the JSON schema of their request: `on`, `off`, or `auto`, wherever that is possible.
        copied (`bool`, *optional*):
            Let answers contain only strings of the text, of whole words. By default in NER, RE and EE, where this
            scores better, unless labels have descriptions or examples show other strings. Not possible with a server;
            with vLLM only for short texts, and by default not.
        scores (`bool`, *optional*, defaults to `False`):
            Tell how sure the model was of each item of an answer, and of each label without one. Takes about a third
            more time; a server must give log-probabilities.
        empty_bias (`float` or `dict[str, float]`, *optional*):
            Added to the log-odds that a label has an item, in nats: above 0, fewer labels are answered with nothing. A
            number, or one for each task such as {"NER": 0.5}; by default what `iepile calibrate` wrote into the folder
            of the adapter or model, else 0. Only with `--engine transformers` and constrained answers.
        speculative_tokens (`int`, *optional*, defaults to 0):
            Tokens that vLLM drafts from the prompt; 8 is a good start.
        vllm_args (`dict[str, Any]`, *optional*):
            Options of vLLM, such as {"max_model_len": 4096, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.8,
            "quantization": "fp8"}; by default its context is the model's, or what the memory has room for.
    """

    base_url: str | None = None
    engine: Literal["transformers", "vllm", "lookup"] = "transformers"
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    attn_implementation: str | None = None
    batch_size: int | None = None
    max_new_tokens: int = 512
    constrain: Literal["auto", "on", "off"] = "auto"
    copied: bool | None = None
    scores: bool = False
    empty_bias: float | dict[str, float] | None = None
    speculative_tokens: int = 0
    vllm_args: dict[str, Any] | None = None

    def window(self, device: str) -> int:
        """Tell how many instances are answered before they are written, on a type of device."""
        if self.base_url is not None:
            return 64 * self.concurrency  # at the end of each, the server waits for the last answer
        if self.engine == "vllm":
            return 4096
        return 8 * (self.batch_size or (256 if device == "cuda" else 16))

    @property
    def concurrency(self) -> int:
        """Requests that are on their way to a server at once."""
        return self.batch_size or 16

    @property
    def copied_in_force(self) -> bool | None:
        """Whether answers are held to strings of the text; `None`: where that is the default of their task."""
        able = self.base_url is None and self.engine == "transformers" and self.constrain != "off"
        return self.copied if able or self.copied is not None else False


def choose_model(options: EngineOptions) -> None:
    """
    Fill in the model, if the options name neither one nor a server: that of the adapter, else the one of this package
    with its adapter.

    Raises:
        `InputError`: If there is no such adapter, or the look-up has no records to look up.
    """
    from iepile_builder.engines.loading import find_base, find_weights, shipped_model

    model, adapter = options.model_name_or_path, options.adapter_name_or_path
    if options.base_url is not None:
        return
    if options.engine == "lookup":
        if model is None:
            raise InputError("--engine lookup: give the instances to look up, a build, as --model_name_or_path")
        return
    if model is None and adapter is None:
        options.model_name_or_path, options.adapter_name_or_path = shipped_model()
    else:
        options.model_name_or_path = find_weights(model or find_base(str(adapter)))


def find_empty_bias(options: EngineOptions) -> float | dict[str, float]:
    """
    Find the bias that the options ask for: their own, else what `iepile calibrate` wrote beside the adapter or model,
    if anything; 0.0 where none changes an answer.

    Raises:
        `InputError`: If the bias is not finite or of an unknown task, or there is a calibration that cannot be read.
    """
    bias: float | dict[str, float] | None = options.empty_bias
    for task, value in bias.items() if isinstance(bias, dict) else [(None, bias or 0.0)]:
        if task is not None:
            find_task(task)
        if not isfinite(value):
            raise InputError(f"--empty_bias: {value} is not a finite number")
    if bias is None and options.base_url is None and options.engine == "transformers" and options.constrain != "off":
        from iepile_builder.engines.loading import find_calibration

        calibration = find_calibration(options.model_name_or_path, options.adapter_name_or_path)
        bias = None if calibration is None else calibration.empty_bias
    if isinstance(bias, dict):
        bias = {task: value for task, value in bias.items() if value}
    return bias or 0.0


def _tell_calibration(options: EngineOptions) -> None:
    """Say on the standard error which bias `iepile calibrate` found for the model, and whether it is applied."""
    from iepile_builder.answers.scores import CALIBRATION, load_calibration
    from iepile_builder.engines.loading import find_file

    model, adapter = options.model_name_or_path, options.adapter_name_or_path
    is_remote = options.base_url is not None and not os.path.isdir(model or "")  # a name of the server's
    if is_remote or options.engine == "lookup" or options.empty_bias is not None:
        return
    file = find_file(CALIBRATION, model, adapter)
    if file is None:
        return
    bias = {task: value for task, value in load_calibration(file).empty_bias.items() if value}
    unable = "by a server" if options.base_url is not None else "by vLLM" if options.engine == "vllm" else ""
    unable = unable or ("with --constrain off" if options.constrain == "off" else "")
    for task, value in bias.items():
        left = f" is not applied {unable}" if unable else ""
        print(f"{task}: empty_bias {value:+.2f} from {file}{left}", file=sys.stderr)


def load_engine(options: EngineOptions, keep_prefixes: bool = False) -> Engine:
    """
    Load the engine that the options name: a server, vLLM, the look-up, or a model of `transformers` in this process,
    which may keep what it has computed of the last schemas.

    Raises:
        `InputError`: If options exclude each other, or the model cannot be loaded or reached.
    """
    if options.copied and options.constrain == "off":
        raise InputError("--copied needs constrained answers: leave out --constrain off")
    if options.copied and options.base_url is not None:
        raise InputError("--copied: not available with a server, whose JSON schemas cannot hold strings to a text")
    choose_model(options)
    bias = find_empty_bias(options)
    if bias and options.constrain == "off":
        raise InputError("--empty_bias needs constrained answers: leave out --constrain off")
    if bias and (options.base_url is not None or options.engine != "transformers"):
        other = "a server" if options.base_url is not None else {"vllm": "vLLM"}.get(options.engine, options.engine)
        raise InputError(f"--empty_bias: not available with {other}, only with --engine transformers")
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        _tell_calibration(options)
    if (options.vllm_args or options.speculative_tokens) and options.engine != "vllm":
        raise InputError("--vllm_args and --speculative_tokens are for --engine vllm")
    if options.base_url is not None:
        if options.engine != "transformers" or options.adapter_name_or_path or options.chat_template_path:
            raise InputError(
                "--base_url: start the server with the adapter and the chat template, and without --engine"
            )
        from iepile_builder.engines.endpoint import EndpointEngine

        return EndpointEngine(
            options.base_url, options.model_name_or_path, concurrency=options.concurrency, scores=options.scores
        )
    assert options.model_name_or_path is not None  # chosen above
    if options.engine == "lookup":
        if options.scores:
            raise InputError("--scores: not available with --engine lookup")
        from iepile_builder.engines.lookup import LookupEngine

        return LookupEngine(options.model_name_or_path)
    if options.engine == "vllm":
        if options.load_in_8bit or options.attn_implementation:
            raise InputError("--load_in_8bit and --attn_implementation are for --engine transformers")
        from iepile_builder.engines.vllm import VLLMEngine

        return VLLMEngine(
            options.model_name_or_path,
            options.adapter_name_or_path,
            options.chat_template_path,
            options.speculative_tokens,
            options.scores,
            **{
                "dtype": options.dtype,
                "quantization": "bitsandbytes" if options.load_in_4bit else None,
                **({} if options.batch_size is None else {"max_num_seqs": options.batch_size}),
                **(options.vllm_args or {}),
            },
        )
    from iepile_builder.engines.transformers import TransformersEngine

    return TransformersEngine.from_pretrained(
        options.model_name_or_path,
        options.adapter_name_or_path,
        chat_template_path=options.chat_template_path,
        dtype=options.dtype,
        load_in_4bit=options.load_in_4bit,
        load_in_8bit=options.load_in_8bit,
        attn_implementation=options.attn_implementation,
        batch_size=options.batch_size,
        constrain=options.constrain,
        scores=options.scores,
        empty_bias=bias,
        keep_prefixes=keep_prefixes,
    )
