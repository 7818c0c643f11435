"""
`recipes/`: every recipe trains a random model of its own architecture, a few thousand weights large.

What a CPU forces is overridden: the model, `use_cpu` and the number of steps; and the learning rate, so that a few
steps show in the loss of a random model. A new recipe is found and checked by itself; a new base model needs a line in
`MODELS`.
"""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.corpora import ROOT, write_lines
from helpers.launching import FOLDER
from helpers.models import INSTANCES, MODELS, make_config, make_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from trl import SFTTrainer

from iepile_builder.chat import load_tokenizer, to_prompt
from iepile_builder.commands.train import parse
from iepile_builder.engines.attention import register_varlen
from iepile_builder.engines.loading import load_model


RECIPES = sorted((ROOT / "recipes").glob("*/sft/config_*.yaml"))
CONFIGS = {recipe: yaml.safe_load(recipe.read_text(encoding="utf-8")) for recipe in RECIPES}
REMOTE = [recipe for recipe in RECIPES if CONFIGS[recipe].get("trust_remote_code")]
LOCAL = [recipe for recipe in RECIPES if recipe not in REMOTE]
GRPO = sorted((ROOT / "recipes").glob("*/grpo/config_*.yaml"))
ON_GPU = sorted((ROOT / "recipes").glob("**/sft_gpu.yaml"))  # of the shipped adapter and of a study


# Base, chat template and adapter of each published system.
PUBLISHED = {
    "llama2-13b-chat": ("meta-llama/Llama-2-13b-chat-hf", "llama2", "zjunlp/llama2-13b-iepile-lora"),
    "baichuan2-13b-chat": ("baichuan-inc/Baichuan2-13B-Chat", "baichuan2", "zjunlp/baichuan2-13b-iepile-lora"),
    "llama3-8b-instruct": ("meta-llama/Meta-Llama-3-8B-Instruct", "alpaca", "zjunlp/llama3-8b-iepile-lora"),
    "qwen1.5-14b-chat": ("Qwen/Qwen1.5-14B-Chat", "qwen", "zjunlp/qwen1.5-14b-iepile-lora"),
    "oneke": ("zjunlp/OneKE", "llama2_zh", None),
}


def short(recipe: Path) -> str:
    return f"{recipe.parent.parent.name}-{recipe.stem.removeprefix('config_')}"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a random model of the same class, made once."""
    torch.set_num_threads(1)
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("model")
            tokenizer = make_tokenizer(MODELS[name])
            tokenizer.save_pretrained(made[name])
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(make_config(MODELS[name], tokenizer)).save_pretrained(made[name])
        return made[name]

    return make


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes name their chat templates from there."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("recipe", RECIPES, ids=short)
def test_the_recipe_parses(recipe: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(recipe), "--dataset_name", "data", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    data_args, training_args, model_args = parse(arguments)  # refuses unknown keys

    assert training_args.trust_remote_code == recipe.parent.parent.name.startswith("baichuan")
    assert model_args.use_peft != recipe.stem.endswith("full")
    assert model_args.load_in_4bit == recipe.stem.endswith("4bit")
    assert model_args.load_in_8bit == recipe.stem.endswith("8bit")
    assert (data_args.adapter_name_or_path is not None) == recipe.stem.endswith("continue")
    if training_args.chat_template_path is not None:
        assert Path(training_args.chat_template_path).is_file()
    if not model_args.use_peft:
        assert model_args.dtype == "float32"


def test_every_recipe_is_in_the_tables() -> None:
    index = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for recipe in RECIPES:
        folder = recipe.parent.parent
        assert f"({folder.name}/sft/{recipe.name})" in index
        assert f"sft/{recipe.name}" in (folder / "README.md").read_text(encoding="utf-8")
        head = recipe.read_text(encoding="utf-8").partition("\n\n")[0]
        assert f"iepile train --config {folder.name}/sft/{recipe.name} " in head, "the launch command on top"


@pytest.mark.parametrize("recipe", LOCAL + ON_GPU, ids=short)
def test_the_model_takes_the_attention_of_the_recipe(recipe: Path) -> None:
    """On a GPU as well: without a package that `pip install 'iepile-builder[train]'` does not bring."""
    register_varlen()
    config = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    model = AutoModelForCausalLM._model_mapping[MODELS[config["model_name_or_path"]].config]
    attention = config.get("attn_implementation", "sdpa")
    assert attention in ("varlen", "sdpa", "eager")
    assert attention in ("eager", *AttentionInterface().valid_keys())
    assert model._supports_sdpa and model._supports_attention_backend and model._can_set_attn_implementation()
    assert (attention == "varlen") == bool(config.get("packing"))  # sdpa would read each pack as one long row


@pytest.mark.parametrize("recipe", RECIPES + GRPO, ids=short)
def test_as_many_gpus_as_the_title_and_the_table_say(recipe: Path) -> None:
    head = recipe.read_text(encoding="utf-8").partition("\n\n")[0]
    [config] = re.findall(r"--accelerate_config (\w+)", head)
    launched = yaml.safe_load((FOLDER / f"{config}.yaml").read_text(encoding="utf-8"))["num_processes"]
    assert "--num_processes" not in head
    named = re.search(r"(one|\d+) GPUs? of (\d+) GB", head)
    count, gpu = named.groups() if named else ("one", None)
    assert launched == int(count.replace("one", "1"))
    if recipe in RECIPES:
        index = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
        [line] = [line for line in index.splitlines() if f"({recipe.parent.parent.name}/sft/{recipe.name})" in line]
        assert f"| {f'{launched} x ' if launched > 1 else ''}{f'{gpu} GB' if gpu else 'CPU'} |" in line


# Vocabulary, width, layers, width of the MLP, all weights (billions), and whether the head is the embeddings.
SHARDED = {
    "oneke": (55296, 5120, 40, 13824, 13.25, False),
    "qwen3-4b": (151936, 2560, 36, 9728, 4.02, True),
    "qwen3-8b": (151936, 4096, 36, 12288, 8.19, False),
    "llama3.1-8b-instruct": (128256, 4096, 32, 14336, 8.03, False),
    "smollm3-3b": (128256, 2048, 36, 11008, 3.08, True),
}


@pytest.mark.parametrize("name", SHARDED)
def test_the_memory_of_sharded_weights(name: str) -> None:
    """Section "Memory" of `recipes/README.md`, and a fifth to spare on the GPUs of the table."""
    vocabulary, width, layers, mlp, weights, is_tied = SHARDED[name]
    config = CONFIGS[ROOT / "recipes" / name / "sft" / "config_full.yaml"]
    tokens = config["per_device_train_batch_size"] * config["max_length"]
    head = vocabulary * width
    layer = (weights * 1e9 - head * (1 if is_tied else 2)) / layers
    gathered = 4 * 2 * layer + 10 * head + (0 if is_tied else 4 * head)
    activations = tokens * (2 * width * layers + 40 * width + 16 * mlp)
    estimate = (16 * weights * 1e9 / 4 + gathered + activations) / 1e9
    readme = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    said, gpu = re.search(rf"\({name}/sft/config_full.yaml\) \| .*? \| (\d+) GB \| 4 x (\d+) GB", readme).groups()
    assert int(said) == round(estimate)
    assert 1.25 * estimate <= int(gpu)


# Vocabulary, width, layers, heads, heads of keys, size of a head, width of the MLP, and whether the head is tied.
SHAPES = {
    "llama2-13b-chat": (32000, 5120, 40, 40, 40, 128, 13824, False),
    "llama3-8b-instruct": (128256, 4096, 32, 32, 8, 128, 14336, False),
    "qwen1.5-14b-chat": (152064, 5120, 40, 40, 40, 128, 13696, False),
    "oneke": (55296, 5120, 40, 40, 40, 128, 13824, False),
    "baichuan2-13b-chat": (125696, 5120, 40, 40, 40, 128, 13696, False),
    "qwen3-0.6b": (151936, 1024, 28, 16, 8, 128, 3072, True),
    "qwen3-4b": (151936, 2560, 36, 32, 8, 128, 9728, True),
    "qwen3-8b": (151936, 4096, 36, 32, 8, 128, 12288, False),
    "llama3.1-8b-instruct": (128256, 4096, 32, 32, 8, 128, 14336, False),
    "gemma3-270m-it": (262144, 640, 18, 4, 1, 256, 2048, True),
    "gemma3-4b-it": (262208, 2560, 34, 8, 4, 256, 10240, True),
    "smollm3-3b": (128256, 2048, 36, 16, 4, 128, 11008, True),
}


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES if r.parent.parent.name in SHAPES and not r.stem.endswith("full")], ids=short
)
def test_the_memory_of_an_adapter(recipe: Path) -> None:
    """Section "Memory" of `recipes/README.md`, in both tables, and about a fifth to spare on the GPU."""
    name, config = recipe.parent.parent.name, CONFIGS[recipe]
    vocabulary, width, layers, heads, kv_heads, size, mlp, is_tied = SHAPES[name]
    of_layer = [(width, heads * size)] * 2 + [(width, kv_heads * size)] * 2 + [(width, mlp)] * 3  # both sides of each
    linear = layers * sum(one * other for one, other in of_layer)
    linear += 0.42e9 if name == "gemma3-4b-it" else 0  # the vision tower
    adapter = config["lora_r"] * layers * sum(map(sum, of_layer))
    bits = 4 if config.get("load_in_4bit") else 8 if config.get("load_in_8bit") else None
    tokens = config["per_device_train_batch_size"] * config["max_length"]
    estimate = {None: 2, 8: 1, 4: 0.52}[bits] * linear + 2 * vocabulary * width * (1 if is_tied else 2)
    estimate += adapter * (8 if bits else 16) + tokens * (2 * width * layers + 40 * width + 16 * mlp)
    for readme, folder in (("README.md", f"{name}/"), (f"{name}/README.md", "")):
        text = (ROOT / "recipes" / readme).read_text(encoding="utf-8")
        row = re.search(rf"\({folder}sft/{recipe.name}\) \| .*? \| ([\d.]+) GB \| (?:4 x )?(\d+) GB", text)
        said, gpu = row.groups()
        assert float(said) == float(f"{estimate / 1e9:.2g}")
        assert estimate / 1e9 < 0.84 * int(gpu)


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.parent.parent.name in PUBLISHED], ids=short)
def test_the_published_hyperparameters(recipe: Path) -> None:
    config = CONFIGS[recipe]
    folder, method = recipe.parent.parent.name, recipe.stem.removeprefix("config_")
    base, template, adapter = PUBLISHED[folder]
    assert config["model_name_or_path"] == base
    assert config["chat_template_path"] == f"recipes/chat_templates/{template}.jinja"
    assert config.get("adapter_name_or_path") == (adapter if method == "continue" else None)
    assert config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * 4 == 32
    assert (config["learning_rate"], config["num_train_epochs"], config["max_grad_norm"]) == (5e-5, 10, 0.5)
    assert (config["train_sampling_strategy"], config["bf16"]) == ("group_by_length", True)
    if method != "full":
        assert (config["lora_r"], config["lora_alpha"]) == (64, 64), "those of the published adapters"
        assert config["lora_dropout"] == 0.05
        baichuan = ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"]
        assert config["lora_target_modules"] == (baichuan if folder.startswith("baichuan") else "all-linear")


@pytest.mark.parametrize("recipe", LOCAL, ids=short)
def test_the_recipe_trains(
    recipe: Path, tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[recipe]
    base = tiny_model(config["model_name_or_path"])
    data = write_lines(tmp_path / "data" / "train.jsonl", INSTANCES).parent
    out = tmp_path / "out"
    options = {
        "--config": recipe,
        "--model_name_or_path": base,
        "--dataset_name": data,
        "--output_dir": out,
        "--use_cpu": "true",
        "--learning_rate": 1e-2,
        "--max_steps": 6,
        "--logging_steps": 1,
        "--save_strategy": "no",
    }
    if "adapter_name_or_path" in config:
        options["--adapter_name_or_path"] = make_adapter(base, config, tmp_path / "adapter")
    seen: list[SFTTrainer] = []
    train = SFTTrainer.train
    monkeypatch.setattr(SFTTrainer, "train", lambda self, **kwargs: seen.append(self) or train(self, **kwargs))
    monkeypatch.setattr(sys, "argv", ["sft.py", *(str(part) for option in options.items() for part in option)])
    runpy.run_path(str(ROOT / "scripts" / "sft.py"), run_name="__main__")

    # What is learned is each answer and the token that ends it.
    [trainer] = seen
    tokenizer = load_tokenizer(str(out))
    end = config.get("eos_token", tokenizer.eos_token)
    labels = [label for row in trainer.train_dataset["labels"] for label in row if label != -100]
    assert sorted(part.strip() for part in tokenizer.decode(labels).split(end) if part.strip()) == sorted(
        instance["output"] for instance in INSTANCES
    )
    if tokenizer.bos_token in ("<s>", "<|begin_of_text|>", "<bos>"):
        ids = [token for row in trainer.train_dataset["input_ids"] for token in row]
        assert ids.count(tokenizer.bos_token_id) == len(INSTANCES)
    assert type(trainer.model.get_base_model() if config.get("use_peft") else trainer.model) is type(
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    )

    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 6
    assert losses[-1] < 0.95 * losses[0]

    if config.get("use_peft"):
        adapter = LoraConfig.from_pretrained(str(out))
        assert (adapter.r, adapter.lora_alpha) == (config["lora_r"], config["lora_alpha"])
        adapted = [name for name, _ in trainer.model.named_modules() if name.endswith(".lora_A")]
        # Query, key, value, output; gate, up, down: of both layers, and of nothing else.
        assert len(adapted) == 2 * 7
        reloaded = load_model(str(base), str(out), dtype=config["dtype"])
    else:
        reloaded = load_model(str(out), dtype=config["dtype"])
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    loaded = dict(reloaded.named_parameters())
    assert trained
    for name, weight in trained.items():
        kept = weight if config.get("use_peft") else weight.bfloat16()
        assert torch.equal(loaded[name].float(), kept.float()), name

    prompt = tokenizer.apply_chat_template(to_prompt(INSTANCES[0]), add_generation_prompt=True, return_tensors="pt")
    length = prompt["input_ids"].shape[1]
    assert length < reloaded.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] <= length + 4


def make_adapter(base: Path, config: dict[str, Any], folder: Path) -> Path:
    """One of the rank and on the modules that the recipe says the published adapter has."""
    lora = LoraConfig(
        r=config["lora_r"], lora_alpha=config["lora_alpha"], target_modules=config["lora_target_modules"]
    )
    model = get_peft_model(load_model(str(base)), lora)
    model.save_pretrained(folder)
    return folder
