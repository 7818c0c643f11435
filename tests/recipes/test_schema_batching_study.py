"""`recipes/schema_batching_study/run.py`: what its runs have in common, and the tables against counts made by hand."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from helpers.corpora import ROOT, SAMPLE_CORPUS, write_lines
from helpers.tiny import save_tiny_model
from trl import ModelConfig, SFTConfig, TrlParser

from iepile_builder import InputError, SchemaBatching
from iepile_builder.chat import load_tokenizer
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.hard_negatives import corpus_hard_negatives, load_hard_negatives


NEWS = SAMPLE_CORPUS / "IE-en" / "NER" / "daily_news"


def load_study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", ROOT / "recipes" / "schema_batching_study" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return load_study()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


def test_all_runs_see_the_same_records_and_as_many_tokens(study: ModuleType, model: str) -> None:
    (corpus,) = find_corpora([NEWS])
    records = study.draw_records(corpus, "train", 8)
    assert records == study.draw_records(corpus, "train", 8)
    table = corpus_hard_negatives(load_hard_negatives(SAMPLE_CORPUS / "hard_negatives.json"), "NER", "daily_news")
    batching = SchemaBatching("NER", "en", "daily_news", corpus.schema, hard_negatives=table, num_random=0)
    tokenizer = load_tokenizer(model)

    def rows(negatives: str, split_num: int, seed: int = 1, tokens: int = 60_000) -> tuple[list[dict], dict]:
        asking = replace(batching, negatives=negatives, split_num=split_num, seed=seed)
        return study.training_rows(asking, records, tokenizer, tokens, max_length=4000)

    runs = {arm: rows(*arm) for arm in [("hard", 4), ("random", 4), ("hard", -1), ("random", -1)]}
    for made, counts in runs.values():
        assert {row["id"] for row in made} == {record["id"] for record in records}
        assert 0.99 * 60_000 <= counts["tokens"] <= 60_000
        assert counts["epochs"] >= 1
    assert runs["hard", -1][1]["epochs"] > runs["hard", 4][1]["epochs"]  # fewer instructions for a record
    assert runs["hard", 4][0] == rows("hard", 4)[0] != rows("hard", 4, seed=2)[0]
    with pytest.raises(InputError, match="within the first epoch"):
        rows("hard", 4, tokens=1000)


def answers(folder: Path, run: str, outputs: dict[str, list[str]], asked: list[str], epochs: int = 1) -> None:
    """What a finished run leaves: two records, each asked for one label at a time (1) and for both (-1)."""
    found = {"Ada left.": [("person", "Ada")], "To Rome.": [("city", "Rome")]}
    rows = []
    for size, labels in (("1", [["person"], ["city"]]), ("-1", [["person", "city"]])):
        texts = iter(outputs[size])
        for text, facts in found.items():
            label = json.dumps([{"entity": entity, "entity_type": kind} for kind, entity in facts])
            for schema in labels:
                instruction = json.dumps({"instruction": "Find them.", "schema": schema, "input": text})
                row = {"id": text, "task": "NER", "source": "people", "instruction": instruction, "label": label}
                rows.append({**row, "test_split_num": size, "output": next(texts)})
    write_lines(folder / run / "predictions.jsonl", rows)
    write_lines(folder / "test.jsonl", rows)
    schema = {"instruction": "Find them.", "schema": asked, "input": "Ada left."}
    row = {"id": "Ada left.", "task": "NER", "instruction": json.dumps(schema), "label": rows[0]["label"], "epoch": 0}
    write_lines(folder / run / "train.jsonl", [row])
    write_lines(folder / run / "rows.json", [{"instances": 1, "tokens": 40, "epochs": epochs}])
    write_lines(folder / run / "adapter" / "trainer_state.json", [{"global_step": 3}])


def test_the_tables(study: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "NER-people"
    schema = [["person", "city", "river"], [], {}]
    write_lines(tmp_path / "IE-en" / "NER" / "people" / "schema.json", schema)
    write_lines(tmp_path / "IE-en" / "NER" / "people" / "train.json", [{"text": "Ada left.", "entity": []}])
    (corpus,) = find_corpora([tmp_path / "IE-en"])
    right = {
        "1": ['{"person": ["Ada"]}', '{"city": []}', '{"person": []}', '{"city": ["Rome"]}'],
        "-1": ['{"person": ["Ada"], "city": []}', '{"person": [], "city": ["Rome"]}'],
    }
    wrong = {**right, "-1": ['{"person": ["Ada"', '{"person": ["Rome"], "city": ["Rome"]}']}
    answers(folder, "hard-4-1", right, ["person", "city"])
    answers(folder, "hard-4-2", wrong, ["person", "city"])
    answers(folder, "random-4-1", wrong, ["person", "river"])
    text = "\n\n".join(study.corpus_report(folder, corpus, [1, -1]))

    assert "| hard | 4 | 2.0 | 1, 1 | 1, 1 | 40, 40 | 3, 3 |" in text
    # of 2 records in 2 seeds: 1 + 1 + 0 + 1 found, of 2 + 2 predicted and 2 + 2 annotated
    assert "| hard | 4 | all | 75.0 [" in text
    assert "| 100.0, 50.0 | 75.0 | 75.0 | 75.0 | 4 |" in text
    assert "| hard | 4 | 1 | 100.0 [100.0, 100.0] | 100.0, 100.0 | 100.0 | 100.0 | 100.0 | 8 |" in text
    assert "| random | 4 | all | 50.0 [" in text
    assert "of the negatives that `hard` asks a record for, `random` asks 0%, too" in text
    assert "| hard, 4 | random, 4 | all | 1 | +50.0 [" in text  # on the seed that both have

    answers(folder, "random-4-2", wrong, ["person", "city"])
    text = "\n\n".join(study.corpus_report(folder, corpus, [1, -1]))
    assert "| hard, 4 | random, 4 | 1 | 1, 2 | +0.0 [+0.0, +0.0] | 1.000 | +0.0, +0.0 |" in text
    assert "| hard, 4 | random, 4 | all | 1, 2 | +25.0 [" in text
    assert text.endswith(" | +50.0, +0.0 |")  # by seed

    whole = (folder / "random-4-2" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (folder / "random-4-2" / "predictions.jsonl").write_text("".join(whole[:-1]))  # not finished: left out
    assert "| random | 4 | all | 50.0 [" in "\n".join(study.corpus_report(folder, corpus, [1, -1]))


def test_a_run_from_records_to_scores(
    study: ModuleType, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "corpus_dir": NEWS, "model_name_or_path": model, "negatives": "hard", "split_nums": 4, "seeds": 1,
        "train_records": 4, "max_train_tokens": 12_000, "max_length": 2000, "test_records": 2, "test_split_nums": -1,
        "max_new_tokens": 8, "output_dir": tmp_path / "out",
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["schema_batching_study.py", *arguments])
    study.main()
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| hard | 4 | all | 0.0 [0.0, 0.0] | 0.0 | 0.0 | 0.0 | 0.0 | 2 |" in report
    (rows,) = (tmp_path / "out").glob("*/*/rows.json")
    tokens = json.loads(rows.read_text())["tokens"]
    assert 11_000 < tokens <= 12_000 and f"| {tokens:,} |" in report

    monkeypatch.setattr(study, "run", pytest.fail)  # what is there is not made again
    study.main()
    assert (tmp_path / "out" / "report.md").read_text() == report

    arguments[arguments.index("--train_records") + 1] = "3"
    monkeypatch.setattr(sys, "argv", ["schema_batching_study.py", *arguments])
    with pytest.raises(InputError, match="other settings"):
        study.main()


@pytest.mark.parametrize("name", ["sft_cpu.yaml", "sft_gpu.yaml"])
def test_the_recipes_parse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    recipe = ROOT / "recipes" / "schema_batching_study" / name
    monkeypatch.setattr(sys, "argv", ["sft.py", "--config", str(recipe), "--output_dir", "out", "--use_cpu"])
    training_args, model_args = TrlParser((SFTConfig, ModelConfig)).parse_args_and_config()
    assert training_args.packing and training_args.num_train_epochs == 1 and model_args.use_peft
