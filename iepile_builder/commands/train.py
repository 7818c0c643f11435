r"""
Fine-tune a causal language model on IEPile instances: LoRA, QLoRA or all weights.

    iepile train --config smollm2-135m-instruct/sft/config_continue.yaml \
        --dataset_name data/iepile --output_dir outputs/smollm2-135m-iepile
    iepile train --config qwen3-4b/sft/config_lora.yaml --accelerate_config ddp --num_processes 2 \
        --dataset_name data/iepile --output_dir outputs/qwen3-4b-iepile

The loss is on the answer alone. Every option of TRL's `SFTConfig` and `ModelConfig` works, on the command line and in
the file of `--config`, which is a path or the name of a recipe; the command line wins. If `--output_dir` holds
checkpoints, training continues from the last one, or ends if they are of other instances.

`--dataset_name build.yaml`, a file with options of `iepile build`, `corpus_dir` among them, draws the instances in
training: each epoch asks for other negatives, in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_builder.commands import build, training
from iepile_builder.commands.cli import parse_options, run
from iepile_builder.data.detect import in_place
from iepile_builder.errors import InputError
from iepile_builder.hub.push import take_push
from iepile_builder.io import first_line
from iepile_builder.training.arguments import SftArguments
from iepile_builder.training.record import describe_build, find_build


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

    from iepile_builder.commands.build import BuildOptions
    from iepile_builder.data.options import InstanceOptions

SHOWN = training.SHOWN | {
    "chat_template_path": "a Jinja file in place of the tokenizer's template",
    "use_peft": "train a LoRA adapter, not all weights",
    "lora_r": "rank of the adapter",
    "lora_target_modules": "layers to adapt",
    "load_in_4bit": "quantize the base (QLoRA)",
    "max_length": "drop rows of more tokens",
    "packing": "pack several rows into one sequence",
    "learning_rate": "peak learning rate",
    "num_train_epochs": "passes over the data",
    "max_steps": "number of steps, instead of epochs",
    "per_device_train_batch_size": "batch size on each device",
    "activation_checkpointing": "save memory with a second forward pass",
    "eval_strategy": "no, steps or epoch",
}


def _read_build(dataset_name: str, output_dir: str | None) -> tuple[BuildOptions, InstanceOptions]:
    """Read options of `iepile build` from the file that is given as the dataset."""
    if not Path(dataset_name).is_file():
        raise InputError(f"{dataset_name}: no such file: give options of iepile build, or instances")
    try:
        options, instance_options = parse_options(
            "build", "", build.OPTIONS, ["--config", dataset_name, "--output_dir", str(output_dir)]
        )
    except InputError as error:
        reason = str(error).removeprefix(f"{dataset_name}: ")
        raise InputError(f"{dataset_name}: {reason}") from None
    if others := [place for place in options.corpus_dir if not in_place(place, options.input_format)]:
        raise InputError(
            f"{dataset_name}: {others[0]}: training draws from corpora of the unified format alone, "
            "which iepile convert writes"
        )
    return options, instance_options


def name_corpora(sources: Sequence[str]) -> str:
    """Name the corpora that were trained on, the first eight if there are many."""
    names = list(dict.fromkeys(sources))
    more = f" and {len(names) - 8} corpora more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def parse(argv: Sequence[str] | None) -> Any:
    return training.parse(
        "train", __doc__ or "", SftArguments, "SFTConfig", SHOWN, "qwen3-4b/sft/config_lora.yaml", argv
    )


def main(data_args: SftArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    from accelerate import PartialState
    from datasets import Dataset, concatenate_datasets
    from trl import get_peft_config

    from iepile_builder.chat import load_tokenizer
    from iepile_builder.data.options import IEPileConfig, find_given
    from iepile_builder.engines.loading import find_weights
    from iepile_builder.training.checkpoints import check_instances
    from iepile_builder.training.data import (
        find_kinds,
        first_process_first,
        hash_rows,
        load_splits,
        select_sample,
        select_tasks,
        take_records,
        tokenize_rows,
        without_bars,
    )
    from iepile_builder.training.draws import (
        EpochPerDraw,
        is_build,
        join_draws,
        load_draws,
        name_draws,
    )
    from iepile_builder.training.trainer import (
        AnswerTrainer,
        compile_layers,
        freeze_all_but_linear,
        keep_best,
        keep_checkpoints,
        load_trainable,
        set_up_processes,
    )

    state = PartialState()
    set_up_processes(training_args)
    epochs = EpochPerDraw(training_args) if is_build(data_args.dataset_name) else None
    drawn_by = None if epochs is None else _read_build(data_args.dataset_name, training_args.output_dir)
    if data_args.ie_f1_records:
        keep_best(training_args)
    if not 0 <= data_args.empty_weight < inf:
        raise InputError(f"--empty_weight is {data_args.empty_weight:g}; give 0 or more")
    least = {"max_train_tokens": 1, "ie_f1_records": 0, "ie_f1_max_new_tokens": 1, "val_set_size": 0}
    for name, number in {**least, "max_eval_samples": 1, "average_checkpoints": 0}.items():
        value = getattr(data_args, name)
        if value is not None and value < number:
            raise InputError(f"--{name} is {value}; give {number} or more")
    if data_args.average_checkpoints:
        keep_checkpoints(training_args, data_args.average_checkpoints)
    if data_args.linear_layers_only and (model_args.use_peft or data_args.adapter_name_or_path is not None):
        raise InputError("--linear_layers_only trains the model's own layers: not with an adapter")
    repo_id = take_push(training_args, str(model_args.model_name_or_path))
    model_args.model_name_or_path = find_weights(str(model_args.model_name_or_path))

    # Data
    tokenizer = load_tokenizer(
        model_args.model_name_or_path,
        training_args.chat_template_path,
        revision=model_args.model_revision,
        trust_remote_code=training_args.trust_remote_code,
    )
    max_length, seed, folder = training_args.max_length, training_args.seed, Path(str(training_args.output_dir))
    draws: list[str | None] = [None]
    data_name = None
    learned: dict[str, Any] = {"answer_loss": data_args.answer_loss, "empty_weight": data_args.empty_weight}
    learned["num_proc"] = training_args.dataset_num_proc
    with first_process_first():
        if drawn_by is not None and epochs is not None:
            options, instance_options = drawn_by
            evaluated = training_args.eval_strategy != "no"
            config = IEPileConfig(corpus_dirs=options.corpus_dir, **vars(instance_options))
            if state.is_main_process:
                check_instances(folder, data_args.dataset_name, replace(config, splits=["train"]).create_config_id({}))
            corpora = config.find_corpora()
            data_name = name_corpora([corpus.source for corpus in corpora])
            for note in build.hard_negative_notes(config, corpora) if config.needs_hard_negatives() else ():
                state.print(note)
            draws = [*name_draws(instance_options, epochs.number)]
            schedule = (instance_options.negatives_schedule or [])[instance_options.epoch + epochs.number :]
            if schedule:
                state.print(f"negatives_schedule: {', '.join(schedule)} not reached in {epochs.number} epochs")
            drawn, eval_split = load_draws(
                options.corpus_dir, instance_options, options.num_proc, epochs.number, evaluated
            )
        else:
            columns = ("instruction", "output")
            train_split, eval_split = load_splits(data_args, training_args, columns)
            if state.is_main_process:
                check_instances(folder, data_args.dataset_name, hash_rows(train_split, columns))
            drawn = [train_split]
        train_splits = [select_tasks(split, "train", data_args.tasks) for split in drawn]
        share = None if data_args.max_train_tokens is None else data_args.max_train_tokens // len(draws)
        rows = [
            tokenize_rows(
                split, "train", tokenizer, max_length, **learned, draw=draw, max_tokens=share, seed=seed + number
            )
            for number, (split, draw) in enumerate(zip(train_splits, draws, strict=True))
        ]
        train_dataset = rows[0]
        if epochs is not None:
            for draw, of_draw in zip(draws, rows, strict=True):
                state.print(f"{draw}: {len(of_draw)} rows, {sum(of_draw['length'])} tokens")
            batch_size = training_args.train_batch_size * training_args.gradient_accumulation_steps
            train_dataset = join_draws(rows, epochs.order, batch_size * training_args.world_size, seed)
        elif data_args.max_train_tokens is None and training_args.train_sampling_strategy == "batch_rebalance":
            # which draws the same order with every seed
            train_dataset = train_dataset.shuffle(seed=seed)
        eval_dataset = questions = None
        if eval_split is not None:
            eval_split = select_tasks(eval_split, "validation", data_args.tasks)
            if data_args.ie_f1_records:
                questions = take_records(eval_split, tokenizer, data_args, max_length, seed)
                if data_args.max_eval_samples is None:  # the whole split would take longer than the answers
                    eval_split = Dataset.from_list(questions.instances)
            eval_split = select_sample(eval_split, data_args.max_eval_samples, seed)
            eval_dataset = tokenize_rows(eval_split, "validation", tokenizer, max_length, **learned)

    # Model
    adapter = data_args.adapter_name_or_path
    model = load_trainable(model_args, training_args, adapter)
    if data_args.linear_layers_only:
        freeze_all_but_linear(model)
    if data_args.compile_layers:
        compile_layers(model)
    if not training_args.packing and not training_args.eval_packing:
        training_args.max_length = None  # no row that is longer is left to be cut
    try:
        with without_bars():
            trainer = AnswerTrainer(
                model=model,
                args=training_args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=tokenizer,
                peft_config=get_peft_config(model_args) if adapter is None else None,
                questions=questions,
                empty_weight=data_args.empty_weight,
                callbacks=[] if epochs is None else [epochs],
            )
    except ValueError as error:  # options that exclude each other, or do not suit the model
        raise InputError(first_line(error)) from None
    training_args.max_length = max_length

    first = trainer.train_dataset[0]
    tokens = [token for token, label in zip(first["input_ids"], first["labels"], strict=True) if label != -100]
    state.print(f"learned, for example: {tokenizer.decode(tokens)[:200]!r}")
    if data_args.answer_loss == "decisions":
        state.print("not learned: what a grammar forces in the answers (answer_loss decisions)")
    if data_args.empty_weight != 1:
        state.print(f"weight of nothing found in the loss: {data_args.empty_weight:g} (empty_weight)")
    if data_args.average_checkpoints:
        state.print(f"to be kept: the mean of the last {data_args.average_checkpoints} checkpoints")
    factors = [training_args.train_batch_size, training_args.gradient_accumulation_steps, state.num_processes]
    kind = {"cuda": "GPU"}.get(state.device.type, state.device.type.upper())
    state.print(
        f"{state.num_processes} {kind} process{'es' if state.num_processes > 1 else ''}, {prod(factors)} rows a step "
        f"({' x '.join(str(factor) for factor in factors[: 3 if state.num_processes > 1 else 2])})"
    )

    # Training
    settings = {
        "packing": training_args.packing_strategy if training_args.packing else "none",
        "longest row": f"{max_length} tokens",
        **({} if epochs is None else {"labels asked": "another draw in each epoch"}),
        **describe_build(built := find_build(data_args.dataset_name, drawn_by and find_given(drawn_by[1]))),
    }
    if data_args.linear_layers_only:
        settings["trained"] = "the linear layers, without embeddings, head and norms"
    if data_args.empty_weight != 1:
        settings["weight of nothing found"] = f"{data_args.empty_weight} in the loss"
    kinds = find_kinds(concatenate_datasets(train_splits)) if state.is_main_process else {}
    record = {**kinds, "rows": len(train_dataset), "data_name": data_name, "build": built}
    if data_args.answer_loss == "decisions":
        record["how"] = "with the loss on what a grammar leaves open in the answers"
    training.train_and_keep(trainer, data_args, model_args, repo_id, settings, **record)


if __name__ == "__main__":
    run("train")
