"""IE F1 while training, and the best checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.corpora import write_lines
from helpers.training import CONFIG, F1_WHILE_TRAINING, cities, losses, scores
from safetensors.torch import load_file
from trl import SFTConfig, SFTTrainer

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer, to_prompt
from iepile_builder.engines.base import Request
from iepile_builder.engines.loading import load_model
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.scoring.scorer import score
from iepile_builder.training.trainer import AnswerTrainer, keep_best


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_f1_rises_while_it_learns_and_is_that_of_the_checkpoint(
    train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path, attention: str
) -> None:
    write_lines(data / "train.jsonl", cities(12, "train"))
    write_lines(data / "validation.jsonl", cities(5))
    args = {**F1_WHILE_TRAINING, "save_steps": 10, "max_steps": 30, "eval_on_start": True}
    model_args = {"use_peft": False, "attn_implementation": attention}
    log = train(data_args={"ie_f1_records": 5}, model_args=model_args, **args)
    assert scores(log)[0] == 0
    assert scores(log)[-1] == scores(log, "eval_ie_valid_json")[-1] == 100
    assert len(scores(log)) == 4

    # The same answers from the checkpoint on its own
    trained = load_model(str(tmp_path / "out" / "checkpoint-10"), dtype="float32").eval()
    requests = [Request(to_prompt(instance)) for instance in cities(5)]
    answers = TransformersEngine(trained, load_tokenizer(model), batch_size=3).generate(requests, 30)
    overall = score({**row, "output": answer.text} for row, answer in zip(cities(5), answers, strict=True))["overall"]
    for name in ("f1", "precision", "recall"):
        assert scores(log, f"eval_ie_{name}")[1] == overall[name]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_f1_does_not_change_what_is_learned(train: Callable[..., list[dict]], data: Path, checkpointing: bool) -> None:
    write_lines(data / "validation.jsonl", cities(3))
    args = {
        "activation_checkpointing": checkpointing,
        **F1_WHILE_TRAINING,
        "packing": True,
        "max_length": 256,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    dropout = {"lora_dropout": 0.1}
    plain = train("plain", model_args=dropout, **args)
    assert losses(train("scored", {"ie_f1_records": 2}, dropout, **args)) == losses(plain)
    assert not scores(plain)


@pytest.mark.parametrize("best", [2, 4, None])
def test_the_checkpoint_with_the_best_f1_is_kept(
    train: Callable[..., list[dict]], data: Path, tmp_path: Path, best: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def answer(trainer: SFTTrainer, questions: Any) -> list[str]:
        right = trainer.state.global_step == best  # else all are equal, and the last one is kept
        return [instance["output"] if right else "{}" for instance in questions.instances]

    monkeypatch.setattr(AnswerTrainer, "answer", answer)
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
        assert same == (folder.name == f"checkpoint-{best or 6}")


def test_when_f1_is_computed(tmp_path: Path) -> None:
    config = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path)})
    with pytest.raises(InputError, match="--eval_strategy"):
        keep_best(config)
    config = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path), "save_strategy": "epoch", "eval_strategy": "steps"})
    keep_best(config)  # does not fit: F1 is reported, and the last model kept
    assert not config.load_best_model_at_end
