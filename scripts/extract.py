# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[extract]"]
# ///
"""
Extract from a text what a schema asks for:

    python scripts/extract.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --adapter_name_or_path outputs/adapter --text "Ada met Bob in Rome." --schema '["person", "city"]'
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("extract")
