# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[mine]"]
# ///
"""
Mine the hard negatives of a schema:

    python scripts/mine_hard_negatives.py --corpus_dir sample_corpus --output_file outputs/hard_negatives.json
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("mine")
