# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder"]
# ///
"""
Score a file of predictions:

    python scripts/score.py --predictions_file preds.jsonl --output_file report.json
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("score")
