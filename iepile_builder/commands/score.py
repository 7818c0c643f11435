"""
Score a file of predictions: precision, recall and F1 per task, per corpus and overall.

    iepile score --predictions_file preds.jsonl --output_file report.json
    iepile score --predictions_file preds.jsonl --mode partial --bootstrap 1000
    iepile score --predictions_file preds.jsonl --compare other_preds.jsonl
    iepile score --predictions_file preds.jsonl --report report/

The file has JSON lines with `id`, `task`, `source`, `instruction`, `label` and `output`, as `iepile predict` and the
code that was published with IEPile write them. Without `--output_file` the report goes to the standard output as JSON.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from iepile_builder.errors import InputError
from iepile_builder.io import write_whole
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.report import write_report
from iepile_builder.scoring.scorer import read_predictions


@dataclass
class ScoreOptions:
    """
    What to score, and what to write.

    Args:
        predictions_file (`Path`):
            JSON lines with the model's answers.
        output_file (`Path`, *optional*):
            Where the report goes; by default to the standard output.
        report (`Path`, *optional*):
            A folder for the error report, one HTML page.
        compare (`Path`, *optional*):
            Another system's answers to the same records, for a paired test.
        repair (`bool`, *optional*, defaults to `False`):
            Also read answers that are only nearly JSON.
        bootstrap (`int`, *optional*, defaults to 0):
            Resamples of the records, for intervals.
        confidence (`float`, *optional*, defaults to 0.95):
            Of the intervals.
        seed (`int`, *optional*, defaults to 0):
            Of the resamples.
    """

    predictions_file: Path
    output_file: Path | None = None
    report: Path | None = None
    compare: Path | None = None
    repair: bool = False
    bootstrap: int = 0
    confidence: float = 0.95
    seed: int = 0


OPTIONS = (ScoreOptions, Matching)


def main(options: ScoreOptions, matching: Matching) -> None:
    if options.bootstrap < 0 or not 0 < options.confidence < 1:
        raise InputError("give bootstrap a number of resamples, confidence a number between 0 and 1")

    scorer = read_predictions(options.predictions_file, options.repair)
    report = scorer.report(matching, options.bootstrap, options.confidence, options.seed)
    intervals = ("bootstrap", "confidence", "seed") if options.bootstrap else ()
    report["settings"] = asdict(matching) | {name: getattr(options, name) for name in ("repair", *intervals)}
    resamples = options.bootstrap or 1000
    if options.compare is not None:
        other = read_predictions(options.compare, options.repair)
        report["comparison"] = scorer.compare(other, matching, resamples, options.confidence, options.seed)
    if options.report is not None:
        write_report(options.report, scorer, resamples, options.confidence, options.seed)

    # a label that a model made up may hold half a surrogate pair, which only JSON's escape can write
    text = json.dumps(report, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace").decode() + "\n"
    if options.output_file is None:
        print(text, end="")
        return
    write_whole(options.output_file, text)
    overall = report["overall"]
    print(f"{overall['records']} records: F1 {overall['f1']:.2f} over all facts; report: {options.output_file}")
