"""
Measure how well each mining method recovers the hard negatives that IEPile published (made by hand).

    python benchmarks/mine.py --model_name_or_path path/to/sentence-transformers/model
    python benchmarks/mine.py --predictions_file preds.jsonl

For each published table: precision and recall of the best k labels of a method, over all labels that have hard
negatives there. `random` draws k other labels. With predictions of `iepile predict`, only the tables of their corpora
are compared, and `confusion` is one of the methods.
"""

from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser

from iepile_builder.data.hard_negatives import load_hard_negatives
from iepile_builder.data.mining import (
    confusion_scores,
    embedding_scores,
    label_texts,
    lexical_scores,
    nearest,
    union,
)
from iepile_builder.io import read_json, read_lines


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model_name_or_path", type=str, help="a sentence-transformers model; default: lexical alone")
    parser.add_argument("--predictions_file", type=Path, help="JSON lines of predictions, for confusion")
    parser.add_argument("--top_k", type=list[int], default=[1, 3, 5, 10])
    args = parser.parse_args()

    print("| task | corpus | labels | published |", end="")
    given = {"embedding": args.model_name_or_path, "confusion": args.predictions_file}
    mining = ["lexical", *(method for method, needed in given.items() if needed is not None)]
    methods = ["random", *mining, *(["union"] if len(mining) > 1 else [])]
    lines = read_lines(args.predictions_file) if args.predictions_file is not None else ()
    predictions = [read_json(line) for _, _, line in lines]
    print("".join(f" {method} P/R@{k} |" for method in methods for k in args.top_k))
    print("|" + "---|" * (4 + len(methods) * len(args.top_k)))
    totals: dict[tuple[str, int], np.ndarray] = {}
    seen: list[dict] = []
    for task, corpora in load_hard_negatives().items():
        if corpora in seen:  # EET and EEA have the tables of EE
            continue
        seen.append(corpora)
        for source, published in corpora.items():
            labels = sorted({*published, *(other for others in published.values() for other in others)})
            rows = [row for row in predictions if (row["task"], row["source"]) == (task, source)]
            if len(labels) < 4 or (predictions and not rows):  # under 4 labels: all are hard negatives
                continue
            scores = {"random": np.random.default_rng(0).random((len(labels), len(labels)))}
            scores["lexical"] = np.array(list(lexical_scores(labels)))
            if rows:
                scores["confusion"] = np.array(list(confusion_scores(labels, rows)))
            if args.model_name_or_path:
                texts = label_texts(labels, {}, {})
                scores["embedding"] = np.array(list(embedding_scores(texts, args.model_name_or_path)))
            cells = []
            for method in methods:
                for k in args.top_k:
                    parts = mining if method == "union" else [method]
                    found = union([nearest(labels, scores[part], k) for part in parts])
                    counts = np.array(recovered(found, published))
                    totals[method, k] = totals.get((method, k), 0) + counts
                    cells.append(cell(counts))
            edges = sum(map(len, published.values()))
            print(f"| {task} | {source} | {len(labels)} | {edges} | {' | '.join(cells)} |", flush=True)
    print(f"| all | | | | {' | '.join(cell(totals[method, k]) for method in methods for k in args.top_k)} |")


def recovered(table: dict[str, list[str]], published: dict[str, list[str]]) -> tuple[int, int, int]:
    """Count the edges in both tables, in the first and in the published one, of labels that have any in the latter."""
    both = mined = wanted = 0
    for label, others in published.items():
        expected = set(others) & table.keys() - {label}
        if expected:
            both += len(expected & set(table[label]))
            mined += len(table[label])
            wanted += len(expected)
    return both, mined, wanted


def cell(counts: np.ndarray) -> str:
    """Format precision and recall as percentages."""
    both, mined, wanted = counts
    return f"{100 * both / max(1, mined):.0f}/{100 * both / wanted:.0f}"


if __name__ == "__main__":
    main()
