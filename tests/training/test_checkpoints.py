"""Continuing: after a kill, a full disk, a damaged checkpoint."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from helpers.tiny import make_instances
from helpers.training import BALANCED, CONFIG, LORA, losses, run_training
from safetensors.torch import load_file

from iepile_builder import InputError
from iepile_builder.engines.loading import load_model
from iepile_builder.hub.cards import model_card
from iepile_builder.training.checkpoints import average_checkpoints, find_damage


@pytest.mark.parametrize("sampling", [{}, BALANCED])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    train: Callable[..., list[dict]], model: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
    sampling: dict,
) -> None:  # fmt: skip
    args = {**CONFIG, **sampling, "save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    lora = {**LORA, "lora_dropout": 0.1, "model_name_or_path": model}
    killed = tmp_path / "killed"
    program = f"""
import os, signal
from trl import ModelConfig, SFTConfig
from iepile_builder.commands.train import main
from iepile_builder.training.arguments import SftArguments
from iepile_builder.training.trainer import AnswerTrainer
step = AnswerTrainer.training_step
def training_step(trainer, *args, **kwargs):
    if trainer.state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trainer, *args, **kwargs)
AnswerTrainer.training_step = training_step
main(SftArguments({str(data)!r}), SFTConfig(**{ {**args, "output_dir": str(killed)} }), ModelConfig(**{lora}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [folder.name for folder in killed.iterdir() if folder.is_dir()] == ["checkpoint-2"]
    shutil.copytree(killed / "checkpoint-2", killed / "checkpoint-4")  # as if it was killed while it saved, too
    (killed / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 0.')

    resumed = train("killed", model_args=lora, **args)
    assert "checkpoint-2;" in capsys.readouterr().out
    whole = train("whole", model_args=lora, **args)
    assert losses(resumed) == losses(whole)  # six steps are an epoch
    assert len(losses(whole)) == 8
    adapters = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed")]
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_checkpoints_of_other_instances_are_not_continued(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture, suffix: str
) -> None:
    def write(folder: Path, rows: list[dict]) -> None:
        folder.mkdir(exist_ok=True)
        rows = Dataset.from_list(rows)
        rows.to_parquet(folder / "train.parquet") if suffix == "parquet" else rows.to_json(folder / "train.jsonl")

    rows, data = make_instances(8), tmp_path / "data"
    write(data, rows)
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    run_training(model, data, tmp_path / "out", **options)
    shutil.copytree(data, tmp_path / "moved")
    data.rename(tmp_path / "old")
    write(data, [*rows[:-1], {**rows[-1], "output": rows[-1]["output"].replace("city", "CITY")}])
    with pytest.raises(InputError, match="out: its checkpoints were trained on other instances than .*/data gives"):
        run_training(model, data, tmp_path / "out", **options)
    capsys.readouterr()
    run_training(model, tmp_path / "moved", tmp_path / "out", **options)  # the same instances in another place
    assert "continuing from" in capsys.readouterr().out
    run_training(model, data, tmp_path / "other", **options)


@pytest.mark.parametrize("name, peft", [("adapter_model", True), ("model", False)])
def test_a_run_killed_after_its_last_checkpoint_trains_no_further_step(
    train: Callable[..., list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture, name: str, peft: bool
) -> None:
    args = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "lr_scheduler_type": "constant"}
    whole = train("whole", model_args={"use_peft": peft}, **args)
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "killed" / "checkpoint-4")
    capsys.readouterr()
    resumed = train("killed", model_args={"use_peft": peft}, **args)
    assert losses(resumed) == losses(whole) and resumed[-1]["step"] == 4
    assert "mean loss" not in capsys.readouterr().out  # of no step
    weights = [load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("whole", "killed")]
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=0, atol=0)


@pytest.mark.parametrize("name, peft", [("adapter_model", True), ("model", False)])
def test_the_mean_of_the_last_checkpoints(
    train: Callable[..., list[dict]],
    model: str,
    tmp_path: Path,
    name: str,
    peft: bool,
    capsys: pytest.CaptureFixture,
) -> None:
    args = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8, "save_total_limit": 1}
    train("out", {"average_checkpoints": 3}, {"use_peft": peft}, **args)
    kept = load_file(tmp_path / "out" / f"{name}.safetensors")
    parts = [load_file(tmp_path / "out" / f"checkpoint-{step}" / f"{name}.safetensors") for step in (4, 6, 8)]
    assert not (tmp_path / "out" / "checkpoint-2").exists() and not list((tmp_path / "out").glob("*.tmp"))
    for key, weight in kept.items():
        mean = torch.stack([part[key] for part in parts]).mean(0)
        torch.testing.assert_close(weight, mean, rtol=0, atol=1e-6)
    assert any((kept[key] - weight).abs().max() > 1e-3 for key, weight in parts[-1].items())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The weights are the mean of those at steps 4, 6, 8." in card and "those of step" not in card
    assert not list((tmp_path / "out").glob("checkpoint-*/README.md"))  # of TRL or PEFT
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    (tmp_path / "out" / "training.json").write_text(json.dumps({**record, "averaged": [8]}))
    assert "The weights are those of step 8." in model_card("adapter" if peft else "merged", tmp_path / "out").text
    load_model(model, str(tmp_path / "out")) if peft else load_model(str(tmp_path / "out"))
    cut(tmp_path / "out" / "checkpoint-6" / f"{name}.safetensors")
    assert average_checkpoints(tmp_path / "out", 3, 8) == [4, 8]
    out = capsys.readouterr().out
    assert f"skipping {tmp_path / 'out' / 'checkpoint-6'}: {name}.safetensors cannot be read" in out
    assert "2 whole checkpoints to average, not 3" in out
    assert "to be kept: the mean of the last 3 checkpoints" in out
    assert "\nkept: the mean of the weights at steps 4, 6, 8\n" in out
    resumed = {**args, "max_steps": 6, "resume_from_checkpoint": str(tmp_path / "out" / "checkpoint-4")}
    train("out", {"average_checkpoints": 3}, {"use_peft": peft}, **resumed)
    assert "kept: the mean of the weights at steps 4, 6\n" in capsys.readouterr().out  # not of 8, of the run before
    with pytest.raises(InputError, match="--average_checkpoints is -1; give 0 or more"):
        train("none", {"average_checkpoints": -1}, **args)
    for name, value in (("empty_weight", float("nan")), ("empty_weight", -1), ("max_train_tokens", 0)):
        with pytest.raises(InputError, match=rf"--{name} is {value}; give [01] or more"):
            train("none", {name: value})
    with pytest.raises(InputError, match="--average_checkpoints needs --save_strategy"):
        train("none", {"average_checkpoints": 3})


def test_a_full_disk(train: Callable[..., list[dict]], tmp_path: Path) -> None:
    """The adapter is written, the larger state of the optimizer is not: files are limited to a size between them."""
    args = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = losses(train("whole", **args))
    sizes = [
        (tmp_path / "whole" / "checkpoint-2" / name).stat().st_size
        for name in ("adapter_model.safetensors", "optimizer.pt")
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (sum(sizes) // 2, sizes[0] // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(InputError, match="full: cannot be written to.* MB are free"):
                train("full", **args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert losses(train("full", **args)) == whole


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    """Zeros in the middle, as after a fault of the disk."""
    content = bytearray(file.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    file.write_bytes(content)


STATE, ADAPTER = "trainer_state.json", "adapter_model.safetensors"
DAMAGE = [
    *((name, damage) for name in (STATE, ADAPTER, "optimizer.pt", "scheduler.pt", "rng_state.pth")
      for damage in (cut, Path.unlink)),
    ("adapter_config.json", cut),
    ("optimizer.pt", overwrite),
    ("optimizer.pt", lambda file: file.write_bytes(b"")),
    (STATE, lambda file: file.write_text("[]")),
]  # fmt: skip


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    train: Callable[..., list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    args = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = losses(train("out", **args))
    for name in ("checkpoint-best", "checkpoint-"):  # of somebody else
        (tmp_path / "out" / name).mkdir()
        (tmp_path / "out" / name / "trainer_state.json").write_text("{}")
    assert find_damage(tmp_path / "out" / "checkpoint-6") is None
    for name, damage in DAMAGE:
        again = shutil.copytree(tmp_path / "out", tmp_path / "again")
        damage(again / "checkpoint-6" / name)
        capsys.readouterr()
        resumed = losses(train("again", **args))
        lines = capsys.readouterr().out.splitlines()
        [skipped] = [line for line in lines if "checkpoint-6" in line]
        assert skipped.startswith("skipping ") and name in skipped
        assert any(line.startswith(f"continuing from {again}/checkpoint-4;") for line in lines)
        assert resumed == whole
        shutil.rmtree(again)

    checkpoint = tmp_path / "out" / "checkpoint-6"
    (checkpoint / "optimizer.pt").unlink()
    assert find_damage(checkpoint, only_model=True) is None
    with pytest.raises(InputError, match="checkpoint-6: not a whole checkpoint: optimizer.pt is missing"):
        train("out", resume_from_checkpoint=str(checkpoint), **args)
    for folder in tmp_path.glob("out/checkpoint-?"):
        cut(folder / STATE)
    assert losses(train("out", **args)) == whole  # none is left: from the start


def test_weights_in_several_files(tmp_path: Path, model: str) -> None:
    load_model(model).save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / STATE).write_text('{"global_step": 2}')
    assert find_damage(tmp_path, only_model=True) is None
    part = sorted(tmp_path.glob("model-*.safetensors"))[1]
    content = part.read_bytes()
    cut(part)
    assert part.name in str(find_damage(tmp_path, only_model=True))
    part.write_bytes(content)
    assert find_damage(tmp_path, only_model=True) is None
    part.unlink()
    assert "model.safetensors.index.json" in str(find_damage(tmp_path, only_model=True))
