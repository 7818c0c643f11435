"""What a training run leaves beside the weights: a plot of its curves, and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from huggingface_hub import ModelCard

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


def run_card(
    name: str,
    base: str,
    data: str,
    rows: int,
    settings: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    kept_step: int,
    library: str,
    base_model_relation: str,
) -> ModelCard:
    """
    The card of a run: base, data, settings and scores.

    Args:
        name (`str`):
            Of the model.
        base (`str`):
            Folder or Hub id of the base model; of a folder only the name is shown.
        data (`str`):
            Folder, file or Hub id of the dataset; likewise.
        rows (`int`):
            How many instances it was trained on.
        settings (`Mapping[str, Any]`):
            Hyperparameters to show.
        log (`Sequence[Mapping[str, Any]]`):
            The trainer's `log_history`.
        kept_step (`int`):
            The step whose weights are kept.
        library (`str`):
            `"peft"` or `"transformers"`.
        base_model_relation (`str`):
            `"adapter"` or `"finetune"`.

    Returns:
        [`~huggingface_hub.ModelCard`]: The card; it shows the plot `training.png` beside it.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    losses = [entry for entry in log if "loss" in entry]
    evaluations = [entry for entry in log if "eval_loss" in entry]
    few = losses[:: max(1, round(len(losses) / LOSS_ROWS))]
    by_step: dict[int, dict[str, Any]] = {}
    for entry in [*few, *losses[-1:], *evaluations]:
        by_step.setdefault(entry["step"], {}).update(entry)
    columns = [key for key in COLUMNS if any(key in entry for entry in by_step.values())]
    scores = [[step, *(shown(by_step[step].get(key), key) for key in columns)] for step in sorted(by_step)]

    kept = by_step.get(kept_step, {})
    metrics = {"eval_ie_f1": ("ie_f1", "IE F1, strict, micro, in per cent"), "eval_loss": ("loss", "Loss")}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="iepile",
            dataset_name=f"validation split of {public(data)}",
            dataset_split="validation",
            metric_type=kind,
            metric_name=title,
            metric_value=round(kept[key], 4),
        )
        for key, (kind, title) in metrics.items()
        if key in kept
    ]
    # The Hub's metadata takes no names but the Hub's own.
    local_base, local_data = Path(base).exists(), Path(data).exists()
    metadata = ModelCardData(
        base_model=None if local_base else base,
        base_model_relation=None if local_base else base_model_relation,
        datasets=None if local_data else [data],
        library_name=library,
        pipeline_tag="text-generation",
        tags=["information-extraction", "iepile", "trl", "sft"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    text = [
        f"---\n{metadata.to_yaml()}\n---\n\n# {name}\n",
        f"{public(base)}, fine-tuned for schema-based information extraction on {rows} instances of {public(data)}, "
        "the loss on the answers alone.\n",
        "## Settings\n",
        table(["setting", "value"], [[key, value] for key, value in settings.items()]),
        f"## Curves and scores\n\n![loss and scores by step]({PLOT})\n",
        table(["step", *(COLUMNS[key] for key in columns)], scores),
        f"The weights are those of step {kept_step}.",
    ]
    if "eval_ie_f1" in columns:
        text.append(
            "F1, precision and recall are micro-averages over facts of exactly equal strings, in per cent, on a "
            "sample of whole validation records, answered greedily."
        )
    return ModelCard("\n".join(text) + "\n", ignore_metadata_errors=False)


def shown(value: float | None, key: str) -> str:
    return "" if value is None else f"{value:.4f}" if key.endswith("loss") else f"{value:.1f}"


def public(name: str) -> str:
    """A Hub id, or the name alone of a local file or folder: its place means nothing elsewhere."""
    return Path(name).stem if Path(name).exists() else name


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"
