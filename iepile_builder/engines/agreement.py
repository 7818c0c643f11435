"""Compare two ways of running a model: on which requests, and how many greedy answers are equal."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from iepile_builder.chat import to_prompt
from iepile_builder.data.instances import load_instances, without_dataset_bars
from iepile_builder.engines.base import Completion, Engine, Request
from iepile_builder.errors import InputError
from iepile_builder.iepile import IEPile
from iepile_builder.io import SAMPLE_CORPUS


T = TypeVar("T")


@dataclass
class AgreementOptions:
    """
    Comparison of greedy answers.

    Args:
        dataset_name (`str`, *optional*):
            Folder, file or Hub id of instances, whose test split is used if there is one; by default the test split of
            the sample corpus.
        num_samples (`int`, *optional*, defaults to 16):
            Prompts to compare answers on.
        max_new_tokens (`int`, *optional*, defaults to 64):
            Longest answer, in tokens.
        batch_size (`int`, *optional*, defaults to 8):
            Prompts answered at once.
    """

    dataset_name: str | None = None
    num_samples: int = 16
    max_new_tokens: int = 64
    batch_size: int = 8


def sample_requests(options: AgreementOptions, engine: Engine) -> list[Request]:
    """
    Take requests with free answers evenly from a dataset, of those that fit into the engine's context.

    Raises:
        `InputError`: If the dataset cannot be read, or no instance fits.
    """
    if options.dataset_name is None:
        with tempfile.TemporaryDirectory() as cache, without_dataset_bars():
            builder = IEPile(data_dir=str(SAMPLE_CORPUS), cache_dir=cache)
            instructions = builder.as_dataset(split="test")["instruction"][:]
    else:
        splits = load_instances(options.dataset_name, columns=("instruction",))
        instructions = splits.get("test", next(iter(splits.values())))["instruction"][:]
    candidates = _take_evenly(instructions, 8 * options.num_samples)
    requests = [Request(to_prompt({"instruction": instruction})) for instruction in candidates]
    fitting = [request for request in requests if (engine.context_left(request, options.max_new_tokens) or 0) >= 0]
    if not fitting:
        source = options.dataset_name or SAMPLE_CORPUS
        raise InputError(f"{source}: no instance fits into the context to compare answers on")
    return _take_evenly(fitting, options.num_samples)


def _take_evenly(items: Sequence[T], count: int) -> list[T]:
    """Take items at equal distances, from the first to the last."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def count_equal(answers: Sequence[Completion], others: Sequence[Completion]) -> int:
    """Count the answers that are equal, to the character."""
    return sum(one.text == other.text for one, other in zip(answers, others, strict=True))
