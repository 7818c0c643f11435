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

import json
import os
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from datasets import Dataset
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, TrainerState
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from transformers.training_args import OptimizerNames
from trl import ModelConfig, SFTConfig, TrlParser, get_peft_config, get_quantization_config

from iepile_builder.answers.parse import load_answer
from iepile_builder.chat import load_tokenizer, tokenize
from iepile_builder.data.instances import load_instances
from iepile_builder.data.instructions import asked_schema
from iepile_builder.engines.loading import load_model
from iepile_builder.errors import InputError
from iepile_builder.hub.cards import model_card
from iepile_builder.hub.push import push_model, take_push
from iepile_builder.io import first_line
from iepile_builder.tasks import TASKS
from iepile_builder.training.curves import PLOT, plot
from iepile_builder.training.record import public, write_training
from iepile_builder.training.trainer import AnswerTrainer, Questions, end


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
        ie_f1_records (`int`, *optional*, defaults to `0`):
            Answer so many random validation records at every evaluation, and report the IE F1 of the answers; where
            the other options do not say otherwise, evaluate whenever a checkpoint is saved, and keep the best one. The
            validation loss is then that of these records, too, unless `max_eval_samples` is given.
        ie_f1_max_new_tokens (`int`, *optional*):
            Longest of these answers in tokens; by default half as long again as the longest reference answer.
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
    ie_f1_records: int = field(
        default=0, metadata={"help": "Report IE F1 on so many validation records while training, and keep the best."}
    )
    ie_f1_max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest answer for that, in tokens; default: 1.5 x the longest reference."}
    )
    adapter_name_or_path: str | None = field(default=None, metadata={"help": "Adapter to continue."})


def prepare(
    dataset: Dataset, split: str, tokenizer: PreTrainedTokenizerBase, tasks: list[str] | None, max_length: int | None
) -> Dataset:
    """Turns instances into rows of tokens and labels, with their `length`, and drops what cannot be learned."""
    if tasks is not None:
        dataset = dataset.filter(lambda task: task in tasks, input_columns="task")
        if len(dataset) == 0:
            raise InputError(f"the {split} split has no instance of {', '.join(tasks)}")
    answered = dataset.filter(lambda output: output is not None, input_columns="output")

    def to_row(instance: dict[str, Any]) -> dict[str, Any]:
        row = tokenize(instance, tokenizer)
        return {**row, "length": len(row["input_ids"])}

    rows = answered.map(to_row, remove_columns=answered.column_names, desc=f"Tokenizing {split}")
    # Longer rows would lose the end of their answer in the trainer.
    fitting = rows.filter(lambda length: max_length is None or length <= max_length, input_columns="length")
    PartialState().print(
        f"{split}: {len(fitting)} rows, {sum(fitting['length'])} tokens; dropped: {len(rows) - len(fitting)} longer "
        f"than max_length={max_length}, {len(dataset) - len(answered)} without an answer"
    )
    if len(fitting) == 0:
        raise InputError(f"no row of the {split} split is left: raise --max_length")
    return fitting


def take_records(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, data_args: DataArguments, max_length: int | None, seed: int
) -> Questions:
    """Random whole records of the validation split."""
    if "task" not in dataset.column_names:
        raise InputError("--ie_f1_records: the validation rows have no `task` column to score their answers by")
    records: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for index, row in enumerate(dataset):
        if row["output"] is None or (data_args.tasks is not None and row["task"] not in data_args.tasks):
            continue
        instance = {"source": "", **row}
        if row.get("id") is None or row.get("label") is None:  # a training row: a record of its own
            answer, schema = load_answer(row["output"]), asked_schema(row["instruction"], row["task"])
            annotations = TASKS[row["task"]].annotations(answer, schema)
            instance |= {"id": str(index), "label": json.dumps(annotations, ensure_ascii=False)}
        records[instance["task"], instance["source"], instance["id"], instance["label"]].append(instance)

    order = list(records.values())
    random.Random(seed).shuffle(order)
    instances: list[dict[str, Any]] = []
    taken = too_long = 0
    for record in order:
        lengths = [len(tokenize(instance, tokenizer)["input_ids"]) for instance in record]
        if max_length is not None and max(lengths) > max_length:
            too_long += 1
            continue
        instances += record
        taken += 1
        if taken == data_args.ie_f1_records:
            break
    PartialState().print(
        f"IE F1 on {taken} of {len(records)} validation records, {len(instances)} answers each time; left out: "
        f"{too_long} longer than max_length={max_length}"
    )
    if not instances:
        raise InputError("--ie_f1_records: no validation record to answer is left: raise --max_length")
    longest = max(len(tokenizer(instance["output"])["input_ids"]) for instance in instances)
    questions = Questions(instances, data_args.ie_f1_max_new_tokens or 3 * longest // 2)
    questions.score([instance["output"] for instance in instances])  # what cannot be scored is known before training
    return questions


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


def keep_best(args: SFTConfig) -> None:
    """Evaluates whenever a checkpoint is saved and keeps the one with the best IE F1, unless the options differ."""
    if args.eval_strategy == "no":
        if args.save_strategy in ("no", "best"):
            raise InputError("--ie_f1_records: nothing says when to evaluate: give --eval_strategy steps")
        args.eval_strategy, args.eval_steps = IntervalStrategy(args.save_strategy), args.save_steps
    matching = args.eval_strategy == args.save_strategy and args.eval_steps == args.save_steps
    if args.metric_for_best_model is None and matching:
        args.metric_for_best_model, args.greater_is_better, args.load_best_model_at_end = "ie_f1", True, True
    elif args.metric_for_best_model is None:
        PartialState().print("IE F1 is reported only: to keep the best checkpoint, evaluate whenever one is saved")


def check_processes(state: PartialState) -> None:
    """`accelerate launch` starts one process for any number of them on CPUs, without a word, unless there is MPI."""
    if state.num_processes == 1 and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "several processes were asked for, but accelerate started one, as it does on CPUs: use `torchrun "
            "--standalone --nproc_per_node 2 scripts/sft.py --use_cpu --ddp_backend gloo ...`, or num_processes: 1"
        )


def last_checkpoint(output_dir: Path) -> str | None:
    """The last checkpoint that was written to its end, as `trainer_state.json` shows, which comes last."""
    whole = [folder for folder in output_dir.glob("checkpoint-*") if is_json(folder / "trainer_state.json")]
    return str(max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]))) if whole else None


def is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def written(output_dir: str) -> Iterator[None]:
    """Makes one line of what the libraries raise when they cannot write."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # The last is what `torch.save` says of any failure to write.
        reasons = ("No space left on device", "Disk quota exceeded", "File too large", "inline_container")
        reason = next((reason for reason in reasons if reason in str(error)), None)
        if reason is None:
            raise
        reason = "a file came out incomplete" if reason == reasons[-1] else reason
        raise InputError(
            f"{output_dir}: cannot be written to: {reason}, {shutil.disk_usage(output_dir).free >> 20} MB are free; "
            "with more space the same command goes on from the last whole checkpoint"
        ) from None


def settings(
    data_args: DataArguments, training_args: SFTConfig, model_args: ModelConfig, state: TrainerState
) -> dict[str, Any]:
    """What the card shows of the arguments."""
    if data_args.adapter_name_or_path is not None:
        trained = f"the adapter {public(data_args.adapter_name_or_path)}, continued"
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
        f"accumulated x {training_args.world_size} processes",
        "packing": training_args.packing_strategy if training_args.packing else "none",
        "longest row": f"{training_args.max_length} tokens",
        "steps": f"{state.global_step}, {state.epoch:.2f} epochs",
        "seed": training_args.seed,
        "versions": ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "trl", "peft")),
    }


def main(data_args: DataArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None:
        raise InputError("no model: give --model_name_or_path")
    state = PartialState()
    check_processes(state)
    if data_args.ie_f1_records:
        keep_best(training_args)
    repo_id = take_push(training_args, model_args.model_name_or_path)
    form = "adapter" if model_args.use_peft or data_args.adapter_name_or_path is not None else "merged"

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
        elif training_args.train_sampling_strategy == "batch_rebalance":  # draws the same order with every seed
            train_dataset = train_dataset.shuffle(seed=training_args.seed)
        eval_dataset = questions = None
        if training_args.eval_strategy != "no":
            if eval_split is None:
                raise InputError("nothing to evaluate on: give --val_set_size, or --eval_strategy no")
            if data_args.ie_f1_records:
                questions = take_records(
                    eval_split, tokenizer, data_args, training_args.max_length, training_args.seed
                )
                if data_args.max_eval_samples is None:  # the whole split would take longer than the answers
                    eval_split = Dataset.from_list(questions.instances)
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
    max_length = training_args.max_length
    if training_args.padding_free and not training_args.packing:
        training_args.max_length = None  # the trainer insists; no row that is longer is left
    try:
        trainer = AnswerTrainer(
            model=model,
            args=training_args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            peft_config=get_peft_config(model_args) if data_args.adapter_name_or_path is None else None,
            questions=questions,
        )
    except ValueError as error:  # options that exclude each other, or do not suit the model
        raise InputError(first_line(error)) from None
    training_args.max_length = max_length

    learned = [label for label in trainer.train_dataset[0]["labels"] if label != -100]
    state.print(f"learned, for example: {tokenizer.decode(learned)[:200]!r}")
    state.print(
        f"{state.num_processes} x {state.device}, {training_args.train_batch_size} rows each, "
        f"{training_args.gradient_accumulation_steps} times before each step"
    )

    # Training
    output_dir = training_args.output_dir
    checkpoint = training_args.resume_from_checkpoint or last_checkpoint(Path(output_dir))
    if checkpoint is not None:
        state.print(f"continuing from {checkpoint}; to start anew, give another --output_dir")
    with written(output_dir):
        trainer.train(resume_from_checkpoint=checkpoint)

        # What is kept
        trainer.save_model(output_dir)
        if trainer.is_world_process_zero():
            if any("loss" in entry for entry in trainer.state.log_history):
                plot(trainer.state.log_history, Path(output_dir, PLOT))
            write_training(
                Path(output_dir), data_args, training_args, model_args, len(train_dataset),
                settings(data_args, training_args, model_args, trainer.state), trainer.state.log_history,
                (training_args.load_best_model_at_end and trainer.state.best_global_step) or trainer.state.global_step,
            )  # fmt: skip
            card = model_card(form, Path(output_dir), repo_id or Path(output_dir).resolve().name)
            card.save(Path(output_dir, "README.md"))
        trainer.save_state()
    state.print(f"model, tokenizer with chat template, plot and card: {output_dir}")
    if repo_id is not None and trainer.is_world_process_zero():
        push_model(form, Path(output_dir), repo_id, public=training_args.hub_private_repo is False)
    end(trainer)


if __name__ == "__main__":
    parser = TrlParser((DataArguments, SFTConfig, ModelConfig), description=__doc__.splitlines()[1])
    try:
        arguments = parser.parse_args_and_config()
    except (OSError, ValueError, ImportError, yaml.YAMLError) as error:
        if "bf16/gpu" in str(error):
            sys.exit(
                "error: the recipe asks for bfloat16 and there is no GPU that computes in it: give --use_cpu to train "
                "on the CPU, or --bf16 false"
            )
        sys.exit(f"error: {first_line(error)}")
    try:
        main(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
