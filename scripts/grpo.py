# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[train]"]
# ///
"""
Train a fine-tuned model further by reinforcement learning (GRPO), as `iepile grpo` does:

    accelerate launch --quiet --config_file recipes/accelerate_configs/cpu.yaml scripts/grpo.py \
        --config recipes/smollm2-135m-instruct/grpo/config_lora.yaml --dataset_name data/iepile \
        --adapter_name_or_path outputs/smollm2-135m-iepile --output_dir outputs/smollm2-135m-iepile-grpo
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("grpo")
