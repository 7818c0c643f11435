"""
Merges a LoRA adapter into its base model, so that the result runs without PEFT, and checks on sample prompts that the
merged model, as it was saved, gives the same greedy answers as base and adapter.

```bash
python scripts/merge_adapter.py \
    --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
    --adapter_name_or_path outputs/adapter \
    --output_dir outputs/merged
```

The base is loaded in full precision also where the adapter was trained on a 4-bit one. The folder gets its name only
if the answers are equal; in bfloat16 rounding may change some of them: allow for it with `--min_equal`, or give
`--dtype float32`. Arguments can also stand in a YAML file, given with `--config`.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.merge", run_name="__main__")
