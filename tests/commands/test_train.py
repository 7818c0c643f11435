"""`scripts/sft.py`: what is learned, what is dropped, what is kept, and how it goes on."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from helpers.corpora import ROOT, assert_one_clear_line, write_lines
from helpers.tiny import CHATML, load_script, make_instances, save_tiny_model
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from trl import ModelConfig, SFTConfig, SFTTrainer, get_quantization_config

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer, to_prompt
from iepile_builder.engines.base import Request
from iepile_builder.engines.loading import load_model
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.scoring.scorer import score


@pytest.fixture(scope="module")
def sft() -> ModuleType:
    return load_script("sft")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_lines(tmp_path / "data" / "train.jsonl", make_instances(24))
    return tmp_path / "data"


@pytest.fixture
def train(sft: ModuleType, model: str, data: Path, tmp_path: Path) -> Callable[..., list[dict]]:
    """Train as the program does, and return the log."""

    def run(
        output: str = "out", data_args: dict | None = None, model_args: dict | None = None, **args: object
    ) -> list:
        data_arguments = sft.DataArguments(**{"dataset_name": str(data), **(data_args or {})})
        training_arguments = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path / output), **args})
        sft.main(
            data_arguments,
            training_arguments,
            ModelConfig(**{**LORA, "model_name_or_path": model, **(model_args or {})}),
        )
        return json.loads((tmp_path / output / "trainer_state.json").read_text())["log_history"]

    return run


CONFIG = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
# Random rows, those of a step split by length
BALANCED = {
    "train_sampling_strategy": "batch_rebalance",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
}
LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "lora_target_modules": ["all-linear"]}


def losses(log: list[dict]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def make_trainer(cls: type[SFTTrainer], sft: ModuleType, model: str, folder: Path, **args: object) -> SFTTrainer:
    tokenizer = load_tokenizer(model)
    rows = sft.prepare(Dataset.from_list(make_instances(12)), "train", tokenizer, None, None)
    return cls(
        model=load_model(model),
        args=SFTConfig(**{**CONFIG, "output_dir": str(folder), **args}),
        train_dataset=rows,
        processing_class=tokenizer,
    )


def test_only_the_answer_and_its_end_token_are_learned(sft: ModuleType, model: str, tmp_path: Path) -> None:
    trainer = make_trainer(sft.AnswerTrainer, sft, model, tmp_path)
    tokenizer = trainer.processing_class
    for row, instance in zip(trainer.train_dataset, make_instances(12), strict=True):
        learned = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(learned) == instance["output"] + tokenizer.eos_token
        assert len(row["input_ids"]) == row["length"]


@pytest.mark.parametrize(
    "args", [{}, {"gradient_accumulation_steps": 3}, {"packing": True, "max_length": 256}, BALANCED]
)
def test_the_loss_is_that_of_trl(sft: ModuleType, model: str, tmp_path: Path, args: dict) -> None:
    found, scored = {}, {}
    for cls in (SFTTrainer, sft.AnswerTrainer):
        trainer = make_trainer(cls, sft, model, tmp_path, **args)
        head = trainer.model.get_output_embeddings()
        positions: list[int] = []
        head.register_forward_hook(lambda module, inputs, output, seen=positions: seen.append(output.shape[1]))
        trainer.train()
        found[cls] = losses(trainer.state.log_history) + [
            entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry
        ]
        scored[cls] = positions
    assert found[sft.AnswerTrainer] == pytest.approx(found[SFTTrainer], abs=1e-4)
    answer = max(len(load_tokenizer(model)(row["output"])["input_ids"]) for row in make_instances(12))
    if not args:  # most of each row is prompt, and no logits are computed there
        assert max(scored[sft.AnswerTrainer]) < 3 * answer


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


def test_the_evaluation_loss_is_that_of_trl(sft: ModuleType, model: str, tmp_path: Path) -> None:
    rows = make_trainer(SFTTrainer, sft, model, tmp_path).train_dataset
    evaluated = [
        make_trainer(cls, sft, model, tmp_path).evaluate(rows)["eval_loss"] for cls in (SFTTrainer, sft.AnswerTrainer)
    ]
    assert evaluated[1] == pytest.approx(evaluated[0], abs=1e-4)


@pytest.mark.parametrize("packing", [True, False])
def test_no_answer_is_cut(sft: ModuleType, model: str, tmp_path: Path, packing: bool) -> None:
    tokenizer = load_tokenizer(model)
    instances = make_instances(24)
    lengths = sft.prepare(Dataset.from_list(instances), "train", tokenizer, None, None)["length"]
    limit = sorted(lengths)[15]
    rows = sft.prepare(Dataset.from_list(instances), "train", tokenizer, None, limit)
    args = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path), "packing": packing, "max_length": limit})
    trainer = sft.AnswerTrainer(model=load_model(model), args=args, train_dataset=rows, processing_class=tokenizer)
    learned = "".join(
        tokenizer.decode([label for label in row["labels"] if label != -100]) for row in trainer.train_dataset
    )
    kept = [row["output"] for row, length in zip(instances, lengths, strict=True) if length <= limit]
    assert len(kept) == len(rows) < 24
    assert sorted(learned.split(tokenizer.eos_token)) == sorted(["", *kept])


def test_packed_and_unpacked_rows_have_the_same_loss(sft: ModuleType, model: str, tmp_path: Path) -> None:
    def loss(trainer: SFTTrainer, row: dict, wanted: slice) -> float:
        labels = [label if wanted.start <= i < wanted.stop else -100 for i, label in enumerate(row["labels"])]
        with torch.no_grad():
            return trainer.compute_loss(
                trainer.model.eval(), trainer.data_collator([{**row, "labels": labels}])
            ).item()

    plain = make_trainer(sft.AnswerTrainer, sft, model, tmp_path)
    alone = {tuple(row["input_ids"]): loss(plain, row, slice(0, len(row["input_ids"]))) for row in plain.train_dataset}
    packed = make_trainer(sft.AnswerTrainer, sft, model, tmp_path, packing=True, max_length=256)
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


def test_what_is_kept(train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path) -> None:
    template = tmp_path / "other.jinja"
    template.write_text(
        CHATML.replace("im_start|>'", "im_start|>' + 'the '").replace("|>assistant", "|>the assistant")
    )
    write_lines(data / "validation.jsonl", cities(2))
    log = train(data_args={"ie_f1_records": 2}, chat_template_path=str(template), **F1_WHILE_TRAINING)
    out = tmp_path / "out"
    assert load_file(out / "adapter_model.safetensors")
    assert load_tokenizer(str(out)).chat_template == template.read_text()

    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "peft" and card.data.base_model is None
    kept = [entry for entry in log if "eval_loss" in entry][-1]  # none answers anything yet: the last is kept
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {"ie_f1": 0, "loss": pytest.approx(kept["eval_loss"], abs=1e-4)}
    for text in ("24 instances of data", "LoRA of rank 4", "4 rows x 1 accumulated x 1", "those of step 6", "0.01"):
        assert text in card.text
    for entry in log:
        if "eval_loss" in entry or "loss" in entry:
            assert f"{entry.get('loss', entry.get('eval_loss')):.4f}" in card.text
    assert str(tmp_path) not in card.content


def test_rows_that_are_too_long_are_dropped_and_counted(
    sft: ModuleType, train: Callable[..., list[dict]], model: str, capsys: pytest.CaptureFixture
) -> None:
    rows = sft.prepare(Dataset.from_list(make_instances(24)), "train", load_tokenizer(model), None, None)
    limit = sorted(rows["length"])[11]
    kept = sum(length <= limit for length in rows["length"])
    train(max_length=limit)
    assert f"train: {kept} rows" in capsys.readouterr().out
    with pytest.raises(InputError, match="--max_length"):
        train(max_length=5)


def test_a_subset_of_the_rows(sft: ModuleType, model: str, capsys: pytest.CaptureFixture) -> None:
    rows = sft.prepare(Dataset.from_list(make_instances(24)), "train", load_tokenizer(model), ["NER"], None)
    assert len(rows) == 16
    some = sft.take_tokens(rows, sum(rows["length"]) // 2, seed=1)
    assert sum(rows["length"]) // 4 < sum(some["length"]) <= sum(rows["length"]) // 2
    assert some.to_list() == sft.take_tokens(rows, sum(rows["length"]) // 2, seed=1).to_list()
    assert some.to_list() != sft.take_tokens(rows, sum(rows["length"]) // 2, seed=2).to_list()
    with pytest.raises(InputError, match="KG"):
        sft.prepare(Dataset.from_list(make_instances(24)), "train", load_tokenizer(model), ["KG"], None)


def test_rows_set_aside_for_evaluation(
    train: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(InputError, match="--val_set_size"):
        train(eval_strategy="steps", eval_steps=4)
    log = train(data_args={"val_set_size": 6}, eval_strategy="steps", eval_steps=4)
    assert any("eval_loss" in entry for entry in log)
    printed = capsys.readouterr().out
    assert "train: 18 rows" in printed
    assert "validation: 6 rows" in printed

    write_lines(data / "validation.jsonl", make_instances(5))
    train("own", data_args={"val_set_size": 6, "max_eval_samples": 3}, eval_strategy="steps", eval_steps=4)
    printed = capsys.readouterr().out
    assert "train: 24 rows" in printed
    assert "validation: 3 rows" in printed


@pytest.mark.parametrize("sampling", [{}, BALANCED])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
    sampling: dict,
) -> None:  # fmt: skip
    args = {**CONFIG, **sampling, "save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    lora = {**LORA, "lora_dropout": 0.1, "model_name_or_path": model}
    killed = tmp_path / "killed"
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from helpers.tiny import load_script
from trl import ModelConfig, SFTConfig
sft = load_script("sft")
step = sft.AnswerTrainer.training_step
def training_step(trainer, *args, **kwargs):
    if trainer.state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trainer, *args, **kwargs)
sft.AnswerTrainer.training_step = training_step
sft.main(sft.DataArguments({str(data)!r}), SFTConfig(**{ {**args, "output_dir": str(killed)} }), ModelConfig(**{lora}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [folder.name for folder in killed.iterdir() if folder.is_dir()] == ["checkpoint-2"]
    shutil.copytree(killed / "checkpoint-2", killed / "checkpoint-4")  # as if it was killed while it saved, too
    (killed / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 0.')

    resumed = train("killed", model_args=lora, **args)
    assert "checkpoint-2;" in capsys.readouterr().out
    whole = train("whole", model_args=lora, **args)
    assert losses(resumed) == losses(whole)  # six steps are an epoch
    assert len(losses(whole)) == 8
    adapters = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed")]
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, rtol=0, atol=0)


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


def test_bad_input(train: Callable[..., list[dict]], data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(str(data))):
        train(model_args={"model_name_or_path": str(data)})
    write_lines(tmp_path / "rows.jsonl", [{"text": "Rome", "entity": []}])
    with pytest.raises(InputError, match="rows.jsonl.*instruction"):
        train(data_args={"dataset_name": str(tmp_path / "rows.jsonl")})


@pytest.mark.parametrize("arguments, part", [(("--config", "config.yaml"), "lora_rank"), ((), "--use_cpu")])
def test_arguments_that_cannot_be(run_script: Callable, tmp_path: Path, arguments: tuple[str, ...], part: str) -> None:
    """The second asks for the default, bfloat16, where there is no GPU."""
    if part == "--use_cpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "config.yaml").write_text("lora_rank: 4\nuse_cpu: true\n")
    done = run_script("sft.py", "--output_dir", "out", "--dataset_name", "data", *arguments, check=False)
    assert_one_clear_line(done, part)


@pytest.mark.parametrize(
    "attention, package",
    [("flash_attention_2", "flash"), ("kernels-community/flash-attn2", "kernels")],
)
def test_missing_flash_attention(train: Callable[..., list[dict]], attention: str, package: str) -> None:
    if find_spec("flash_attn") or find_spec("kernels"):
        pytest.skip("it is there")
    with pytest.raises(InputError, match=f"(?i){package}.*install") as caught:
        train(model_args={"attn_implementation": attention})
    assert "\n" not in str(caught.value)


def test_no_chat_template(train: Callable[..., list[dict]], model: str, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="--chat_template_path"):
        train(model_args={"model_name_or_path": str(bare)})


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


def test_a_full_disk(train: Callable[..., list[dict]], tmp_path: Path) -> None:
    """The adapter is written, the larger state of the optimizer is not: files are limited to a size between them."""
    args = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = losses(train("whole", **args))
    sizes = [
        (tmp_path / "whole" / "checkpoint-2" / name).stat().st_size
        for name in ("adapter_model.safetensors", "optimizer.pt")
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (sum(sizes) // 2, sizes[0] // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(InputError, match="full: cannot be written to.* MB are free"):
                train("full", **args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert losses(train("full", **args)) == whole


@pytest.mark.parametrize("sampling", [{}, BALANCED])
def test_two_processes_learn_what_one_does(
    train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path, sampling: dict
) -> None:
    write_lines(data / "train.jsonl", [*cities(8, "train"), *make_instances(8)])  # an epoch of six steps
    write_lines(data / "validation.jsonl", cities(5))
    args = {**F1_WHILE_TRAINING, "save_steps": 6, "max_steps": 24}
    whole = train("one", {"ie_f1_records": 5}, {"use_peft": False}, **args, **sampling)

    arguments = {**CONFIG, **args, **sampling, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 2}
    arguments |= {"ddp_backend": "gloo", "ie_f1_records": 5}
    arguments |= {"model_name_or_path": model, "dataset_name": str(data), "output_dir": str(tmp_path / "two")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(arguments))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(ROOT / "scripts" / "sft.py"), "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    log = json.loads((tmp_path / "two" / "trainer_state.json").read_text())["log_history"]
    assert losses(log) == pytest.approx(losses(whole), abs=2e-4)
    assert scores(log) == scores(whole)
    assert len(scores(log)) == 4 and scores(log)[-1] > 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-4)


def test_a_process_leaves_the_others_with_nothing_that_uses_them(sft: ModuleType, model: str, tmp_path: Path) -> None:
    """Else it may never end; in a group of one process, in place of what `torchrun` starts."""
    trainer = make_trainer(sft.AnswerTrainer, sft, model, tmp_path)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    trainer.model_wrapped = DistributedDataParallel(trainer.model)
    trainer.accelerator._models.append(trainer.model_wrapped)
    alive = weakref.ref(trainer.model_wrapped)
    sft.end(trainer)
    assert alive() is None
    assert not torch.distributed.is_initialized()


def test_several_processes_that_accelerate_makes_one(data: Path, model: str, tmp_path: Path) -> None:
    settings = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "use_cpu": True}
    settings |= {"num_machines": 1, "num_processes": 2, "machine_rank": 0, "mixed_precision": "no"}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--quiet",
        "--config_file",
        str(tmp_path / "two.yaml"),
    ]
    arguments = ["--dataset_name", str(data), "--model_name_or_path", model, "--output_dir", str(tmp_path / "out")]
    command = [*launch, str(ROOT / "scripts" / "sft.py"), *arguments, "--use_cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert_one_clear_line(done, "torchrun", "accelerate")


def test_trackio(train: Callable[..., list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = pytest.importorskip("trackio.sqlite_storage")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path)
    log = train(report_to="trackio", project="ie", run_name="a run")
    (tmp_path / "ie.db").stat()
    recorded = [
        entry["train/loss"] for entry in storage.SQLiteStorage.get_logs("ie", "a run") if "train/loss" in entry
    ]
    assert recorded == losses(log)


def test_tensorboard(train: Callable[..., list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    log = train(report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses(log))


def test_wandb(train: Callable[..., list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(report_to="wandb", run_name="a run")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def cities(count: int, split: str = "test", text: str = "They left for Rome at dawn.") -> list[dict]:
    """Records whose answer is always the same, each asked in two batches."""
    asked = [("city", '{"city": ["Rome"]}'), ("river", '{"river": []}')]
    return [
        {
            "id": f"{split} {index}",
            "task": "NER",
            "source": "trips",
            "instruction": f'{{"instruction": "Find them.", "schema": ["{label}"], "input": "{index}: {text}"}}',
            "output": output,
            "label": '[{"entity": "Rome", "entity_type": "city"}]',
        }
        for index in range(count)
        for label, output in asked
    ]


def scores(log: list[dict], name: str = "eval_ie_f1") -> list[float]:
    return [entry[name] for entry in log if name in entry]


F1_WHILE_TRAINING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "per_device_eval_batch_size": 3}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_f1_rises_while_it_learns_and_is_that_of_the_checkpoint(
    train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path, attention: str
) -> None:
    write_lines(data / "train.jsonl", cities(12, "train"))
    write_lines(data / "validation.jsonl", cities(5))
    args = {**F1_WHILE_TRAINING, "save_steps": 10, "max_steps": 30, "eval_on_start": True}
    model_args = {"use_peft": False, "attn_implementation": attention}
    log = train(data_args={"ie_f1_records": 5}, model_args=model_args, **args)
    assert scores(log)[0] == 0
    assert scores(log)[-1] == scores(log, "eval_ie_valid_json")[-1] == 100
    assert len(scores(log)) == 4

    # The same answers from the checkpoint on its own
    trained = load_model(str(tmp_path / "out" / "checkpoint-10"), dtype="float32").eval()
    requests = [Request(to_prompt(instance)) for instance in cities(5)]
    answers = TransformersEngine(trained, load_tokenizer(model), batch_size=3).generate(requests, 30)
    overall = score({**row, "output": answer.text} for row, answer in zip(cities(5), answers, strict=True))["overall"]
    for name in ("f1", "precision", "recall"):
        assert scores(log, f"eval_ie_{name}")[1] == overall[name]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_f1_does_not_change_what_is_learned(train: Callable[..., list[dict]], data: Path, checkpointing: bool) -> None:
    write_lines(data / "validation.jsonl", cities(3))
    args = {
        "activation_checkpointing": checkpointing,
        **F1_WHILE_TRAINING,
        "packing": True,
        "max_length": 256,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    dropout = {"lora_dropout": 0.1}
    plain = train("plain", model_args=dropout, **args)
    assert losses(train("scored", {"ie_f1_records": 2}, dropout, **args)) == losses(plain)
    assert not scores(plain)


@pytest.mark.parametrize("best", [2, 4, None])
def test_the_checkpoint_with_the_best_f1_is_kept(
    sft: ModuleType, train: Callable[..., list[dict]], data: Path, tmp_path: Path, best: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def answer(trainer: SFTTrainer, questions: Any) -> list[str]:
        right = trainer.state.global_step == best  # else all are equal, and the last one is kept
        return [instance["output"] if right else "{}" for instance in questions.instances]

    monkeypatch.setattr(sft.AnswerTrainer, "answer", answer)
    write_lines(data / "validation.jsonl", cities(3))
    log = train(data_args={"ie_f1_records": 2}, **F1_WHILE_TRAINING)
    assert scores(log) == [100 if step == best else 0 for step in (2, 4, 6)]
    kept = load_file(tmp_path / "out" / "adapter_model.safetensors")
    folders = sorted(tmp_path.glob("out/checkpoint-*"))
    assert len(folders) == 3
    for folder in folders:
        same = all(
            torch.equal(kept[name], weight) for name, weight in load_file(folder / "adapter_model.safetensors").items()
        )
        assert same == (folder.name == f"checkpoint-{best or 6}")


def test_records_are_taken_whole(sft: ModuleType, model: str, capsys: pytest.CaptureFixture) -> None:
    tokenizer = load_tokenizer(model)
    arguments = sft.DataArguments(dataset_name="", tasks=["NER"], ie_f1_records=4)
    rows = [*cities(6), *cities(2, "long", "by train " * 40)]
    taken = sft.take_records(Dataset.from_list(rows), tokenizer, arguments, 200, seed=3)
    ids = [instance["id"] for instance in taken.instances]
    assert len(ids) == 8 and all(ids.count(name) == 2 and name.startswith("test") for name in ids)
    assert taken.score([instance["output"] for instance in taken.instances])["f1"] == 100
    assert "IE F1 on 4 of 8 validation records, 8 answers" in capsys.readouterr().out
    # Training rows have neither an id nor the record's annotation: each is scored by its own answer.
    columns = ["task", "instruction", "output"]
    taken = sft.take_records(Dataset.from_list(rows[:6]).select_columns(columns), tokenizer, arguments, None, seed=3)
    assert len(taken.instances) == 4
    assert taken.score([instance["output"] for instance in taken.instances])["f1"] == 100
    with pytest.raises(InputError, match="task"):
        sft.take_records(Dataset.from_list(rows).select_columns(["output"]), tokenizer, arguments, None, seed=3)


def test_records_that_do_not_fit_the_context(train: Callable[..., list[dict]], data: Path) -> None:
    write_lines(data / "validation.jsonl", cities(2))
    with pytest.raises(InputError, match="--ie_f1_max_new_tokens"):
        train(data_args={"ie_f1_records": 2, "ie_f1_max_new_tokens": 500}, **F1_WHILE_TRAINING)


def test_the_loss_of_the_records_that_are_answered(
    train: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture
) -> None:
    write_lines(data / "validation.jsonl", cities(6))
    for more, rows in ({}, 4), ({"max_eval_samples": 7}, 7):
        with pytest.raises(InputError, match="no model"):
            train(data_args={"ie_f1_records": 2, **more}, model_args={"attn_implementation": "none"}, save_steps=2,
                  save_strategy="steps")  # fmt: skip
        assert f"validation: {rows} rows" in capsys.readouterr().out


def test_when_f1_is_computed(sft: ModuleType, tmp_path: Path) -> None:
    config = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path)})
    with pytest.raises(InputError, match="--eval_strategy"):
        sft.keep_best(config)
    config = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path), "save_strategy": "epoch", "eval_strategy": "steps"})
    sft.keep_best(config)  # does not fit: F1 is reported, and the last model kept
    assert not config.load_best_model_at_end
