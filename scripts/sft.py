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
import math
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy, get_last_checkpoint
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config
from trl.models import unwrap_model_for_generation

from iepile_builder.answers import asked_schema, load_answer
from iepile_builder.chat import first_line, load_instances, load_model, load_tokenizer, to_prompt, to_prompt_completion
from iepile_builder.engines import Request, TransformersEngine
from iepile_builder.errors import InputError
from iepile_builder.scoring import Scorer
from iepile_builder.tasks import TASKS


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
            the other options do not say otherwise, evaluate whenever a checkpoint is saved, and keep the best one.
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


class AnswerTrainer(SFTTrainer):
    """
    [`~trl.SFTTrainer`] that on a CPU computes logits only where some row of the batch has an answer token, and that
    scores answers to validation records where it evaluates.

    On a CPU `SFTTrainer` computes logits for every token of the prompt too: most of the cost of a small model with
    long prompts and short answers. The loss is the same.

    Args:
        questions ([`Questions`], *optional*):
            The records to answer at every evaluation, in addition to computing the loss.
        *args, **kwargs:
            Passed to [`~trl.SFTTrainer`].
    """

    def __init__(self, *args: Any, questions: "Questions | None" = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.questions = questions

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

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.questions is not None:
            scores = self.questions.score(self.answer(self.questions))
            output.metrics.update({f"{metric_key_prefix}_ie_{name}": value for name, value in scores.items()})
        return output

    def answer(self, questions: "Questions") -> list[str]:
        """The greedy answers of the model as it is now; each process gives its share of them."""
        # As many for every process, because sharded weights are gathered from all of them at every step.
        world, rank, count = self.accelerator.num_processes, self.accelerator.process_index, len(questions.instances)
        share = [(rank + world * turn) % count for turn in range(math.ceil(count / world))]
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            engine = TransformersEngine(model, self.processing_class, self.args.per_device_eval_batch_size)
            requests = [Request(to_prompt(questions.instances[index])) for index in share]
            answers = [answer.text for answer in engine.generate(requests, questions.max_new_tokens)]
        return [text for _, text in sorted(dict(gather_object(list(zip(share, answers, strict=True)))).items())]


def count_tokens(instance: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> int:
    """The length of an instance's prompt and answer."""
    row = to_prompt_completion(instance)
    return len(tokenizer.apply_chat_template(row["prompt"] + row["completion"])["input_ids"])


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
        return {**to_prompt_completion(instance), "length": count_tokens(instance, tokenizer)}

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


@dataclass
class Questions:
    """
    Whole validation records, to be answered and scored while the model learns.

    Args:
        instances (`list[dict[str, Any]]`):
            With the annotation of their record as `label`.
        max_new_tokens (`int`):
            Longest answer.
    """

    instances: list[dict[str, Any]]
    max_new_tokens: int

    def score(self, answers: list[str]) -> dict[str, float]:
        """IE F1, precision and recall over all facts, and how many answers are JSON, all in per cent."""
        scorer = Scorer()
        for instance, answer in zip(self.instances, answers, strict=True):
            scorer.add({**instance, "output": answer})
        overall = scorer.report()["overall"]
        scores = {name: overall[name] for name in ("f1", "precision", "recall")}
        return {**scores, "valid_json": 100 - 100 * overall["unparsed"] / overall["answers"]}


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
        if max_length is not None and max(count_tokens(instance, tokenizer) for instance in record) > max_length:
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
    if data_args.ie_f1_records:
        keep_best(training_args)

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
        eval_dataset = questions = None
        if training_args.eval_strategy != "no":
            if eval_split is None:
                raise InputError("nothing to evaluate on: give --val_set_size, or --eval_strategy no")
            if data_args.ie_f1_records:
                questions = take_records(
                    eval_split, tokenizer, data_args, training_args.max_length, training_args.seed
                )
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
        questions=questions,
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
