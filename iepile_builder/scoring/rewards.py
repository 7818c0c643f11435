"""
Compute rewards for reinforcement learning from an answer and its reference.

[`ie_f1`] and [`valid_json`] are reward functions for [`~trl.GRPOTrainer`].
"""

from typing import Any

from iepile_builder.answers.parse import load_answer, parse_answer
from iepile_builder.chat import Message
from iepile_builder.data.instructions import read_asked
from iepile_builder.scoring.scorer import STRICT
from iepile_builder.scoring.tally import Counts


def answer_f1(answer: str, reference: str, instruction: str, task: str) -> float:
    """
    Compute the strict F1, from 0 to 1, of an answer to one instruction.

    An empty answer to an empty reference is 1, and an answer that is no JSON object is 0. A repeated fact counts as
    wrong, and so does a fact whose label was not asked for.
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
    Reward each completion (a list with the model's message) with its [`answer_f1`]; `task`, `instruction` and `output`
    are columns of the instances, and other arguments of the trainer are not used.
    """
    rows = zip(completions, output, instruction, task, strict=True)
    return [answer_f1(completion[0]["content"], *row) for completion, *row in rows]


def valid_json(completions: list[list[Message]], **kwargs: Any) -> list[float]:
    """Reward each completion (a list with the model's message) with 1 if it is a JSON object, else with 0."""
    return [float(load_answer(completion[0]["content"]) is not None) for completion in completions]
