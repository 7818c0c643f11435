# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[extract]"]
# ///
"""
Answer the instances of a dataset with a model:

    python scripts/predict.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --adapter_name_or_path outputs/adapter --dataset_name data/iepile --output_file outputs/preds.jsonl
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("predict")
