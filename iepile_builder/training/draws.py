"""Train on corpora themselves: the instances of each epoch are another draw of labels, orders and names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from iepile_builder.data.instances import without_dataset_bars
from iepile_builder.data.options import InstanceOptions
from iepile_builder.iepile import IEPile


DRAW = "draw"  # a column: number of the epoch that a row is for
STRATEGIES = ("save_strategy", "eval_strategy", "logging_strategy")


def is_build(dataset_name: str) -> bool:
    """Tell whether a dataset is to be built: the name is that of a file with options of `iepile build`."""
    return Path(dataset_name).suffix in (".yaml", ".yml")


class EpochPerDraw(TrainerCallback):
    """
    Make a trainer pass once through the draws of all epochs, in order, by changing its arguments. What happens once an
    epoch happens as often, in equal distances, and the arguments and the count of epochs are as given after the
    training.

    `number` is that of draws; `order` the `train_sampling_strategy` within a draw.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self.number, self.order = math.ceil(args.num_train_epochs), args.train_sampling_strategy
        changed: dict[str, Any] = {
            "num_train_epochs": args.num_train_epochs / self.number,
            "train_sampling_strategy": "sequential",
        }
        for strategy in STRATEGIES:
            if getattr(args, strategy) == "epoch" and self.number > 1:
                steps = strategy.replace("strategy", "steps")
                changed |= {strategy: type(getattr(args, strategy))("steps"), steps: 1 / self.number}
        self.given = {name: getattr(args, name) for name in changed}
        for name, value in changed.items():
            setattr(args, name, value)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        for name, value in self.given.items():
            setattr(args, name, value)
        state.epoch = (state.epoch or 0) * self.number


def load_draws(
    corpus_dirs: list[str], options: InstanceOptions, num_proc: int | None, number: int, evaluated: bool
) -> tuple[list[Dataset], Dataset | None]:
    """
    Build the training instances of `number` epochs, the first of which is `options.epoch`, and if `evaluated` the
    validation instances.

    Raises:
        `InputError`: If there are no corpora, or an option or record cannot be used.
    """

    def load(split: str, epoch: int) -> Dataset:
        settings = {**vars(options), "splits": [split], "epoch": epoch}
        with without_dataset_bars():
            builder = IEPile(corpus_dirs=corpus_dirs, **settings)
            builder.download_and_prepare(num_proc=num_proc)
            return builder.as_dataset(split=split)

    draws = [load("train", options.epoch + number) for number in range(number)]
    return draws, load("validation", options.epoch) if evaluated else None


def name_draws(options: InstanceOptions, number: int) -> list[str]:
    """Name the draws of `number` epochs by their epoch and its `negatives`."""
    schedule = options.negatives_schedule or [options.negatives]
    modes = [schedule[min(options.epoch + each, len(schedule) - 1)] for each in range(number)]
    return [f"epoch {each}, negatives {mode}" for each, mode in enumerate(modes, 1)]


def join_draws(draws: list[Dataset], order: str, batch_size: int, seed: int) -> Dataset:
    """
    Put the rows of each draw behind those of the one before, with its number as column `draw`.

    `order` is the `train_sampling_strategy` within a draw: `"random"`, `"sequential"`, `"group_by_length"`, or
    `"batch_rebalance"`, random with the `batch_size` rows of each step ordered by length.
    """
    parts: list[Dataset] = []
    for number, rows in enumerate(draws):
        if order == "group_by_length":
            generator = torch.Generator().manual_seed(seed + number)
            lengths = rows["length"][:]
            rows = rows.select(get_length_grouped_indices(lengths, batch_size, generator=generator))
        elif order != "sequential":
            rows = rows.shuffle(seed=seed + number)
        if order == "batch_rebalance":
            before, lengths = sum(map(len, parts)), rows["length"][:]
            step_of_row = [(before + index) // batch_size for index in range(len(rows))]
            rows = rows.select(sorted(range(len(rows)), key=lambda index: (step_of_row[index], -lengths[index])))
        with without_dataset_bars():
            parts.append(rows.add_column(DRAW, [number] * len(rows)))
    return concatenate_datasets(parts)
