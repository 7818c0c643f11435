"""The curves of a training run, as a plot and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


PLOT = "training.png"
LOSS_ROWS = 10  # of the card's table; all of them are in the plot
COLUMNS = {
    "loss": "loss",
    "eval_loss": "validation loss",
    "eval_ie_f1": "IE F1",
    "eval_ie_precision": "precision",
    "eval_ie_recall": "recall",
    "eval_ie_valid_json": "valid JSON",
}


def plot(log: Sequence[Mapping[str, Any]], file: Path) -> None:
    """
    Draws the losses over the steps, and the scores below them where there are any.

    Args:
        log (`Sequence[Mapping[str, Any]]`):
            The trainer's `log_history`.
        file (`Path`):
            PNG to write.
    """
    from matplotlib.figure import Figure

    panels = {"loss on the answers": {"loss": "training", "eval_loss": "validation"}}
    if any("eval_ie_f1" in entry for entry in log):
        panels["validation records (%)"] = {"eval_ie_f1": "IE F1", "eval_ie_valid_json": "answers that are JSON"}
    figure = Figure(figsize=(7, 3 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (unit, curves) in zip(axes, panels.items(), strict=True):
        for key, label in curves.items():
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            if points:
                steps, values = zip(*points, strict=True)
                axis.plot(steps, values, label=label, marker=None if key == "loss" else ".")
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[-1].set_xlabel("step")
    figure.savefig(file, dpi=120)


def curve_rows(log: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """
    Losses and scores as a table.

    Args:
        log (`Sequence[Mapping[str, Any]]`):
            The trainer's `log_history`.

    Returns:
        `tuple[list[str], list[list[Any]]]`: The header, and the rows: all evaluations, and some of the losses.
    """
    losses = [entry for entry in log if "loss" in entry]
    few = losses[:: max(1, round(len(losses) / LOSS_ROWS))]
    by_step: dict[int, dict[str, Any]] = {}
    for entry in [*few, *losses[-1:], *(entry for entry in log if "eval_loss" in entry)]:
        by_step.setdefault(entry["step"], {}).update(entry)
    columns = [key for key in COLUMNS if any(key in entry for entry in by_step.values())]
    rows = [[step, *(shown(by_step[step].get(key), key) for key in columns)] for step in sorted(by_step)]
    return ["step", *(COLUMNS[key] for key in columns)], rows


def shown(value: float | None, key: str) -> str:
    return "" if value is None else f"{value:.4f}" if key.endswith("loss") else f"{value:.1f}"
