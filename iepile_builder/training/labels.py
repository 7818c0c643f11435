"""Choose which tokens of an answer are learned, and with which weight."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from iepile_builder.answers.decisions import FORCED, NOTHING, mark_answer
from iepile_builder.chat import tokenize
from iepile_builder.data.instructions import read_instruction
from iepile_builder.errors import InputError
from iepile_builder.tasks import find_task


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The label of a token that says that nothing was found is EMPTY minus the token: TRL packs no column but the labels.
EMPTY = -1000


def tokenize_decisions(
    instance: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, only_decisions: bool
) -> dict[str, list[Any]]:
    """
    Turn an instance into tokens and labels as [`~iepile_builder.chat.tokenize`] does, and look into the answer.

    A token is forced if all its characters are, and if no token of the vocabulary reaches from one of them beyond the
    forced ones: ` [` before a mention is a decision where ` []` is a token, too. With `only_decisions`, forced tokens
    are not learned.

    A token that says that nothing was found for a label has the label `EMPTY` minus the token. All tokens of an answer
    that the grammar does not accept are learned, as they are.

    Raises:
        `InputError`: If the tokenizer is slow, or the instruction cannot be read.
    """
    if not tokenizer.is_fast:
        raise InputError("--answer_loss decisions and --empty_weight need a fast tokenizer")
    row = tokenize(instance, tokenizer, with_spans=True)
    spans, labels = row.pop("spans"), row["labels"]
    items = read_instruction(instance["instruction"])["schema"]
    marks = mark_answer(find_task(instance["task"]).answer_schema(items), output := instance["output"])
    if marks is None:
        return row
    ends = list(range(len(output) + 1))  # of the forced characters from each one on
    for index in reversed(range(len(output))):
        if marks[index] == FORCED:
            ends[index] = ends[index + 1]
    for index, (start, end) in enumerate(spans):
        if NOTHING in marks[start:end]:
            labels[index] = EMPTY - labels[index]
        elif only_decisions and start < end <= ends[start]:
            runs = (output[first : ends[start]] for first in range(start, end))
            if ends[start] == len(output) or not any(_is_token_start(run, tokenizer) for run in runs):
                labels[index] = -100
    return row


def _is_token_start(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a token of the vocabulary starts with a text and is longer."""
    tokens = _vocabulary(tokenizer)
    index = bisect_right(tokens, text)
    return index < len(tokens) and tokens[index].startswith(text)


@lru_cache(maxsize=1)
def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    # At the start of a text a token may lose its space.
    return sorted(tokenizer.convert_tokens_to_string(["a", token])[1:] for token in tokenizer.get_vocab())
