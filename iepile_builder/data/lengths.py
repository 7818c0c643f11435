"""Split instances that are too long for a model into ones that ask for fewer labels, so that no answer is ever cut."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from iepile_builder.chat import break_control_tokens, encode
from iepile_builder.errors import InputError
from iepile_builder.io import first_line, to_json


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class FitLength:
    """
    Split instances of more than `max_length` tokens, as a transform for `datasets`:

        rows = rows.map(FitLength("HuggingFaceTB/SmolLM2-135M-Instruct", 512), batched=True)

    A new column `fits` marks the instances that are short enough; the others ask for a single label.

    Args:
        tokenizer_name_or_path (`str`):
            Name or folder of a tokenizer.
        max_length (`int`):
            Maximum number of tokens of instruction, answer and the tokenizer's chat template together.
    """

    tokenizer_name_or_path: str
    max_length: int

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        """Split a batch of instances, as columns."""
        waiting = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)][::-1]
        columns: dict[str, list] = {column: [] for column in (*rows, "fits")}
        lengths = self.lengths(waiting)
        while waiting:
            row, length = waiting.pop(), lengths.pop()
            halves = halve(row) if length > self.max_length else []
            if halves:
                waiting += halves[::-1]
                lengths += self.lengths(halves[::-1])
                continue
            for column, value in {**row, "fits": length <= self.max_length}.items():
                columns[column].append(value)
        return columns

    def lengths(self, rows: list[dict[str, Any]]) -> list[int]:
        """Count the tokens of each instance."""
        tokenizer, more = load_tokenizer(self.tokenizer_name_or_path)
        texts = [text for row in rows for text in (row["instruction"], row["output"] or "")]
        counts = [len(ids) for ids in encode([break_control_tokens(text, tokenizer) for text in texts], tokenizer)]
        return [more + instruction + output for instruction, output in zip(counts[::2], counts[1::2], strict=True)]


@cache
def load_tokenizer(name: str) -> tuple[PreTrainedTokenizerBase, int]:
    """Load a tokenizer and count the tokens that its chat template adds to instruction and answer."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError("counting tokens needs transformers: pip install transformers") from None

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot load a tokenizer ({first_line(error)})") from None
    turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    if tokenizer.chat_template is None:
        return tokenizer, 2  # a token at the start and one at the end
    template = str(tokenizer.apply_chat_template(turns, tokenize=False))
    return tokenizer, len(tokenizer(template, add_special_tokens=False)["input_ids"])


def halve(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Split an instance into two that ask for half the labels each; return none if it has a single label."""
    instruction = json.loads(row["instruction"])
    schema, number = instruction["schema"], len(instruction["schema"])
    answer = list(json.loads(row["output"]).items()) if row["output"] is not None else []
    halves = []
    for part in (slice(0, number // 2), slice(number // 2, number)) if number > 1 else ():
        items = dict(list(schema.items())[part]) if isinstance(schema, dict) else schema[part]
        changed = {**instruction, "schema": items}
        if "example" in instruction:
            changed["example"] = [
                {**example, "output": dict(list(example["output"].items())[part])}
                for example in instruction["example"]
            ]
        output = to_json(dict(answer[part])) if row["output"] is not None else None
        halves.append({**row, "instruction": to_json(changed), "output": output})
    return halves
