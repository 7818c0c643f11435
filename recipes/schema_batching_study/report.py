"""
Compare the finished runs of a study: average precision of decisions, F1 and confusable facts, with tests over seeds.

    python recipes/schema_batching_study/report.py outputs/schema_batching_study
"""

import json
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iepile_builder.chat import to_prompt
from iepile_builder.engines.base import Request
from iepile_builder.engines.lookup import LookupEngine
from iepile_builder.io import read_lines, write_whole
from iepile_builder.scoring.confusable import count_confusable
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.scoring.significance import compute_interval, precision_recall_f1


RESAMPLES, CONFIDENCE = 2000, 0.95

# Fixed before the runs, see README.md: arms, measure; the primary comparison of a round first, then the secondary ones
FIXED = (
    (("M", "R", "confusable"), ("M", "R", "f1"), ("M", "A", "f1"), ("H", "R", "other")),
    (("P", "Q", "f1"), ("P", "Q", "confusable"), ("P", "A", "f1")),  # the fourth round
    (("G", "P", "confusable"), ("G", "P", "f1")),  # added to it later
)
# Reported beside them, without a test
FURTHER = (
    ("M", "A", "confusable"), ("H", "R", "confusable"), ("M", "R", "calibrated"), ("H", "R", "calibrated"),
    ("H", "A", "calibrated"), ("P", "A", "confusable"), ("P", "A", "calibrated"), ("P", "Q", "other"),
    ("G", "P", "other"),
)  # fmt: skip
FOLDS = 5  # of records, for the cut of the log-odds

MEASURES = {
    "confusable": "AP on confusable labels",
    "other": "AP on other labels",
    "f1": "F1",
    "calibrated": "F1 with a fitted cut",
}

PRIORS = ("confusable", "other")  # measures that the frequency of the labels has, too

# A measure of a run as a function of how often each record is drawn
Measure = Callable[[np.ndarray], float]


class Run(NamedTuple):
    """The results of a run: a measure for each name of `MEASURES`, and figures for the table of arms."""

    measures: dict[str, Measure]
    counts: dict[str, int]
    confusable_facts: float
    precision_recall: tuple[float, float]


def write_report(output_dir: Path) -> str:
    """Make the tables of all finished runs, and write them to report.md."""
    corpora = {}
    for about_file in sorted(output_dir.glob("*/about.json")):
        about = json.loads(about_file.read_text())
        runs: dict[tuple[str, int], Run] = {}
        lookups: dict[int, float] = {}
        priors: dict[int, dict[str, float]] = {}
        for file in sorted(about_file.parent.glob("*/answers.jsonl")):
            arm, seed = file.parent.name.split("-")
            runs[arm, int(seed)] = read_run(file, about)
            if arm in "RQ":
                lookups[int(seed)], priors[int(seed)] = read_baselines(file, about)
        if runs:
            corpora[about_file.parent.name] = (about, runs, lookups, priors)
    parts = []
    for name, (about, runs, lookups, priors) in corpora.items():
        edges = sum(map(len, about["hard_negatives"].values()))
        parts.append(
            f"## {name}: {len(about['labels'])} labels, {edges} hard negatives ({about['dictionary']}), "
            f"{about['records']} validation records"
        )
        parts.append(table_of_arms(runs, about["records"], lookups, priors))
        if lookups:
            parts.append(stop_rule(runs, about["records"], lookups, priors))
        parts.append(table_of_comparisons({name: runs}, {name: about["records"]}))
    if len(corpora) > 1:
        parts.append("## All corpora: the mean of their differences, seed by seed")
        parts.append(
            table_of_comparisons(
                {name: runs for name, (_, runs, _, _) in corpora.items()},
                {name: about["records"] for name, (about, _, _, _) in corpora.items()},
            )
        )
    text = "\n\n".join(parts) + "\n"
    write_whole(output_dir / "report.md", text)
    return f"\n{text}\nwritten to {output_dir / 'report.md'}"


def read_run(answers: Path, about: dict[str, Any]) -> Run:
    """Read the answers of a run."""
    rows = read_rows(answers)
    log_odds, gold, confusable = tabulate(rows, about)
    scorer = Scorer()
    for row in rows:
        scorer.add(row)
    counts = np.zeros((len(scorer.records), 3))
    tally = scorer.tally()
    for cell in tally.rows:
        numbers, values = tally.values(cell)
        np.add.at(counts, numbers, values)
    precision, recall, _ = precision_recall_f1(counts.sum(axis=0))
    cut = count_after_cut(scorer, log_odds, about["labels"])
    return Run(
        {
            "confusable": ranked_precision(log_odds, gold, gold | confusable),
            "other": ranked_precision(log_odds, gold, gold | ~confusable),
            "f1": lambda weights: float(precision_recall_f1(weights @ counts)[2]),
            "calibrated": lambda weights: float(precision_recall_f1(weights @ cut)[2]),
        },
        json.loads((answers.parent / "rows.json").read_text()),
        count_confusable(scorer, about_dictionary(rows, about))["overall"]["rate"],
        (float(precision), float(recall)),
    )


def read_baselines(answers: Path, about: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Score what knows nothing of language models: F1 of look-up, and AP of the labels' share of training records."""
    rows, trained = read_rows(answers), read_rows(answers.with_name("train.jsonl"))
    completions = LookupEngine(str(answers.with_name("train.jsonl"))).generate(
        [Request(to_prompt(row)) for row in rows], 0
    )
    scorer = Scorer()
    for row, completion in zip(rows, completions, strict=True):
        scorer.add({**row, "output": completion.text})
    found = [label for row in trained for label, value in json.loads(row["output"]).items() if value]
    frequency = {label: float(found.count(label)) for label in about["labels"]}
    by_frequency = [{**row, "log_odds": {label: frequency[label] for label in row["log_odds"]}} for row in rows]
    log_odds, gold, confusable = tabulate(by_frequency, about)
    weights = np.ones(len(gold))
    return scorer.report()["overall"]["f1"], {
        "confusable": ranked_precision(log_odds, gold, gold | confusable)(weights),
        "other": ranked_precision(log_odds, gold, gold | ~confusable)(weights),
    }


def tabulate(rows: list[dict[str, Any]], about: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrange decisions by record and label: log-odds, whether the label is gold, and confusable with a gold one."""
    number = {label: column for column, label in enumerate(about["labels"])}
    ids = {id: row for row, id in enumerate(dict.fromkeys(row["id"] for row in rows))}
    log_odds = np.full((len(ids), len(number)), np.nan)
    gold = np.zeros(log_odds.shape, dtype=bool)
    confusable = gold.copy()
    for row in rows:
        for label, value in json.loads(row["reference"]).items():
            log_odds[ids[row["id"]], number[label]] = row["log_odds"][label]
            if value:
                gold[ids[row["id"]], number[label]] = True
                near = [number[each] for each in about["hard_negatives"].get(label, ()) if each in number]
                confusable[ids[row["id"]], near] = True
    return log_odds, gold, confusable & ~gold


def count_after_cut(scorer: Scorer, log_odds: np.ndarray, labels: list[str]) -> np.ndarray:
    """
    Count right, predicted and gold facts of each record (an array of records by 3) after the facts of labels below a
    cut of the log-odds are dropped: for each fold of records, the cut that is best on the others.
    """
    number = {label: column for column, label in enumerate(labels)}
    matching = Matching()
    facts = np.zeros((*log_odds.shape, 3))
    for row, (key, record, gold) in enumerate(scorer.compared()):
        for (_, label), counts in matching.compare(gold, record.facts, record.text, key.task).items():
            facts[row, number[label[0]]] += counts
    gold_counts = facts[:, :, 2].sum(axis=1)
    folds = np.arange(len(facts)) % FOLDS
    total = np.zeros((len(facts), 3))
    for fold in range(FOLDS):
        others = folds != fold

        def count(cut: float) -> np.ndarray:
            kept = facts[:, :, :2] * (log_odds >= cut)[:, :, None]
            return np.column_stack([kept.sum(axis=1), gold_counts])

        cuts = np.unique(log_odds[others][facts[others][:, :, 1] > 0])
        best = max(cuts, key=lambda cut: precision_recall_f1(count(cut)[others].sum(axis=0))[2], default=0.0)
        total[~others] = count(best)[~others]
    return total


def ranked_precision(log_odds: np.ndarray, gold: np.ndarray, kept: np.ndarray) -> Measure:
    """
    Prepare the average precision of ranking the kept cells of a table (records by labels) by their log-odds: the
    precision at each of them, weighted by the recall that it adds.

    Returns:
        `Measure`: In per cent; each record counts as often as it was drawn.
    """
    rows, columns = np.nonzero(kept)
    hits, scores = gold[rows, columns], log_odds[rows, columns]
    order = np.argsort(-scores, kind="stable")
    rows, hits, scores = rows[order], hits[order], scores[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # of equal log-odds, as those of a frequency are

    def measure(weights: np.ndarray) -> float:
        drawn = weights[rows]
        right, ranked = np.cumsum(drawn * hits)[last], np.cumsum(drawn)[last]
        precision = right / np.maximum(ranked, 1e-9)
        return 100 * float((np.diff(right, prepend=0.0) * precision).sum() / max(right[-1], 1e-9))

    return measure


def stop_rule(
    runs: dict[tuple[str, int], Run], records: int, lookups: dict[int, float], priors: dict[int, dict[str, float]]
) -> str:
    """Say whether random negatives beat the baselines, in the mean over the seeds: if not, nothing is concluded."""
    name_of_arm = next(name for name in "RQ" if any(arm == name for arm, _ in runs))
    of_arm = {seed: run for (arm, seed), run in runs.items() if arm == name_of_arm}
    parts, passed = [], True
    for measure in ("f1", *PRIORS):
        mine = np.mean([run.measures[measure](np.ones(records)) for run in of_arm.values()])
        name = "look-up" if measure == "f1" else "label frequency"
        other = np.mean([lookups[seed] if measure == "f1" else priors[seed][measure] for seed in of_arm])
        parts.append(f"{MEASURES[measure]} {mine:.1f}, {name} {other:.1f}")
        passed &= bool(mine > other)
    return f"Stop rule: {name_of_arm} {'beats' if passed else 'does not beat'} the baselines ({'; '.join(parts)})."


def table_of_arms(
    runs: dict[tuple[str, int], Run], records: int, lookups: dict[int, float], priors: dict[int, dict[str, float]]
) -> str:
    """Describe the data and the scores of each arm, as mean and standard deviation over seeds."""
    weights = np.ones(records)
    lines = []
    for arm in dict.fromkeys(arm for arm, _ in runs):
        of_arm = [run for (name, _), run in runs.items() if name == arm]
        share = [100 * run.counts["empty_rows"] / run.counts["rows"] for run in of_arm]
        lines.append([
            arm, str(len(of_arm)), f"{np.mean([run.counts['tokens'] for run in of_arm]):,.0f}",
            f"{np.mean([run.counts['records'] for run in of_arm]):,.0f}",
            f"{np.mean([run.counts['labels'] / run.counts['records'] for run in of_arm]):.1f}",
            f"{np.mean(share):.0f}",
            *(spread([run.measures[name](weights) for run in of_arm]) for name in MEASURES),
            *(f"{np.mean([run.precision_recall[part] for run in of_arm]):.1f}" for part in (0, 1)),
            spread([run.confusable_facts for run in of_arm]),
        ])  # fmt: skip
    empty = [""] * 5
    if priors:
        share_of_labels = [spread([prior[name] for prior in priors.values()]) for name in PRIORS]
        lines.append(["label frequency", *empty, *share_of_labels, "", "", "", "", ""])
        lines.append(["look-up", *empty, "", "", spread(list(lookups.values())), "", "", "", ""])
    return markdown(
        ["arm", "seeds", "tokens", "records", "labels a record", "purely negative %", *MEASURES.values(), "precision",
         "recall", "confusable facts %"], lines,
    )  # fmt: skip


def table_of_comparisons(corpora: dict[str, dict[tuple[str, int], Run]], records: dict[str, int]) -> str:
    """Test the comparisons that were fixed beforehand, and report the others."""
    tested = {}
    for comparison in (*chain(*FIXED), *FURTHER):
        first, second, measure = comparison
        seeds = sorted(
            set.intersection(
                *({seed for arm, seed in runs if arm == first} & {seed for arm, seed in runs if arm == second}
                  for runs in corpora.values())
            )
        )  # fmt: skip
        if seeds:
            pairs = {
                name: [(runs[first, seed].measures[measure], runs[second, seed].measures[measure]) for seed in seeds]
                for name, runs in corpora.items()
            }
            tested[comparison] = (seeds, *compare(pairs, records))
    # Also for those that are missing so far: their number was fixed
    corrected = {}
    for _, *secondary in FIXED:
        p_values = [sign_flip(tested[each][1]) if each in tested else 1.0 for each in secondary]
        corrected |= dict(zip(secondary, holm(p_values), strict=True))
    primary = [round_[0] for round_ in FIXED]
    lines = []
    for comparison, (seeds, differences, (low, high)) in tested.items():
        first, second, measure = comparison
        p = f"{sign_flip(differences):.3f}" if comparison in primary else ""
        if comparison in corrected:
            p = f"{corrected[comparison]:.3f} (Holm)"
        lines.append([
            f"{first} - {second}", MEASURES[measure], "primary" if comparison in primary else
            "secondary" if comparison in corrected else "", str(len(seeds)),
            f"{np.mean(differences):+.1f} [{low:+.1f}, {high:+.1f}]", p,
            ", ".join(f"{each:+.1f}" for each in differences),
        ])  # fmt: skip
    return markdown(["arms", "measure", "", "seeds", "difference [95%]", "p", "by seed"], lines)


def compare(
    pairs: dict[str, list[tuple[Measure, Measure]]], records: dict[str, int]
) -> tuple[list[float], tuple[float, float]]:
    """
    Compute the differences of two arms by seed, averaged over corpora, and the interval of their mean.

    Args:
        pairs (`dict[str, list[tuple[Measure, Measure]]]`):
            For each corpus, the measure of both arms for each seed.
        records (`dict[str, int]`):
            Test records of each corpus.

    Returns:
        `tuple[list[float], tuple[float, float]]`: The differences, and the interval of a two-level bootstrap: seeds
        are drawn, and for each draw the test records, the same for all seeds.
    """

    def difference(name: str, seed: int, weights: np.ndarray) -> float:
        first, second = pairs[name][seed]
        return first(weights) - second(weights)

    seeds = len(next(iter(pairs.values())))
    differences = [
        float(np.mean([difference(name, seed, np.ones(records[name])) for name in pairs])) for seed in range(seeds)
    ]
    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, seeds, seeds)
        weights = {
            name: np.bincount(rng.integers(0, number, number), minlength=number).astype(float)
            for name, number in records.items()
        }
        at = {seed: np.mean([difference(name, seed, weights[name]) for name in pairs]) for seed in {*drawn.tolist()}}
        means.append(np.mean([at[seed] for seed in drawn.tolist()]))
    low, high = compute_interval(np.array(means), CONFIDENCE)
    return differences, (low, high)


def sign_flip(differences: Sequence[float]) -> float:
    """Compute the two-sided p of the mean difference, over all signs that the differences could have."""
    means = [np.dot(signs, differences) for signs in product((1, -1), repeat=len(differences))]
    return float(np.mean(np.abs(means) >= abs(sum(differences)) - 1e-9))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's method."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def about_dictionary(rows: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    return {rows[0]["task"]: {rows[0]["source"]: about["hard_negatives"]}}


def spread(values: Sequence[float]) -> str:
    """Write mean and standard deviation."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, _, line in read_lines(file)]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path, help="that of run.py")
    print(write_report(parser.parse_args().output_dir))
