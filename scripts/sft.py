# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[train]"]
# ///
"""
Fine-tune a causal language model on IEPile instances, as `iepile train` does:

    accelerate launch --quiet --config_file recipes/accelerate_configs/cpu.yaml scripts/sft.py \
        --config recipes/smollm2-135m-instruct/sft/config_continue.yaml \
        --dataset_name data/iepile --output_dir outputs/smollm2-135m-iepile

Without `--quiet`, `accelerate launch` adds a traceback of its own to an error.
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("train")
