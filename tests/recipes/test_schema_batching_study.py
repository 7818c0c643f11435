"""The study: what its runs share, its measures against independent computations, and a run from records to tables."""

import importlib.util
import json
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.corpora import ROOT, SAMPLE_CORPUS
from sklearn.metrics import average_precision_score

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.commands.cli import parse_options
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.mining import find_hard_negatives


STUDY = ROOT / "recipes" / "schema_batching_study"
NEWS = SAMPLE_CORPUS / "IE-en" / "NER" / "daily_news"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    sys.path.insert(0, str(STUDY))
    try:
        return importlib.import_module("run")
    finally:
        sys.path.remove(str(STUDY))


@pytest.fixture(scope="module")
def report(study: ModuleType) -> ModuleType:
    return sys.modules["report"]


def test_arms_see_the_same_stream_of_records_up_to_the_same_tokens(
    study: ModuleType, model: str, tmp_path: Path
) -> None:
    (corpus,) = find_corpora([NEWS], tasks=["NER"])
    options = study.StudyOptions([str(NEWS)], tmp_path, max_train_tokens=60_000, max_length=4000)
    table = find_hard_negatives(corpus)[0]
    records = study.draw_records(corpus, "train", 1)
    assert records == study.draw_records(corpus, "train", 1) != study.draw_records(corpus, "train", 2)
    tokenizer = load_tokenizer(model)

    made = {}
    for arm in study.ARMS:
        batching = study.replace(study.make_batching(corpus, table, options), **study.ARMS[arm], seed=1)
        rows, counts = study.make_rows(batching, records, tokenizer, options)
        assert 0.97 * 60_000 <= counts["tokens"] <= 60_000
        assert counts["rows"] == len(rows) and counts["too_long"] == 0
        order = list(dict.fromkeys(row["id"] for row in rows))
        assert order == [record["id"] for record in records][: len(order)]
        made[arm] = rows, counts

    def first_asked(arm: str) -> list[str]:
        return [label for row in made[arm][0] if row["id"] == records[0]["id"] for label in json.loads(row["output"])]

    positives = {each["entity_type"] for each in records[0]["entity"]}
    hard = {label for positive in positives for label in table.get(positive, ())} - positives
    assert len({*first_asked("A")}) == len(corpus.schema.types)
    for arm, negatives in (("R", 3), ("M", 3), ("H", min(3, len(hard)))):
        asked = {*first_asked(arm)}
        assert positives < asked and len(asked - positives) == negatives, arm
    assert len(({*first_asked("M")} - positives) & hard) == 2
    assert {*first_asked("H")} - positives <= hard
    assert sorted(first_asked("P")[: len(first_asked("G"))]) == sorted(first_asked("G"))  # cut in another way
    assert made["A"][1]["records"] < made["M"][1]["records"]


@pytest.mark.parametrize("decimals", [9, 0])  # with few values, as a frequency has them, many are equal
def test_average_precision_is_that_of_scikit_learn(report: ModuleType, decimals: int) -> None:
    rng = np.random.default_rng(3)
    log_odds, gold = rng.normal(size=(20, 7)).round(decimals), rng.random((20, 7)) < 0.3
    kept = gold | (rng.random((20, 7)) < 0.5)
    measure = report.ranked_precision(log_odds, gold, kept)
    expected = 100 * average_precision_score(gold[kept], log_odds[kept])
    assert measure(np.ones(20)) == pytest.approx(expected)
    weights = rng.integers(0, 4, 20).astype(float)
    drawn = np.broadcast_to(weights[:, None], kept.shape)[kept]
    expected = 100 * average_precision_score(gold[kept], log_odds[kept], sample_weight=drawn)
    assert measure(weights) == pytest.approx(expected)


def test_only_negatives_of_the_kind_count(report: ModuleType) -> None:
    about = {"labels": ["born", "died", "wed"], "hard_negatives": {"born": ["died"]}}
    gold = {"born": ["x"], "died": [], "wed": []}

    def tabulated(log_odds: dict[str, float]) -> dict[str, float]:
        row = {"id": "1", "reference": json.dumps(gold), "log_odds": log_odds}
        log, is_gold, confusable = report.tabulate([row], about)
        kinds = {"confusable": is_gold | confusable, "other": is_gold | ~confusable}
        return {kind: report.ranked_precision(log, is_gold, kept)(np.ones(1)) for kind, kept in kinds.items()}

    assert tabulated({"born": 1.0, "died": 2.0, "wed": 0.0}) == {"confusable": 50.0, "other": 100.0}
    assert tabulated({"born": 1.0, "died": 0.0, "wed": 2.0}) == {"confusable": 100.0, "other": 50.0}


def test_the_stop_rule_needs_every_baseline_to_be_beaten(report: ModuleType) -> None:
    def run(**values: float) -> object:
        return report.Run({name: lambda weights, value=value: value for name, value in values.items()}, {}, 0, (0, 0))

    runs = {
        ("R", 1): run(f1=10.0, confusable=30.0, other=20.0), ("R", 2): run(f1=30.0, confusable=10.0, other=20.0),
        ("M", 1): run(f1=90.0, confusable=90.0, other=90.0),
    }  # fmt: skip
    priors = {seed: {"confusable": 19.0, "other": 19.0} for seed in (1, 2)}
    assert report.stop_rule(runs, 1, {1: 19.0, 2: 19.0}, priors) == (
        "Stop rule: R beats the baselines (F1 20.0, look-up 19.0; AP on confusable labels 20.0, label frequency 19.0; "
        "AP on other labels 20.0, label frequency 19.0)."
    )
    assert "R does not beat" in report.stop_rule(runs, 1, {1: 19.0, 2: 22.0}, priors)
    priors[1]["other"] = 22.0
    assert "R does not beat" in report.stop_rule(runs, 1, {1: 19.0, 2: 19.0}, priors)


def test_the_sign_flip_test_and_holms_correction(report: ModuleType) -> None:
    assert report.sign_flip([1.0, 2.0, 0.5, 3.0, 1.5, 0.1]) == pytest.approx(2 / 64)
    differences = [1.0, -2.0, 0.5, 3.0]
    sums = [abs(sum(sign * each for sign, each in zip(signs, differences, strict=True)))
            for signs in product((1, -1), repeat=4)]  # fmt: skip
    assert report.sign_flip(differences) == np.mean([each >= 2.5 - 1e-9 for each in sums])
    assert report.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_the_correction_is_for_all_comparisons_that_were_fixed(report: ModuleType) -> None:
    def run(value: float) -> object:
        return report.Run(dict.fromkeys(report.MEASURES, lambda weights: value), {}, 0, (0, 0))

    runs = {(arm, seed): run(value) for arm, value in (("H", 2.0), ("R", 1.0)) for seed in range(6)}
    text = report.table_of_comparisons({"one": runs}, {"one": 1})
    assert "| H - R | AP on other labels | secondary | 6 | +1.0 [+1.0, +1.0] | 0.094 (Holm) |" in text  # 3 * 2 / 64


def test_the_interval_has_both_kinds_of_variation(report: ModuleType) -> None:
    def measure(values: list[float]) -> object:
        return lambda weights: float(np.average(values, weights=weights)) if weights.sum() else 0.0

    zero = measure([0.0, 0.0])
    same = {"one": [(measure([4.0, 4.0]), zero)] * 3}
    differences, (low, high) = report.compare(same, {"one": 2})
    assert differences == [4.0, 4.0, 4.0] and low == high == 4.0
    seeds = {"one": [(measure([value, value]), zero) for value in (0.0, 4.0, 8.0)]}
    assert report.compare(seeds, {"one": 2})[1][0] < 2 < 6 < report.compare(seeds, {"one": 2})[1][1]
    records = {"one": [(measure([0.0, 8.0]), zero)] * 3, "two": [(measure([2.0, 2.0]), zero)] * 3}
    differences, (low, high) = report.compare(records, {"one": 2, "two": 2})
    assert differences == [3.0, 3.0, 3.0] and (low, high) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("peft", "arms", "primary"),
    [("false", "RM", "M - R | AP on confusable labels"), ("true", "QP", "P - Q | F1")],
    ids=["all weights", "an adapter"],
)
def test_a_run_from_records_to_tables(
    study: ModuleType, report: ModuleType, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    peft: str, arms: str, primary: str,
) -> None:  # fmt: skip
    recipe = tmp_path / "sft.yaml"  # compiling takes longer than these few steps
    text = (STUDY / "sft.yaml").read_text().replace("compile_layers: true", "compile_layers: false")
    recipe.write_text(f"{text}use_peft: {peft}\n")
    arguments = [
        "--recipe", str(recipe), "--corpus_dir", str(NEWS), "--output_dir", str(tmp_path / "out"),
        "--model_name_or_path", model,
        "--arms", *arms, "--seeds", "1", "--max_train_tokens", "6000", "--max_length", "4000",
        "--test_records", "2", "--max_new_tokens", "8",
    ]  # fmt: skip
    monkeypatch.setattr(study, "find_corpora", lambda folders, tasks: find_corpora(folders, tasks=["NER"]))

    def run(more: list[str]) -> None:
        study.main(*parse_options("study", study.__doc__, [study.StudyOptions], arguments + more))

    run([])
    folder = tmp_path / "out" / "NER-daily_news"
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"| {primary} | primary | 1 |" in text and "| look-up |" in text and f"\nStop rule: {arms[0]} " in text
    rows = report.read_rows(folder / f"{arms[1]}-1" / "answers.jsonl")
    assert len({row["id"] for row in rows}) == 2
    for row in rows:
        assert row["log_odds"].keys() == json.loads(row["output"]).keys() == json.loads(row["reference"]).keys()
    assert not (folder / f"{arms[1]}-1" / "model").exists()

    monkeypatch.setattr(study, "train", pytest.fail)  # what is there is not made again
    run([])
    assert (tmp_path / "out" / "report.md").read_text() == text
    with pytest.raises(InputError, match="other settings"):
        run(["--test_records", "3"])


def test_the_cut_of_a_fold_is_the_best_one_on_the_other_records(report: ModuleType) -> None:
    rng = np.random.default_rng(5)
    labels, scorer, log_odds, written = ["born", "died"], report.Scorer(), rng.normal(size=(40, 2)), []
    for number in range(40):
        # A label above 0.3 has the right string, one below has another
        row = {"id": str(number), "task": "NER", "source": "people", "language": "en", "label": "[]"}
        row["instruction"] = json.dumps({"instruction": "", "schema": labels, "input": "a b"})
        right = {label: odds > 0.3 for label, odds in zip(labels, log_odds[number], strict=True)}
        row["label"] = json.dumps([{"entity": "a", "entity_type": label} for label in labels if right[label]])
        row["output"] = json.dumps({label: ["a"] if right[label] else ["b"] for label in labels})
        scorer.add(row)
        written.append(sum(right.values()))
    counts = report.count_after_cut(scorer, log_odds, labels)
    assert counts[:, 2].tolist() == written  # gold facts stay
    # A cut between the two kinds keeps what is right; it lies a little off where no record near it is among the others
    assert counts[:, 0].sum() >= sum(written) - 2 and counts[:, 1].sum() - counts[:, 0].sum() <= 2
    before = report.count_after_cut(scorer, np.zeros_like(log_odds), labels)
    assert before[:, 1].tolist() == [2] * 40  # nothing to choose by: every fact is kept
