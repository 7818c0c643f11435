# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[demo]"]
# ///
"""
Try extraction in the browser:

    python scripts/demo.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
        --adapter_name_or_path outputs/adapter
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("demo")
