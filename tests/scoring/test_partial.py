"""`scoring.partial`: parts that are scored by themselves give the report of all answers, and no other."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.answers import entities, instance
from helpers.corpora import ALL_TASKS, SAMPLE_CORPUS, assert_one_clear_line, write_lines

from iepile_builder import IEPile


@pytest.fixture
def predictions() -> list[list[dict]]:
    """Answers to the sample corpus's test split, some of them wrong, record by record."""
    rows = IEPile(data_dir=str(SAMPLE_CORPUS), tasks=ALL_TASKS, max_records=12).as_dataset(split="test").to_list()
    records: dict[tuple, list[dict]] = {}
    for index, row in enumerate(rows):
        if index % 5 == 0:
            row["output"] = rows[index - 1]["output"]
        elif index % 7 == 0:
            row["output"] = "I cannot tell."
        records.setdefault((row["task"], row["source"], row["id"]), []).append(row)
    return list(records.values())


def decided(number: int) -> dict:
    answer = {"person": ["Ada", "Bob"], "city": ["Eve"]}
    decisions = {"person": [[number / 7, -0.1], [1.0, -1.0], [-3.0, None]], "city": [[-0.5, -1.0], [-2.0, None]]}
    gold = entities(person=["Ada", "Eve"], city=["Rome"])
    return {**instance("NER", ["person", "city"], gold, answer, id=str(number)), "decisions": decisions}


@pytest.mark.parametrize(
    "options", [(), ("--mode", "set", "--repair"), ("--min_score", 0.4), ("--multi_label", "false")]
)
def test_parts_combine_into_the_report_of_all(
    options: tuple, predictions: list[list[dict]], tmp_path: Path, run_command: Callable
) -> None:
    half = instance("NER", ["\ud800"], entities(**{"\ud800": ["Ada", "\udc00"]}), {"\ud800": ["Ada"]})  # no UTF-8
    records = [[decided(number)] for number in range(20)] + predictions * (not options) + [[half]] * (not options)
    parts = [records[:7], records[7:40], records[40:]] if not options else [records[:3], records[3:]]
    write_lines(tmp_path / "all.jsonl", [row for record in records for row in record])
    files = []
    for number, part in enumerate(parts):
        write_lines(tmp_path / f"{number}.jsonl", [row for record in part for row in record])
        files.append(tmp_path / f"{number}.json")
        done = run_command("score", "--predictions_file", f"{number}.jsonl", "--save_partial", files[-1], *options)
        assert done.stdout == f"{len(part)} records: {files[-1]}\n"
    run_command("score", "--predictions_file", "all.jsonl", "--output_file", "all.json", "--bootstrap", 50, *options)
    screen = run_command("score", "--partial", *files, "--output_file", "parts.json", "--bootstrap", 50).stdout
    report = json.loads((tmp_path / "parts.json").read_text())
    assert report == json.loads((tmp_path / "all.json").read_text())
    assert report["overall"]["intervals"] and report["confidence"] and report["confusable"]["overall"]["right"]
    assert f"{len(files)} parts (" in screen and f"{report['overall']['f1']:.2f}" in screen


def test_bad_parts_are_one_clear_line(tmp_path: Path, run_command: Callable) -> None:
    for number in (1, 2):
        write_lines(tmp_path / f"{number}.jsonl", [decided(number), decided(3)])
    run_command("score", "--predictions_file", "1.jsonl", "--save_partial", "1.json")
    run_command("score", "--predictions_file", "2.jsonl", "--save_partial", "2.json")
    run_command("score", "--predictions_file", "2.jsonl", "--save_partial", "set.json", "--mode", "set")
    (tmp_path / "other.json").write_text('{"overall": 1}')
    (tmp_path / "list.json").write_text("[1]")
    whole = (tmp_path / "1.json").read_text()
    (tmp_path / "damaged.json").write_text(whole.replace('"mode": "strict"', '"mood": "strict"'))
    for arguments, message in {
        ("1.json", "2.json"): "2.json and 1.json have answers to the same record: score these in one part",
        ("1.json", "set.json"): "set.json and 1.json were made with different options",
        ("other.json",): "other.json: not a file of iepile score --save_partial",
        ("list.json",): "list.json: not a file of iepile score --save_partial",
        ("damaged.json",): "or damaged: write it again",
        ("none.json",): "none.json: No such file or directory",
        ("1.json", "--predictions_file", "1.jsonl"): "give --predictions_file, or --partial",
        ("1.json", "--report", "page"): "--report, --save_partial and --trained_labels need the answers",
    }.items():
        assert_one_clear_line(run_command("score", "--partial", *arguments, check=False), message)
    assert_one_clear_line(run_command("score", check=False), "give --predictions_file, or --partial")
