"""What a training run shows on the screen: a bar on a terminal, lines in a file, and what every evaluation gave."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

from tqdm import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState

from iepile_builder.training.curves import LOSSES, REWARDS, SCORES, format_value


TITLES = LOSSES | SCORES | REWARDS


class Progress(ProgressCallback):
    """
    Show a bar with the latest loss on a terminal; elsewhere print the loss every `logging_steps`.

    [`~transformers.ProgressCallback`] shows both at once, and the logs as dictionaries.
    """

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="Training",
                unit="step",
                dynamic_ncols=True,
                disable=args.disable_tqdm or None,
            )
        self.current_step = self.first_step = state.global_step

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        if self.training_bar is not None and not self.training_bar.disable:
            super().on_prediction_step(*args, **kwargs)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if self.training_bar is None or not logs:
            return
        if "train_runtime" in logs and state.global_step == self.first_step:
            return  # nothing was left to train
        values = {title: format_value(logs[key], key) for key, title in TITLES.items() if key in logs}
        if "train_runtime" in logs:
            loss = format_value(logs["train_loss"], "train_loss")
            self.training_bar.write(f"{state.global_step} steps in {logs['train_runtime']:.1f} s, mean loss {loss}")
        elif "loss" in logs and not self.training_bar.disable:
            self.training_bar.set_postfix(values)
        elif values:
            shown = ", ".join(f"{title} {value}" for title, value in values.items())
            self.training_bar.write(f"step {state.global_step} of {state.max_steps}: {shown}")


class StopAtInterrupt(TrainerCallback):
    """End a run at Ctrl-C: at once, or at the end of the step if a library swallows the `KeyboardInterrupt`."""

    def __init__(self) -> None:
        self.interrupted = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal, in place of Python's own handler."""
        self.interrupted = True
        raise KeyboardInterrupt

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.before = signal.signal(signal.SIGINT, self.interrupt)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGINT, self.before)


def show_progress(trainer: Trainer) -> None:
    """Replace what a trainer shows by [`Progress`], and let Ctrl-C end it."""
    for each in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(each)
    trainer.add_callback(Progress)
    trainer.add_callback(StopAtInterrupt)
