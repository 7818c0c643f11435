"""What a machine with GPUs changes, seen without one: devices, processes, sharding, the precision of what is kept."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils.launch import prepare_multi_gpu_env
from helpers.launching import FOLDER, launch_arguments
from helpers.training import CONFIG, LORA, losses
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
from trl import ModelConfig, SFTConfig

from iepile_builder import InputError
from iepile_builder.commands import train as commands_train
from iepile_builder.commands import training
from iepile_builder.engines.loading import load_model
from iepile_builder.training import trainer
from iepile_builder.training.trainer import load_trainable, set_up_processes


@pytest.fixture
def args(tmp_path: Any) -> SFTConfig:
    return SFTConfig(**{**CONFIG, "output_dir": str(tmp_path)})


def test_one_process_uses_one_of_several_gpus(args: SFTConfig) -> None:
    args._n_gpu = 4
    set_up_processes(args)
    assert args.n_gpu == 1 and args.train_batch_size == CONFIG["per_device_train_batch_size"]


@pytest.mark.parametrize("computes, lines", [(True, 0), (False, 1)])
def test_a_gpu_that_emulates_bfloat16_is_told(
    args: SFTConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, computes: bool, lines: int
) -> None:
    """A T4, for example: transformers takes `bf16: true` there."""
    args.bf16 = True
    set_up_processes(args)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: computes)
    set_up_processes(args)
    assert capsys.readouterr().out.count("--bf16 false --fp16 true") == lines


def test_an_adapter_that_fsdp_would_save_empty(
    args: SFTConfig, loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules="all-linear"))
    assert len(get_peft_model_state_dict(model)) == 14
    layer = model.base_model.model.model.layers[0]
    model.set_submodule("base_model.model.model.layers.0", checkpoint_wrapper(layer))  # as accelerate does
    assert not get_peft_model_state_dict(model), "PEFT saves it by now: allow it"

    arguments = launch_arguments(FOLDER / "fsdp2.yaml")
    arguments.fsdp_activation_checkpointing = "true"
    for key, value in prepare_multi_gpu_env(arguments).items():
        if key.startswith(("FSDP", "ACCELERATE_USE")):
            monkeypatch.setenv(key, value)
    adapted = ModelConfig("model", use_peft=True)
    for model_args, adapter in ((adapted, None), (ModelConfig("model"), "adapter")):
        with pytest.raises(InputError, match="--activation_checkpointing true"):
            load_trainable(model_args, args, adapter)
    load_trainable(ModelConfig("model"), args, None)
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "false")
    load_trainable(adapted, args, None)
    args.fsdp_plugin_args = {"activation_checkpointing": True}
    with pytest.raises(InputError, match="fsdp_activation_checkpointing"):
        load_trainable(adapted, args, None)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments that the model is loaded with, on the second GPU of a machine."""
    kept: dict[str, Any] = {}

    def load(*names: Any, **kwargs: Any) -> Any:
        kept.clear()
        kept.update(kwargs)
        return SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: None, to_dict=dict))

    monkeypatch.setattr(trainer, "load_model", load)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cuda:1"))
    return kept


def test_weights_are_read_to_the_gpu_of_the_process(
    args: SFTConfig, loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_trainable(ModelConfig("model"), args, None)
    assert loaded["device_map"] == {"": torch.device("cuda:1")}
    assert args.ddp_find_unused_parameters is None  # of a model with more than text: its config is not that of text
    assert loaded["autocast_adapter_dtype"]

    for stage in (2, 3):
        args.deepspeed_plugin = SimpleNamespace(zero_stage=stage)
        for quantized in (False, True):
            load_trainable(ModelConfig("model", load_in_4bit=quantized), args, "adapter")
            assert loaded["device_map"] is None
            assert loaded["autocast_adapter_dtype"] == (stage == 2 or quantized)

    args.deepspeed_plugin = None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    load_trainable(ModelConfig("model"), args, None)
    assert loaded["device_map"] is None


def test_on_a_cpu_nothing_is_mapped(args: SFTConfig, model: str) -> None:
    assert not hasattr(load_trainable(ModelConfig(model), args, None), "hf_device_map")
    assert args.ddp_find_unused_parameters is False


def test_the_processes_are_left_before_the_push(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they wait for the first one in their end, until the group's time is out."""
    order: list[str] = []
    monkeypatch.setattr(training, "push_folder", lambda *args, **kwargs: order.append("push"))
    monkeypatch.setattr(commands_train, "take_push", lambda *args: "user/name")
    leave = trainer.end
    monkeypatch.setattr(trainer, "end", lambda each: order.append("end") or leave(each))
    train("out", max_steps=1)
    assert order == ["end", "push"]


def test_an_adapter_of_one_type_with_its_base(train: Any, model: str, tmp_path: Any) -> None:
    train("adapter", max_steps=1)
    for autocast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        peft_model = load_model(model, str(tmp_path / "adapter"), True, autocast, dtype=torch.bfloat16)
        assert {weight.dtype for name, weight in peft_model.named_parameters() if "lora" in name} == {dtype}


@pytest.mark.parametrize("bf16, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_all_weights_are_kept_in_the_precision_of_the_training(
    train: Any, tmp_path: Any, bf16: bool, dtype: torch.dtype
) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "bf16": bf16}
    train("out", model_args={"use_peft": False, "dtype": "float32"}, **options)
    kept, resumed = load_model(str(tmp_path / "out"), dtype="auto"), load_model(str(tmp_path / "out" / "checkpoint-2"))
    assert kept.dtype == dtype
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert size < 2.5 * kept.num_parameters() if bf16 else size > 4 * kept.num_parameters()
    for name, weight in resumed.named_parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(kept.get_parameter(name), weight.to(dtype))


def test_the_adapter_of_a_run_stays_float32(train: Any, model: str, tmp_path: Any) -> None:
    train("out", model_args=LORA, max_steps=1, bf16=True)
    file = tmp_path / "out" / "adapter_model.safetensors"
    from safetensors.torch import load_file

    assert {weight.dtype for weight in load_file(file).values()} == {torch.float32}


@pytest.mark.parametrize("bits", [None, 4])
def test_in_float16_the_adapter_is_trained_in_float32(train: Any, tmp_path: Any, bits: int | None) -> None:
    """A T4 computes in float16, and the scaler of gradients takes no bfloat16, to which TRL brings QLoRA's adapter."""
    quantized = {} if bits is None else {"load_in_4bit": True}
    log = train("out", model_args={**LORA, **quantized, "dtype": "float16"}, fp16=True)
    assert losses(log)[-1] < losses(log)[0]
    file = tmp_path / "out" / "adapter_model.safetensors"
    from safetensors.torch import load_file

    assert {weight.dtype for weight in load_file(file).values()} == {torch.float32}
