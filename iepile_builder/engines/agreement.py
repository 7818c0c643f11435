"""Whether two ways of running a model give the same answers: what is compared, and how many are equal."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TypeVar

from iepile_builder.chat import to_prompt
from iepile_builder.data.instances import load_instances
from iepile_builder.engines.base import Completion, Engine, Request
from iepile_builder.errors import InputError
from iepile_builder.iepile import IEPile
from iepile_builder.io import SAMPLE_CORPUS


T = TypeVar("T")


def sample_requests(dataset: str | None, count: int, engine: Engine, max_new_tokens: int) -> list[Request]:
    """
    Takes requests from all over a dataset, that fit into the context of a model.

    Args:
        dataset (`str`, *optional*):
            A folder, file or Hub id of instances, of which the test split is used if there is one; by default the
            test split of the sample corpus.
        count (`int`):
            How many, at most.
        engine ([`~iepile_builder.engines.base.Engine`]):
            What has to answer them.
        max_new_tokens (`int`):
            The longest answer, in tokens.

    Returns:
        `list[Request]`: The requests, whose answers are free.

    Raises:
        `InputError`: If the dataset cannot be read, or has none that fits.
    """
    if dataset is None:
        with tempfile.TemporaryDirectory() as cache:
            builder = IEPile(data_dir=str(SAMPLE_CORPUS), cache_dir=cache)
            instructions = builder.as_dataset(split="test")["instruction"][:]
    else:
        splits = load_instances(dataset, columns=("instruction",))
        instructions = splits.get("test", next(iter(splits.values())))["instruction"][:]
    requests = [Request(to_prompt({"instruction": instruction})) for instruction in _evenly(instructions, 8 * count)]
    fitting = [request for request in requests if (engine.context_left(request, max_new_tokens) or 0) >= 0]
    if not fitting:
        raise InputError(f"{dataset or SAMPLE_CORPUS}: no instance fits into the context to compare answers on")
    return _evenly(fitting, count)


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """So many of them, from the first to the last."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def count_equal(answers: Sequence[Completion], others: Sequence[Completion]) -> int:
    """
    Counts the answers that are the same, to the character.

    Args:
        answers (`Sequence[Completion]`):
            Answers.
        others (`Sequence[Completion]`):
            As many answers to the same requests.

    Returns:
        `int`: How many are equal.
    """
    return sum(one.text == other.text for one, other in zip(answers, others, strict=True))
