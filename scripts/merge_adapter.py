# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[extract]"]
# ///
"""
Merge a LoRA adapter into its base model:

    python scripts/merge_adapter.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --adapter_name_or_path outputs/adapter --output_dir outputs/merged
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("merge")
