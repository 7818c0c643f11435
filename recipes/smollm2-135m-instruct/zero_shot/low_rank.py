"""
Bring the difference between a fine-tuned model and its base to a LoRA adapter; or the mean of several, or adapters.

    python recipes/smollm2-135m-instruct/zero_shot/low_rank.py --base path/to/base --tuned outputs/zero_shot/model \
        --rank 32 --output_dir outputs/zero_shot/adapter

Of each linear layer's difference the adapter has the best approximation of that rank (singular value decomposition),
in bfloat16. What differs in other weights is lost: train with `--linear_layers_only`. The record of the first
training, `training.json`, goes with it, with the labels of all.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iepile_builder.chat import load_tokenizer
from iepile_builder.commands.cli import parse_options
from iepile_builder.engines.loading import load_model, quiet_libraries
from iepile_builder.errors import InputError
from iepile_builder.io import write_whole
from iepile_builder.training.record import RECORD, add_labels, read_labels


@dataclass
class LowRankOptions:
    """
    Low rank.

    Args:
        base (`str`):
            The model that was fine-tuned.
        tuned (`list[str]`):
            The fine-tuned model, or an adapter of the base; of several, the mean is taken.
        output_dir (`Path`):
            Folder of the adapter.
        rank (`int`, *optional*, defaults to 32):
            Rank of the adapter.
    """

    base: str
    tuned: list[str]
    output_dir: Path
    rank: int = 32


def main(options: LowRankOptions) -> None:
    with quiet_libraries():
        from peft import LoraConfig, get_peft_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_model(options.base, dtype=torch.float32)
    linear = sorted(
        name
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not base.get_output_embeddings()
    )
    mean: dict[str, torch.Tensor] = {}
    for name in options.tuned:
        if Path(name, "adapter_config.json").exists():
            adapted: Any = load_model(options.base, name, dtype=torch.float32)
            weights = adapted.merge_and_unload().state_dict()
        else:
            weights = load_model(name, dtype=torch.float32).state_dict()
        for layer in linear:
            share = weights[f"{layer}.weight"] / len(options.tuned)
            mean[layer] = share + mean[layer] if layer in mean else share
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.rank,
        target_modules=sorted({name.rsplit(".", 1)[-1] for name in linear}),
        task_type="CAUSAL_LM",
        base_model_name_or_path=options.base,
    )
    before = {name: base.get_submodule(name).weight.detach().clone() for name in linear}
    model = get_peft_model(base, config)
    lost = total = 0.0
    for name in linear:
        difference = (mean[name] - before[name]).to(device)
        left, values, right = torch.linalg.svd(difference, full_matrices=False)
        roots = values[: options.rank].sqrt()
        layer = model.get_submodule(f"base_model.model.{name}")
        down, up = layer.lora_A["default"].weight.data.zero_(), layer.lora_B["default"].weight.data.zero_()
        down[: len(roots)] = roots[:, None] * right[: options.rank]
        up[:, : len(roots)] = left[:, : options.rank] * roots
        lost += float(values[options.rank :].square().sum())
        total += float(values.square().sum())
    model.to("cpu", torch.bfloat16).save_pretrained(options.output_dir)
    load_tokenizer(options.tuned[0]).save_pretrained(options.output_dir)
    labels: Any = read_labels(options.tuned[0])
    for name in options.tuned[1:]:
        labels = add_labels(name, labels)
    if labels is not None:
        record = json.loads(Path(options.tuned[0], RECORD).read_text(encoding="utf-8")) | {"labels": labels}
        write_whole(options.output_dir / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps({"rank": options.rank, "share_of_the_square_norm_kept": round(1 - lost / max(total, 1e-12), 4)}))


if __name__ == "__main__":
    try:
        main(*parse_options("low_rank.py", __doc__ or "", [LowRankOptions], None))
    except InputError as error:
        sys.exit(f"error: {error}")
