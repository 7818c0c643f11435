"""The options of a training run, beside those of TRL."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class DataArguments:
    """
    Data.

    Args:
        dataset_name (`str`):
            A folder that `iepile build` wrote, a JSON, JSON lines or Parquet file, or a Hub id: anything with the
            columns `instruction` and `output`, and `task` for GRPO. For `iepile train` also a YAML file with options
            of `iepile build`: each epoch is then another draw of instances from the corpora.
        tasks (`list[str]`, *optional*):
            The tasks to train on, all by default.
        val_set_size (`int`, *optional*, defaults to 0):
            Rows to hold out for evaluation if the dataset has no `validation` split.
        max_eval_samples (`int`, *optional*):
            Evaluate on a random subset of this many rows.
        adapter_name_or_path (`str`, *optional*):
            Continue this adapter instead of starting a new one: a folder, a Hub id, or the name of a recipe's, such as
            `smollm2-135m-instruct/zero_shot/adapter`.
    """

    dataset_name: str
    tasks: list[str] | None = None
    val_set_size: int = 0
    max_eval_samples: int | None = None
    adapter_name_or_path: str | None = None


@dataclass
class SftArguments(DataArguments):
    """
    Size, what is learned, and IE F1 while training.

    Args:
        max_train_tokens (`int`, *optional*):
            Train on a random subset of the rows, of about this many tokens; the others are not tokenized. With a YAML
            file as `dataset_name`, this is the total of all epochs, which get equal parts.
        answer_loss (`str`, *optional*, defaults to `"all"`):
            What is learned of an answer: `all`, or `decisions`, which leaves out the tokens that a grammar forces
            (keys, most brackets and separators). A model trained so needs the grammar when it answers. The end token
            is always learned, and so is all of an answer that is not as the grammar writes it.
        empty_weight (`float`, *optional*, defaults to 1.0):
            Weight in the loss of the tokens that say that nothing was found for a label, `[]` (KG `{}`). Below 1 the
            model finds more, above 1 less. The loss is still divided by the number of tokens that are learned, not by
            the sum of their weights. A role's `"NAN"` in an event that was found keeps weight 1.
        average_checkpoints (`int`, *optional*, defaults to 0):
            Keep the mean of the weights of the last checkpoints, this many, in place of the last weights.
            `save_total_limit` is raised to it. Not with FSDP or DeepSpeed.
        compile_layers (`bool`, *optional*, defaults to `False`):
            Compile the layers of the model in the first steps (`torch.compile`; needs a C++ compiler), so that later
            steps take less time. Evaluations are not compiled.
        linear_layers_only (`bool`, *optional*, defaults to `False`):
            Without an adapter: train only the linear layers, not embeddings, head and norms, so that the result can be
            reduced to an adapter of low rank.
        ie_f1_records (`int`, *optional*, defaults to 0):
            Answer this many random validation records at every evaluation, report the IE F1 of the answers, and keep
            the best checkpoint; evaluations are by default those of the checkpoints. The validation loss is then
            computed on these records, too, unless `max_eval_samples` is given.
        ie_f1_max_new_tokens (`int`, *optional*):
            Maximum number of tokens of these answers; by default 1.5 times the longest reference answer.
    """

    max_train_tokens: int | None = None
    answer_loss: Literal["all", "decisions"] = "all"
    empty_weight: float = 1.0
    average_checkpoints: int = 0
    compile_layers: bool = False
    linear_layers_only: bool = False
    ie_f1_records: int = 0
    ie_f1_max_new_tokens: int | None = None


@dataclass
class GrpoArguments(DataArguments):
    """
    Chat format.

    Args:
        chat_template_path (`str`, *optional*):
            A Jinja file to use instead of the tokenizer's own template. The tokenizer is that of
            `adapter_name_or_path`, if it has one.
    """

    chat_template_path: str | None = None
