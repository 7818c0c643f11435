"""No command overwrites one of its inputs, whatever the options are called."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.corpora import assert_one_clear_line, write_lines


TRAIN = "tree/IE-en/NER/people/train.json"
SCHEMA = "tree/IE-en/NER/people/schema.json"
SCORE, MINE = "score --predictions_file x.jsonl", "mine --corpus_dir tree"
BUILD = "build --corpus_dir tree --output_dir out"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{SCORE} --output_file x.jsonl", "x.jsonl: the output file is the input x.jsonl"),
        (f"{SCORE} --output_file x.run.json", "x.run.json: the output file is the input x.run.json"),
        (f"{SCORE} --save_partial x.jsonl", "x.jsonl: the output file is the input x.jsonl"),
        (f"{SCORE} --compare y.jsonl --output_file y.jsonl", "y.jsonl: the output file is the input y.jsonl"),
        (f"{SCORE} --compare page/index.html --report page", "is the input page/index.html"),
        (f"{SCORE} --hard_negatives table.json --output_file table.json", "is the input table.json"),
        (f"{SCORE} --calibration table.json --output_file table.json", "is the input table.json"),
        (f"{SCORE} --trained_labels names.txt --output_file names.txt", "is the input names.txt"),
        (f"{SCORE} --trained_labels model --output_file model/training.json", "is the input model/training.json"),
        ("score --partial x.jsonl table.json --output_file table.json", "is the input table.json"),
        (f"{MINE} --output_file {TRAIN}", f"is the input {TRAIN}"),
        (f"{MINE} --output_file {SCHEMA}", f"is the input {SCHEMA}"),
        (f"{MINE} --method confusion --predictions_file x.jsonl --output_file x.jsonl", "input x.jsonl"),
        (f"{MINE} --descriptions table.json --output_file table.json", "is the input table.json"),
        (f"{BUILD} --left_out_file {TRAIN}", "train.json: the output file lies under the input folder tree"),
        (f"{BUILD} --label_synonyms table.json --left_out_file table.json", "is the input table.json"),
        (f"{BUILD} --left_out_file out/train.jsonl", "out/train.jsonl: the build writes this itself"),
        (f"{BUILD} --left_out_file out/data/new.jsonl", "out/data/new.jsonl: the build writes this itself"),
        (f"{SCORE} --config options.yaml --output_file options.yaml", "the output file is the input options.yaml"),
        (f"{MINE} --config=options.yaml --output_file ./options.yaml", "the output file is the input options.yaml"),
        ("predict --dataset_name x.jsonl --config options.yaml --output_file options.yaml", "input options.yaml"),
        ("extract --schema [] --text a --config options.yaml --output_file - options.yaml", "input options.yaml"),
        (
            "benchmark --data_dir page --output_dir page",
            "page/report.json: the output file lies under the input folder",
        ),
        (
            "benchmark --data_dir page --output_dir page/new",
            "report.json: the output file lies under the input folder",
        ),
        ("extract --schema [] --file page/index.html --output_file page/index.html", "is the input page/index.html"),
        ("extract --schema table.json --text a --output_file - table.json", "is the input table.json"),
        ("extract --schema [] --text a --examples table.json --output_file table.json", "is the input table.json"),
    ],
)
def test_an_input_is_no_output(
    run_command: Callable, people: Path, tmp_path: Path, command: str, message: str
) -> None:
    for name in (
        "x.jsonl",
        "x.run.json",
        "y.jsonl",
        "page/index.html",
        "table.json",
        "names.txt",
        "model/training.json",
    ):
        write_lines(tmp_path / name, [{}])
    (tmp_path / "options.yaml").write_text("{}\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = run_command(*command.split(), check=False)
    assert_one_clear_line(done, message)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert people.is_dir() and not (tmp_path / "out").exists()


def test_a_dictionary_may_be_among_its_corpora(run_command: Callable, people: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time it replaces the first one
        run_command(*MINE.split(), "--output_file", "tree/hard_negatives.json")
    assert (tmp_path / "tree" / "hard_negatives.json").is_file()
