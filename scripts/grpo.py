"""
Goes on with a fine-tuned model by reinforcement learning (GRPO): the reward of an answer is its IE F1 against the
reference, and a little for being JSON at all.

```bash
accelerate launch --config_file recipes/accelerate_configs/cpu.yaml scripts/grpo.py \
    --config recipes/smollm2-135m-instruct/grpo/config_lora.yaml \
    --dataset_name data/iepile \
    --adapter_name_or_path outputs/smollm2-135m-iepile \
    --output_dir outputs/smollm2-135m-iepile-grpo
```

Every argument of TRL's `GRPOConfig` and `ModelConfig` works on the command line and in the YAML file; the command line
wins. Where `output_dir` already holds a checkpoint, training goes on from it.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.grpo", run_name="__main__")
