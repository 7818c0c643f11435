"""The Modelfile that tells Ollama how to prompt a GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iepile_builder.errors import InputError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What stands in for a user's and a system's message, to see what a chat template puts around it.
_USER, _SYSTEM = "the user's message 7f3a", "the system's message 7f3a"


def modelfile(gguf: str, tokenizer: PreTrainedTokenizerBase, context: int, add_bos: bool) -> str:
    """
    Writes a Modelfile that prompts as the tokenizer's chat template does.

    Ollama has templates of its own kind; this one is what the tokenizer's template was seen to put around a message,
    with and without a system message.

    Args:
        gguf (`str`):
            Name of the GGUF file beside it.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer, with a chat template.
        context (`int`):
            The context to serve it with, in tokens.
        add_bos (`bool`):
            Whether the GGUF file says that each prompt starts with the tokenizer's first token; Ollama then puts it
            there by itself.

    Returns:
        `str`: Its text.

    Raises:
        `InputError`: If the chat template cannot be written so.
    """
    user = {"role": "user", "content": _USER}
    bos = str(tokenizer.bos_token) if add_bos else ""
    before, after = _split(_render(tokenizer, [user], bos), _USER)
    template = f"{before}{{{{ .Prompt }}}}{after}"
    try:
        with_system = _render(tokenizer, [{"role": "system", "content": _SYSTEM}, user], bos)
        start, rest = _split(with_system, _SYSTEM)
        between, end = _split(rest, _USER)
    except InputError:
        pass  # a chat template that knows no system message
    else:
        template = (
            f"{{{{ if .System }}}}{start}{{{{ .System }}}}{between}{{{{ .Prompt }}}}{end}"
            f"{{{{ else }}}}{template}{{{{ end }}}}"
        )
    return (
        f"FROM ./{gguf}\n"
        f'TEMPLATE """{template}{{{{ .Response }}}}{tokenizer.eos_token}"""\n'
        f'PARAMETER stop "{tokenizer.eos_token}"\n'
        "PARAMETER temperature 0\n"
        f"PARAMETER num_ctx {context}\n"
    )


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], bos: str) -> str:
    from jinja2 import TemplateError

    try:
        prompt: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise InputError(f"the chat template refuses {messages[0]['role']} messages: {error}") from None
    return str(prompt).removeprefix(bos)


def _split(prompt: str, content: str) -> tuple[str, str]:
    before, found, after = prompt.partition(content)
    if not found or content in after or any(mark in before + after for mark in ('"""', "{{", "}}")):
        raise InputError(
            "the chat template does not put a message into the prompt once, as it is: Ollama cannot use it"
        )
    return before, after
