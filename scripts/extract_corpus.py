# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[extract]"]
# ///
"""
Extract from all documents of a corpus, into Parquet.

    python scripts/extract_corpus.py --documents 'news/*.parquet' --schema '["person", "place"]' \\
        --output_dir outputs/news --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("extract-corpus")
