# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder"]
# ///
"""
Convert the files of an annotation tool to corpora in the unified format:

    python scripts/convert.py --corpus_dir export.json --languages en --output_dir outputs/mine
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("convert")
