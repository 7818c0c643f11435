"""What is in a built dataset: counts, lengths, and which labels are asked together; and plots of it."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np

from iepile_builder.data.instructions import asked_schema
from iepile_builder.tasks import TASKS


if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLE = 50_000  # instances of a split that are looked into, evenly spaced
HEAT_MAP_LABELS = 40
CHINESE_FONTS = ("CJK", "Han Sans", "WenQuanYi", "YaHei", "SimHei", "PingFang", "Heiti", "Unicode MS")


@dataclass
class Statistics:
    """
    What instances of a split look like.

    Args:
        instruction_lengths (`list[int]`):
            Characters of each instruction.
        output_lengths (`list[int]`):
            Characters of each answer.
        labels (`Counter[tuple[str, int]]`):
            Number of instances by task and number of labels asked.
        positive (`Counter[tuple[str, int]]`):
            Number of instances by task and number of labels that have an answer.
        together (`dict[tuple[str, str], Counter[tuple[str, str]]]`):
            For each task and corpus, how often a label that has an answer (first) is asked together with another.
    """

    instruction_lengths: list[int] = field(default_factory=list)
    output_lengths: list[int] = field(default_factory=list)
    labels: Counter[tuple[str, int]] = field(default_factory=Counter)
    positive: Counter[tuple[str, int]] = field(default_factory=Counter)
    together: dict[tuple[str, str], Counter[tuple[str, str]]] = field(default_factory=dict)


def count_instances(rows: datasets.Dataset) -> Counter[tuple[str, str, str]]:
    """Number of instances of each task, language and corpus."""
    table = rows.with_format("arrow")
    counts: Counter[tuple[str, str, str]] = Counter()
    for batch in table.iter(10_000):
        for group in batch.group_by(["task", "language", "source"]).aggregate([([], "count_all")]).to_pylist():
            counts[group["task"], group["language"], group["source"]] += group["count_all"]
    return counts


def look_into(rows: datasets.Dataset) -> Statistics:
    """
    Statistics of a split, out of at most `SAMPLE` evenly spaced instances.

    Args:
        rows (`datasets.Dataset`):
            Instances with the columns of the builder.
    """
    found = Statistics()
    for row in rows.select(range(0, len(rows), len(rows) // SAMPLE + 1)):
        task = TASKS[row["task"]]
        asked = task.labels(asked_schema(row["instruction"], row["task"]))
        answer = json.loads(row["output"]) if row["output"] is not None else {}
        positive = [label for label in asked if answer.get(task.answer_key(label))]
        found.instruction_lengths.append(len(row["instruction"]))
        found.output_lengths.append(len(row["output"] or ""))
        found.labels[row["task"], len(asked)] += 1
        found.positive[row["task"], len(positive)] += 1
        pairs = found.together.setdefault((row["task"], row["source"]), Counter())
        pairs.update((label, other) for label in positive for other in asked if other != label)
    return found


def plot(found: Statistics, folder: Path) -> list[Path]:
    """
    Draw lengths, labels per instance, positives against negatives, and which labels are asked together.

    Args:
        found (`Statistics`):
            Of the split to draw.
        folder (`Path`):
            Where the PNG files go.

    Returns:
        `list[Path]`: the files.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    files = []

    def save(name: str) -> None:
        files.append(folder / f"{name}.png")
        pyplot.savefig(files[-1], dpi=120, bbox_inches="tight")
        pyplot.close()

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axis, lengths, name in zip(
        axes, (found.instruction_lengths, found.output_lengths), ("instruction", "answer"), strict=True
    ):
        axis.hist(np.minimum(lengths, np.percentile(lengths, 99)), bins=40, color="tab:blue")
        axis.set(xlabel=f"characters of the {name} (the last bar: 1% are longer)", ylabel="instances")
    save("lengths")

    figure, axis = pyplot.subplots(figsize=(9, 3), layout="constrained")
    draw_bars(axis, found.labels)
    axis.set(xlabel="labels asked in an instruction", ylabel="instances")
    save("labels")

    figure, axis = pyplot.subplots(figsize=(9, 3), layout="constrained")
    draw_bars(axis, found.positive)
    axis.set(xlabel="labels of an instruction that have an answer (0: purely negative)", ylabel="instances")
    save("positives")

    for (task, source), pairs in found.together.items():
        labels = [label for label, _ in Counter(label for pair in pairs.elements() for label in pair).most_common()]
        labels = sorted(labels[:HEAT_MAP_LABELS])
        if len(labels) > 2:
            draw_heat_map(labels, pairs, f"{source} ({task})")
            save(f"together_{task}_{source}")
    return files


def draw_bars(axis: "Axes", counts: Counter[tuple[str, int]]) -> None:
    """Bars over the numbers of labels, stacked by task."""
    numbers = range(min(number for _, number in counts), max(number for _, number in counts) + 1)
    bottom = np.zeros(len(numbers))
    for task in dict.fromkeys(task for task, _ in counts):
        heights = np.array([counts[task, number] for number in numbers])
        axis.bar(numbers, heights, bottom=bottom, label=task)
        bottom += heights
    axis.set_xticks(numbers)
    axis.legend()


def draw_heat_map(labels: list[str], pairs: Counter[tuple[str, str]], title: str) -> None:
    """How often a label that has an answer (rows) is asked together with another (columns)."""
    from matplotlib import pyplot
    from matplotlib.font_manager import findfont, fontManager, get_font

    counts = np.array([[pairs[label, other] for other in labels] for label in labels], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    chinese = {font.name for font in fontManager.ttflist if any(name in font.name for name in CHINESE_FONTS)}
    families = ["DejaVu Sans", *sorted(chinese)]
    fonts = [get_font(findfont(family)) for family in families]
    characters = {character for label in labels for character in label}
    if not all(any(font.get_char_index(ord(character)) for font in fonts) for character in characters):
        labels = [str(number) for number, _ in enumerate(labels, start=1)]
        title += "; its labels in sorted order"  # no font can write them
    pyplot.rcParams["font.family"] = families
    size = 2 + 0.3 * len(labels)
    pyplot.figure(figsize=(size + 1, size), layout="constrained")
    pyplot.imshow(shares, cmap="viridis")
    pyplot.colorbar(label="share of the row", shrink=0.7)
    pyplot.xticks(range(len(labels)), labels, rotation=90)
    pyplot.yticks(range(len(labels)), labels)
    pyplot.xlabel("asked together with it")
    pyplot.ylabel("has an answer")
    pyplot.title(title)
