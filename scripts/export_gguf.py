# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[gguf]"]
# ///
"""
Export a model, with its adapter merged, to GGUF:

    python scripts/export_gguf.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --adapter_name_or_path outputs/adapter --outtype q8_0 --output_dir outputs/gguf
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("export-gguf")
