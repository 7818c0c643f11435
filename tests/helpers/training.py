"""Short training runs of a tiny model."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import ModelConfig, SFTConfig, SFTTrainer

from helpers.tiny import make_instances
from iepile_builder.chat import load_tokenizer
from iepile_builder.commands import train
from iepile_builder.engines.loading import load_model
from iepile_builder.training.arguments import SftArguments
from iepile_builder.training.data import tokenize_rows


CONFIG = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
# Random rows, those of a step split by length
BALANCED = {
    "train_sampling_strategy": "batch_rebalance",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
}
LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "lora_target_modules": ["all-linear"]}
F1_WHILE_TRAINING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "per_device_eval_batch_size": 3}


def run_training(
    model: str, data: Path, folder: Path, data_args: dict | None = None, model_args: dict | None = None, **args: Any
) -> list[dict]:
    """Train as the command does, and return the log."""
    train.main(
        SftArguments(**{"dataset_name": str(data), **(data_args or {})}),
        SFTConfig(**{**CONFIG, "output_dir": str(folder), **args}),
        ModelConfig(**{**LORA, "model_name_or_path": model, **(model_args or {})}),
    )
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def make_trainer(cls: type[SFTTrainer], model: str, folder: Path, **args: Any) -> SFTTrainer:
    tokenizer = load_tokenizer(model)
    return cls(
        model=load_model(model),
        args=SFTConfig(**{**CONFIG, "output_dir": str(folder), **args}),
        train_dataset=tokenize_rows(Dataset.from_list(make_instances(12)), "train", tokenizer),
        processing_class=tokenizer,
    )


def losses(log: list[dict]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def scores(log: list[dict], name: str = "eval_ie_f1") -> list[float]:
    return [entry[name] for entry in log if name in entry]


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
