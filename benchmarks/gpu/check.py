"""
Check on one GPU, in ten minutes, what runs nowhere else: the commands, training at full size, and answering.

    python benchmarks/gpu/check.py --tokenizer path/to/SmolLM2-135M-Instruct --output_dir outputs/gpu

Models are random ones of real shapes. Each command and each cell is a line of `results.jsonl` as soon as it is known,
and an error is a result; the last lines on the screen are the table. `--tiny true` runs the same code with models of a
few thousand weights on a CPU. README.md beside this file says what each part is for.
"""

import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser


STAGES = ("env", "commands", "train", "decode", "passes")
# Share of the seconds that a stage may take, if all run; a command or cell that has begun is not stopped.
SHARES = {"commands": 0.45, "train": 0.35, "decode": 0.15, "passes": 0.05}
TOKENIZER = ".gpu/tokenizer"  # where bundle.sh puts it


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--tokenizer", type=str, default=TOKENIZER, help="folder of a tokenizer with a chat template")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/gpu"), help="folder for results and logs")
    parser.add_argument("--stages", type=str, nargs="+", default=list(STAGES), help=f"of {', '.join(STAGES)}")
    parser.add_argument("--seconds", type=float, default=540, help="of all stages")
    parser.add_argument("--only", type=str, default="", help="regular expression of the cells to run")
    parser.add_argument("--tiny", type=bool, default=False, help="a few thousand weights, on a CPU")
    args = parser.parse_args()
    if not Path(args.tokenizer).is_dir():
        sys.exit(f"{args.tokenizer}: no such folder: give that of a tokenizer with a chat template (--tokenizer)")

    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    results = Results(args.output_dir / "results.jsonl", args.only)
    work = args.output_dir / "work"
    data = build_data(work)
    if "env" in args.stages:
        describe_machine(results)

    from cells import make_folder, measure_answers, measure_passes, measure_training

    model = make_folder("tiny" if args.tiny else "m135", args.tokenizer, work)
    for stage, seconds in share_seconds(args.stages, args.seconds).items():
        until = time.time() + seconds
        try:
            if stage == "commands":
                run_commands(results, model, data, work, args.tiny)
            elif stage == "train":
                measure_training(results, args.tokenizer, work, until, args.tiny)
            elif stage == "decode":
                full = work / "full"
                measure_answers(results, full if (full / "config.json").exists() else model, data, until, args.tiny)
            else:
                measure_passes(results, args.tokenizer, until, args.tiny)
        except Exception as error:
            results.fail(stage, "the rest of the stage", error)
    results.print()


def share_seconds(stages: list[str], seconds: float) -> dict[str, float]:
    """Divide the seconds among the stages that run."""
    shares = {stage: share for stage, share in SHARES.items() if stage in stages}
    return {stage: seconds * share / sum(shares.values()) for stage, share in shares.items()}


class Results:
    """Lines of a file, written as soon as they are known."""

    def __init__(self, file: Path, only: str) -> None:
        self.file, self.only = file, only
        file.write_text("")

    def wants(self, cell: str) -> bool:
        return re.search(self.only, cell) is not None

    def add(self, stage: str, cell: str, **values: Any) -> None:
        values = {name: value for name, value in values.items() if value is not None}
        with self.file.open("a") as lines:
            lines.write(json.dumps({"stage": stage, "cell": cell, **values}) + "\n")

    def fail(self, stage: str, cell: str, error: Exception) -> None:
        self.add(stage, cell, error=f"{type(error).__name__}: {str(error)[:200]}")

    def print(self) -> None:
        for line in map(json.loads, self.file.read_text().splitlines()):
            stage, cell = line.pop("stage"), line.pop("cell")
            print(f"{stage:<9}{cell:<58}{' '.join(f'{name}={value}' for name, value in line.items())}")


def build_data(work: Path) -> Path:
    """Build the instances of the sample corpus."""
    data = work / "data"
    if not data.exists():
        command = ["build", "--corpus_dir", "sample_corpus", "--tasks", "NER", "RE", "EE", "--languages", "en"]
        command += ["--negatives", "ratio", "--negative_ratio", "0.15", "--output_dir", str(data)]
        subprocess.run([sys.executable, "-m", "iepile_builder", *command], check=True, stdout=subprocess.DEVNULL)
    return data


def describe_machine(results: Results) -> None:
    """Name the GPU and the packages, and measure what a product of matrices in bfloat16 reaches."""
    import torch

    speed = None
    if torch.cuda.is_available():
        matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        for count in (3, 10):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                matrix @ matrix
            torch.cuda.synchronize()
            speed = round(count * 2 * 8192**3 / (time.perf_counter() - start) / 1e12)
    names = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "llguidance")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    results.add("env", device, matmul_tflops=speed, **{name: version(name) for name in names})


def list_commands(model: Path, data: Path, work: Path, tiny: bool) -> list[tuple[str, int, list[str]]]:
    """
    List the commands: name, seconds at most, arguments.

    The first trains all weights until the model knows the training rows by heart, so that answers have real lengths;
    the second continues from it; then all others run at once: they are small, and only whether they run is asked.
    """
    full, lora = str(work / "full"), str(work / "lora")
    on = ["--use_cpu", "true" if tiny else "false"]
    given = ["--dataset_name", str(data), *on, "--save_strategy", "no"]
    config = ["--accelerate_config", "cpu" if tiny else "single_gpu"]
    small, steps = ["--model_name_or_path", full, *given], ["--max_steps", "3" if tiny else "6"]
    smollm, qwen = "smollm2-135m-instruct", "qwen3-0.6b/sft/config_lora.yaml"
    four = ["--load_in_4bit", "true", "--use_bnb_nested_quant", "true", "--bnb_4bit_quant_storage", "bfloat16"]

    def train(recipe: str, output: str, *options: str, accelerate: list[str] = config) -> list[str]:
        return ["train", *accelerate, "--config", recipe, "--output_dir", str(work / output), *options]

    def predict(output: str, *options: str) -> list[str]:
        few = ["--max_samples", "4" if tiny else "200", "--max_new_tokens", "16" if tiny else "64"]
        file = ["--output_file", str(work / f"{output}.jsonl")]
        return ["predict", "--model_name_or_path", full, "--dataset_name", str(data), *few, *file, *options]

    grpo = ["grpo", *config, "--config", f"{smollm}/grpo/config_lora.yaml", *small, "--adapter_name_or_path", lora]
    grpo += ["--max_steps", "2", "--max_completion_length", "16" if tiny else "64"]
    learn = ["--max_steps", "3" if tiny else "400", "--num_train_epochs", "1000", "--logging_steps", "50"]
    learn += ["--per_device_train_batch_size", "4" if tiny else "32", "--gradient_accumulation_steps", "1"]
    f1 = ["--save_strategy", "steps", "--save_steps", "3", "--ie_f1_records", "2", "--ie_f1_max_new_tokens", "8"]
    commands = [
        ("sft, all weights", 120, [
            *train(f"{smollm}/sft/config_full.yaml", "full", "--model_name_or_path", str(model), *given, *learn),
            "--learning_rate", "6e-4",
        ]),
        ("sft, LoRA, IE F1", 150, train(f"{smollm}/sft/config_lora.yaml", "lora", *small, *f1, *steps)),
        ("predict, adapter", 120, predict("preds", "--adapter_name_or_path", lora, "--dtype", "bfloat16")),
        ("predict, dtype auto", 120, predict("preds_auto")),
        ("merge", 120, [
            "merge", "--model_name_or_path", full, "--adapter_name_or_path", lora, "--dataset_name", str(data),
            "--output_dir", str(work / "merged"), "--dtype", "bfloat16", "--min_equal", "0", "--max_new_tokens", "16",
        ]),
        ("grpo", 150, [*grpo, "--output_dir", str(work / "grpo")]),
        ("recipe as it is: packs", 120, train(qwen, "packs", *small, *steps)),
    ]  # fmt: skip
    if tiny:
        return commands

    fsdp2 = ["--accelerate_config", "fsdp2", "--num_processes", "1", "--main_process_port"]
    batching = ["--use_transformers_continuous_batching", "true"]
    batching += ["--transformers_continuous_batching_config", '{"max_memory_percent": 0.1}']
    return commands + [
        ("grpo, continuous batching", 150, [*grpo, "--output_dir", str(work / "grpo_cb"), *batching]),
        ("sft, 4 bits, packs", 120, train(qwen, "qlora4", *small, *steps, *four)),
        ("sft, 8 bits", 120, train(qwen, "qlora8", *small, *steps, "--load_in_8bit", "true", "--packing", "false")),
        ("sft, 4 bits, FSDP2 on one GPU", 150,
         train(qwen, "fsdp_qlora", *small, *steps, *four, accelerate=[*fsdp2, "29510"])),
        ("sft, all weights, FSDP2 on one GPU", 150,
         train("qwen3-0.6b/sft/config_full.yaml", "fsdp_full", *small, *steps, accelerate=[*fsdp2, "29511"])),
        ("predict, 4 bits", 120, predict("preds4", "--load_in_4bit", "true")),
    ]  # fmt: skip


def run_commands(results: Results, model: Path, data: Path, work: Path, tiny: bool) -> None:
    """Run the commands, the first two one by one, and keep the last line that each of them said."""
    logs = work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    running: list[tuple[str, float, int, Path, subprocess.Popen]] = []

    def finish(name: str, begun: float, seconds: int, log: Path, process: subprocess.Popen) -> None:
        try:
            code: int | str = process.wait(max(1, begun + seconds - time.time()))
        except subprocess.TimeoutExpired:
            process.terminate()  # `iepile train` ends its processes with it
            code = f"ended after {seconds} s"
        lines = [line for line in re.split(r"[\r\n]", log.read_text(errors="replace")) if line.strip()]
        results.add("commands", name, code=code, seconds=round(time.time() - begun), said="".join(lines[-1:])[:160])

    for number, (name, seconds, arguments) in enumerate(list_commands(model, data, work, tiny)):
        if not results.wants(name):
            continue
        seconds = 1800 if tiny else seconds  # a busy CPU is no error
        log = logs / f"{number}.log"
        with log.open("w") as output:
            command = [sys.executable, "-m", "iepile_builder", *arguments]
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        one = (name, time.time(), seconds, log, process)
        if number < 2 or tiny:
            finish(*one)
        else:
            running.append(one)
    for one in running:
        finish(*one)


if __name__ == "__main__":
    main()
