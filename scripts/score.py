"""
Score a file of predictions: precision, recall and F1 per task, per corpus and overall.

    python scripts/score.py --predictions_file preds.jsonl --output_file report.json

The file has JSON lines with `id`, `task`, `source`, `instruction`, `label` and `output`, as `predict.py` and the code
that was published with IEPile write them. Without `--output_file` the report goes to the standard output as JSON.
"""

import json
import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from iepile_builder import InputError
from iepile_builder.corpus import located, read_json, read_lines
from iepile_builder.scoring import Scorer


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--predictions_file", type=Path, required=True, help="JSON lines with the model's answers")
    parser.add_argument("--output_file", type=Path, help="where the report goes; default: the standard output")
    args = parser.parse_args()

    if not args.predictions_file.is_file():
        raise InputError(f"{args.predictions_file}: no such file of predictions")
    scorer = Scorer()
    number = 0
    for number, _, line in read_lines(args.predictions_file):
        with located(args.predictions_file, number):
            scorer.add(read_json(line))
    if number == 0:
        raise InputError(f"{args.predictions_file}: no predictions in it")

    report = scorer.report()
    text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
    if args.output_file is None:
        print(text, end="")
        return
    temporary = args.output_file.with_name(args.output_file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(args.output_file)
    overall = report["overall"]
    print(f"{overall['records']} records: F1 {overall['f1']:.2f} over all facts; report: {args.output_file}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
