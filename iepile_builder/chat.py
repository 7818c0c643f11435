"""
The two ends that training and prediction share: instances and their chat messages, the model and its tokenizer.

The chat template is the tokenizer's own, or a file given at training time; it is saved with the tokenizer beside the
adapter, so prediction prompts the model exactly as training did.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_builder.corpus import located, read_json, read_lines
from iepile_builder.errors import InputError


if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = dict[str, str]

_SPLITS = ("train", "validation", "test")
_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}


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


def load_instances(name: str, columns: tuple[str, ...]) -> dict[str, Dataset]:
    """
    Loads the splits of a dataset of instances.

    Args:
        name (`str`):
            A folder of `{train,validation,test}.jsonl`, one JSON, JSON lines or Parquet file (its rows are the split
            `train`), or anything else that [`~datasets.load_dataset`] opens by name: a folder of Parquet, a Hub id.
        columns (`tuple[str, ...]`):
            The text columns that every split must have.

    Returns:
        `dict[str, Dataset]`: The splits by name.

    Raises:
        `InputError`: If there is no such dataset, or a file of it cannot be read, or lacks a column.
    """
    from datasets import Value, load_dataset
    from datasets.exceptions import DatasetGenerationError

    path = Path(name)
    if path.is_file():
        files = {"train": path}
    else:
        files = {split: file for split in _SPLITS if (file := path / f"{split}.jsonl").is_file()}

    try:
        if files:
            # One by one: the splits need not have the same columns.
            splits = {
                split: load_dataset(_format(file), data_files=str(file), split="train")
                for split, file in files.items()
            }
        else:
            splits = dict(load_dataset(name))
    except DatasetGenerationError as error:
        raise _unreadable(name, list(files.values()), error) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: not a dataset of instances: {first_line(error)}") from None

    for split, dataset in splits.items():
        for column in columns:
            if dataset.features.get(column) not in (Value("string"), Value("large_string")):
                raise InputError(
                    f"{files.get(split, name)}: no text column `{column}` in the {split} split, only "
                    + ", ".join(f"`{name}`" for name in dataset.column_names)
                )
    return splits


def _format(file: Path) -> str:
    if file.suffix not in _FORMATS:
        raise InputError(f"{file}: not a file of instances: give {', '.join(_FORMATS)} or a folder")
    return _FORMATS[file.suffix]


def _unreadable(name: str, files: list[Path], error: Exception) -> InputError:
    for file in files:
        if file.suffix == ".jsonl":
            # `datasets` names neither the file nor the line.
            for number, _, line in read_lines(file):
                with located(file, number):
                    read_json(line)
    return InputError(f"{name}: cannot be read: {first_line(error.__cause__ or error)}")


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


def load_model(
    name: str, adapter: str | None = None, is_trainable: bool = False, **kwargs: Any
) -> PreTrainedModel | PeftModel:
    """
    Loads a causal language model, with an adapter on top if one is given.

    Args:
        name (`str`):
            A folder or a Hub id.
        adapter (`str`, *optional*):
            Folder or Hub id of a PEFT adapter.
        is_trainable (`bool`, *optional*, defaults to `False`):
            Whether the adapter is to be trained further.
        **kwargs:
            Passed to [`~transformers.AutoModelForCausalLM.from_pretrained`].

    Returns:
        [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]: The model, the latter with an adapter.

    Raises:
        `InputError`: If it is not a model, or the adapter is not one for it, or a package that the arguments ask for
            is missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(name, **kwargs)
    # An ImportError is a missing package: bitsandbytes, flash attention, kernels.
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise InputError(f"{name}: no model can be loaded from it: {first_line(error)}") from None
    if adapter is None:
        return model

    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    try:
        peft_model = PeftModel.from_pretrained(model, adapter, is_trainable=is_trainable)
        # That only warns of layers without an adapter, and is silent on an adapter's further layers.
        result: Any = set_peft_model_state_dict(peft_model, load_peft_weights(adapter, device="cpu"))
    # A RuntimeError is an adapter whose weights have other shapes.
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{adapter}: not an adapter for {name}: {first_line(error)}") from None
    unfilled = [key for key in result.missing_keys if ".lora_" in key]
    if unfilled or result.unexpected_keys:
        raise InputError(
            f"{adapter}: not an adapter for {name}: {len(unfilled)} weights of the model's layers are missing, "
            f"{len(result.unexpected_keys)} belong to none of them: it was trained on another model"
        )
    return peft_model


def first_line(error: BaseException) -> str:
    """
    The first line of an error's message, for a message that has only one.

    Args:
        error (`BaseException`):
            The error.

    Returns:
        `str`: The line.
    """
    return str(error).strip().partition("\n")[0]
