"""`iepile calibrate` writes what it fits beside the adapter, and refuses what should not be fitted to."""

import json
from pathlib import Path

import pytest
from helpers.answers import entities, instance
from helpers.corpora import assert_one_clear_line, write_lines


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Answers made with a bias of 1: right where the label was opened at 2, wrong at -0.5."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    rows = [
        {
            **instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada" if number % 2 else "Eve"]}),
            "id": str(number),
            "decisions": {"person": [[2.0 if number % 2 else -0.5, -0.1], [-9.0, None]]},
        }
        for number in range(40)
    ]
    rows.append(instance("RE", ["wife"], [], {"wife": []}))
    write_run(tmp_path, "validation")
    return write_lines(tmp_path / "preds.jsonl", rows)


def write_run(folder: Path, split: str, bias: float = 1.0) -> None:
    record = {"engine": {"empty_bias": bias}, "data": {"dataset_name": str(folder), "split": split}}
    (folder / "preds.run.json").write_text(json.dumps(record))


def test_a_calibration_is_written_and_used(run_script, answers: Path, tmp_path: Path) -> None:
    options = ["--predictions_file", answers, "--adapter_name_or_path", "adapter"]
    screen = run_script("calibrate.py", *options).stdout
    assert "NER: empty_bias +0.00; F1 66.67 without, 66.67 with it" in screen
    assert "RE: fewer than 20 records, not calibrated" in screen
    value = json.loads((tmp_path / "adapter" / "calibration.json").read_text())
    assert value["empty_bias"] == {"NER": 0.0}
    assert value["fitted_on"]["split"] == "validation"
    assert value["fitted_on"]["dataset"] == tmp_path.name  # no path of this machine
    assert value["fitted_on"]["tasks"]["NER"]["limit"] == 1.0
    score = ["--predictions_file", answers, "--calibration", "adapter/calibration.json"]
    report = json.loads(run_script("score.py", *score, "--json").stdout)
    assert report["confidence"]["tasks"]["NER"]["average_precision"] == pytest.approx(50)
    line = "NER: answers made with empty_bias 1, the calibration is for 0: predict anew with it"
    assert line in run_script("score.py", *score).stdout
    write_run(tmp_path, "validation", bias=0.0)
    assert "predict anew" not in run_script("score.py", *score).stdout


def test_a_bias_that_is_not_taken_is_told(run_script, answers: Path) -> None:
    rows = [json.loads(line) for line in answers.read_text().splitlines()][:40]
    for number, row in enumerate(rows):
        row["output"] = json.dumps({"person": ["Ada" if number else "Eve"]})
        row["decisions"]["person"][0][0] = 2.0 if number else 0.5
    write_lines(answers, rows)
    screen = run_script("calibrate.py", "--predictions_file", answers, "--adapter_name_or_path", "adapter").stdout
    assert (
        "NER: empty_bias +0.00 kept; -1.25 tried: F1 97.50 cross-validated against 97.50 (p 1.000, no gain," in screen
    )


def test_answers_with_a_negative_bias_tell_nothing_of_none(run_script, answers: Path, tmp_path: Path) -> None:
    """As those of an adapter that has a calibration already."""
    write_run(tmp_path, "validation", bias=-0.25)
    screen = run_script("calibrate.py", "--predictions_file", answers, "--adapter_name_or_path", "adapter").stdout
    assert "NER: empty_bias -0.75; F1 50.00 with the -0.25 of the answers, 66.67 with it" in screen


def test_what_should_not_be_fitted_to_is_refused(run_script, answers: Path, tmp_path: Path) -> None:
    options = ["--predictions_file", answers, "--adapter_name_or_path", "adapter"]
    write_run(tmp_path, "test")
    assert_one_clear_line(
        run_script("calibrate.py", *options, check=False), "answers to the test split", "--split test"
    )
    run_script("calibrate.py", *options, "--split", "test")
    for damaged in ("[" * 100_000, "[]", '{"engine": {"empty_bias": "x"}, "data": {"split": "validation"}}'):
        (tmp_path / "preds.run.json").write_text(damaged)
        assert_one_clear_line(run_script("calibrate.py", *options, check=False), "preds.run.json: not a run record")
    record = {"engine": {"adapter_version": "sha256 of another"}, "data": {"split": "validation"}}
    (tmp_path / "preds.run.json").write_text(json.dumps(record))
    assert_one_clear_line(run_script("calibrate.py", *options, check=False), "another adapter or model than adapter")
    (tmp_path / "preds.run.json").unlink()
    assert_one_clear_line(run_script("calibrate.py", *options, check=False), "no run record", "give --split")
    options[-1] = "nowhere"
    assert_one_clear_line(run_script("calibrate.py", *options, check=False), "not the folder of an adapter or model")
    options[-1] = "smollm2-135m-instruct/zero_shot/adapter"
    assert_one_clear_line(run_script("calibrate.py", *options, check=False), "copy the adapter, `cp -r /")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    options = ["--adapter_name_or_path", "adapter", "--split", "validation", "--predictions_file"]
    few = write_lines(tmp_path / "few.jsonl", rows[:5])
    assert_one_clear_line(run_script("calibrate.py", *options, few, check=False), "fewer than 20 records")
    for row in rows:
        row.pop("decisions", None)
    bare = write_lines(tmp_path / "bare.jsonl", rows)
    assert_one_clear_line(run_script("calibrate.py", *options, bare, check=False), "no 'decisions'", "--scores")
