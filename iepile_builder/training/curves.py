"""The curves of a training run, as a plot and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


PLOT = "training.png"
FEW = 20  # points of a curve, each with a marker: a single one would not be seen
LOSS_ROWS = 10  # of the card's table; all of them are in the plot
LOSSES = {"loss": "loss", "eval_loss": "validation loss"}
SCORES = {
    "eval_ie_f1": "IE F1",
    "eval_ie_precision": "precision",
    "eval_ie_recall": "recall",
    "eval_ie_valid_json": "valid JSON",
}
# GRPO's loss is near 0 whatever is learned.
REWARDS = {
    "reward": "reward",
    "rewards/ie_f1/mean": "IE F1 reward",
    "rewards/valid_json/mean": "JSON reward",
    "completions/mean_length": "tokens an answer",
    "eval_reward": "validation reward",
}


def plot(log: Sequence[Mapping[str, Any]], file: Path) -> bool:
    """
    Draw the losses over the steps, and below them the scores if there are any; of a GRPO run, the rewards. Return
    whether the trainer's `log_history` has anything to draw.
    """
    from matplotlib.figure import Figure

    if any("reward" in entry for entry in log):
        parts = {"reward": "training", "rewards/ie_f1/mean": "of it IE F1", "eval_reward": "validation"}
        panels = {"mean reward of an answer": parts}
    elif any("loss" in entry or "eval_loss" in entry for entry in log):
        panels = {"loss on the answers": {"loss": "training", "eval_loss": "validation"}}
    else:
        return False
    if any("eval_ie_f1" in entry for entry in log):
        panels["validation records (%)"] = {"eval_ie_f1": "IE F1", "eval_ie_valid_json": "answers that are JSON"}
    figure = Figure(figsize=(7, 3 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (unit, curves) in zip(axes, panels.items(), strict=True):
        for key, label in curves.items():
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            if points:
                steps, values = zip(*points, strict=True)
                few = len(points) <= FEW or key.startswith("eval_")
                axis.plot(steps, values, label=label, marker="." if few else None)
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[-1].set_xlabel("step")
    temporary = file.with_name(f".{file.name}.incomplete")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(file)
    return True


def curve_rows(log: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """
    List losses and scores, or rewards, of the trainer's `log_history` as a table: the header, and a row for each
    evaluation and for some of the losses.
    """
    losses = [entry for entry in log if "loss" in entry]
    few = losses[:: max(1, round(len(losses) / LOSS_ROWS))]
    by_step: dict[int, dict[str, Any]] = {}
    for entry in [*few, *losses[-1:], *(entry for entry in log if "eval_loss" in entry)]:
        by_step.setdefault(entry["step"], {}).update(entry)
    titles = REWARDS if any("reward" in entry for entry in losses) else LOSSES | SCORES
    columns = [key for key in titles if any(key in entry for entry in by_step.values())]
    rows = [[step, *(format_value(by_step[step].get(key), key) for key in columns)] for step in sorted(by_step)]
    return ["step", *(titles[key] for key in columns)], rows


def format_value(value: float | None, key: str) -> str:
    """Write a value of the log with as many digits as are of use."""
    if value is None:
        return ""
    if "reward" in key:
        return f"{value:.3f}"
    return f"{value:.4f}" if key.endswith("loss") else f"{value:.1f}"
