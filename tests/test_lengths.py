"""Instances that are too long are asked for fewer labels at once; nothing is cut."""

import json
from pathlib import Path

import datasets
import pytest
from conftest import SAMPLE_CORPUS, assert_one_clear_line
from tokenizers import Tokenizer, models, pre_tokenizers

from iepile_builder import IEPile
from iepile_builder.lengths import FitLength, halve


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A tokenizer that counts words and signs."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return str(folder)


def words(row: dict) -> int:
    split = pre_tokenizers.Whitespace().pre_tokenize_str
    return len(split(row["instruction"])) + len(split(row["output"] or "")) + 2


@pytest.mark.parametrize("task", ["NER", "RE", "EE", "KG"])
def test_long_instances_are_split_and_nothing_is_lost(task: str, tokenizer: str) -> None:
    rows = IEPile(data_dir=str(SAMPLE_CORPUS), tasks=[task], split_num=-1).as_dataset(split="train")
    limit = sorted(map(words, rows))[len(rows) // 2]
    fitted = rows.map(FitLength(tokenizer, limit), batched=True)
    assert fitted.num_rows > rows.num_rows
    assert fitted.column_names == [*rows.column_names, "fits"]
    asked: dict[tuple, tuple[list, dict]] = {}
    for row in fitted:
        assert row["fits"] == (words(row) <= limit)
        schema = json.loads(row["instruction"])["schema"]
        assert row["fits"] or len(schema) == 1
        items, answer = asked.setdefault((row["source"], row["id"]), ([], {}))
        items += schema
        answer.update(json.loads(row["output"]))
    for row in rows:
        items, answer = asked[row["source"], row["id"]]
        assert items == json.loads(row["instruction"])["schema"]
        assert json.dumps(answer, ensure_ascii=False) == row["output"]
    assert fitted.filter(lambda row: not row["fits"]).num_rows < rows.num_rows


def test_descriptions_examples_and_unknown_answers_are_halved_too() -> None:
    instruction = {
        "instruction": "Find.", "schema": {"a": "the first", "b": "the second"},
        "example": [{"input": "x", "output": {"a": ["x"], "b": []}}], "input": "y",
    }  # fmt: skip
    first, second = halve({"id": "1", "instruction": json.dumps(instruction), "output": None})
    assert json.loads(first["instruction"]) == {
        **instruction, "schema": {"a": "the first"}, "example": [{"input": "x", "output": {"a": ["x"]}}],
    }  # fmt: skip
    assert json.loads(second["instruction"])["schema"] == {"b": "the second"}
    assert second["output"] is None
    assert halve(first) == []


def test_what_is_dropped_is_counted(run_script, people: Path, tokenizer: str, tmp_path: Path) -> None:
    arguments = ("build_dataset.py", "--corpus_dir", people, "--output_dir", tmp_path / "out")
    done = run_script(*arguments, "--max_length", 20, "--tokenizer", tokenizer)
    assert "train: 4 instances more" in done.stdout
    assert "train: 0 instances" in done.stdout
    kept = datasets.load_dataset("json", data_files=str(tmp_path / "out" / "test.jsonl"), split="train")
    assert all(len(json.loads(instruction)["schema"]) == 1 for instruction in kept["instruction"])
    assert_one_clear_line(
        run_script(*arguments, "--max_length", 20, "--overwrite", check=False), "--max_length and --tokenizer"
    )
