"""
The two ends that training and prediction share: instances and their chat messages, the model and its tokenizer.

The chat template is the tokenizer's own, or a file given at training time; it is saved with the tokenizer beside the
adapter, so prediction prompts the model exactly as training did.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_builder.errors import InputError
from iepile_builder.io import first_line


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


def to_prompt(instance: Mapping[str, Any]) -> list[Message]:
    """
    Turns an instance into the messages that ask for its answer.

    Args:
        instance (`Mapping[str, Any]`):
            An instance; its `instruction` is used.

    Returns:
        `list[dict[str, str]]`: One user message.
    """
    return [{"role": "user", "content": instance["instruction"]}]


def to_prompt_completion(instance: Mapping[str, Any]) -> dict[str, list[Message]]:
    """
    Turns an instance into TRL's conversational prompt-completion row, of which only the completion is learned.

    Args:
        instance (`Mapping[str, Any]`):
            An instance; its `instruction` and `output` are used.

    Returns:
        `dict[str, list[dict[str, str]]]`: `prompt` and `completion`.
    """
    return {"prompt": to_prompt(instance), "completion": [{"role": "assistant", "content": instance["output"]}]}


def tokenize(instance: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """
    Turns an instance into the tokens to train on, of which only the answer and its end token are learned.

    The prompt's tokens are the ones that it has in use, when no answer follows. A tokenizer that is given both at once
    may put the end of the one and the start of the other into one token: Llama-2's has `]{`, which the published
    models never saw between `[/INST]` and an answer, and no prompt in use ends with it.

    Args:
        instance (`Mapping[str, Any]`):
            An instance; its `instruction` and `output` are used.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A tokenizer with a chat template.

    Returns:
        `dict[str, list[int]]`: `input_ids` and `labels`, where what is not learned has -100.

    Raises:
        `InputError`: If the chat template renders the prompt in another way when an answer follows.
    """
    row = to_prompt_completion(instance)
    prompt = str(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False))
    whole = str(tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False))
    if not whole.startswith(prompt):
        raise InputError(
            "the chat template renders a prompt differently once its answer follows, so that what is trained is not "
            "what is used: give another with --chat_template_path"
        )
    # The template has written the special tokens.
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    learned = tokenizer(whole.removeprefix(prompt), add_special_tokens=False)["input_ids"]
    return {"input_ids": asked + learned, "labels": [-100] * len(asked) + learned}


def load_tokenizer(name: str, chat_template_path: str | None = None, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Loads a tokenizer that has a chat template.

    Args:
        name (`str`):
            A folder or a Hub id.
        chat_template_path (`str`, *optional*):
            A Jinja file to use in place of the tokenizer's own template.
        **kwargs:
            Passed to [`~transformers.AutoTokenizer.from_pretrained`].

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: The tokenizer.

    Raises:
        `InputError`: If there is no tokenizer, or no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
        if chat_template_path is not None:
            tokenizer.chat_template = Path(chat_template_path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no tokenizer can be loaded from it: {first_line(error)}") from None
    if tokenizer.chat_template is None:
        raise InputError(f"{name}: its tokenizer has no chat template: give one to sft.py with --chat_template_path")
    return tokenizer
