"""Load a model with its adapter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from iepile_builder.errors import InputError
from iepile_builder.io import first_line


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """
    Hide two messages of libraries about each other, which a user can do nothing about.

    TRL imports PEFT, which imports `bitsandbytes`, which warns that an optional kernel for 4 bits is missing; and PEFT
    reads an attribute that `transformers` has deprecated. Also works as a decorator.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


@quiet_libraries()
def load_model(
    name: str, adapter: str | None = None, is_trainable: bool = False, **kwargs: Any
) -> PreTrainedModel | PeftModel:
    """
    Load a causal language model, with an adapter on top if one is given.

    Args:
        name (`str`):
            A folder or a Hub id.
        adapter (`str`, *optional*):
            Folder or Hub id of a PEFT adapter.
        is_trainable (`bool`, *optional*, defaults to `False`):
            Whether the adapter will be trained further.
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
    # ImportError: bitsandbytes, flash attention or kernels are missing
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise InputError(f"{name}: no model can be loaded from it: {first_line(error)}") from None
    if adapter is None:
        return model

    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    try:
        peft_model = PeftModel.from_pretrained(model, adapter, is_trainable=is_trainable)
        # from_pretrained only warns about layers without an adapter, and ignores weights for unknown layers
        result: Any = set_peft_model_state_dict(peft_model, load_peft_weights(adapter, device="cpu"))
    # RuntimeError: the adapter's weights have other shapes
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{adapter}: not an adapter for {name}: {first_line(error)}") from None
    unfilled = [key for key in result.missing_keys if ".lora_" in key]
    if unfilled or result.unexpected_keys:
        raise InputError(
            f"{adapter}: not an adapter for {name}: {len(unfilled)} weights of the model's layers are missing, "
            f"{len(result.unexpected_keys)} belong to no layer: it was trained on another model"
        )
    return peft_model
