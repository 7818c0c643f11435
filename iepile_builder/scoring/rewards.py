"""
Rewards for reinforcement learning: how right an answer to one instruction is, from its text and the reference alone.

[`ie_f1`] and [`valid_json`] are reward functions as [`~trl.GRPOTrainer`] takes them.
"""

from typing import Any

from iepile_builder.answers.parse import load_answer, parse_answer
from iepile_builder.chat import Message
from iepile_builder.data.instructions import read_asked
from iepile_builder.scoring.scorer import STRICT
from iepile_builder.scoring.tally import Counts


def answer_f1(answer: str, reference: str, instruction: str, task: str) -> float:
    """
    The F1, from 0 to 1, of an answer against the reference answer to the same instruction, by the strict scorer.

    Nothing said where nothing is to be said is right, 1; what is no JSON object is 0, whatever the reference. A fact
    that is said twice counts as wrong the second time, and so does one of a label that was not asked.

    Args:
        answer (`str`):
            The model's.
        reference (`str`):
            The right one, the `output` of an instance.
        instruction (`str`):
            What was asked, the `instruction` of an instance.
        task (`str`):
            One of the seven tasks.
    """
    asked, text = read_asked(instruction, task)
    predicted = parse_answer(answer, task, asked.schema)
    if not predicted.parsed:
        return 0.0
    gold = parse_answer(reference, task, asked.schema).facts
    counts = Counts()
    for of_label in STRICT.compare(gold, predicted.facts, text, task).values():
        counts.add_facts(*of_label)
    if not counts.pred and not counts.gold:
        return 1.0
    return counts.scores()["f1"] / 100


def ie_f1(
    completions: list[list[Message]], task: list[str], instruction: list[str], output: list[str], **kwargs: Any
) -> list[float]:
    """
    The [`answer_f1`] of each completion, a reward function.

    Args:
        completions (`list[list[dict[str, str]]]`):
            The model's messages, one in each.
        task, instruction, output (`list[str]`):
            The columns of the instances that are answered.
        **kwargs:
            What else the trainer gives is not used.
    """
    rows = zip(completions, output, instruction, task, strict=True)
    return [answer_f1(completion[0]["content"], *row) for completion, *row in rows]


def valid_json(completions: list[list[Message]], **kwargs: Any) -> list[float]:
    """
    Whether each completion is a JSON object, 1 or 0, a reward function.

    Args:
        completions (`list[list[dict[str, str]]]`):
            The model's messages, one in each.
        **kwargs:
            What else the trainer gives is not used.
    """
    return [float(load_answer(completion[0]["content"]) is not None) for completion in completions]
