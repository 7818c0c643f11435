"""Several processes."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import PartialState
from helpers.corpora import ROOT, assert_one_clear_line, write_lines
from helpers.tiny import make_instances
from helpers.training import BALANCED, CONFIG, F1_WHILE_TRAINING, cities, losses, make_trainer, scores
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from iepile_builder.training.data import first_process_first
from iepile_builder.training.trainer import AnswerTrainer, end


@pytest.mark.parametrize(
    ("sampling", "learned"), [({}, {}), (BALANCED, {"answer_loss": "decisions", "empty_weight": 0.3})]
)
def test_two_processes_learn_what_one_does(
    train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path, sampling: dict, learned: dict
) -> None:
    write_lines(data / "train.jsonl", [*cities(8, "train"), *make_instances(8)])  # an epoch of six steps
    write_lines(data / "validation.jsonl", cities(5))
    args = {**F1_WHILE_TRAINING, "save_steps": 6, "max_steps": 24}
    whole = train("one", {"ie_f1_records": 5, **learned}, {"use_peft": False}, **args, **sampling)

    arguments = {**CONFIG, **args, **sampling, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 2}
    arguments |= {"ddp_backend": "gloo", "ie_f1_records": 5, **learned}
    arguments |= {"model_name_or_path": model, "dataset_name": str(data), "output_dir": str(tmp_path / "two")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(arguments))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(ROOT / "scripts" / "sft.py"), "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 CPU processes" in done.stdout
    assert "find_unused_parameters" not in done.stderr
    log = json.loads((tmp_path / "two" / "trainer_state.json").read_text())["log_history"]
    assert losses(log) == pytest.approx(losses(whole), abs=1e-3)
    assert scores(log) == scores(whole)
    assert len(scores(log)) == 4
    assert learned or scores(log)[-1] > 0  # without keys, free answers are no JSON
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-4)


def prepare_slowly(rank: int, port: int, file: Path, seconds: float) -> None:
    """Prepare data as each process does: a barrier ends after some seconds, and the first process takes longer."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "1"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    PartialState._reset_state()
    state = PartialState(cpu=True, timeout=timedelta(seconds=seconds))
    assert state.num_processes == 2
    with first_process_first():
        if state.is_main_process:
            time.sleep(1.5 * seconds)
            file.write_text("tokens")
        assert file.read_text() == "tokens"
    state.wait_for_everyone()
    state.destroy_process_group()


def test_no_process_waits_in_a_barrier_while_the_first_one_tokenizes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=prepare_slowly, args=(rank, port, tmp_path / "cache", 6.0), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_process_leaves_the_others_with_nothing_that_uses_them(model: str, tmp_path: Path) -> None:
    """Else it may never end; in a group of one process, in place of what `torchrun` starts."""
    trainer = make_trainer(AnswerTrainer, model, tmp_path)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    trainer.model_wrapped = DistributedDataParallel(trainer.model)
    trainer.accelerator._models.append(trainer.model_wrapped)
    alive = weakref.ref(trainer.model_wrapped)
    end(trainer)
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
