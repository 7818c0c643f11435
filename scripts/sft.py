"""
Fine-tunes a causal language model on IEPile instances: LoRA, QLoRA or all weights, the loss on the answer alone.

```bash
accelerate launch --config_file recipes/accelerate_configs/cpu.yaml scripts/sft.py \
    --config recipes/smollm2-135m-instruct/sft/config_lora.yaml \
    --dataset_name data/iepile \
    --output_dir outputs/smollm2-135m-iepile
```

Every argument of TRL's `SFTConfig` and `ModelConfig` works on the command line and in the YAML file; the command line
wins. Where `output_dir` already holds a checkpoint, training goes on from it.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.train", run_name="__main__")
