# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder"]
# ///
"""
Calibrate an adapter on its answers to validation records:

    python scripts/calibrate.py --predictions_file outputs/validation.jsonl --adapter_name_or_path outputs/adapter
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("calibrate")
