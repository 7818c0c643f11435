"""
Turn instances into chat messages, and messages into tokens, alike in training and in use.

The chat template is the tokenizer's own, or a file given at training time; it is saved with the tokenizer beside the
adapter, so prediction prompts the model exactly as training did.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from iepile_builder.errors import InputError
from iepile_builder.io import find_resource, first_line


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

CUT = "\ufdd0\ufdd1\ufdd0"  # Unicode keeps these two out of all texts; in one that has them, they are lost


def to_prompt(instance: Mapping[str, Any]) -> list[Message]:
    """Turn an instance into the message that asks for its answer."""
    return [{"role": "user", "content": instance["instruction"]}]


def to_prompt_completion(instance: Mapping[str, Any]) -> dict[str, list[Message]]:
    """Turn an instance into TRL's conversational prompt-completion row, of which only the completion is learned."""
    return {"prompt": to_prompt(instance), "completion": [{"role": "assistant", "content": instance["output"]}]}


def render(messages: list[Message], tokenizer: PreTrainedTokenizerBase, **kwargs: Any) -> str:
    """
    Render messages with the tokenizer's chat template, for [`encode`]; `kwargs` are variables of the template.

    A message is data. Where its text holds a control token of the model, such as `<|im_end|>`, a mark is set within,
    at which [`encode`] cuts: the token is read as plain characters and cannot open or close a turn.
    """
    return render_all([messages], tokenizer, **kwargs)[0]


def render_all(
    conversations: Sequence[list[Message]],
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool = True,
    **kwargs: Any,
) -> list[str]:
    """Render conversations as [`render`] does each of them, in less time."""
    plain = [
        [{**message, "content": break_control_tokens(message["content"], tokenizer)} for message in messages]
        for messages in conversations
    ]
    kwargs |= {"add_generation_prompt": add_generation_prompt, "tokenize": False}
    return [str(text) for text in tokenizer.apply_chat_template(plain, **kwargs)]


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Encode texts of [`render`], in which the template has written the special tokens."""
    pieces = [text.split(CUT) for text in texts]
    flat = [piece for each in pieces for piece in each]
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        # As the call of the tokenizer, which also computes offsets and masks
        tokens = iter([encoding.ids for encoding in backend.encode_batch_fast(flat, add_special_tokens=False)])
    else:
        tokens = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    return [[token for _ in each for token in next(tokens)] for each in pieces]


def break_control_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Set a mark behind the first character of every control token in a text; see [`render`]."""
    return _control_tokens(tokenizer).sub(lambda found: found[0][0] + CUT + found[0][1:], text)


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """The special tokens, and those that the chat template writes: Qwen's `<think>` is not special."""
    added = [token for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1]
    template = str(tokenizer.chat_template)
    control = [
        token.content for token in added if token.special or (token.content.strip() and token.content in template)
    ]
    return re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or "(?!)")


def tokenize(
    instance: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, with_spans: bool = False
) -> dict[str, list[Any]]:
    """
    Turn an instance into the tokens to train on, of which only the answer and its end token are learned.

    Prompt and answer are encoded apart, so that the prompt's tokens are those of a prompt in use. Encoded as one text,
    the end of the prompt and the start of the answer may become one token: Llama-2 has `]{`, which the published
    models never saw between `[/INST]` and an answer.

    Args:
        instance (`Mapping[str, Any]`):
            An instance; its `instruction` and `output` are used.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A tokenizer with a chat template.
        with_spans (`bool`, *optional*, defaults to `False`):
            Whether to tell which characters of `output` each token covers. Needs a fast tokenizer.

    Returns:
        `dict[str, list]`: `input_ids` and `labels`; `labels` is -100 where nothing is learned; and `spans` on
        request: start and end in `output` for each token, an empty span for one that covers none of it.

    Raises:
        `InputError`: If the chat template renders the prompt in another way when an answer follows.
    """
    texts = render_rows([instance], tokenizer)
    [tokens] = label(encode(texts, tokenizer))
    if with_spans:
        asked = tokens["labels"].count(-100)
        tokens["spans"] = [(0, 0)] * asked + _spans(texts[1], instance["output"], tokenizer)
    return tokens


def render_rows(instances: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """
    Render the prompt of each instance, and what follows it, in turn.

    Raises:
        `InputError`: If the chat template renders a prompt in another way when an answer follows.
    """
    rows = [to_prompt_completion(instance) for instance in instances]
    prompts = render_all([row["prompt"] for row in rows], tokenizer)
    wholes = render_all([row["prompt"] + row["completion"] for row in rows], tokenizer, add_generation_prompt=False)
    if not all(map(str.startswith, wholes, prompts)):
        raise InputError(
            "the chat template renders a prompt differently once its answer follows, so that what is trained is not "
            "what is used: give another with --chat_template_path"
        )
    return [text for prompt, whole in zip(prompts, wholes, strict=True) for text in (prompt, whole[len(prompt) :])]


def label(encoded: Sequence[list[int]]) -> list[dict[str, list[Any]]]:
    """Join the tokens of prompts and of what follows them, in turn, and label the latter, as [`tokenize`] does."""
    return [
        {"input_ids": asked + learned, "labels": [-100] * len(asked) + learned}
        for asked, learned in zip(encoded[::2], encoded[1::2], strict=True)
    ]


def _spans(text: str, answer: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """Tell the characters of an answer that each token of its rendered text covers."""
    pieces = text.split(CUT)
    start = "".join(pieces).index(answer)
    offsets = tokenizer(pieces, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans, before, covered = [], -start, 0
    for piece, of_piece in zip(pieces, offsets, strict=True):
        for first, last in of_piece:
            # Some tokenizers leave a token's white space out of its offsets: it starts where the last one ended,
            # unless both are parts of one character.
            first, last = min(before + first, covered), before + last
            spans.append((first, last) if 0 <= first < last <= len(answer) else (0, 0))
            covered = max(covered, last)
        before += len(piece)
    return spans


def load_tokenizer(name: str, chat_template_path: str | None = None, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Load a tokenizer (folder or Hub id) that has a chat template: its own, or a Jinja file in place of it, which may be
    given by its name among the recipes, such as `chat_templates/qwen3.jinja`.

    Raises:
        `InputError`: If there is no tokenizer, or no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no tokenizer can be loaded from it: {first_line(error)}") from None
    if chat_template_path is not None:
        tokenizer.chat_template = find_resource("recipes", chat_template_path).read_text(encoding="utf-8")
    if tokenizer.chat_template is None:
        raise InputError(f"{name}: its tokenizer has no chat template: train with --chat_template_path")
    return tokenizer
