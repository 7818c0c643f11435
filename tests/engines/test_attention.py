"""`attn_implementation="varlen"`: the kernel for packed rows, the answers and gradients of `sdpa` everywhere."""

from typing import Any

import pytest
import torch
from helpers.models import MODELS, make_config, make_tokenizer
from helpers.tiny import make_sliding_window_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from iepile_builder.engines import attention
from iepile_builder.engines.attention import has_kernel, register_varlen


LENGTHS = (7, 30, 1, 18)


def make_model(sliding: bool) -> Any:
    if sliding:
        return make_sliding_window_model().train()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.5, bos_token_id=None, eos_token_id=1, max_position_embeddings=512,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def make_pack(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """A batch of packed rows, as the trainer gives it to the model."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, 400, (length,), generator=generator).tolist() for length in lengths]
    return DataCollatorForLanguageModeling(pad_token_id=1, padding_free=True)([{"input_ids": row} for row in rows])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Stands in for the kernel, which needs a GPU: computes what it documents, and keeps the borders of the rows."""
    kept: list[tuple[int, ...]] = []

    def varlen_attn(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
        max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
    ) -> torch.Tensor:  # fmt: skip
        left, right = window_size
        assert right == 0 and cu_seq_q.dtype == torch.int32
        ends = cu_seq_q.tolist()
        assert max_q == max_k == max(cu_seq_k.diff()) and ends[-1] == len(query)
        kept.append(tuple(ends))
        parts = []
        for start, end in zip(ends, ends[1:], strict=False):
            behind = torch.arange(end - start)[:, None] - torch.arange(end - start)
            mask = (behind >= 0) & (behind <= (left if left >= 0 else end))
            states = [each[start:end].transpose(0, 1)[None] for each in (query, key, value)]
            part = torch.nn.functional.scaled_dot_product_attention(
                *states, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
            )
            parts.append(part[0].transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr(attention, "varlen_attn", varlen_attn)
    monkeypatch.setattr(attention, "has_kernel", lambda device, dtype: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.float32)
    return kept


def compute(model: Any, name: str, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, and the gradient of the embeddings."""
    register_varlen()
    model.set_attn_implementation(name)
    model.zero_grad()
    logits = model(**{**batch, "labels": None, "use_cache": False}).logits
    logits.square().mean().backward()
    return logits.detach(), model.get_input_embeddings().weight.grad.clone()


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_go_to_the_kernel(calls: list, sliding: bool, checkpointing: bool) -> None:
    model, batch = make_model(sliding), make_pack()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    for found, expected in zip(compute(model, "varlen", batch), compute(model, "sdpa", batch), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert calls == [(0, 7, 37, 38, 56)] * (4 if checkpointing else 2)  # each of two layers


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "google/gemma-3-4b-it", "HuggingFaceTB/SmolLM3-3B"])
def test_packed_rows_of_the_recipes_models_go_to_the_kernel(calls: list, name: str) -> None:
    """Gemma-3-4B has a vision tower, and makes its own masks."""
    tokenizer = make_tokenizer(MODELS[name])
    torch.manual_seed(0)
    model, batch = AutoModelForCausalLM.from_config(make_config(MODELS[name], tokenizer)).train(), make_pack()
    batch["input_ids"] = batch["input_ids"] % len(tokenizer)
    for found, expected in zip(compute(model, "varlen", batch), compute(model, "sdpa", batch), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert calls == [(0, 7, 37, 38, 56)] * 2


@pytest.mark.parametrize("sliding", [False, True])
def test_other_rows_are_those_of_sdpa(calls: list, sliding: bool) -> None:
    model = make_model(sliding)
    ids = make_pack((40,))["input_ids"]
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, :25] = 0
    padded = {"input_ids": ids.expand(2, -1), "attention_mask": mask}
    for batch in (padded, {"input_ids": ids}):
        for found, expected in zip(compute(model, "varlen", batch), compute(model, "sdpa", batch), strict=True):
            torch.testing.assert_close(found, expected, atol=0, rtol=0)
    model.eval()
    answers = {}
    for name in ("varlen", "sdpa"):
        model.set_attn_implementation(name)
        answers[name] = model.generate(**padded, max_new_tokens=8, do_sample=False, pad_token_id=1).tolist()
    assert answers["varlen"] == answers["sdpa"]
    assert calls == []


@pytest.mark.parametrize("lengths", [LENGTHS, (40,)])
def test_without_a_gpu_packed_rows_are_those_of_sdpa(lengths: tuple[int, ...]) -> None:
    assert not has_kernel(torch.device("cpu"), torch.bfloat16)
    model, batch = make_model(True), make_pack(lengths)
    for found, expected in zip(compute(model, "varlen", batch), compute(model, "sdpa", batch), strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("capability, runs", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_where_the_kernel_runs(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda")
    assert has_kernel(device, torch.bfloat16) == runs
    assert not has_kernel(device, torch.float32)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: True)
    assert has_kernel(device, torch.float32) == runs


def test_dropout_and_half_precision(calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel knows neither dropout nor float32."""
    model, batch = make_model(False), make_pack()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    compute(model, "varlen", batch)
    assert calls == []

    seen: list[torch.dtype] = []
    monkeypatch.setattr(attention, "varlen_attn", lambda query, *args, **kwargs: seen.append(query.dtype) or query)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        compute(make_model(False), "varlen", batch)
    assert seen == [torch.bfloat16] * 2
