# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder"]
# ///
"""
Build instruction instances from annotated corpora:

    python scripts/build_dataset.py --corpus_dir sample_corpus --output_dir outputs/sample
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("build")
