"""`scripts/sft.py`: what is learned, what is dropped, what is kept, and how it goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import assert_one_clear_line, write_lines
from datasets import Dataset
from safetensors.torch import load_file
from tiny import CHATML, load_script, make_instances, save_tiny_model
from trl import ModelConfig, SFTConfig, SFTTrainer

from iepile_builder import InputError
from iepile_builder.chat import load_model, load_tokenizer
from iepile_builder.scoring import score


@pytest.fixture(scope="module")
def sft() -> ModuleType:
    return load_script("sft")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_lines(tmp_path / "data" / "train.jsonl", make_instances(24))
    return tmp_path / "data"


@pytest.fixture
def train(sft: ModuleType, model: str, data: Path, tmp_path: Path) -> Callable[..., list[dict]]:
    """Train as the program does, and return the log."""

    def run(
        output: str = "out", data_args: dict | None = None, model_args: dict | None = None, **args: object
    ) -> list:
        data_arguments = sft.DataArguments(**{"dataset_name": str(data), **(data_args or {})})
        training_arguments = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path / output), **args})
        sft.main(
            data_arguments,
            training_arguments,
            ModelConfig(**{**LORA, "model_name_or_path": model, **(model_args or {})}),
        )
        return json.loads((tmp_path / output / "trainer_state.json").read_text())["log_history"]

    return run


CONFIG = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "lora_target_modules": ["all-linear"]}


def losses(log: list[dict]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def make_trainer(cls: type[SFTTrainer], sft: ModuleType, model: str, folder: Path, **args: object) -> SFTTrainer:
    tokenizer = load_tokenizer(model)
    rows = sft.prepare(Dataset.from_list(make_instances(12)), "train", tokenizer, None, None)
    return cls(
        model=load_model(model),
        args=SFTConfig(**{**CONFIG, "output_dir": str(folder), **args}),
        train_dataset=rows,
        processing_class=tokenizer,
    )


def test_only_the_answer_and_its_end_token_are_learned(sft: ModuleType, model: str, tmp_path: Path) -> None:
    trainer = make_trainer(sft.AnswerTrainer, sft, model, tmp_path)
    tokenizer = trainer.processing_class
    for row, instance in zip(trainer.train_dataset, make_instances(12), strict=True):
        learned = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(learned) == instance["output"] + tokenizer.eos_token
        assert len(row["input_ids"]) == row["length"]


@pytest.mark.parametrize("args", [{}, {"gradient_accumulation_steps": 3}, {"packing": True, "max_length": 256}])
def test_the_loss_is_that_of_trl(sft: ModuleType, model: str, tmp_path: Path, args: dict) -> None:
    found, scored = {}, {}
    for cls in (SFTTrainer, sft.AnswerTrainer):
        trainer = make_trainer(cls, sft, model, tmp_path, **args)
        head = trainer.model.get_output_embeddings()
        positions: list[int] = []
        head.register_forward_hook(lambda module, inputs, output, seen=positions: seen.append(output.shape[1]))
        trainer.train()
        found[cls] = losses(trainer.state.log_history) + [
            entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry
        ]
        scored[cls] = positions
    assert found[sft.AnswerTrainer] == pytest.approx(found[SFTTrainer], abs=1e-4)
    answer = max(len(load_tokenizer(model)(row["output"])["input_ids"]) for row in make_instances(12))
    if not args:  # most of each row is prompt, and no logits are computed there
        assert max(scored[sft.AnswerTrainer]) < 3 * answer


def test_the_evaluation_loss_is_that_of_trl(sft: ModuleType, model: str, tmp_path: Path) -> None:
    rows = make_trainer(SFTTrainer, sft, model, tmp_path).train_dataset
    evaluated = [
        make_trainer(cls, sft, model, tmp_path).evaluate(rows)["eval_loss"] for cls in (SFTTrainer, sft.AnswerTrainer)
    ]
    assert evaluated[1] == pytest.approx(evaluated[0], abs=1e-4)


def test_the_same_seed_gives_the_same_losses(train: Callable[..., list[dict]]) -> None:
    first = losses(train("a"))
    assert first[-1] < first[0]
    assert losses(train("b")) == first
    assert losses(train("c", seed=7)) != first


def test_what_is_kept(train: Callable[..., list[dict]], model: str, tmp_path: Path) -> None:
    template = tmp_path / "other.jinja"
    template.write_text(CHATML.replace("im_start|>'", "im_start|>' + 'the '"))
    train(chat_template_path=str(template))
    out = tmp_path / "out"
    assert load_file(out / "adapter_model.safetensors")
    assert load_tokenizer(str(out)).chat_template == template.read_text()
    card = (out / "README.md").read_text()
    assert "24 instances" in card
    assert str(tmp_path) not in card


def test_rows_that_are_too_long_are_dropped_and_counted(
    sft: ModuleType, train: Callable[..., list[dict]], model: str, capsys: pytest.CaptureFixture
) -> None:
    rows = sft.prepare(Dataset.from_list(make_instances(24)), "train", load_tokenizer(model), None, None)
    limit = sorted(rows["length"])[11]
    kept = sum(length <= limit for length in rows["length"])
    train(max_length=limit)
    assert f"train: {kept} rows" in capsys.readouterr().out
    with pytest.raises(InputError, match="--max_length"):
        train(max_length=5)


def test_a_subset_of_the_rows(sft: ModuleType, model: str, capsys: pytest.CaptureFixture) -> None:
    rows = sft.prepare(Dataset.from_list(make_instances(24)), "train", load_tokenizer(model), ["NER"], None)
    assert len(rows) == 16
    some = sft.take_tokens(rows, sum(rows["length"]) // 2, seed=1)
    assert sum(rows["length"]) // 4 < sum(some["length"]) <= sum(rows["length"]) // 2
    assert some.to_list() == sft.take_tokens(rows, sum(rows["length"]) // 2, seed=1).to_list()
    assert some.to_list() != sft.take_tokens(rows, sum(rows["length"]) // 2, seed=2).to_list()
    with pytest.raises(InputError, match="KG"):
        sft.prepare(Dataset.from_list(make_instances(24)), "train", load_tokenizer(model), ["KG"], None)


def test_rows_set_aside_for_evaluation(
    train: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(InputError, match="--val_set_size"):
        train(eval_strategy="steps", eval_steps=4)
    log = train(data_args={"val_set_size": 6}, eval_strategy="steps", eval_steps=4)
    assert any("eval_loss" in entry for entry in log)
    printed = capsys.readouterr().out
    assert "train: 18 rows" in printed
    assert "validation: 6 rows" in printed

    write_lines(data / "validation.jsonl", make_instances(5))
    train("own", data_args={"val_set_size": 6, "max_eval_samples": 3}, eval_strategy="steps", eval_steps=4)
    printed = capsys.readouterr().out
    assert "train: 24 rows" in printed
    assert "validation: 3 rows" in printed


def test_a_run_that_was_stopped_goes_on(
    train: Callable[..., list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = losses(train("whole", **saving))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "stopped" / "checkpoint-2")
    assert losses(train("stopped", **saving)) == whole
    assert "checkpoint-2" in capsys.readouterr().out
    adapters = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped")]
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, rtol=0, atol=0)


def test_an_adapter_is_continued(train: Callable[..., list[dict]], tmp_path: Path) -> None:
    everything = {"per_device_train_batch_size": 24, "lr_scheduler_type": "constant"}
    first = losses(train("first", **everything, max_steps=8))
    second = losses(train("second", {"adapter_name_or_path": str(tmp_path / "first")}, **everything))
    assert second[0] < first[-1] < first[0]


def test_all_weights(train: Callable[..., list[dict]], tmp_path: Path) -> None:
    log = losses(train(model_args={"use_peft": False}))
    assert log[-1] < log[0]
    assert load_model(str(tmp_path / "out"))


def test_bad_input(run_script: Callable, model: str, data: Path, tmp_path: Path) -> None:
    common = ("--use_cpu", "--output_dir", tmp_path / "out", "--dataset_name")
    done = run_script("sft.py", *common, data, "--model_name_or_path", data, check=False)
    assert_one_clear_line(done, str(data))
    (tmp_path / "config.yaml").write_text("lora_rank: 4\n")
    done = run_script("sft.py", *common, data, "--config", tmp_path / "config.yaml", check=False)
    assert_one_clear_line(done, "lora_rank")
    write_lines(tmp_path / "rows.jsonl", [{"text": "Rome", "entity": []}])
    done = run_script("sft.py", *common, tmp_path / "rows.jsonl", "--model_name_or_path", model, check=False)
    assert_one_clear_line(done, "rows.jsonl", "instruction")


def cities(count: int, split: str = "test", text: str = "They left for Rome at dawn.") -> list[dict]:
    """Records whose answer is always the same, each asked in two batches."""
    asked = [("city", '{"city": ["Rome"]}'), ("river", '{"river": []}')]
    return [
        {
            "id": f"{split} {index}",
            "task": "NER",
            "source": "trips",
            "instruction": f'{{"instruction": "Find them.", "schema": ["{label}"], "input": "{index}: {text}"}}',
            "output": output,
            "label": '[{"entity": "Rome", "entity_type": "city"}]',
        }
        for index in range(count)
        for label, output in asked
    ]


def scores(log: list[dict], name: str = "eval_ie_f1") -> list[float]:
    return [entry[name] for entry in log if name in entry]


F1_WHILE_TRAINING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "per_device_eval_batch_size": 3}


def test_f1_rises_while_it_learns_and_is_that_of_the_programs(
    train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path, run_script: Callable
) -> None:
    write_lines(data / "train.jsonl", cities(12, "train"))
    write_lines(data / "validation.jsonl", cities(5))
    args = {**F1_WHILE_TRAINING, "save_steps": 10, "max_steps": 30, "eval_on_start": True}
    log = train(data_args={"ie_f1_records": 5}, model_args={"use_peft": False}, **args)
    assert scores(log)[0] == 0
    assert scores(log)[-1] == scores(log, "eval_ie_valid_json")[-1] == 100
    assert len(scores(log)) == 4

    answers = tmp_path / "answers.jsonl"
    arguments = ("--dataset", data, "--split", "validation", "--max_new_tokens", 30, "--output_file", answers)
    run_script("predict.py", "--model_name_or_path", tmp_path / "out" / "checkpoint-10", *arguments)
    report = score(json.loads(line) for line in answers.read_text().splitlines())
    assert scores(log)[1] == report["overall"]["f1"]
    assert scores(log, "eval_ie_precision")[1] == report["overall"]["precision"]


def test_f1_does_not_change_what_is_learned(train: Callable[..., list[dict]], data: Path) -> None:
    write_lines(data / "validation.jsonl", cities(3))
    args = {**F1_WHILE_TRAINING, "packing": True, "max_length": 256, "eval_strategy": "steps", "eval_steps": 2}
    dropout = {"lora_dropout": 0.1}
    plain = train("plain", model_args=dropout, **args)
    assert losses(train("scored", {"ie_f1_records": 2}, dropout, **args)) == losses(plain)
    assert not scores(plain)


@pytest.mark.parametrize("best", [2, 4])
def test_the_checkpoint_with_the_best_f1_is_kept(
    sft: ModuleType, train: Callable[..., list[dict]], data: Path, tmp_path: Path, best: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def answer(trainer: SFTTrainer, questions: Any) -> list[str]:
        right = trainer.state.global_step == best
        return [instance["output"] if right else "{}" for instance in questions.instances]

    monkeypatch.setattr(sft.AnswerTrainer, "answer", answer)
    write_lines(data / "validation.jsonl", cities(3))
    log = train(data_args={"ie_f1_records": 2}, **F1_WHILE_TRAINING)
    assert scores(log) == [100 if step == best else 0 for step in (2, 4, 6)]
    kept = load_file(tmp_path / "out" / "adapter_model.safetensors")
    folders = sorted(tmp_path.glob("out/checkpoint-*"))
    assert len(folders) == 3
    for folder in folders:
        same = all(
            torch.equal(kept[name], weight) for name, weight in load_file(folder / "adapter_model.safetensors").items()
        )
        assert same == (folder.name == f"checkpoint-{best}")


def test_records_are_taken_whole(sft: ModuleType, model: str, capsys: pytest.CaptureFixture) -> None:
    tokenizer = load_tokenizer(model)
    arguments = sft.DataArguments(dataset_name="", tasks=["NER"], ie_f1_records=4)
    rows = [*cities(6), *cities(2, "long", "by train " * 40)]
    taken = sft.take_records(Dataset.from_list(rows), tokenizer, arguments, 200, seed=3)
    ids = [instance["id"] for instance in taken.instances]
    assert len(ids) == 8 and all(ids.count(name) == 2 and name.startswith("test") for name in ids)
    assert taken.score([instance["output"] for instance in taken.instances])["f1"] == 100
    assert "IE F1 on 4 of 8 validation records, 8 answers" in capsys.readouterr().out
    # Training rows have neither an id nor the record's annotation: each is scored by its own answer.
    columns = ["task", "instruction", "output"]
    taken = sft.take_records(Dataset.from_list(rows[:6]).select_columns(columns), tokenizer, arguments, None, seed=3)
    assert len(taken.instances) == 4
    assert taken.score([instance["output"] for instance in taken.instances])["f1"] == 100
    with pytest.raises(InputError, match="task"):
        sft.take_records(Dataset.from_list(rows).select_columns(["output"]), tokenizer, arguments, None, seed=3)


def test_when_f1_is_computed(sft: ModuleType, tmp_path: Path) -> None:
    config = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path)})
    with pytest.raises(InputError, match="--eval_strategy"):
        sft.keep_best(config)
    config = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path), "save_strategy": "epoch", "eval_strategy": "steps"})
    sft.keep_best(config)  # does not fit: F1 is reported, and the last model kept
    assert not config.load_best_model_at_end
