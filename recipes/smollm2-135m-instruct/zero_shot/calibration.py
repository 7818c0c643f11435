"""
Fit a calibration on a part of some answers and score it on the rest, in turn, so that each record is scored once.

    python recipes/smollm2-135m-instruct/zero_shot/calibration.py outputs/scored.jsonl 2

The arguments are answers of `iepile predict --scores --empty_bias 2` to NER, and the bias that they were made with.
Prints the table of README.md.
"""

import json
from argparse import ArgumentParser
from collections.abc import Iterable

import numpy as np

from iepile_builder.scoring import calibration
from iepile_builder.scoring.calibration import Answered
from iepile_builder.scoring.confidence import Ranked, describe
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.scoring.significance import compute_interval, draw_resamples, paired_test, precision_recall_f1


ABSTRACT = ("GUM", "IndianLegalNER")


def take(answered: Answered, records: np.ndarray) -> Answered:
    """Take some of the records."""
    facts = records[answered.records]
    numbers, gold = (np.cumsum(records) - 1)[answered.records[facts]], answered.gold[records]
    return Answered(answered.opened[facts], answered.logits[facts], answered.hits[facts], numbers, gold)


def join(parts: Iterable[Answered]) -> Answered:
    """Join the records of several corpora."""
    parts = list(parts)
    before = np.cumsum([0, *(len(part.gold) for part in parts)])
    moved = [part._replace(records=part.records + number) for part, number in zip(parts, before, strict=False)]
    return Answered(*map(np.concatenate, zip(*moved, strict=True)))


def error(scores: np.ndarray, hits: np.ndarray) -> float:
    return float(describe(Ranked(scores, hits, 1, 0))["calibration_error"])


def print_row(fitted_on: str, scored_on: str, folds: list[tuple[Answered, Answered]], limit: float) -> None:
    before, after, scores, scaled = [], [], [], []
    for fit, test in folds:
        bias = calibration._best_bias(fit, limit, np.ones(len(fit.gold), bool))
        before.append(calibration._count(test, 0.0, limit))
        after.append(calibration._count(test, bias, limit))
        kept = calibration._is_kept(fit, 0.0, limit)
        slope, shift = calibration.fit_platt(fit.logits[kept], fit.hits[kept])
        logits = test.logits[calibration._is_kept(test, 0.0, limit)]
        scores.append(1 / (1 + np.exp(-logits)))
        scaled.append(1 / (1 + np.exp(-slope * logits - shift)))
    tests = join(test for _, test in folds)
    kept = calibration._is_kept(tests, 0.0, limit)
    hits, records = tests.hits[kept], tests.records[kept]
    raw, fair = np.concatenate(scores), np.concatenate(scaled)
    gains = []
    for weights in draw_resamples(len(tests.gold), 500, 0):
        for row in weights:
            drawn = np.repeat(np.arange(len(hits)), row[records].astype(int))
            gains.append(error(fair[drawn], hits[drawn]) - error(raw[drawn], hits[drawn]))
    test = paired_test(np.concatenate(after), np.concatenate(before), 1000, 0.95, 0)
    low, high = test["interval"]
    least, most = compute_interval(np.array(gains), 0.95)
    shares = [
        "{:.1f}, {:.1f}".format(*precision_recall_f1(np.concatenate(each).sum(0))[:2]) for each in (before, after)
    ]
    print(
        f"| {fitted_on} | {scored_on} | {test['other_f1']:.1f}, {test['f1']:.1f}, {test['difference']:+.1f} "
        f"[{low:+.1f}, {high:+.1f}] | {'; '.join(shares)} | {error(raw, hits):.1f}, {error(fair, hits):.1f}, "
        f"{error(fair, hits) - error(raw, hits):+.1f} [{least:+.1f}, {most:+.1f}] |"
    )


def main(file: str, limit: float) -> None:
    scorers: dict[str, Scorer] = {}
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            scorers.setdefault(row["source"], Scorer()).add(row)
    of = {source: calibration._collect(scorer)["NER"] for source, scorer in sorted(scorers.items())}
    halves = [join(take(each, np.arange(len(each.gold)) % 2 == half) for each in of.values()) for half in (0, 1)]
    abstract = join(each for source, each in of.items() if source in ABSTRACT)
    others = join(each for source, each in of.items() if source not in ABSTRACT)
    print("| fitted on | scored on | F1: bias 0, fitted bias, difference | precision, recall | ECE |")
    print("|---|---|---|---|---|")
    print_row(
        "half of each corpus's records", "the other half", [(halves[0], halves[1]), (halves[1], halves[0])], limit
    )
    each = [(join(part for name, part in of.items() if name != source), of[source]) for source in of]
    print_row("four corpora", "the fifth", each, limit)
    print_row(
        " and ".join(ABSTRACT) + ", or the other three", "the others", [(abstract, others), (others, abstract)], limit
    )


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("answers", help="answers of iepile predict --scores to NER")
    parser.add_argument("empty_bias", type=float, help="the bias that they were made with")
    arguments = parser.parse_args()
    main(arguments.answers, arguments.empty_bias)
