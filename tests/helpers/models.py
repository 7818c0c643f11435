"""Small random models of the class of each recipe's base model, with tokenizers of their kind."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from helpers.corpora import ROOT


class Model(NamedTuple):
    config: type[PreTrainedConfig]
    special_tokens: dict[str, str]
    # The file of TRL that holds the model's own chat template, where the recipe leaves it in place.
    template: str | None = None
    options: dict[str, Any] = {}


_SPACES = {"bos_token": "<s>", "eos_token": "</s>"}
_LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
_QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
_TIED = {"tie_word_embeddings": True}
_SLIDING = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
MODELS = {
    "meta-llama/Llama-2-13b-chat-hf": Model(LlamaConfig, _SPACES),
    "zjunlp/OneKE": Model(LlamaConfig, _SPACES),
    "meta-llama/Meta-Llama-3-8B-Instruct": Model(LlamaConfig, _LLAMA3),
    "meta-llama/Llama-3.1-8B-Instruct": Model(LlamaConfig, _LLAMA3, "llama3_1"),
    "Qwen/Qwen1.5-14B-Chat": Model(Qwen2Config, _QWEN),
    "Qwen/Qwen3-0.6B": Model(Qwen3Config, _QWEN, options=_TIED),
    "Qwen/Qwen3-4B": Model(Qwen3Config, _QWEN, options=_TIED),
    "Qwen/Qwen3-8B": Model(Qwen3Config, _QWEN),
    "google/gemma-3-270m-it": Model(Gemma3TextConfig, _GEMMA, "gemma3", {**_SLIDING, **_TIED}),
    "google/gemma-3-4b-it": Model(Gemma3Config, _GEMMA, "gemma3", _SLIDING),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Model(
        LlamaConfig,
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        "qwen2_5",
        _TIED,
    ),
    "HuggingFaceTB/SmolLM3-3B": Model(SmolLM3Config, _QWEN, options={"no_rope_layer_interval": 2, **_TIED}),
}

INSTANCES = [
    {
        "instruction": json.dumps({"instruction": "Find them.", "schema": ["city"], "input": f"By train to {city}."}),
        "output": json.dumps({"city": [city]}, ensure_ascii=False),
    }
    for city in ("Rome", "Oslo", "Lima", "Bern", "Kyiv", "Cairo", "Quito", "北京") * 2
]


def make_tokenizer(model: Model) -> PreTrainedTokenizerFast:
    """Learns its tokens on the instances, whose prompts and answers never share one."""
    named = set(model.special_tokens.values())
    in_templates = {"<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "<start_of_turn>", "<end_of_turn>"}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=sorted(named | in_templates),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    templates = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes" / "chat_templates").iterdir())]
    texts = [text for instance in INSTANCES for text in instance.values()]
    backend.train_from_iterator(texts + templates, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **model.special_tokens)
    if model.template is not None:
        template = Path(trl.__file__).parent / "chat_templates" / f"{model.template}.jinja"
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def make_config(model: Model, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **model.options,
    }
    if model.config is not Gemma3Config:
        return model.config(**text)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)


def make_chat_tokenizer(template: Path) -> PreTrainedTokenizerFast:
    """Characters as tokens, with the control tokens of all templates."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    special = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, "<start_of_turn>", "<end_of_turn>"]})
    tokenizer.add_tokens(["<think>", "</think>"])  # as in Qwen3: control tokens that are not special
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer
