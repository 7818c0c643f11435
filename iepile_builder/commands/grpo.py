"""
Goes on with a fine-tuned model by reinforcement learning (GRPO): the reward of an answer is its IE F1 against the
reference, and a little for being JSON at all.

```bash
accelerate launch --config_file recipes/accelerate_configs/cpu.yaml scripts/grpo.py \
    --config recipes/smollm2-135m-instruct/grpo/config_lora.yaml \
    --dataset_name data/iepile \
    --adapter_name_or_path outputs/smollm2-135m-iepile \
    --output_dir outputs/smollm2-135m-iepile-grpo
```

Every argument of TRL's `GRPOConfig` and `ModelConfig` works on the command line and in the YAML file; the command line
wins. Where `output_dir` already holds a checkpoint, training goes on from it.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import SchedulerType, get_last_checkpoint
from transformers.utils.hub import has_file
from trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser, get_peft_config, get_quantization_config

from iepile_builder.chat import load_tokenizer, to_prompt
from iepile_builder.data.instances import load_instances
from iepile_builder.engines.loading import load_model
from iepile_builder.errors import InputError
from iepile_builder.hub.cards import table
from iepile_builder.hub.push import push_model, take_push
from iepile_builder.io import first_line
from iepile_builder.scoring.rewards import ie_f1, valid_json
from iepile_builder.training.record import public, write_training
from iepile_builder.training.trainer import end


COLUMNS = ("task", "instruction", "output")


@dataclass
class DataArguments:
    """
    What to train on.

    Args:
        dataset_name (`str`):
            A folder that `build_dataset.py` wrote, a JSON, JSON lines or Parquet file, or a Hub id: anything with
            `task`, `instruction` and `output` columns.
        tasks (`list[str]`, *optional*):
            The tasks to train on, all by default.
        max_eval_samples (`int`, *optional*):
            Evaluate on a random subset of so many rows.
        adapter_name_or_path (`str`, *optional*):
            The adapter to go on with, of `sft.py`; its tokenizer is used where it has one. Without it a new adapter is
            trained on the model as it is.
        chat_template_path (`str`, *optional*):
            A Jinja file to use in place of the tokenizer's own template.
    """

    dataset_name: str = field(metadata={"help": "Folder, file or Hub id with the columns " + ", ".join(COLUMNS) + "."})
    tasks: list[str] | None = field(default=None, metadata={"help": "Tasks to train on, all by default."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on a random subset of so many rows."}
    )
    adapter_name_or_path: str | None = field(default=None, metadata={"help": "Adapter of sft.py to go on with."})
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file in place of the tokenizer's template."}
    )


class AnswerTrainer(GRPOTrainer):
    """
    [`~trl.GRPOTrainer`] whose model card says what was rewarded, on which data.

    Args:
        data_args ([`DataArguments`]):
            What it is trained on.
        model_args ([`~trl.ModelConfig`]):
            And which model.
        **kwargs:
            Passed to [`~trl.GRPOTrainer`].
    """

    def __init__(self, data_args: DataArguments, model_args: ModelConfig, **kwargs: Any) -> None:
        self.data_args, self.model_args = data_args, model_args
        super().__init__(reward_funcs=[ie_f1, valid_json], **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        if not self.is_world_process_zero():
            return
        base, data, adapter = (
            self.model_args.model_name_or_path,
            self.data_args.dataset_name,
            self.data_args.adapter_name_or_path,
        )
        card_data = ModelCardData(
            base_model=hub_id(base),
            datasets=hub_id(data),
            library_name="peft" if adapter is not None or self.model_args.use_peft else "transformers",
            pipeline_tag="text-generation",
            tags=["information-extraction", "iepile", "trl", "grpo"],
        )
        start = public(base) if adapter is None else f"{public(base)} with the adapter {public(adapter)}"
        weights = self.args.reward_weights or [1.0] * len(self.reward_func_names)
        rewards = [f"{weight:g} times {name}" for weight, name in zip(weights, self.reward_func_names, strict=True)]
        settings = {
            "learning rate": f"{self.args.learning_rate}, {SchedulerType(self.args.lr_scheduler_type).value}",
            "answers to a prompt": self.num_generations,
            "answers in a step": self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size,
            "temperature": self.temperature,
            "beta": self.beta,
            "steps": self.state.global_step,
            "seed": self.args.seed,
        }
        write_training(
            Path(self.args.output_dir), self.data_args, self.args, self.model_args, len(self.train_dataset), settings,
            [], self.state.global_step, f"with GRPO; the reward of an answer is {' plus '.join(rewards)}",
        )  # fmt: skip
        columns = ["reward", *(f"rewards/{name}/mean" for name in self.reward_func_names), "completions/mean_length"]
        log = [entry for entry in self.state.log_history if "reward" in entry]
        ModelCard(
            f"---\n{card_data.to_yaml()}\n---\n\n# {Path(self.args.output_dir).name}\n\n"
            f"{start}, trained further with GRPO on {len(self.train_dataset)} instances of {public(data)}. The reward "
            f"of an answer is {' plus '.join(rewards)}, both from 0 to 1.\n\n"
            + table(["setting", "value"], [[name, value] for name, value in settings.items()])
            + "\n\n"
            + table(
                ["step", *columns], [[entry["step"], *(f"{entry[name]:.3f}" for name in columns)] for entry in log]
            )
            + "\n"
        ).save(Path(self.args.output_dir, "README.md"))


def hub_id(name: str) -> str | None:
    """The name, unless it is that of a local file or folder, which the Hub's metadata refuses."""
    return None if Path(name).exists() else name


def prepare(
    dataset: Dataset,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[str] | None,
    max_completion_length: int,
    context: int,
) -> Dataset:
    """Turns instances into prompts with what the reward needs, and leaves out what cannot be answered."""
    if tasks is not None:
        dataset = dataset.filter(lambda task: task in tasks, input_columns="task")
        if len(dataset) == 0:
            raise InputError(f"the {split} split has no instance of {', '.join(tasks)}")
    answered = dataset.filter(lambda output: output is not None, input_columns="output")
    rows = answered.map(lambda row: {"prompt": to_prompt(row)}, desc=f"Making prompts of {split}")
    rows = rows.select_columns(["prompt", *COLUMNS])

    def fits(prompt: list[dict[str, str]], output: str) -> bool:
        prompt_length = len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])
        answer_length = len(tokenizer(output, add_special_tokens=False)["input_ids"]) + 1  # and the end
        return answer_length <= max_completion_length and prompt_length + max_completion_length <= context

    fitting = rows.filter(fits, input_columns=["prompt", "output"], desc=f"Counting the tokens of {split}")
    PartialState().print(
        f"{split}: {len(fitting)} prompts; left out: {len(rows) - len(fitting)} whose answer is longer than "
        f"max_completion_length={max_completion_length} or would go beyond the context of {context} tokens, "
        f"{len(dataset) - len(answered)} without a reference answer"
    )
    if len(fitting) == 0:
        raise InputError(f"no row of the {split} split is left: raise --max_completion_length")
    return fitting


def main(data_args: DataArguments, training_args: GRPOConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None:
        raise InputError("no model: give --model_name_or_path")
    state = PartialState()
    repo_id = take_push(training_args, model_args.model_name_or_path)

    # Model
    adapter = data_args.adapter_name_or_path
    with_tokenizer = adapter is not None and has_file(adapter, "tokenizer_config.json")
    tokenizer = load_tokenizer(
        adapter if with_tokenizer else model_args.model_name_or_path,
        data_args.chat_template_path,
        revision="main" if with_tokenizer else model_args.model_revision,
        trust_remote_code=training_args.trust_remote_code,
        padding_side="left",
    )
    model = load_model(
        model_args.model_name_or_path,
        adapter,
        is_trainable=True,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
        trust_remote_code=training_args.trust_remote_code,
    )

    # Data
    with state.main_process_first():
        splits = load_instances(data_args.dataset_name, columns=COLUMNS)
        if "train" not in splits:
            raise InputError(f"{data_args.dataset_name}: no train split, only {', '.join(splits)}")
        limits = training_args.max_completion_length, model.config.get_text_config().max_position_embeddings
        train_dataset = prepare(splits["train"], "train", tokenizer, data_args.tasks, *limits)
        eval_dataset = None
        if training_args.eval_strategy != "no":
            if "validation" not in splits:
                raise InputError("nothing to evaluate on: no validation split; give --eval_strategy no")
            eval_split = splits["validation"]
            if data_args.max_eval_samples is not None:
                eval_split = eval_split.shuffle(seed=training_args.seed)
                eval_split = eval_split.select(range(min(data_args.max_eval_samples, len(eval_split))))
            eval_dataset = prepare(eval_split, "validation", tokenizer, data_args.tasks, *limits)

    # Training
    trainer = AnswerTrainer(
        data_args,
        model_args,
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args) if adapter is None else None,
    )
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint is None and Path(training_args.output_dir).is_dir():
        checkpoint = get_last_checkpoint(training_args.output_dir)
    if checkpoint is not None:
        state.print(f"continuing from {checkpoint}; to start anew, give another --output_dir")
    trainer.train(resume_from_checkpoint=checkpoint)

    # What is kept
    trainer.save_model(training_args.output_dir)
    trainer.create_model_card()
    trainer.save_state()
    state.print(f"model, tokenizer with chat template and card: {training_args.output_dir}")
    if repo_id is not None and trainer.is_world_process_zero():
        form = "adapter" if adapter is not None or model_args.use_peft else "merged"
        push_model(form, Path(training_args.output_dir), repo_id, public=training_args.hub_private_repo is False)
    end(trainer)


if __name__ == "__main__":
    parser = TrlParser((DataArguments, GRPOConfig, ModelConfig), description=__doc__.splitlines()[1])
    try:
        arguments = parser.parse_args_and_config()
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"error: {first_line(error)}")
    try:
        main(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
