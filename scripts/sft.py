"""
Fine-tune a causal language model on IEPile instances, as `iepile train` does:

    accelerate launch --config_file recipes/accelerate_configs/cpu.yaml scripts/sft.py \
        --config recipes/smollm2-135m-instruct/sft/config_lora.yaml \
        --dataset_name data/iepile --output_dir outputs/smollm2-135m-iepile

After an error `accelerate launch` adds a traceback of its own; `accelerate launch --quiet` and `iepile train` do not.
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("train")
