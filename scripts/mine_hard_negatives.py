"""
Mine the hard negatives of a schema: a dictionary for `scripts/build_dataset.py --hard_negatives`.

    python scripts/mine_hard_negatives.py --corpus_dir iepile_builder/resources/sample_corpus --method lexical \
        --top_k 3 --output_file outputs/hard_negatives.json

`lexical` compares how labels are written, `embedding` what they mean (with any sentence-transformers model), and
`confusion` takes what a model confused in a prediction file of `scripts/predict.py`. Several methods give the union.
"""

import runpy


if __name__ == "__main__":
    runpy.run_module("iepile_builder.commands.mine", run_name="__main__")
