"""
Fine-tunes a causal language model on IEPile instances: LoRA, QLoRA or all weights, the loss on the answer alone.

```bash
accelerate launch --config_file recipes/accelerate_configs/cpu.yaml scripts/sft.py \
    --config recipes/smollm2-135m-instruct/sft/config_lora.yaml \
    --dataset_name data/iepile \
    --output_dir outputs/smollm2-135m-iepile
```

Every argument of TRL's `SFTConfig` and `ModelConfig` works on the command line and in the YAML file; the command line
wins. Where `output_dir` already holds a checkpoint, training goes on from it.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config

from iepile_builder.chat import first_line, load_instances, load_model, load_tokenizer, to_prompt_completion
from iepile_builder.errors import InputError


@dataclass
class DataArguments:
    """
    What to train on.

    Args:
        dataset_name (`str`):
            A folder that `build_dataset.py` wrote, a JSON, JSON lines or Parquet file, or a Hub id: anything with
            `instruction` and `output` columns.
        tasks (`list[str]`, *optional*):
            The tasks to train on, all by default.
        val_set_size (`int`, *optional*, defaults to `0`):
            Rows to set aside for evaluation where the dataset has no `validation` split.
        max_train_tokens (`int`, *optional*):
            Train on a random subset of the rows, of about this many tokens in all.
        max_eval_samples (`int`, *optional*):
            Evaluate on a random subset of so many rows.
        adapter_name_or_path (`str`, *optional*):
            Continue this adapter in place of starting a new one.
    """

    dataset_name: str = field(metadata={"help": "Folder, file or Hub id with `instruction` and `output` columns."})
    tasks: list[str] | None = field(default=None, metadata={"help": "Tasks to train on, all by default."})
    val_set_size: int = field(
        default=0, metadata={"help": "Rows to set aside where there is no `validation` split to evaluate on."}
    )
    max_train_tokens: int | None = field(
        default=None, metadata={"help": "Train on a random subset of the rows, of about this many tokens in all."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on a random subset of so many rows."}
    )
    adapter_name_or_path: str | None = field(default=None, metadata={"help": "Adapter to continue."})


class AnswerTrainer(SFTTrainer):
    """
    [`~trl.SFTTrainer`] that on a CPU computes logits only where some row of the batch has an answer token.

    There `SFTTrainer` computes them for every token of the prompt too: most of the cost of a small model with long
    prompts and short answers. The loss is the same.
    """

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        plain = self.args.loss_type == "nll" and not self.args.label_smoothing_factor and not self.aux_loss_enabled
        if self.accelerator.device.type != "cpu" or not plain or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        labels = inputs.pop("labels")[:, 1:]
        positions = (labels != -100).any(dim=0).nonzero().flatten()
        labels = labels[:, positions].flatten()
        logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits.flatten(0, 1)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        if num_items_in_batch is None:
            return loss / (labels != -100).sum()
        loss = loss / num_items_in_batch
        # `num_items_in_batch` counts the tokens of all processes, whose gradients are then averaged.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss


def prepare(
    dataset: Dataset, split: str, tokenizer: PreTrainedTokenizerBase, tasks: list[str] | None, max_length: int | None
) -> Dataset:
    """Turns instances into prompt-completion rows, with their `length` in tokens, and drops what cannot be learned."""
    if tasks is not None:
        dataset = dataset.filter(lambda task: task in tasks, input_columns="task")
        if len(dataset) == 0:
            raise InputError(f"the {split} split has no instance of {', '.join(tasks)}")
    answered = dataset.filter(lambda output: output is not None, input_columns="output")

    def to_row(instance: dict[str, Any]) -> dict[str, Any]:
        row = to_prompt_completion(instance)
        length = len(tokenizer.apply_chat_template(row["prompt"] + row["completion"])["input_ids"])
        return {**row, "length": length}

    rows = answered.map(to_row, remove_columns=answered.column_names, desc=f"Counting the tokens of {split}")
    # Longer rows would lose the end of their answer in the trainer.
    fitting = rows.filter(lambda length: max_length is None or length <= max_length, input_columns="length")
    PartialState().print(
        f"{split}: {len(fitting)} rows, {sum(fitting['length'])} tokens; dropped: {len(rows) - len(fitting)} longer "
        f"than max_length={max_length}, {len(dataset) - len(answered)} without an answer"
    )
    if len(fitting) == 0:
        raise InputError(f"no row of the {split} split is left: raise --max_length")
    return fitting


def take_tokens(rows: Dataset, max_tokens: int, seed: int) -> Dataset:
    """A random subset of the rows, in random order, that has about `max_tokens` tokens in all."""
    rows = rows.shuffle(seed=seed)
    total, count = 0, 0
    for length in rows["length"]:
        if count and total + length > max_tokens:
            break
        total, count = total + length, count + 1
    PartialState().print(f"train: {count} of {len(rows)} rows taken, {total} tokens")
    return rows.select(range(count))


def write_card(
    data_args: DataArguments, training_args: SFTConfig, model_args: ModelConfig, rows: int, log: list[dict[str, Any]]
) -> None:
    # The names of local folders mean nothing to who reads the card elsewhere, and the Hub's metadata refuses them.
    base, data = model_args.model_name_or_path, data_args.dataset_name
    card_data = ModelCardData(
        base_model=None if Path(base).exists() else base,
        datasets=None if Path(data).exists() else data,
        library_name="peft" if model_args.use_peft else "transformers",
        pipeline_tag="text-generation",
        tags=["information-extraction", "iepile", "trl", "sft"],
    )
    settings = {
        "LoRA rank and alpha": f"{model_args.lora_r}, {model_args.lora_alpha}"
        if model_args.use_peft
        else "all weights",
        "learning rate": f"{training_args.learning_rate}, {training_args.lr_scheduler_type}",
        "batch size": training_args.train_batch_size
        * training_args.gradient_accumulation_steps
        * training_args.world_size,
        "steps": log[-1]["step"],
        "max_length": training_args.max_length,
        "seed": training_args.seed,
    }
    losses = {entry["step"]: f"{entry['loss']:.4f}" for entry in log if "loss" in entry}
    name = Path(training_args.output_dir).name
    ModelCard(
        f"---\n{card_data.to_yaml()}\n---\n\n# {name}\n\n"
        f"{Path(base).name if Path(base).exists() else base}, fine-tuned for schema-based information extraction on "
        f"{rows} instances of {Path(data).name if Path(data).exists() else data}, the loss on the answers alone.\n\n"
        + table("hyperparameter", "value", settings)
        + table("step", "loss", losses)
    ).save(Path(training_args.output_dir, "README.md"))


def table(key: str, value: str, rows: dict[Any, Any]) -> str:
    return "\n".join([f"| {key} | {value} |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]) + "\n\n"


def main(data_args: DataArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None:
        raise InputError("no model: give --model_name_or_path")
    state = PartialState()

    # Data
    tokenizer = load_tokenizer(
        model_args.model_name_or_path,
        training_args.chat_template_path,
        revision=model_args.model_revision,
        trust_remote_code=training_args.trust_remote_code,
    )
    with state.main_process_first():
        splits = load_instances(data_args.dataset_name, columns=("instruction", "output"))
        if "train" not in splits:
            raise InputError(f"{data_args.dataset_name}: no train split, only {', '.join(splits)}")
        train_split, eval_split = splits["train"], splits.get("validation")
        if eval_split is None and data_args.val_set_size:
            if data_args.val_set_size >= len(train_split):
                raise InputError(f"--val_set_size {data_args.val_set_size}: there are only {len(train_split)} rows")
            parts = train_split.train_test_split(test_size=data_args.val_set_size, seed=training_args.seed)
            train_split, eval_split = parts["train"], parts["test"]

        train_dataset = prepare(train_split, "train", tokenizer, data_args.tasks, training_args.max_length)
        if data_args.max_train_tokens is not None:
            train_dataset = take_tokens(train_dataset, data_args.max_train_tokens, training_args.seed)
        eval_dataset = None
        if training_args.eval_strategy != "no":
            if eval_split is None:
                raise InputError("nothing to evaluate on: give --val_set_size, or --eval_strategy no")
            if data_args.max_eval_samples is not None:
                eval_split = eval_split.shuffle(seed=training_args.seed)
                eval_split = eval_split.select(range(min(data_args.max_eval_samples, len(eval_split))))
            eval_dataset = prepare(eval_split, "validation", tokenizer, data_args.tasks, training_args.max_length)

    # Model
    model = load_model(
        model_args.model_name_or_path,
        data_args.adapter_name_or_path,
        is_trainable=True,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
        trust_remote_code=training_args.trust_remote_code,
    )
    trainer = AnswerTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args) if data_args.adapter_name_or_path is None else None,
    )

    # Training
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint is None and Path(training_args.output_dir).is_dir():
        checkpoint = get_last_checkpoint(training_args.output_dir)
    if checkpoint is not None:
        state.print(f"continuing from {checkpoint}; to start anew, give another --output_dir")
    trainer.train(resume_from_checkpoint=checkpoint)

    # What is kept
    trainer.save_model(training_args.output_dir)
    if trainer.is_world_process_zero():
        write_card(data_args, training_args, model_args, len(train_dataset), trainer.state.log_history)
    trainer.save_state()
    state.print(f"model, tokenizer with chat template and card: {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub()
    trainer.end()


if __name__ == "__main__":
    parser = TrlParser((DataArguments, SFTConfig, ModelConfig), description=__doc__.splitlines()[1])
    try:
        arguments = parser.parse_args_and_config()
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"error: {first_line(error)}")
    try:
        main(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
