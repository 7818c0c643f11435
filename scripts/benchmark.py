# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[extract]"]
# ///
"""
Score an adapter on the test sets of the papers:

    python scripts/benchmark.py --data_dir data --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --adapter_name_or_path outputs/adapter --output_dir outputs/benchmark
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("benchmark")
