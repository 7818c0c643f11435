"""
From annotated corpora to a trained, scored adapter: what `make quickstart` runs.

    python scripts/quickstart.py
    python scripts/quickstart.py --corpus_dir path/to/IE-en/NER/my_corpus
    python scripts/quickstart.py --push_to_hub user/name

Builds instances, fine-tunes SmolLM2-135M-Instruct with LoRA, answers test instances before and after, and scores both.
It is capped to take some minutes on two CPU cores. A second run reuses what is done; after an edit of the corpora, the
recipe or an option it starts anew in another folder.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.quickstart", run_name="__main__")
