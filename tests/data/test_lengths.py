"""Instances that are too long are asked for fewer labels at once; nothing is cut."""

import json
from pathlib import Path

import datasets
import pytest
from helpers.corpora import SAMPLE_CORPUS, assert_one_clear_line, write_corpus
from tokenizers import Tokenizer, models, pre_tokenizers

from iepile_builder import IEPile, InputError
from iepile_builder.data.lengths import FitLength, halve
from iepile_builder.iepile import TO_FIT, TOO_LONG


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


def test_the_builder_fits_lengths_in_any_number_of_processes(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iepile_builder.data.index.SHARD_RECORDS", 20)
    options = {"data_dir": str(SAMPLE_CORPUS), "tasks": ["NER"]}
    whole = IEPile(**options).as_dataset()
    limit = sorted(map(words, whole["train"]))[len(whole["train"]) // 20]
    options |= {"tokenizer": tokenizer, "max_length": limit}
    rows = datasets.load_dataset("iepile", **options)
    assert max(map(words, rows["train"])) <= limit < max(map(words, rows["test"]))
    for split in whole:
        fitted = whole[split].map(FitLength(tokenizer, limit), batched=True)
        if split == "train":
            too_long = len(fitted) - sum(fitted["fits"])
            more = len(fitted) - len(whole[split])
            fitted = fitted.filter(lambda row: row["fits"])
        assert rows[split].to_list() == fitted.remove_columns("fits").to_list()
    assert list(datasets.load_dataset("iepile", **options, streaming=True)["train"]) == rows["train"].to_list()
    for num_proc in (1, 2):
        builder = IEPile(**options, cache_dir=str(tmp_path / str(num_proc)))
        builder.download_and_prepare(num_proc=num_proc)
        assert builder.as_dataset()["train"].to_list() == rows["train"].to_list()
        of_train = [of for of in builder.report() if of["split"] == "train"]
        assert (sum(of[TO_FIT] for of in of_train), sum(of[TOO_LONG] for of in of_train)) == (more, too_long)
        assert too_long > 0


def test_records_without_instances_are_no_obstacle(people: Path, tokenizer: str) -> None:
    """EEA asks about known events, and here are none."""
    record = {"text": "It rained.", "event": []}
    write_corpus(people / "IE-en" / "EEA" / "quiet", [["rain"], ["place"], {"rain": ["place"]}], train=[record])
    built = IEPile(data_dir=str(people), tasks=["NER", "EEA"], tokenizer=tokenizer, max_length=1000).as_dataset()
    assert set(built["train"]["task"]) == {"NER"}


def test_an_edited_tokenizer_is_another_build(people: Path, tokenizer: str) -> None:
    def key() -> str:
        return IEPile(data_dir=str(people), tokenizer=tokenizer, max_length=100).config_id

    before = key()
    Path(tokenizer, "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert key() != before


def test_a_tokenizer_that_is_none_is_named(people: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: cannot load a tokenizer"):
        IEPile(data_dir=str(people), tokenizer=str(tmp_path), max_length=100).as_dataset()
    with pytest.raises(InputError, match="max_length is 0; give 1 or more"):
        IEPile(data_dir=str(people), tokenizer=str(tmp_path), max_length=0)


def test_what_is_dropped_is_counted(run_command, people: Path, tokenizer: str, tmp_path: Path) -> None:
    arguments = ("build", "--corpus_dir", people, "--output_dir", tmp_path / "out")
    rows = IEPile(data_dir=str(people), split_num=1).as_dataset()["train"]
    longest = max(map(words, rows))
    assert sum(words(row) == longest for row in rows) == 1
    done = run_command(*arguments, "--max_length", longest - 1, "--tokenizer", tokenizer)
    assert f"train: 3 instances more, to stay within {longest - 1} tokens; 1 are too long" in done.stdout
    assert "train: 4 instances (NER 4)" in done.stdout  # of 2 records
    assert "test: 5 instances (NER 5)" in done.stdout
    kept = datasets.load_dataset("json", data_files=str(tmp_path / "out" / "test.jsonl"), split="train")
    assert all(words(row) < longest or len(json.loads(row["instruction"])["schema"]) == 1 for row in kept)
    again = (*arguments, "--max_length", 20, "--overwrite")
    assert_one_clear_line(run_command(*again, check=False), "max_length and tokenizer need each other")
    assert_one_clear_line(
        run_command(*again, "--tokenizer", tokenizer, check=False), "no instances for train", "max_length"
    )
