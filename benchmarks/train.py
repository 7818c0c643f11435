"""
Measure speed and memory of LoRA training on real rows: TRL's defaults, one change at a time, and our recipe.

    python benchmarks/train.py --model path/to/SmolLM2-135M-Instruct --corpora path/to/IE-en/NER/mit-movie ...

Every setting trains the same LoRA (rank 16, all linear layers) for one epoch on the same rows of a corpus, in its own
process, and reports useful tokens (without padding) per second and per CPU second, without the first batch, and the
peak memory. On a GPU it also measures random models of 1 and 8 billion parameters and packs with flash attention, and
reports the share of the card's peak.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "smollm2-135m-instruct" / "sft" / "config_lora.yaml"
LORA = {"use_peft": True, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": ["all-linear"]}
# Shapes of Llama 3, with the vocabulary of the tokenizer at hand
SHAPES: dict[str, dict[str, Any]] = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
}
HEADS: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192}

# Instead of the recipe's batches: the same number of rows a step in one batch, or packs of about as many tokens
IN_ONE = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
PACKED = {"packing": True, "max_length": 512, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
# With `recipe` the settings of config_full.yaml. The first batches, which compile, are not timed.
FULL = {"ours": True, "recipe": True, "use_peft": False, "dtype": "float32", "untimed": 8}
# Options of SFTConfig and ModelConfig that differ from their defaults. A pack holds about as much as 8 rows.
SETTINGS: dict[str, dict[str, Any]] = {
    "TRL's defaults": {},
    "weights in bf16": {"dtype": "bfloat16"},
    "no checkpointing": {"activation_checkpointing": False},
    "eager attention": {"attn_implementation": "eager"},
    "length grouping": {"train_sampling_strategy": "group_by_length"},
    "packing": {"packing": True, "per_device_train_batch_size": 1},
    "padding-free": {"padding_free": True, "max_length": None},
    "logits of answers alone": {"ours": True},
    "recipe": {"ours": True, "recipe": True},
    "recipe, sdpa": {"ours": True, "recipe": True, "attn_implementation": "sdpa"},
    "recipe, grouped": {"ours": True, "recipe": True, "train_sampling_strategy": "group_by_length", **IN_ONE},
    "recipe, random batches": {"ours": True, "recipe": True, "train_sampling_strategy": "random", **IN_ONE},
    "recipe, packed": {"ours": True, "recipe": True, **PACKED},
    "recipe, padding-free": {"ours": True, "recipe": True, "padding_free": True, "max_length": None, **IN_ONE},
    "all weights": FULL,
    "all weights, compiled": {**FULL, "compile_layers": True},
}
ON_GPU: dict[str, dict[str, Any]] = {
    name: options for name, options in SETTINGS.items() if "recipe" not in options and "ours" not in options
}
BEST_ON_GPU = {"dtype": "bfloat16", "activation_checkpointing": False, "packing": True}


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", type=str, required=True, help="folder or Hub id of SmolLM2-135M-Instruct")
    parser.add_argument("--corpora", type=str, nargs="+", required=True, help="corpus folders")
    parser.add_argument("--max_train_tokens", type=int, default=8_000, help="about this many tokens of each corpus")
    parser.add_argument("--threads", type=int | None, help="threads of PyTorch; by default one for each core")
    parser.add_argument("--settings", type=str, nargs="+", help="measure only these settings, by name")
    args = parser.parse_args()

    import torch

    on_gpu = torch.cuda.is_available()
    models, settings = [args.model], SETTINGS
    if on_gpu:
        models += SHAPES
        settings = {**ON_GPU, "bf16 weights, packing, no checkpointing": BEST_ON_GPU}
        settings["packing, varlen"] = {**BEST_ON_GPU, "attn_implementation": "varlen"}
    settings = {name: settings[name] for name in args.settings or settings}

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    device = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"Python {sys.version.split()[0]}, {packages}; {device}, threads: {args.threads or 'all'}\n")
    columns = ["corpus", "model", "setting", "tokens", "of them useful", "batches", "tokens/s", "against defaults"]
    columns += ["share of peak"] if on_gpu else ["tokens/CPU-s", "against defaults"]
    print("| " + " | ".join([*columns, "GB"]) + " |\n" + "|---" * (len(columns) + 1) + "|")
    with tempfile.TemporaryDirectory() as cache:
        for corpus in args.corpora:
            for model in models:
                first: dict[str, float] | None = None
                for name, options in settings.items():
                    task = {"corpus": corpus, "model": model, "tokenizer": args.model, "options": options}
                    task |= {"max_train_tokens": args.max_train_tokens, "threads": args.threads, "on_gpu": on_gpu}
                    done = run({**task, "cache": cache})
                    first = first or done
                    cells = [Path(corpus).name, Path(model).name, name, f"{done['tokens']:,}", f"{done['useful']:.0%}"]
                    cells += [str(done["batches"]), f"{done['per_s']:.0f}", f"{done['per_s'] / first['per_s']:.2f}"]
                    if on_gpu:
                        cells.append(f"{done['of_peak']:.0%}")
                    else:
                        cells += [f"{done['per_cpu_s']:.0f}", f"{done['per_cpu_s'] / first['per_cpu_s']:.2f}"]
                    print("| " + " | ".join([*cells, f"{done['memory'] / 1e9:.1f}"]) + " |", flush=True)


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Measure in a new process."""
    environment = {**os.environ, "HF_DATASETS_CACHE": task["cache"]}
    if task["threads"]:
        environment["OMP_NUM_THREADS"] = str(task["threads"])
    command = [sys.executable, __file__, "--measure", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Train for an epoch and count tokens, seconds and memory."""
    import torch
    import yaml
    from transformers import AutoModelForCausalLM, LlamaConfig
    from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config
    from trl.trainer.utils import compute_flops_per_token, get_peak_flops

    from iepile_builder import IEPile
    from iepile_builder.chat import load_tokenizer
    from iepile_builder.engines.attention import register_varlen
    from iepile_builder.engines.loading import load_model
    from iepile_builder.training.data import tokenize_rows
    from iepile_builder.training.trainer import AnswerTrainer, compile_layers

    options = dict(task["options"])
    ours, untimed = options.pop("ours", False), options.pop("untimed", 1)
    if options.pop("recipe", False):
        options = {**yaml.safe_load(RECIPE.read_text()), **options}

    # The same rows for all settings, short enough for each
    tokenizer = load_tokenizer(task["tokenizer"])
    instances = IEPile(data_dir=task["corpus"], splits=["train"]).as_dataset(split="train")
    some = random.Random(0).sample(range(len(instances)), min(len(instances), task["max_train_tokens"] // 20))
    rows = tokenize_rows(
        instances.select(some), "train", tokenizer, PACKED["max_length"], max_tokens=task["max_train_tokens"]
    )

    names = {field.name for field in fields(SFTConfig)}
    ours_alone = {"eval_strategy", "save_strategy", "report_to", "save_steps", "save_total_limit", "logging_steps"}
    config = {name: value for name, value in options.items() if name in names - ours_alone}
    fixed = {"output_dir": task["cache"], "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    args = SFTConfig(**{**config, **fixed, "use_cpu": not task["on_gpu"], "num_train_epochs": 1})
    lora = LORA if options.get("use_peft", True) else {}
    model_args = ModelConfig(**lora, dtype=options.get("dtype", "float32"))
    kwargs = {"dtype": getattr(torch, model_args.dtype), "attn_implementation": options.get("attn_implementation")}
    if task["model"] in SHAPES:
        shape = LlamaConfig(vocab_size=len(tokenizer), **HEADS, **SHAPES[task["model"]])
        register_varlen()
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(shape, **kwargs)
    else:
        model = load_model(task["model"], **kwargs)
    if options.get("compile_layers"):
        compile_layers(model)

    class Counted(AnswerTrainer if ours else SFTTrainer):  # type: ignore[misc]
        """Record the tokens and the time of every batch."""

        notes: list[tuple[int, int, float, float]] = []

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            useful = ids.numel() if mask is None else int(mask.sum())
            loss = super().training_step(model, inputs, *rest)
            if task["on_gpu"]:
                torch.cuda.synchronize()
            self.notes.append((useful, ids.numel(), time.perf_counter(), time.process_time()))
            return loss

    trainer = Counted(
        model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=get_peft_config(model_args)
    )
    trainer.train()

    notes = trainer.notes
    first, timed = notes[untimed - 1], notes[untimed:]
    useful = sum(note[0] for note in timed)
    all_tokens = sum(note[1] for note in timed)
    per_s = useful / (notes[-1][2] - first[2])
    result = {
        "tokens": useful,
        "useful": useful / all_tokens,
        "batches": len(timed),
        "per_s": per_s,
        "per_cpu_s": useful / (notes[-1][3] - first[3]),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if task["on_gpu"]:
        peak = get_peak_flops(torch.cuda.get_device_name(), "bfloat16") or float("nan")
        # A forward and a backward pass without gradients of the frozen weights: two thirds of the whole.
        flops = 2 / 3 * compute_flops_per_token(model.config, sum(rows["length"]) // len(rows))
        result |= {"memory": torch.cuda.max_memory_allocated(), "of_peak": flops * per_s / peak}
    return result


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(json.loads(sys.argv[2]))))
    else:
        main()
