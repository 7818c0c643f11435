"""Flash attention for packed rows from PyTorch itself: `attn_implementation="varlen"`."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask


def register_varlen() -> None:
    """
    Add the attention `varlen` to `transformers`.

    Where rows are packed it is [`~torch.nn.attention.varlen.varlen_attn`], the FlashAttention-2 kernel that PyTorch
    brings, on a GPU that has it (NVIDIA Ampere or later, in half precision); everywhere else it is `sdpa`. It needs
    no package besides PyTorch.
    """
    AttentionInterface.register("varlen", varlen_attention)
    AttentionMaskInterface.register("varlen", varlen_mask)


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether the kernel runs there, on tensors of this type or under autocast."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    is_half = torch.is_autocast_enabled("cuda") or dtype in (torch.bfloat16, torch.float16)
    return is_half and torch.cuda.get_device_capability(device) >= (8, 0)


def varlen_mask(
    *,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device,
    dtype: torch.dtype,
    config: PreTrainedConfig,
    **kwargs: Any,
) -> torch.Tensor | None:
    """Make no mask for packed rows, of which the kernel knows the borders; else that of `sdpa`."""
    # Without a 2D mask, and without a mask function of the caller's, only packed rows forbid the causal shortcut.
    is_packed = attention_mask is None and not allow_is_causal_skip and not use_vmap
    if is_packed and has_kernel(device, dtype) and not getattr(config, "attention_dropout", 0.0):
        return None
    return sdpa_mask(
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip,
        use_vmap=use_vmap,
        device=device,
        **kwargs,
    )


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each of the packed rows that end at `cu_seq_lens_q`; see [`~transformers.AttentionInterface`]."""
    is_packed = attention_mask is None and cu_seq_lens_q is not None
    if not is_packed or dropout or not has_kernel(query.device, query.dtype):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    # Rotary embeddings and norms may have left float32 under autocast
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    dtype = query.dtype if is_half else torch.get_autocast_dtype("cuda")
    query, key, value = (each[0].transpose(0, 1).to(dtype) for each in (query, key, value))  # tokens x heads x size
    borders: Any = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    output: Any = varlen_attn(
        query,
        key,
        value,
        *borders,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return output[None], None
