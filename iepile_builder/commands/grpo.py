r"""
Train a fine-tuned model further by GRPO, rewarded with the IE F1 of each answer.

    iepile grpo --config smollm2-135m-instruct/grpo/config_lora.yaml --dataset_name data/iepile \
        --adapter_name_or_path outputs/smollm2-135m-iepile --output_dir outputs/smollm2-135m-iepile-grpo

An answer gets a small reward for being JSON at all. Every option of TRL's `GRPOConfig` and `ModelConfig` works, on the
command line and in the file of `--config`, which is a path or the name of a recipe; the command line wins. If
`--output_dir` holds checkpoints, training continues from the last one, or ends if they are of other instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_builder.commands import training
from iepile_builder.commands.cli import run
from iepile_builder.errors import InputError
from iepile_builder.hub.push import take_push
from iepile_builder.io import first_line
from iepile_builder.training.arguments import GrpoArguments
from iepile_builder.training.record import describe_build, find_build


if TYPE_CHECKING:
    from trl import GRPOConfig, ModelConfig

SHOWN = training.SHOWN | {
    "num_generations": "answers to each prompt",
    "max_completion_length": "maximum length of an answer in tokens",
    "temperature": "sampling temperature",
    "reward_weights": "weights of IE F1 and of valid JSON",
    "beta": "weight of the KL divergence from the initial model",
    "learning_rate": "far lower than for fine-tuning",
    "max_steps": "number of steps",
    "per_device_train_batch_size": "answers at a time on each device",
    "use_transformers_continuous_batching": "an answer that has ended makes room for the next one",
}


def parse(argv: Sequence[str] | None) -> Any:
    return training.parse(
        "grpo", __doc__ or "", GrpoArguments, "GRPOConfig", SHOWN, "qwen3-0.6b/grpo/config_lora.yaml", argv
    )


def main(data_args: GrpoArguments, training_args: GRPOConfig, model_args: ModelConfig) -> None:
    from accelerate import PartialState
    from trl import get_peft_config

    from iepile_builder.chat import load_tokenizer
    from iepile_builder.engines.loading import find_weights, tokenizer_of
    from iepile_builder.scoring.rewards import ie_f1, valid_json
    from iepile_builder.training.checkpoints import check_instances
    from iepile_builder.training.data import (
        REWARDED,
        find_kinds,
        first_process_first,
        hash_rows,
        load_splits,
        make_prompts,
        select_sample,
        without_bars,
    )
    from iepile_builder.training.trainer import PromptTrainer, load_trainable, set_up_processes

    set_up_processes(training_args)
    repo_id = take_push(training_args, str(model_args.model_name_or_path))
    model_args.model_name_or_path = find_weights(str(model_args.model_name_or_path))

    # Model
    adapter = data_args.adapter_name_or_path
    name = tokenizer_of(str(model_args.model_name_or_path), adapter)
    tokenizer = load_tokenizer(
        name,
        data_args.chat_template_path,
        revision="main" if name == adapter else model_args.model_revision,
        trust_remote_code=training_args.trust_remote_code,
        padding_side="left",
    )
    model = load_trainable(model_args, training_args, adapter)

    # Data
    limits = training_args.max_completion_length, model.config.get_text_config().max_position_embeddings
    with first_process_first():
        train_split, eval_split = load_splits(data_args, training_args, REWARDED)
        if PartialState().is_main_process:
            folder = Path(str(training_args.output_dir))
            check_instances(folder, data_args.dataset_name, hash_rows(train_split, REWARDED))
        train_dataset = make_prompts(train_split, "train", tokenizer, *limits)
        eval_dataset = None
        if eval_split is not None:
            eval_split = select_sample(eval_split, data_args.max_eval_samples, training_args.seed)
            eval_dataset = make_prompts(eval_split, "validation", tokenizer, *limits)

    # Training
    try:
        with without_bars():
            trainer = PromptTrainer(
                model=model,
                reward_funcs=[ie_f1, valid_json],
                args=training_args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=tokenizer,
                peft_config=get_peft_config(model_args) if adapter is None else None,
            )
    except ValueError as error:  # options that exclude each other, or do not suit the model
        raise InputError(first_line(error)) from None
    weights = training_args.reward_weights or [1.0] * len(trainer.reward_func_names)
    reward = " plus ".join(
        f"{weight:g} times {name}" for weight, name in zip(weights, trainer.reward_func_names, strict=True)
    )
    settings = {
        "answers to a prompt": trainer.num_generations,
        "longest answer": f"{training_args.max_completion_length} tokens",
        "temperature": trainer.temperature,
        "beta": trainer.beta,
        **describe_build(built := find_build(data_args.dataset_name)),
    }
    training.train_and_keep(
        trainer,
        data_args,
        model_args,
        repo_id,
        settings,
        rows=len(train_dataset),
        how=f"with GRPO; the reward of an answer is {reward}",
        build=built,
        **find_kinds(train_split),
    )


if __name__ == "__main__":
    run("grpo")
