"""Record a training run beside what it trained."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import yaml

from iepile_builder.io import write_whole


RECORD = "training.json"
RECIPE = "recipe.yaml"

# Arguments of a run that say where it ran and not what it did, or that are there twice.
LEFT_OUT = {
    "accelerator_config", "adapter_name_or_path", "chat_template_path", "ddp_backend", "debug", "deepspeed",
    "disable_tqdm", "dataset_name", "eos_token", "fsdp_config", "gradient_checkpointing", "hub_model_id",
    "hub_private_repo", "hub_strategy", "hub_token", "local_rank", "logging_dir", "output_dir", "pad_token", "project",
    "push_to_hub", "report_to", "resume_from_checkpoint", "run_name", "trackio_space_id",
}  # fmt: skip


# Training runs
def write_training(
    folder: Path,
    data_args: Any,
    training_args: Any,
    model_args: Any,
    rows: int,
    settings: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    kept_step: int,
    how: str = "the loss on the answers alone",
) -> None:
    """
    Record a training run beside what it trained: `training.json`, all of it, and `recipe.yaml`, the arguments that
    differ from their defaults, to train the same again. Neither has a path of this machine or a token in it.

    Args:
        folder (`Path`):
            Where the model or adapter is.
        data_args (dataclass):
            What it was trained on; with `dataset_name`.
        training_args ([`~transformers.TrainingArguments`]):
            How.
        model_args ([`~trl.ModelConfig`]):
            From which model.
        rows (`int`):
            Number of training rows.
        settings (`Mapping[str, Any]`):
            What the card shows of the arguments.
        log (`Sequence[Mapping[str, Any]]`):
            The trainer's `log_history`.
        kept_step (`int`):
            The step whose weights are kept.
        how (`str`, *optional*):
            What the training was.
    """
    base, data = model_args.model_name_or_path, data_args.dataset_name
    arguments: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    for each in (model_args, data_args, training_args):
        values = each.to_dict() if each is training_args else asdict(each)
        for field in fields(each):
            value = values.get(field.name)
            if field.name in LEFT_OUT or not field.init or (isinstance(value, str) and is_path(value)):
                continue
            arguments[field.name] = value
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            if value is not None and value != default:
                recipe[field.name] = value
    record = {
        "base_model": None if is_path(base) else base,
        "base_name": public(base),
        "dataset": None if is_path(data) else data,
        "dataset_name": public(data),
        "rows": rows,
        "how": how,
        "kept_step": kept_step,
        "settings": settings,
        "arguments": arguments,
        "log": [entry for entry in log if "loss" in entry or "eval_loss" in entry],
    }
    write_whole(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    start = "# to be given with --config, and with --dataset_name and --output_dir\n"
    write_whole(folder / RECIPE, start + text)


def public(name: str) -> str:
    """A Hub id, or the name alone of a local file or folder: its place means nothing elsewhere."""
    return Path(name).resolve().stem if is_path(name) else name


def is_path(name: str) -> bool:
    """Whether a name is a place on this machine, not on the Hub."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).exists()
