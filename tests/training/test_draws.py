"""Training on corpora: each epoch learns another draw of instances."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from helpers.corpora import write_corpus
from helpers.training import run_training
from trl import SFTConfig

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.data.options import InstanceOptions
from iepile_builder.engines.loading import load_model
from iepile_builder.training.data import tokenize_rows
from iepile_builder.training.draws import EpochPerDraw, join_draws, load_draws
from iepile_builder.training.trainer import AnswerTrainer


LABELS = ["city", "river", "person", "food", "song", "award", "date", "ship"]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    records = [
        {"text": f"To {number}.", "entity": [{"entity": str(number), "entity_type": "city"}]} for number in range(10)
    ]
    return write_corpus(tmp_path / "IE-en" / "NER" / "trips", [LABELS, [], {}], train=records, dev=records[:2])


@pytest.fixture
def build(corpus: Path, tmp_path: Path) -> Path:
    options: dict[str, object] = {"corpus_dir": [str(corpus)], "num_random": 2, "split_num": 4}
    options["negatives_schedule"] = ["hard", "all"]
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(options))
    return tmp_path / "build.yaml"


def asked(rows: Dataset) -> list[tuple[str, ...]]:
    return [tuple(json.loads(instruction)["schema"]) for instruction in rows["instruction"]]


def test_each_epoch_is_another_draw(corpus: Path) -> None:
    options = InstanceOptions(num_random=2, hard_negatives=None)
    draws, validation = load_draws([str(corpus)], options, None, 3, True)
    assert [len(draw) for draw in draws] == [10, 10, 10]
    assert asked(draws[0]) != asked(draws[1]) != asked(draws[2]) != asked(draws[0])
    assert {label for labels in asked(validation) for label in labels} == set(LABELS)
    again, _ = load_draws([str(corpus)], InstanceOptions(num_random=2, epoch=1), None, 2, False)
    assert [asked(draw) for draw in again] == [asked(draw) for draw in draws[1:]]


@pytest.mark.parametrize("order", ["random", "sequential", "group_by_length", "batch_rebalance"])
def test_the_rows_of_a_draw_stay_together(order: str) -> None:
    draws = [
        Dataset.from_dict({"row": [*range(start, start + 25)], "length": [*range(25)]}) for start in (0, 100, 200)
    ]
    joined = join_draws(draws, order, 4, seed=1)
    assert joined["draw"][:] == [0] * 25 + [1] * 25 + [2] * 25
    parts = [joined["row"][start : start + 25] for start in (0, 25, 50)]
    assert [sorted(part) for part in parts] == [draw["row"][:] for draw in draws]
    if order == "sequential":
        assert parts == [draw["row"][:] for draw in draws]
    else:
        assert [row - 100 for row in parts[1]] != parts[0]
    if order == "batch_rebalance":
        steps = [joined["length"][start : start + 4] for start in range(0, 24, 4)]
        assert all(step == sorted(step, reverse=True) for step in steps)
    assert join_draws(draws, order, 4, seed=1).to_list() == joined.to_list()
    assert (join_draws(draws, order, 4, seed=2).to_list() == joined.to_list()) == (order == "sequential")


@pytest.mark.parametrize("packing", [False, True])
def test_the_trainer_takes_the_draws_in_order(model: str, tmp_path: Path, packing: bool) -> None:
    tokenizer = load_tokenizer(model)
    draws = [
        tokenize_rows(
            Dataset.from_list([{"instruction": "x" * (row % 5), "output": f"draw {draw}"} for row in range(12)]),
            "train", tokenizer,
        )
        for draw in range(3)
    ]  # fmt: skip
    args = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", packing=packing, max_length=100,
        num_train_epochs=3, per_device_train_batch_size=4,
    )  # fmt: skip
    epochs = EpochPerDraw(args)
    rows = join_draws(draws, epochs.order, 4, seed=1)
    trainer = AnswerTrainer(
        model=load_model(model), args=args, train_dataset=rows, processing_class=tokenizer, callbacks=[epochs]
    )
    seen = [tokenizer.decode(ids) for batch in trainer.get_train_dataloader() for ids in batch["input_ids"]]
    found = [[number for number in range(3) if f"draw {number}" in text] for text in seen]
    flat = [number for numbers in found for number in numbers]
    assert flat == sorted(flat)
    assert {*flat} == {0, 1, 2}
    if packing:
        assert all(len(numbers) >= 1 for numbers in found)
    else:
        assert flat == [0] * 12 + [1] * 12 + [2] * 12


def test_a_run_on_a_corpus(model: str, build: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = {"num_train_epochs": 2, "max_steps": -1, "save_strategy": "epoch", "eval_strategy": "epoch"}
    log = run_training(model, build, tmp_path / "whole", **options)
    out = capsys.readouterr().out
    assert out.count("epoch 1, negatives hard: 10 rows, ") == 1  # of three labels; then of all eight, four at a time
    assert out.count("epoch 2, negatives all: 20 rows, ") == 1
    assert out.count("Hard negatives of NER trips (en): ") == 1
    assert "train: " not in out and "not reached" not in out
    record = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert record["dataset_name"] == "trips"
    built = {"split_num": 4, "num_random": 2, "negatives_schedule": ["hard", "all"]}
    assert record["build"] == {"file": "build.yaml", "options": built}
    said = 'build.yaml: split_num 4; num_random 2; negatives_schedule ["hard", "all"]'
    assert record["settings"]["instances built with"] == said
    assert "(this run drew from build.yaml)" in (tmp_path / "whole" / "recipe.yaml").read_text()
    assert record["arguments"]["num_train_epochs"] == 2
    assert record["arguments"]["save_strategy"] == "epoch"
    assert "2.00 epochs" in record["settings"]["steps"]
    evaluations = [entry["step"] for entry in log if "eval_loss" in entry]
    assert len(evaluations) == 2

    run_training(model, build, tmp_path / "half", **options)
    checkpoints = sorted((tmp_path / "half").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[1])
    continued = run_training(model, build, tmp_path / "half", **options)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert [entry["loss"] for entry in continued if "loss" in entry] == pytest.approx(losses, rel=1e-4)

    build.write_text(build.read_text() + "seed: 7\n")
    with pytest.raises(InputError, match="half: its checkpoints were trained on other instances than .*build.yaml"):
        run_training(model, build, tmp_path / "half", **options)


def test_the_tokens_of_all_epochs_and_a_schedule_that_is_too_long(
    model: str, build: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    build.write_text(build.read_text().replace("- all", "- all\n- ratio\n- random"))
    names = {"city": [f"town {number}" for number in range(50)]}  # of which a draw of ten records takes ten at most
    (tmp_path / "names.json").write_text(json.dumps(names))
    build.write_text(f"{build.read_text()}label_synonyms: {tmp_path / 'names.json'}\n")
    data_args = {"max_train_tokens": 1400, "answer_loss": "decisions", "empty_weight": 0.5}
    run_training(model, build, tmp_path / "out", data_args, num_train_epochs=2, max_steps=1)
    out = capsys.readouterr().out
    assert "negatives_schedule: ratio, random not reached in 2 epochs" in out.splitlines()
    tokens = [int(found) for found in re.findall(r"^epoch \d, negatives \w+: \d+ rows, (\d+) tokens$", out, re.M)]
    assert len(tokens) == 2 and all(350 < each <= 700 for each in tokens)
    assert "weight of nothing found in the loss: 0.5" in out
    assert "the loss on what a grammar leaves open in the answers" in (tmp_path / "out" / "README.md").read_text()
    labels = json.loads((tmp_path / "out" / "training.json").read_text())["labels"]["NER"]
    assert sum(label.startswith("town ") for label in labels) > 10


def test_a_build_that_cannot_be(model: str, build: Path, tmp_path: Path) -> None:
    text = build.read_text()
    for wrong, message in (
        ("negatives: some\n", "negatives"),
        ("no_such: 1\n", "build.yaml: .*no_such"),
        ("tasks: [RE]\n", "RE"),
        ("languages: en\n", "build.yaml: languages is a list"),
        ("input_format: csv\n", "build.yaml: .*iepile convert"),
    ):
        build.write_text(text + wrong)
        with pytest.raises(InputError, match=message):
            run_training(model, build, tmp_path / "out")
    build.write_text("corpus_dir: sample_corpus\n")
    with pytest.raises(InputError, match="build.yaml: corpus_dir is a list"):  # before a model is looked for
        run_training(str(tmp_path / "nowhere"), build, tmp_path / "out")
