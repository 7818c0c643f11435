"""What a training run shows: a bar with the loss on a terminal, lines elsewhere, never a dictionary."""

import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState
from trl import SFTConfig

from iepile_builder.training.progress import Progress, StopAtInterrupt


EVALUATION = {"eval_loss": 1.23456, "eval_ie_f1": 71.26, "eval_runtime": 3.0, "epoch": 1.0}
LINES = ["step 2 of 2: validation loss 1.2346, IE F1 71.3", "2 steps in 75.2 s, mean loss 1.7500"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(disable_tqdm: bool = False, main_process: bool = True) -> None:
    """Make the calls of a trainer that logs every step, and evaluates once."""
    args: Any = SFTConfig(use_cpu=True, bf16=False, disable_tqdm=disable_tqdm, report_to="none")
    state, control = TrainerState(max_steps=2, is_world_process_zero=main_process), TrainerControl()
    progress = Progress()
    progress.on_train_begin(args, state, control)
    for loss in (2.0, 1.5):
        state.global_step += 1
        progress.on_step_end(args, state, control)
        progress.on_log(args, state, control, {"loss": loss, "grad_norm": 0.5, "learning_rate": 1e-4, "epoch": 0.5})
    for _ in range(3):
        progress.on_prediction_step(args, state, control, eval_dataloader=range(3))
    progress.on_log(args, state, control, EVALUATION)
    progress.on_evaluate(args, state, control)
    progress.on_log(
        args, state, control, {"train_runtime": 75.21, "train_loss": 1.75, "total_flos": 1.0, "epoch": 1.0}
    )
    progress.on_train_end(args, state, control)


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_lines_in_a_file(disable_tqdm: bool, capsys: pytest.CaptureFixture) -> None:
    train(disable_tqdm)
    out, err = capsys.readouterr()
    assert out.splitlines() == ["step 1 of 2: loss 2.0000", "step 2 of 2: loss 1.5000", *LINES]
    assert err == ""


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    train()
    assert [line for line in capsys.readouterr().out.splitlines() if line.strip()] == LINES
    assert "Training: 100%" in terminal.getvalue() and "loss=1.5000" in terminal.getvalue()
    assert "{" not in terminal.getvalue()


def test_other_processes_show_nothing(capsys: pytest.CaptureFixture) -> None:
    train(main_process=False)
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_that_is_swallowed_ends_the_run_after_the_step() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = StopAtInterrupt()
    stop.on_train_begin()
    stop.on_step_end()
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop.on_step_end()
    stop.on_train_end()
    assert signal.getsignal(signal.SIGINT) == before
