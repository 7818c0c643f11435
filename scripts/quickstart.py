# /// script
# requires-python = ">=3.10"
# dependencies = ["iepile-builder[quickstart]"]
# ///
"""
From annotated corpora to a trained, scored adapter, as `iepile quickstart` does:

    python scripts/quickstart.py
    python scripts/quickstart.py --corpus_dir path/to/IE-en/NER/my_corpus
    python scripts/quickstart.py --push_to_hub user/name
"""

from iepile_builder.commands.cli import run


if __name__ == "__main__":
    run("quickstart")
