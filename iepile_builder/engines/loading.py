"""Load a model with its adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iepile_builder.errors import InputError
from iepile_builder.io import first_line


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


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
