"""`iepile train`: its options, its help, the processes that it starts, and its screen."""

import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from helpers.corpora import ROOT, assert_one_clear_line, write_lines
from helpers.processes import wait_until_gone
from helpers.tiny import make_instances, save_tiny_model
from helpers.training import CONFIG
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from iepile_builder import InputError
from iepile_builder.commands.train import parse
from iepile_builder.commands.training import launch


def iepile(*arguments: object, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "iepile_builder", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a model, data and a configuration."""
    save_tiny_model(tmp_path / "model")
    write_lines(tmp_path / "data" / "train.jsonl", make_instances(24))
    config = {**CONFIG, "disable_tqdm": False, "use_peft": True, "model_name_or_path": "model"}
    config |= {"dataset_name": "data", "output_dir": "outputs/tiny", "max_steps": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.mark.parametrize("arguments, part", [(("--config", "config.yaml"), "lora_rank"), ((), "--use_cpu")])
def test_arguments_that_cannot_be(run_script: Callable, tmp_path: Path, arguments: tuple[str, ...], part: str) -> None:
    """The second asks for the default, bfloat16, where there is no GPU."""
    if part == "--use_cpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "config.yaml").write_text("lora_rank: 4\nuse_cpu: true\n")
    done = run_script("sft.py", "--output_dir", "out", "--dataset_name", "data", *arguments, check=False)
    assert_one_clear_line(done, part)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--max_steps", "many"), "--max_steps.*'many'.*see iepile train --help"),
        (("--no_such_option", "1"), "no_such_option"),
        (("--config", "qwen3-4b/sft/config_lora.yml"), "config_lora.yml: no such file.*config_lora.yaml"),
        (("--model_name_or_path", "x", "--chat_template_path", "nosuch.jinja"), "nosuch.jinja: no such file"),
        ((), "--model_name_or_path"),
    ],
)
def test_options_that_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(["--dataset_name", "data", "--use_cpu", *arguments])


def test_a_recipe_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--dataset_name", "data", "--use_cpu", "--output_dir", "outputs/x", "--lora_r", "8"]
    for name in ("qwen3-4b/sft/config_lora.yaml", "recipes/qwen3-4b/sft/config_lora.yaml"):
        _, training_args, model_args = parse([f"--config={name}", *options])
        assert (model_args.model_name_or_path, model_args.lora_r) == ("Qwen/Qwen3-4B", 8)
        assert Path(training_args.chat_template_path).samefile(ROOT / "recipes" / "chat_templates" / "qwen3.jinja")
        assert training_args.project == "x"  # of trackio
    assert parse([f"--config={name}", *options, "--project", "mine"])[1].project == "mine"


def test_an_adapter_alone_is_continued_on_the_model_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/model"}')
    options = ["--dataset_name", "data", "--use_cpu", "--adapter_name_or_path", str(tmp_path)]
    assert parse(options)[2].model_name_or_path == "org/model"
    assert parse([*options, "--model_name_or_path", "org/other"])[2].model_name_or_path == "org/other"


def test_the_help(capsys: pytest.CaptureFixture) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "iepile_builder", "train", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "transformers", "trl", "peft", "accelerate"})
    for part in ("iepile train --config", "Answer this many random validation records", "--accelerate_config",
                 "--learning_rate", "0.0002", "--help_all"):  # fmt: skip
        assert part in done.stdout
    with pytest.raises(SystemExit):
        parse(["--help_all"])
    everything = " ".join(capsys.readouterr().out.split())
    assert "Answer this many random validation records" in everything  # the docstring's text
    assert "--weight_decay" in everything


def test_a_run_and_its_screen(run: Path) -> None:
    done = iepile("train", "--config", "config.yaml", folder=run)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [re.sub(r"[\d.]+ s,", "N s,", line.partition(":")[0]) for line in lines] == [
        "train", "learned, for example", "1 CPU process, 4 rows a step (4 x 1)", "step 1 of 2",
        "step 2 of 2", "2 steps in N s, mean loss " + lines[-2].rpartition(" ")[2],
        "adapter, tokenizer with chat template, card, plot",
    ]  # fmt: skip
    assert lines[-1].endswith(": outputs/tiny")
    shown = [line.strip() for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert {line.partition(":")[0] for line in shown} == {"Tokenizing train"}, done.stderr


def test_what_is_wrong_ends_in_one_line(run: Path) -> None:
    done = iepile("train", "--config", "config.yaml", "--dataset_name", "nosuch", folder=run)
    assert_one_clear_line(done, "nosuch: not a dataset")
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert_one_clear_line(iepile("train", "--accelerate_config", "dpp", folder=run), "dpp.yaml: no such", "ddp.yaml")


def test_a_killed_process_is_not_passed_over(run: Path) -> None:
    (run / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if '-m' in sys.orig_argv and 'iepile_builder.commands.train' in sys.orig_argv:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{run}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "iepile_builder", "train", "--config", "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=run, env=environment, timeout=300)
    assert_one_clear_line(done, "SIGKILL")


def test_ctrl_c_ends_in_one_line(run: Path) -> None:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(run / "cache")}
    command = [sys.executable, "-m", "iepile_builder", "train", "--config", "config.yaml", "--max_steps", "5000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=run, env=environment, start_new_session=True, **pipes) as process:
        assert any(line.startswith("step 1 of") for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)  # to all processes, as a terminal does
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted: no checkpoint yet"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_end_with_the_command(run: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(run / "cache")}
    command = [sys.executable, "-m", "iepile_builder", "train", "--config", "config.yaml", "--max_steps", "5000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=run, env=environment, **pipes) as process:
        assert any(line.startswith("step 1 of") for line in process.stdout)
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(number)
        process.wait(60)
    assert process.returncode == -number and children
    wait_until_gone(children)


def test_what_accelerate_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Namespace] = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", given.append)
    options = ["--config", "qwen3-4b/sft/config_lora.yaml", "--run_name=a=b", "--lora_r", "8"]
    launch("train", ["--accelerate_config", "ddp", *options, "--num_processes=2"])
    launch("grpo", options)
    [two, default] = given
    assert Path(two.config_file).samefile(ROOT / "recipes" / "accelerate_configs" / "ddp.yaml")
    assert (two.num_processes, two.module, two.training_script) == (2, True, "iepile_builder.commands.train")
    assert two.training_script_args == options
    name = "single_gpu.yaml" if torch.accelerator.is_available() else "cpu.yaml"
    assert (Path(default.config_file).name, default.training_script) == (name, "iepile_builder.commands.grpo")


def test_no_traceback_follows_the_line_of_one_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: Namespace) -> None:
        failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file="")
        raise ChildFailedError("train", {0: failure})

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    with pytest.raises(SystemExit) as ended:
        launch("train", ["--accelerate_config", "ddp"])
    assert ended.value.code == 1
