"""FSDP2 with a 4 bit QLoRA recipe: two processes on a CPU, of one machine or two, and half of every weight in each."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.utils.launch import prepare_multi_gpu_env
from helpers.corpora import ROOT, write_lines
from helpers.launching import FOLDER, launch_arguments
from helpers.models import INSTANCES, MODELS, make_config, make_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from iepile_builder.engines.loading import load_model


def make_arguments(folder: Path) -> list[str]:
    """Make a small model and data, and give the arguments that train it."""
    name, base = "Qwen/Qwen3-8B", folder / "base"
    tokenizer = make_tokenizer(MODELS[name])
    tokenizer.save_pretrained(base)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(make_config(MODELS[name], tokenizer)).save_pretrained(base)
    data = write_lines(folder / "data" / "train.jsonl", INSTANCES).parent
    arguments = [ROOT / "tests" / "helpers" / "fsdp2_on_cpu.py"]
    arguments += ["--config", "recipes/qwen3-8b/sft/config_qlora_4bit.yaml"]
    arguments += ["--model_name_or_path", base, "--dataset_name", data, "--output_dir", folder / "out"]
    arguments += ["--use_cpu", "true", "--ddp_backend", "gloo", "--gradient_accumulation_steps", 1]
    arguments += ["--max_steps", 4, "--learning_rate", 1e-2, "--logging_steps", 1, "--save_strategy", "no"]
    return [str(argument) for argument in arguments]


def check(folder: Path) -> None:
    """Each process held half of every weight, the loss fell, and the adapter is whole."""
    out = folder / "out"
    for rank in (0, 1):
        found = json.loads((out / f"found_{rank}.json").read_text())
        assert (found["processes"], found["distributed"]) == (2, "FSDP")
        assert found["sharded"] == found["halved"] == found["weights"] > 50
        assert found["quantized"] == 2 * 7
        assert found["losses"][-1] < 0.95 * found["losses"][0]
    adapter = load_file(out / "adapter_model.safetensors")
    assert len(adapter) == 2 * 2 * 7
    assert all(weight.abs().sum() > 0 for weight in adapter.values())
    load_model(str(folder / "base"), str(out))


def test_weights_are_sharded_and_what_is_saved_is_whole(tmp_path: Path) -> None:
    environment = prepare_multi_gpu_env(launch_arguments(FOLDER / "fsdp2.yaml"))
    environment = {key: value for key, value in environment.items() if key.startswith(("FSDP", "ACCELERATE"))}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        + make_arguments(tmp_path),
        cwd=ROOT,
        env={**os.environ, **environment, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    check(tmp_path)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces with an address and a hosts file each, connected by a cable."""
    names = [f"iepile{os.getpid()}-{rank}" for rank in (0, 1)]
    addresses = ["10.77.0.1", "10.77.0.2"]
    ip = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if (
        ip is None
        or os.geteuid() != 0
        or subprocess.run([ip, "netns", "add", names[0]], capture_output=True).returncode
    ):
        pytest.skip("network namespaces need Linux, iproute2 and the right to make them")
    try:
        for command in (
            f"netns add {names[1]}",
            f"link add cable0 netns {names[0]} type veth peer name cable1 netns {names[1]}",
            *(
                f"-n {name} addr add {address}/24 dev cable{rank}"
                for rank, (name, address) in enumerate(zip(names, addresses, strict=True))
            ),
            *(f"-n {name} link set {link} up" for rank, name in enumerate(names) for link in ("lo", f"cable{rank}")),
        ):
            subprocess.run([ip, *command.split()], check=True)
        for name in names:
            hosts = Path("/etc/netns", name, "hosts")  # `ip netns exec` shows it as /etc/hosts
            hosts.parent.mkdir(parents=True)
            hosts.write_text("127.0.0.1 localhost\n10.77.0.1 machine0\n10.77.0.2 machine1\n")
        yield [f"{ip} netns exec {name} unshare --uts sh -c" for name in names]
    finally:
        for name in names:
            subprocess.run([ip, "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)


def test_two_machines(tmp_path: Path, machines: list[str]) -> None:
    """The command of slurm.sh on machines that see nothing of each other but the network and the folders."""
    arguments = make_arguments(tmp_path)
    launchers = []
    for rank, machine in enumerate(machines):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
        command += ["--config_file", "recipes/accelerate_configs/multi_node.yaml", "--num_machines", "2"]
        command += ["--num_processes", "2", "--machine_rank", str(rank)]
        command += ["--main_process_ip", "machine0", "--main_process_port", "29517", *arguments]
        launchers.append(
            subprocess.Popen(
                [*machine.split(), f'hostname machine{rank} && exec "$@"', "sh", *command],
                cwd=ROOT,
                env={**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=(tmp_path / f"{rank}.log").open("w"),
            )
        )
    try:
        codes = [launcher.wait(timeout=300) for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.kill()
    assert codes == [0, 0], "".join((tmp_path / f"{rank}.log").read_text()[-3000:] for rank in (0, 1))
    check(tmp_path)
