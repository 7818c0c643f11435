"""
Build instruction instances from annotated corpora.

    python scripts/build_dataset.py --corpus_dir iepile_builder/resources/sample_corpus --output_dir outputs/sample

`--corpus_dir` is one corpus folder (`train.json`, `dev.json`, `test.json` and `schema.json`) or a tree of them,
`{IE-en,IE-zh}/{TASK}/{corpus}`. `--format jsonl` writes `{train,validation,test}.jsonl`; `--format parquet` writes a
folder that `load_dataset` opens and `--push_to_hub` pushes: a config for each task, for each task and language, and a
default one of all, with a dataset card. A build that was killed goes on with the split at which it was, when the same
command is given again.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.build", run_name="__main__")
