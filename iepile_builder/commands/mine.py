"""
Mine the hard negatives of a schema: a dictionary for `scripts/build_dataset.py --hard_negatives`.

    python scripts/mine_hard_negatives.py --corpus_dir iepile_builder/resources/sample_corpus --method lexical \
        --top_k 3 --output_file outputs/hard_negatives.json

`lexical` compares how labels are written, `embedding` what they mean (with any sentence-transformers model), and
`confusion` takes what a model confused in a prediction file of `scripts/predict.py`. Several methods give the union.
"""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from iepile_builder import InputError
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.index import read_split
from iepile_builder.data.instructions import corpus_descriptions, load_descriptions
from iepile_builder.data.mining import (
    check_methods,
    confusion_scores,
    embedding_scores,
    frequent_mentions,
    label_texts,
    lexical_scores,
    make_symmetric,
    nearest,
    union,
)
from iepile_builder.io import located, read_json, read_lines, to_json, write_whole
from iepile_builder.tasks import TASKS


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--corpus_dir", type=str, nargs="+", required=True, help="a corpus folder or a tree of them")
    parser.add_argument("--tasks", type=str, nargs="+", help="of NER RE SPO EE EET KG; default: each folder's own")
    parser.add_argument("--languages", type=str, nargs="+", help="of en zh; default: both")
    parser.add_argument("--corpora", type=str, nargs="+", help="names of corpora; default: all")
    parser.add_argument("--method", type=str, nargs="+", default=["lexical"], help="lexical, embedding, confusion")
    parser.add_argument("--model_name_or_path", type=str, help="a sentence-transformers model, for embedding")
    parser.add_argument("--descriptions", type=str, help="JSON with label descriptions, for embedding")
    parser.add_argument("--num_mentions", type=int, default=0, help="example mentions of each label, for embedding")
    parser.add_argument("--predictions_file", type=Path, help="JSON lines of predictions, for confusion")
    parser.add_argument("--top_k", type=int, default=5, help="the most hard negatives of a label, by each method")
    parser.add_argument("--threshold", type=float, default=0.0, help="scores must be above it")
    parser.add_argument("--symmetric", action="store_true", help="a hard negative is one both ways")
    parser.add_argument("--output_file", type=Path, required=True)
    args = parser.parse_args()

    check_methods(args.method, args.model_name_or_path, args.predictions_file)
    corpora = find_corpora(args.corpus_dir, args.tasks, args.languages, args.corpora)
    descriptions = load_descriptions(args.descriptions) if args.descriptions is not None else {}
    predictions: dict[tuple[str, str], list[dict]] = {}
    if args.predictions_file is not None:
        for number, _, line in read_lines(args.predictions_file):
            with located(args.predictions_file, number):
                row = read_json(line)
                missing = {"task", "source", "instruction", "label", "output"} - row.keys()
                if missing:
                    raise InputError(f"no {', '.join(sorted(missing))}; give a file that predict.py wrote")
            predictions.setdefault((row["task"], row["source"]), []).append(row)

    table: dict[str, dict[str, dict[str, list[str]]]] = {}
    for corpus in corpora:
        labels = TASKS[corpus.task].labels(corpus.schema)
        tables = []
        for method in args.method:
            if method == "lexical":
                scores = lexical_scores(labels)
            elif method == "embedding":
                mentions = {}
                if args.num_mentions:
                    records = read_split(corpus, "train")
                    mentions = frequent_mentions(corpus.task, corpus.schema, records, args.num_mentions)
                texts = label_texts(labels, corpus_descriptions(descriptions, corpus.task, corpus.source), mentions)
                scores = embedding_scores(labels, texts, args.model_name_or_path)
            else:
                scores = confusion_scores(labels, predictions.get((corpus.task, corpus.source), []))
            tables.append(nearest(labels, scores, args.top_k, args.threshold))
        found = make_symmetric(union(tables)) if args.symmetric else union(tables)
        table.setdefault(corpus.task, {})[corpus.source] = {label: others for label, others in found.items() if others}
        print(f"{corpus.task} {corpus.source}: {len(labels)} labels, {sum(map(len, found.values()))} hard negatives")

    write_whole(args.output_file, to_json(table) + "\n")
    print(f"written to {args.output_file}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
