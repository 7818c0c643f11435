"""
Score a file of predictions: precision, recall and F1 per task, per corpus and overall.

    python scripts/score.py --predictions_file preds.jsonl --output_file report.json
    python scripts/score.py --predictions_file preds.jsonl --mode partial --bootstrap 1000
    python scripts/score.py --predictions_file preds.jsonl --compare other_preds.jsonl
    python scripts/score.py --predictions_file preds.jsonl --report report/

The file has JSON lines with `id`, `task`, `source`, `instruction`, `label` and `output`, as `predict.py` and the code
that was published with IEPile write them. Without `--output_file` the report goes to the standard output as JSON.
"""

import json
import sys
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from iepile_builder import InputError
from iepile_builder.corpus import write_whole
from iepile_builder.matching import Matching
from iepile_builder.report import write_report
from iepile_builder.scoring import read_predictions


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--predictions_file", type=Path, required=True, help="JSON lines with the model's answers")
    parser.add_argument("--output_file", type=Path, help="where the report goes; default: the standard output")
    parser.add_argument("--report", type=Path, help="a folder for the error report, one HTML page")
    parser.add_argument("--compare", type=Path, help="another system's answers to the same records: a paired test")
    parser.add_argument("--repair", action="store_true", help="also read answers that are only nearly JSON")
    parser.add_argument("--bootstrap", type=int, default=0, help="resamples of the records, for intervals")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_class_arguments(Matching)
    args = parser.parse_args()
    matching = Matching(**{field.name: args[field.name] for field in fields(Matching)})
    if args.bootstrap < 0 or not 0 < args.confidence < 1:
        raise InputError("give bootstrap a number of resamples, confidence a number between 0 and 1")

    scorer = read_predictions(args.predictions_file, args.repair)
    report = scorer.report(matching, args.bootstrap, args.confidence, args.seed)
    intervals = ("bootstrap", "confidence", "seed") if args.bootstrap else ()
    names = (*(field.name for field in fields(Matching)), "repair", *intervals)
    report["settings"] = {name: args[name] for name in names}
    if args.compare is not None:
        other = read_predictions(args.compare, args.repair)
        report["comparison"] = scorer.compare(other, matching, args.bootstrap or 1000, args.confidence, args.seed)
    if args.report is not None:
        write_report(args.report, scorer, args.bootstrap or 1000, args.confidence, args.seed)

    # a label that a model made up may hold half a surrogate pair, which only JSON's escape can write
    text = json.dumps(report, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace").decode() + "\n"
    if args.output_file is None:
        print(text, end="")
        return
    write_whole(args.output_file, text)
    overall = report["overall"]
    print(f"{overall['records']} records: F1 {overall['f1']:.2f} over all facts; report: {args.output_file}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
