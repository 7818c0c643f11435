"""Record a training run beside what it trained."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import yaml
from huggingface_hub import ModelCard

from iepile_builder.data.output import read_marker
from iepile_builder.engines.loading import BASE_NOTE, SMOLLM2, ZERO_SHOT, find_file
from iepile_builder.errors import InputError
from iepile_builder.io import find_adapter, to_json, write_whole
from iepile_builder.tasks import TASKS


RECORD = "training.json"
RECIPE = "recipe.yaml"

# Arguments that say where a run ran, not what it did, or that repeat others.
LEFT_OUT = {
    "accelerator_config", "adapter_name_or_path", "chat_template_path", "ddp_backend", "ddp_find_unused_parameters",
    "debug", "deepspeed", "disable_tqdm", "dataset_name", "eos_token", "fsdp_config", "gradient_checkpointing",
    "hub_model_id", "hub_private_repo", "hub_strategy", "hub_token", "local_rank", "logging_dir", "output_dir",
    "pad_token", "project", "push_to_hub", "report_to", "resume_from_checkpoint", "run_name", "trackio_space_id",
}  # fmt: skip


def write_training(
    folder: Path,
    data_args: Any,
    training_args: Any,
    model_args: Any,
    rows: int,
    settings: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    kept_step: int,
    averaged: Sequence[int] = (),
    data_name: str | None = None,
    how: str = "with the loss on the answers alone",
    tasks: Sequence[str] = (),
    languages: Sequence[str] = (),
    labels: Mapping[str, Sequence[str]] | None = None,
    items: Mapping[str, Sequence[Any]] | None = None,
    build: Mapping[str, Any] | None = None,
) -> None:
    """
    Record a training run beside the model: everything in `training.json`, and in `recipe.yaml` the arguments that
    differ from their defaults, to repeat the run. Neither holds a path of this machine or a token.

    Args:
        folder, data_args, training_args, model_args, rows:
            Where the model or adapter is, all arguments of the run, and the number of training rows.
        settings (`Mapping[str, Any]`):
            Arguments to show in the card, from [`describe_settings`].
        log (`Sequence[Mapping[str, Any]]`):
            The trainer's `log_history`.
        kept_step (`int`):
            The step whose weights are kept.
        averaged (`Sequence[int]`, *optional*):
            The steps whose weights are averaged, and the mean kept in place of those of `kept_step`.
        data_name (`str`, *optional*):
            Name of the training data in the card, by default that of a dataset of the Hub.
        how (`str`, *optional*):
            What was learned from, for the card.
        tasks, languages, labels, items (*optional*):
            Of the training rows, if known; by task the labels, and a few schema items for the card.
        build (`Mapping[str, Any]`, *optional*):
            What the rows were built with, from [`find_build`].
    """
    base, data = model_args.model_name_or_path, data_args.dataset_name
    note = Path(base, BASE_NOTE)  # in the folder of the embedded model alone
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
        "base_model": SMOLLM2 if note.exists() else None if is_path(base) else base,
        "base_name": public(base),
        "base_note": note.read_text(encoding="utf-8") if note.exists() else None,
        "terms": read_terms(data_args.adapter_name_or_path),
        "dataset": None if is_path(data) else data,
        "dataset_name": data_name or (None if is_path(data) else data),  # a folder's name says nothing
        "tasks": list(tasks),
        "languages": list(languages),
        "labels": add_labels(data_args.adapter_name_or_path, labels),
        "items": items,
        "build": build or None,
        "rows": rows,
        "how": how,
        "kept_step": kept_step,
        "averaged": list(averaged),
        "settings": settings,
        "arguments": arguments,
        "log": [entry for entry in log if "loss" in entry or "eval_loss" in entry],
    }
    write_whole(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    if record["base_model"] is not None:
        recipe = {"model_name_or_path": record["base_model"], **recipe}
    adapter = data_args.adapter_name_or_path
    needed = ["--dataset_name" + (f" (this run drew from {build['file']})" if build and "file" in build else "")]
    needed += [] if record["base_model"] is not None else ["--model_name_or_path"]
    if adapter is not None and adapter == find_adapter(ZERO_SHOT):
        recipe["adapter_name_or_path"] = ZERO_SHOT
    elif adapter is not None and not is_path(adapter):
        recipe["adapter_name_or_path"] = adapter
    elif adapter is not None:
        needed.append(f"--adapter_name_or_path (this run continued {public(adapter)})")
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    write_whole(folder / RECIPE, f"# to be given with --config, and with {', '.join(needed)} and --output_dir\n{text}")


def add_labels(adapter: str | None, labels: Mapping[str, Sequence[str]] | None) -> Mapping[str, Sequence[str]] | None:
    """Add the labels that an adapter had seen before it was continued; `None` if they are unknown."""
    if adapter is None or labels is None:
        return labels
    earlier = read_labels(adapter)
    if earlier is None:
        return None
    return {task: sorted({*earlier.get(task, ()), *labels.get(task, ())}) for task in {**earlier, **labels}}


def read_terms(adapter: str | None) -> dict[str, str]:
    """Read the licence in the card of an adapter that is continued: what is made of it has the same terms."""
    card = Path(adapter or "", "README.md")
    if adapter is None or not card.is_file():
        return {}
    data = ModelCard.load(card, ignore_metadata_errors=True).data
    return {key: data[key] for key in ("license", "license_name", "license_link") if data.get(key)}


def read_labels(folder: str) -> dict[str, list[str]] | None:
    """
    Read from the record of a training, beside an adapter or model, task to the labels that it asked for; `None` if
    they are unknown.

    Raises:
        `InputError`: If the record is damaged.
    """
    file = Path(folder, RECORD)
    if not file.is_file():
        return None
    try:
        labels = orjson.loads(file.read_bytes()).get("labels")
        return None if labels is None else {task: [*map(str, of_task)] for task, of_task in labels.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise InputError(f"{file}: not the record of a training; delete it, and the labels are unknown") from None


def read_trained_labels(path: Path) -> dict[str, list[str]]:
    """
    Read task to the label names that a training has seen, from its record (the file, or its adapter or model: a
    folder, a Hub id, or a recipe's name), or from a text file of names, one a line, which then hold for every task.

    Raises:
        `InputError`: If there is no such file, or no labels in it.
    """
    path = Path(find_adapter(str(path)))
    if not path.exists():
        path = find_file(RECORD, None, str(path)) or path
    if path.is_dir() or path.name == RECORD:
        labels = read_labels(str(path if path.is_dir() else path.parent))
        if labels is None:
            raise InputError(
                f"{path}: no record of a training that lists its labels; give a text file, one name a line"
            )
        return labels
    try:
        names = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
    return dict.fromkeys(TASKS, names)


def describe_settings(
    data_args: Any, training_args: Any, model_args: Any, state: Any, own: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Describe the arguments of a run, and how long it took (`state`), for its card; `own` settings of one kind of
    training follow the batch.
    """
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    if data_args.adapter_name_or_path is not None:
        adapter = data_args.adapter_name_or_path
        name = (
            f"zero-shot adapter of iepile-builder (recipes/{Path(ZERO_SHOT).parent})"
            if adapter == find_adapter(ZERO_SHOT)
            else f"adapter {public(adapter)}"
        )
        trained = f"the {name}, continued"
    elif model_args.use_peft:
        modules = model_args.lora_target_modules or "the architecture's default modules"
        modules = modules if isinstance(modules, str) else ", ".join(modules)
        trained = f"LoRA of rank {model_args.lora_r} on {modules}"
        trained += f", alpha {model_args.lora_alpha}, dropout {model_args.lora_dropout}"
    else:
        trained = "all weights"
    bits = "4 bits" if model_args.load_in_4bit else "8 bits" if model_args.load_in_8bit else model_args.dtype
    return {
        "trained": trained,
        "base in": bits,
        "learning rate": f"{training_args.learning_rate}, {SchedulerType(training_args.lr_scheduler_type).value}, "
        f"warm-up {training_args.warmup_steps}",
        "optimizer": f"{OptimizerNames(training_args.optim).value}, beta2 {training_args.adam_beta2}, weight decay "
        f"{training_args.weight_decay}, gradients clipped at {training_args.max_grad_norm}",
        "batch": f"{training_args.per_device_train_batch_size} rows x {training_args.gradient_accumulation_steps} "
        f"accumulated x {training_args.world_size} process{'es' * (training_args.world_size > 1)}",
        **own,
        "steps": f"{state.global_step}, {state.epoch:.2f} epochs",
        "seed": training_args.seed,
        "versions": ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "trl", "peft")),
    }


def find_build(dataset_name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    Find what training rows were built with: the `options` of a YAML file, else those that `iepile build` recorded in
    its folder; both without paths of this machine.

    Returns:
        `dict`: `options`, and `file`, the name of a YAML file; empty if nothing is known.
    """
    place = Path(dataset_name)
    given = read_marker(place).get("options") if options is None else options
    if given is None:
        return {}
    known = {
        name: Path(value).name if isinstance(value, str) and is_path(value) else value for name, value in given.items()
    }
    return {"options": known} if options is None else {"file": place.name, "options": known}


def describe_build(build: Mapping[str, Any]) -> dict[str, str]:
    """Describe what [`find_build`] found, as a setting for the card; none if there is nothing to say."""
    options = [
        f"{name} {value if isinstance(value, str) else to_json(value)}"
        for name, value in build.get("options", {}).items()
    ]
    file = f"{build['file']}: " if "file" in build else ""
    return {"instances built with": f"{file}{'; '.join(options) or 'the defaults'}"} if build else {}


def public(name: str) -> str:
    """Return a Hub id as it is, and the name of a local file or folder without its path."""
    if not is_path(name):
        return name
    path = Path(name).resolve()
    return path.name if path.is_dir() else path.stem  # a dot in a folder's name belongs to a version


def is_path(name: str) -> bool:
    """Tell whether a name is a path on this machine, not a Hub id."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).exists()
