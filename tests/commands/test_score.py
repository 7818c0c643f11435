"""`scripts/score.py` and the `evaluate` module give the numbers of `iepile_builder.scoring.scorer`."""

import doctest
import importlib.util
import json
import re
from dataclasses import asdict
from pathlib import Path

import evaluate
import pytest
from helpers.answers import entities, instance
from helpers.corpora import ALL_TASKS, ROOT, SAMPLE_CORPUS, assert_one_clear_line, write_lines

from iepile_builder import IEPile
from iepile_builder.scoring.confusable import describe_confusable
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.scorer import score


@pytest.fixture
def predictions() -> list[dict]:
    """The sample corpus's test split with some answers that are wrong, repeated, or no answers at all."""
    rows = IEPile(data_dir=str(SAMPLE_CORPUS), tasks=ALL_TASKS, max_records=12).as_dataset(split="test").to_list()
    for index, row in enumerate(rows):
        if index % 5 == 0:
            row["output"] = rows[index - 1]["output"]
        elif index % 7 == 0:
            row["output"] = "I cannot tell."
        elif index % 3 == 0:
            row["output"] = f"```json\n{row['output']}\n```"
    return rows


def test_the_report_of_a_file(run_script, predictions: list[dict], tmp_path: Path) -> None:
    file = write_lines(tmp_path / "preds.jsonl", predictions)
    done = run_script("score.py", "--predictions_file", file, "--output_file", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.pop("settings") == {**asdict(Matching()), "repair": False}
    confusable = report.pop("confusable")
    assert describe_confusable(confusable) in done.stdout
    assert "confidence" not in report and "average precision" not in done.stdout  # the answers have no decisions
    assert report == score(predictions)
    assert f"{report['overall']['f1']:.2f}" in done.stdout
    assert set(report["tasks"]) == set(ALL_TASKS)
    assert 0 < report["overall"]["f1"] < 100
    assert report["overall"]["unparsed"] > 0
    printed = run_script("score.py", "--predictions_file", file, "--json").stdout
    assert json.loads(printed)["overall"] == report["overall"]


def test_the_screen_shows_a_row_for_each_task_and_block(run_script, predictions: list[dict], tmp_path: Path) -> None:
    file = write_lines(tmp_path / "preds.jsonl", predictions)
    other = write_lines(tmp_path / "other.jsonl", [{**row, "output": "{}"} for row in predictions])
    options = ["--bootstrap", 50, "--compare", other, "--output_file", "report.json", "--report", "page"]
    screen = run_script("score.py", "--predictions_file", file, *options).stdout
    report = json.loads((tmp_path / "report.json").read_text())
    rows = [line.split() for line in screen.splitlines()]
    ner, low, high = report["tasks"]["NER"], *report["tasks"]["NER"]["intervals"]["f1"]
    valid = f"{100 - 100 * ner['unparsed'] / ner['answers']:.1f}%"
    scores = [f"{ner[name]:.2f}" for name in ("precision", "recall", "f1")]
    counts = [str(ner["records"]), str(ner["answers"])]
    assert ["NER", *counts, valid, *scores, f"{low:.2f}", "to", f"{high:.2f}"] in rows
    test = report["comparison"]["tasks"]["NER"]
    f1s = [f"{test['f1']:.2f}", f"{test['other_f1']:.2f}", f"{test['difference']:+.2f}"]
    assert any(row[:4] == ["NER", *f1s] and row[-1] == f"{test['p_value']:.4f}" for row in rows)
    names = [*ALL_TASKS[:3], "EE trigger", "EE argument", "EET", "EEA argument", "KG", "all facts"]
    for name in names:
        assert screen.count(f"\n  {name} ") == 2  # in the scores and in the comparison
    assert screen.splitlines()[-2:] == ["full report: report.json", "error report: page/index.html"]
    html = (tmp_path / "page" / "index.html").read_text()
    for part in ("preds.jsonl", "other.jsonl", f"{test['difference']:+.2f}", f"{test['p_value']:.4f}"):
        assert part in html


def test_an_interval_of_few_records_is_not_shown(run_command, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "one.jsonl", [instance("NER", ["person"], entities(person=["Ada"]), {"person": []})])
    report = ["--report", tmp_path / "page", "--output_file", tmp_path / "report.json"]
    screen = run_command("score", "--predictions_file", file, "--bootstrap", 20, "--compare", file, *report).stdout
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["overall"]["n_too_small"] and found["comparison"]["overall"]["n_too_small"]
    assert screen.count("n too small") == 4  # NER and all facts, in the scores and in the comparison
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("n too small") == 3 + 3 + 2  # all facts and NER, of three scores each, and the comparison
    assert not re.search(r"\[\d+\.\d\d, ", page)


def test_intervals_and_comparison_in_the_report(run_script, tmp_path: Path) -> None:
    rows = [
        instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada", "Bob"][index % 2 :]}, id=str(index))
        for index in range(8)
    ]
    write_lines(tmp_path / "one.jsonl", rows)
    write_lines(tmp_path / "other.jsonl", [{**row, "output": "{'person': ['Ada']}"} for row in rows])
    options = ["--repair", "--bootstrap", 50, "--mode", "set", "--compare", "other.jsonl", "--json"]
    report = json.loads(run_script("score.py", "--predictions_file", "one.jsonl", *options).stdout)
    assert report["overall"]["intervals"]["f1"][0] < report["overall"]["f1"]
    assert report["comparison"]["overall"]["other_f1"] == 100
    assert report["comparison"]["overall"]["difference"] < 0


def test_scores_of_facts_and_confusable_labels(run_script, tmp_path: Path) -> None:
    gold = entities(person=["Ada", "Bob"], city=["Rome"])
    answer = {"person": ["Ada", "Rome"], "city": ["Bob"]}
    decisions = {"person": [[3.0, 0.0], [-1.0, -1.0], [-3.0, None]], "city": [[1.0, -1.0], [-2.0, None]]}
    row = {**instance("NER", ["person", "city"], gold, answer), "decisions": decisions}
    write_lines(tmp_path / "preds.jsonl", [row])
    (tmp_path / "hard.json").write_text('{"person": ["city"]}')
    options = ["--output_file", "report.json", "--report", "page", "--hard_negatives", str(tmp_path / "hard.json")]
    screen = run_script("score.py", "--predictions_file", "preds.jsonl", *options).stdout
    line = "confusable labels: 1 of 3 predicted facts with the mentions of a gold fact (33.3%); dictionary: hard.json"
    assert line in screen
    assert "scores of facts: average precision 33.33," in screen
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["confidence"]["overall"]["facts"] == report["confusable"]["overall"]["right"] + 2 == 3
    html = (tmp_path / "page" / "index.html").read_text()
    assert line[1:] in html and html.count('<svg class="plot"') == 2  # there a sentence begins with it
    options = ["--min_score", "0.5", "--json"]
    report = json.loads(run_script("score.py", "--predictions_file", "preds.jsonl", *options).stdout)
    assert (report["overall"]["tp"], report["overall"]["pred"], report["settings"]["min_score"]) == (1, 1, 0.5)

    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "calibration.json").write_text('{"empty_bias": {}}')
    (tmp_path / "preds.run.json").write_text('{"engine": {"adapter": "adapter", "model": "base"}}')
    screen = run_script(
        "score.py", "--predictions_file", "preds.jsonl", "--min_score", "0.5", "--report", "page"
    ).stdout
    assert screen.startswith("preds.jsonl (strict, facts that score at least 0.5)")
    assert "adapter/calibration.json was found: --calibration adapter/calibration.json" in screen
    assert "(--hard_negatives FILE takes that of the build)" in screen
    assert "over all facts that score at least 0.5, with" in (tmp_path / "page" / "index.html").read_text()
    (tmp_path / "names.json").write_text('{"person": ["human"], "city": ["town"]}')
    options = ["--hard_negatives", "names.json"]
    failed = run_script("score.py", "--predictions_file", "preds.jsonl", *options, check=False)
    assert_one_clear_line(failed, "names.json: no dictionary of hard negatives")


def test_the_dictionary_of_confusable_labels_is_that_of_the_build(run_command, tmp_path: Path) -> None:
    run_command("build", "--corpus_dir", "sample_corpus", "--corpora", "daily_news", "--output_dir", "built")
    row = instance("NER", ["person", "politician"], entities(person=["Ada"]), {"politician": ["Ada"]})
    write_lines(tmp_path / "preds.jsonl", [{**row, "source": "daily_news"}])
    score = ("score", "--predictions_file", "preds.jsonl")
    assert "confusable labels: 0 of 1" in run_command(*score).stdout
    (tmp_path / "preds.run.json").write_text('{"data": {"dataset_name": "built"}}')
    screen = run_command(*score).stdout
    assert "confusable labels: 1 of 1" in screen and "dictionary: that of the build\n" in screen
    # as the build calls it
    named = run_command(*score, "--hard_negatives", "sample_corpus/hard_negatives.json").stdout
    assert "confusable labels: 1 of 1" in named and "dictionary: hard_negatives.json\n" in named


def test_the_evaluate_module_gives_the_same_numbers(predictions: list[dict], tmp_path: Path) -> None:
    metric = evaluate.load(str(ROOT / "evaluate_metrics" / "ie_f1"), cache_dir=str(tmp_path))
    columns = {"predictions": "output", "references": "label", "tasks": "task", "sources": "source", "ids": "id"}
    columns["instructions"] = "instruction"
    inputs = {name: [row[column] for row in predictions] for name, column in columns.items()}
    assert metric.compute(**inputs) == score(predictions)


def test_the_example_in_the_evaluate_module() -> None:
    path = ROOT / "evaluate_metrics" / "ie_f1" / "ie_f1.py"
    spec = importlib.util.spec_from_file_location("ie_f1", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    example = module._KWARGS_DESCRIPTION.replace("evaluate_metrics/ie_f1", str(path.parent))
    test = doctest.DocTestParser().get_doctest(example, {"evaluate": evaluate}, "ie_f1", None, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"label": None}, ["line 2", "field 'label' is missing", "annotation"]),
        ({"output": None}, ["line 2", "field 'output' is missing"]),
        ({"task": "NERR"}, ["line 2", "unknown task 'NERR'"]),
        ({"instruction": "Find the people."}, ["line 2", "the instruction is not JSON"]),
        ({"label": "Ada"}, ["line 2", "the label is not an annotation"]),
        ({"label": '[{"entity": ["Ada"], "entity_type": "x"}]'}, ["line 2", "the label is not an annotation of NER"]),
        ({"label": '[{"entity": null, "entity_type": "x"}]'}, ["line 2", "the label is not an annotation of NER"]),
        ({"label": '[{"entity": "Ada", "entity_type": {}}]'}, ["line 2", "the label is not an annotation of NER"]),
    ],
)
def test_a_wrong_line_ends_with_one_clear_line(
    run_command, predictions: list[dict], tmp_path: Path, change: dict, parts: list[str]
) -> None:
    changed = {name: value for name, value in {**predictions[1], **change}.items() if value is not None}
    file = write_lines(tmp_path / "preds.jsonl", [predictions[0], changed])
    assert_one_clear_line(run_command("score", "--predictions_file", file, check=False), str(file), *parts)


def test_a_file_that_is_none_ends_with_one_clear_line(run_script, tmp_path: Path) -> None:
    assert_one_clear_line(run_script("score.py", "--predictions_file", "nowhere.jsonl", check=False), "no such file")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert_one_clear_line(run_script("score.py", "--predictions_file", "empty.jsonl", check=False), "no predictions")
    (tmp_path / "torn.jsonl").write_text('{"id": \n')
    assert_one_clear_line(run_script("score.py", "--predictions_file", "torn.jsonl", check=False), "line 1")


def test_any_answer_is_scored(run_script, predictions: list[dict], tmp_path: Path) -> None:
    answers = ["no JSON", "[]", "null", "[" * 100_000, '{"a": ' * 100_000, "x" * 1_000_000, "\x00\x1b\x07" * 1000, ""]
    rows = [{**predictions[0], "id": str(index), "output": answer} for index, answer in enumerate(answers)]
    file = write_lines(tmp_path / "preds.jsonl", rows)
    report = json.loads(run_script("score.py", "--predictions_file", file, "--json").stdout)
    assert report["overall"]["unparsed"] == len(answers)
    assert report["overall"]["pred"] == 0
    options = ["--json", "--repair", "--report", "folder"]
    report = json.loads(run_script("score.py", "--predictions_file", file, *options).stdout)
    assert report["overall"]["unparsed"] == len(answers) - 3  # "[]", "null" and "" say that nothing was found
    assert report["overall"]["repaired"] == 3


def test_a_label_that_cannot_be_written_is_escaped(run_script, predictions: list[dict], tmp_path: Path) -> None:
    file = write_lines(tmp_path / "preds.jsonl", [{**predictions[0], "output": '{"\\ud800": ["\\udfff"]}'}])
    report = json.loads(run_script("score.py", "--predictions_file", file, "--json").stdout)
    assert "\ud800" in report["labels"][predictions[0]["task"]]
    run_script("score.py", "--predictions_file", file, "--output_file", "report.json", "--report", "folder")
    assert json.loads((tmp_path / "report.json").read_text()) == report


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--min_overlap", "2", "--mode", "type"], "min_overlap is 2"),
        (["--bootstrap", "-1"], "give bootstrap a number of resamples"),
        (["--min_score", "2"], "--min_score is 2.0; give a number from 0 to 1"),
        (["--min_score", "0.5"], "its answers have no 'decisions', so that facts have no scores"),
        (["--calibration", "nowhere.json"], "iepile calibrate writes it"),
        (["--report", "page.html"], "--report page.html: give a folder"),
        (["--output_file", "/proc/nowhere/report.json"], "/proc/nowhere/report.json: No such file"),
        (["--compare", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--compare", "less.jsonl"], "records are in only one of the two"),
    ],
)
def test_a_wrong_option_ends_with_one_clear_line(
    run_script, predictions: list[dict], tmp_path: Path, options: list[str], part: str
) -> None:
    file = write_lines(tmp_path / "preds.jsonl", predictions)
    write_lines(tmp_path / "less.jsonl", predictions[:1])
    assert_one_clear_line(run_script("score.py", "--predictions_file", file, *options, check=False), part)
