"""What is learned: TRL's loss on the answers, with every kind of base, adapter and attention."""

import importlib
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.corpora import ROOT, write_lines
from helpers.tiny import make_instances
from helpers.training import BALANCED, F1_WHILE_TRAINING, cities, losses, make_trainer, scores
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from trl import ModelConfig, SFTTrainer, get_quantization_config

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer, to_prompt
from iepile_builder.engines.base import Request
from iepile_builder.engines.loading import load_model
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.training.trainer import AnswerTrainer


def test_only_the_answer_and_its_end_token_are_learned(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(AnswerTrainer, model, tmp_path)
    tokenizer = trainer.processing_class
    for row, instance in zip(trainer.train_dataset, make_instances(12), strict=True):
        learned = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(learned) == instance["output"] + tokenizer.eos_token
        assert len(row["input_ids"]) == row["length"]


@pytest.mark.parametrize(
    "args", [{}, {"gradient_accumulation_steps": 3}, {"packing": True, "max_length": 256}, BALANCED]
)
def test_the_loss_is_that_of_trl(model: str, tmp_path: Path, args: dict) -> None:
    found, scored = {}, {}
    for cls in (SFTTrainer, AnswerTrainer):
        trainer = make_trainer(cls, model, tmp_path, **args)
        head = trainer.model.get_output_embeddings()
        positions: list[int] = []
        head.register_forward_hook(lambda module, inputs, output, seen=positions: seen.append(output.shape[1]))
        trainer.train()
        found[cls] = losses(trainer.state.log_history) + [
            entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry
        ]
        scored[cls] = positions
    assert found[AnswerTrainer] == pytest.approx(found[SFTTrainer], abs=1e-4)
    answer = max(len(load_tokenizer(model)(row["output"])["input_ids"]) for row in make_instances(12))
    if not args:  # most of each row is prompt, and no logits are computed there
        assert max(scored[AnswerTrainer]) < 3 * answer


def test_padding_free_rows_learn_what_padded_ones_do(train: Callable[..., list[dict]]) -> None:
    padded = train("padded", max_length=70)
    free = train("free", max_length=70, padding_free=True)
    assert losses(free) == pytest.approx(losses(padded), abs=1e-4)


def test_plain_attention_learns_what_the_kernel_does(train: Callable[..., list[dict]]) -> None:
    kernel = train("kernel", model_args={"attn_implementation": "sdpa"}, **BALANCED)
    plain = train("plain", model_args={"attn_implementation": "eager"}, **BALANCED)
    assert losses(plain) == pytest.approx(losses(kernel), abs=1e-4)


def test_options_that_exclude_each_other(train: Callable[..., list[dict]]) -> None:
    with pytest.raises(InputError, match="max_length"):
        train(packing=True, max_length=None)


def test_an_architecture_that_always_computes_all_logits(
    train: Callable[..., list[dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = losses(train("usual"))
    forward = LlamaForCausalLM.forward

    def without(  # as in the remote code of older models
        self: LlamaForCausalLM, input_ids: Any = None, attention_mask: Any = None, use_cache: Any = None
    ) -> Any:
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    monkeypatch.setattr(LlamaForCausalLM, "forward", without)
    assert losses(train("other")) == pytest.approx(expected, abs=1e-4)


def test_the_evaluation_loss_is_that_of_trl(model: str, tmp_path: Path) -> None:
    rows = make_trainer(SFTTrainer, model, tmp_path).train_dataset
    evaluated = [make_trainer(cls, model, tmp_path).evaluate(rows)["eval_loss"] for cls in (SFTTrainer, AnswerTrainer)]
    assert evaluated[1] == pytest.approx(evaluated[0], abs=1e-4)


def test_packed_and_unpacked_rows_have_the_same_loss(model: str, tmp_path: Path) -> None:
    def loss(trainer: SFTTrainer, row: dict, wanted: slice) -> float:
        labels = [label if wanted.start <= i < wanted.stop else -100 for i, label in enumerate(row["labels"])]
        with torch.no_grad():
            return trainer.compute_loss(
                trainer.model.eval(), trainer.data_collator([{**row, "labels": labels}])
            ).item()

    plain = make_trainer(AnswerTrainer, model, tmp_path)
    alone = {tuple(row["input_ids"]): loss(plain, row, slice(0, len(row["input_ids"]))) for row in plain.train_dataset}
    packed = make_trainer(AnswerTrainer, model, tmp_path, packing=True, max_length=256)
    assert len(packed.train_dataset) < len(alone) == 12
    for row in packed.train_dataset:
        start = 0
        for length in row["seq_lengths"]:
            one = slice(start, start + length)
            expected = alone.pop(tuple(row["input_ids"][one]))
            assert loss(packed, row, one) == pytest.approx(expected, abs=2e-5)
            start += length
    assert not alone


@pytest.mark.parametrize("args", [{}, BALANCED])
def test_the_same_seed_gives_the_same_losses(train: Callable[..., list[dict]], args: dict) -> None:
    first = losses(train("a", **args))
    assert first[-1] < first[0]
    assert losses(train("b", **args)) == first
    all_weights = {"use_peft": False}  # nothing is random then but the order of the rows
    assert losses(train("c", None, all_weights, **args)) != losses(train("d", None, all_weights, seed=7, **args))


def test_an_adapter_is_continued_from_its_loss(train: Callable[..., list[dict]], data: Path, tmp_path: Path) -> None:
    write_lines(data / "validation.jsonl", make_instances(5))
    evaluation = {"eval_strategy": "steps", "eval_steps": 8, "max_steps": 8}
    first = scores(train("first", **evaluation), "eval_loss")
    adapter = {"adapter_name_or_path": str(tmp_path / "first")}
    second = scores(train("second", adapter, **evaluation, eval_on_start=True), "eval_loss")
    assert second[0] == pytest.approx(first[-1], abs=1e-5)
    assert second[-1] < second[0]
    assert "the adapter first, continued" in (tmp_path / "second" / "README.md").read_text()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base(train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path, bits: int) -> None:
    write_lines(data / "validation.jsonl", cities(2))
    quantized = {f"load_in_{bits}bit": True, "dtype": "bfloat16"}
    args = {**F1_WHILE_TRAINING, "save_steps": 4, "max_steps": 8, "bf16": True}
    log = train(data_args={"ie_f1_records": 2}, model_args=quantized, **args)
    assert losses(log)[-1] < losses(log)[0]
    assert len(scores(log)) == 2
    assert losses(log) == losses(train("no evaluation", model_args=quantized, **args))
    assert f"{bits} bits" in (tmp_path / "out" / "README.md").read_text()
    train("more", {"adapter_name_or_path": str(tmp_path / "out")}, quantized, max_steps=1, bf16=True)
    # What is saved is an adapter for the base as it was published, too.
    load_model(model, str(tmp_path / "out"), dtype="float32")


def test_the_base_is_quantized(model: str) -> None:
    arguments = ModelConfig(model_name_or_path=model, load_in_4bit=True, bnb_4bit_quant_type="nf4", dtype="bfloat16")
    loaded = load_model(model, quantization_config=get_quantization_config(arguments), dtype="bfloat16")
    layer = loaded.model.layers[0].mlp.up_proj
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.numel() == 32 * 64 // 2  # two weights a byte


def test_a_merged_adapter_gives_the_same_answers(train: Callable[..., list[dict]], model: str, tmp_path: Path) -> None:
    train(max_steps=12)
    requests = [Request(to_prompt(instance)) for instance in make_instances(24)]
    tokenizer = load_tokenizer(model)
    adapted = load_model(model, str(tmp_path / "out"), dtype="float32").eval()
    answers = TransformersEngine(adapted, tokenizer).generate(requests, 24)
    assert TransformersEngine(load_model(model), tokenizer).generate(requests, 24) != answers
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    reloaded = load_model(str(tmp_path / "merged"), dtype="float32").eval()
    assert TransformersEngine(reloaded, tokenizer).generate(requests, 24) == answers
    assert len(set(answers)) > 6


def test_all_weights(train: Callable[..., list[dict]], tmp_path: Path) -> None:
    log = losses(train(model_args={"use_peft": False}))
    assert log[-1] < log[0]
    assert load_model(str(tmp_path / "out"))


def test_linear_layers_alone_and_their_low_rank(
    train: Callable[..., list[dict]], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="not with an adapter"):
        train("adapter", {"linear_layers_only": True})
    train("tuned", {"linear_layers_only": True}, {"use_peft": False})
    base, tuned = (load_model(name, dtype=torch.float32) for name in (model, str(tmp_path / "tuned")))
    before, after = base.state_dict(), tuned.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("proj.weight")}

    monkeypatch.syspath_prepend(ROOT / "recipes" / "smollm2-135m-instruct" / "zero_shot")
    low_rank = importlib.import_module("low_rank")
    ids = torch.tensor([[*range(20, 60)]])
    distances = []
    for rank in (2, 32):
        low_rank.main(low_rank.LowRankOptions(model, [str(tmp_path / "tuned")], tmp_path / f"rank{rank}", rank))
        adapted = load_model(model, str(tmp_path / f"rank{rank}"), dtype=torch.float32)
        with torch.no_grad():
            distances.append(float((adapted(ids).logits - tuned(ids).logits).norm()))
    with torch.no_grad():
        moved = float((base(ids).logits - tuned(ids).logits).norm())
    assert distances[1] < 0.1 * moved and distances[1] < 0.5 * distances[0]


@pytest.mark.parametrize(
    "attention, package",
    [("flash_attention_2", "flash"), ("kernels-community/flash-attn2", "kernels")],
)
def test_missing_flash_attention(train: Callable[..., list[dict]], attention: str, package: str) -> None:
    if find_spec("flash_attn") or find_spec("kernels"):
        pytest.skip("it is there")
    with pytest.raises(InputError, match=f"(?i){package}.*install.*attn_implementation sdpa or varlen") as caught:
        train(model_args={"attn_implementation": attention})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_an_adapter_of_another_model(
    train: Callable[..., list[dict]], model: str, tmp_path: Path, change: dict
) -> None:
    train("adapter", model_args={"lora_target_modules": ["q_proj", "up_proj"]}, max_steps=1)
    other = shutil.copytree(model, tmp_path / "other")
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, **change)).save_pretrained(other)
    with pytest.raises(InputError, match="adapter: not an adapter for .*other") as caught:
        train(
            data_args={"adapter_name_or_path": str(tmp_path / "adapter")},
            model_args={"model_name_or_path": str(other)},
        )
    assert "\n" not in str(caught.value)
