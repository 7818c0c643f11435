"""`iepile build`: one clear line for options, corpora and disks that cannot be used."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.corpora import assert_one_clear_line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--tasks", "NERR"], ["unknown task 'NERR'", "NER, RE"]),
        (["--languages", "French"], ["unknown language 'French'", "en, zh or de"]),
        (["--corpora", "animals"], ["unknown corpus 'animals'", "people"]),
        (["--tasks", "RE"], ["no corpus for RE"]),
        (["--split_num", "0"], ["split_num is 0"]),
        (["--negatives", "many"], ["unknown negatives 'many'"]),
        (["--push_to_hub", "me/mine"], ["--push_to_hub needs --format parquet"]),
        (["--corpus_weights", '{"animals": 2}'], ["unknown corpus 'animals'"]),
        (["--descriptions", "nowhere.json"], ["nowhere.json", "No such file"]),
        (["--hard_negatives", "nowhere.json"], ["nowhere.json", "No such file"]),
    ],
)
def test_wrong_options_end_with_one_clear_line(
    run_command, people: Path, arguments: list[str], parts: list[str]
) -> None:
    done = run_command("build", "--corpus_dir", people, "--output_dir", "out", *arguments, check=False)
    assert_one_clear_line(done, *parts)


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("train.json", '{"text": "Ada."\n', ["train.json, line 1", "not one JSON object a line"]),
        ("train.json", '{"text": "Ada."}\n', ["train.json, line 1", "field 'entity' is missing"]),
        ("dev.json", '{"text": "", "entity": []}\n', ["dev.json, line 1", "'text' is empty"]),
        (
            "test.json",
            '{"text": "Ada.", "entity": [{"entity": "Ada", "entity_type": "Person"}]}\n',
            ["test.json, line 1", "'Person' is not in schema.json", "'person'"],
        ),
    ],
)
def test_wrong_corpora_end_with_one_clear_line(
    run_command, people: Path, tmp_path: Path, file: str, content: str, parts: list[str]
) -> None:
    (people / "IE-en" / "NER" / "people" / file).write_text(content)
    arguments = ("build", "--corpus_dir", people, "--output_dir", tmp_path / "out", "--num_proc", 2)
    assert_one_clear_line(run_command(*arguments, check=False), *parts)
    assert not (tmp_path / "out").exists()


def break_train_file(people: Path) -> list[str]:
    (people / "IE-en" / "NER" / "people" / "train.json").unlink()
    (people / "IE-en" / "NER" / "people" / "train.json").mkdir()
    return ["train.json: not a file"]


def pipe_train_file(people: Path) -> list[str]:
    (people / "IE-en" / "NER" / "people" / "train.json").unlink()
    os.mkfifo(people / "IE-en" / "NER" / "people" / "train.json")
    return ["train.json: not a file"]


def break_schema(people: Path) -> list[str]:
    (people / "IE-en" / "NER" / "people" / "schema.json").unlink()
    (people / "IE-en" / "NER" / "people" / "schema.json").mkdir()
    return ["schema.json: not a file"]


def halve_a_pair(people: Path) -> list[str]:
    (people / "IE-en" / "NER" / "people" / "schema.json").write_text('["ci\\ud800ty"]\n[]\n{}\n')
    return ["schema.json, line 1: not JSON", "surrogate"]


def nest_the_schema(people: Path) -> list[str]:
    (people / "IE-en" / "NER" / "people" / "schema.json").write_text("[" * 100_000 + "\n[]\n{}\n")
    return ["schema.json, line 1: not JSON", "depth limit"]


def nest_the_dictionary(people: Path) -> list[str]:
    (people.parent / "dictionary.json").write_text("[" * 100_000)
    return ["dictionary.json: not JSON", "depth limit"]


def break_the_dictionary(people: Path) -> list[str]:
    (people.parent / "dictionary.json").mkdir()
    return ["dictionary.json: not a file"]


def take_the_parent(people: Path) -> list[str]:
    (people.parent / "far").write_text("a file")
    return ["far", "Not a directory"]


def take_the_report(people: Path) -> list[str]:
    (people.parent / "report.jsonl").mkdir()
    return ["report.jsonl: not a file"]


@pytest.mark.parametrize(
    "harm",
    [
        break_train_file,
        pipe_train_file,
        break_schema,
        halve_a_pair,
        nest_the_schema,
        nest_the_dictionary,
        break_the_dictionary,
        take_the_parent,
        take_the_report,
    ],
)
def test_what_cannot_be_read_or_written_ends_with_one_clear_line(
    run_command, people: Path, tmp_path: Path, harm: Callable[[Path], list[str]]
) -> None:
    (tmp_path / "dictionary.json").write_text("{}") if harm is not break_the_dictionary else None
    parts = harm(people)
    before = sorted(tmp_path.rglob("*"))
    done = run_command(
        "build", "--corpus_dir", people, "--hard_negatives", tmp_path / "dictionary.json",
        "--left_out_file", tmp_path / "report.jsonl", "--output_dir", tmp_path / "far" / "out", check=False,
    )  # fmt: skip
    assert_one_clear_line(done, *parts)
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts) == before


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_full_disk_ends_with_one_clear_line_and_keeps_the_old(
    people: Path, tmp_path: Path, num_proc: int, run_command
) -> None:
    arguments = ["--corpus_dir", str(people), "--output_dir", str(tmp_path / "out")]
    run_command("build", *arguments)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    train = people / "IE-en" / "NER" / "people" / "train.json"
    train.write_text(train.read_text() * 2000)
    command = [sys.executable, "-m", "iepile_builder", "build", *arguments, "--overwrite"]
    command = ["bash", "-c", f"ulimit -f 500; exec {shlex.join(command)} --num_proc {num_proc}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_one_clear_line(done, "File too large")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    run_command("build", *arguments, "--overwrite")
    assert len((tmp_path / "out" / "train.jsonl").read_text().splitlines()) == 4000
    assert not (tmp_path / ".out.incomplete").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--negatives all --num_hard 2", "--num_hard has no effect with negatives all, only with hard and random"),
        ("--negative_ratio 0.15", "--negative_ratio has no effect with negatives hard, only with ratio"),
        (
            "--negatives ratio --negatives_schedule hard all --negative_ratio 0.15",
            "--negative_ratio has no effect with negatives hard, all, only with ratio",
        ),
    ],
)
def test_a_number_of_negatives_without_effect_ends_with_one_clear_line(
    options: str, line: str, people: Path, run_command
) -> None:
    done = run_command("build", "--corpus_dir", people, "--output_dir", "out", *options.split(), check=False)
    assert_one_clear_line(done, line)
