"""`fsdp2.yaml` with a 4 bit QLoRA recipe: two processes on a CPU, and half of every weight in each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from accelerate.utils.launch import prepare_multi_gpu_env
from helpers.corpora import ROOT, write_lines
from helpers.launching import FOLDER, launch_arguments
from helpers.models import INSTANCES, MODELS, make_config, make_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from iepile_builder.engines.loading import load_model


def test_weights_are_sharded_and_what_is_saved_is_whole(tmp_path: Path) -> None:
    name, base, out = "Qwen/Qwen3-8B", tmp_path / "base", tmp_path / "out"
    tokenizer = make_tokenizer(MODELS[name])
    tokenizer.save_pretrained(base)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(make_config(MODELS[name], tokenizer)).save_pretrained(base)
    data = write_lines(tmp_path / "data" / "train.jsonl", INSTANCES).parent

    environment = prepare_multi_gpu_env(launch_arguments(FOLDER / "fsdp2.yaml"))
    environment = {key: value for key, value in environment.items() if key.startswith(("FSDP", "ACCELERATE"))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [
        ROOT / "tests" / "helpers" / "fsdp2_on_cpu.py",
        "--config",
        "recipes/qwen3-8b/sft/config_qlora_4bit.yaml",
    ]
    command += ["--model_name_or_path", base, "--dataset_name", data, "--output_dir", out, "--use_cpu", "true"]
    command += ["--ddp_backend", "gloo", "--gradient_accumulation_steps", 1]
    command += ["--max_steps", 4, "--learning_rate", 1e-2, "--logging_steps", 1, "--save_strategy", "no"]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-6000:]

    for rank in (0, 1):
        found = json.loads((out / f"found_{rank}.json").read_text())
        assert (found["processes"], found["distributed"]) == (2, "FSDP")
        assert found["sharded"] == found["halved"] == found["weights"] > 50
        assert found["quantized"] == 2 * 7
        assert found["losses"][-1] < 0.95 * found["losses"][0]
    adapter = load_file(out / "adapter_model.safetensors")
    assert len(adapter) == 2 * 2 * 7
    assert all(weight.abs().sum() > 0 for weight in adapter.values())
    load_model(str(base), str(out))
