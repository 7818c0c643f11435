"""Count and plot a built dataset: instances, lengths, and which labels are asked together."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np

from iepile_builder.data.instructions import asked_schema
from iepile_builder.tasks import TASKS


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLE = 50_000  # number of evenly spaced instances of a split to look at
HEAT_MAP_LABELS = 40
FONT = "DejaVu Sans"  # comes with matplotlib


@dataclass
class Statistics:
    """
    Statistics of the instances of a split.

    `labels` and `positive` count instances by task and number of labels that are asked and that have an answer;
    `together`, for each task and corpus, how often a label that has an answer (first) is asked together with another.
    """

    instruction_lengths: list[int] = field(default_factory=list)  # in characters
    output_lengths: list[int] = field(default_factory=list)  # in characters
    labels: Counter[tuple[str, int]] = field(default_factory=Counter)
    positive: Counter[tuple[str, int]] = field(default_factory=Counter)
    together: dict[tuple[str, str], Counter[tuple[str, str]]] = field(default_factory=dict)


def count_instances(rows: datasets.Dataset) -> Counter[tuple[str, str, str]]:
    """Count the instances of each task, language and corpus."""
    table = rows.with_format("arrow")
    counts: Counter[tuple[str, str, str]] = Counter()
    for batch in table.iter(10_000):
        for group in batch.group_by(["task", "language", "source"]).aggregate([([], "count_all")]).to_pylist():
            counts[group["task"], group["language"], group["source"]] += group["count_all"]
    return counts


def look_into(rows: datasets.Dataset) -> Statistics:
    """Gather the statistics of a split from at most `SAMPLE` evenly spaced instances."""
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


def plot(found: Statistics, folder: Path) -> tuple[list[Path], list[str]]:
    """
    Draw lengths, labels asked and answered, and, of the corpus of each task that has the most pairs, which labels are
    asked together, as PNG files. Return these, and notes on labels that no font can draw.
    """
    from matplotlib.figure import Figure

    figures = {name: Figure(figsize=(9, 3), layout="constrained") for name in ("lengths", "labels")}
    lengths = (found.instruction_lengths, found.output_lengths)
    for axes, values, name in zip(figures["lengths"].subplots(1, 2), lengths, ("instruction", "answer"), strict=True):
        axes.hist(np.minimum(values, np.percentile(values, 99)), bins=40, color="tab:blue")
        axes.set(xlabel=f"characters of the {name} (last bar: the longest 1%)", ylabel="instances")
    axes, answered = figures["labels"].subplots(1, 2, sharey=True)
    _draw_bars(axes, found.labels)
    _draw_bars(answered, found.positive)
    axes.set(xlabel="labels asked", ylabel="instances")
    axes.legend()
    answered.set(xlabel="of these, labels with an answer")
    notes = []
    most = {task: source for (task, source), _ in sorted(found.together.items(), key=lambda of: of[1].total())}
    for task, source in sorted(most.items()):
        pairs = found.together[task, source]
        labels = [label for label, _ in Counter(label for pair in pairs.elements() for label in pair).most_common()]
        labels = sorted(labels[:HEAT_MAP_LABELS])
        if len(labels) > 2:
            title = f"{source} ({task})"
            families = _find_fonts({*title, *"".join(labels)})
            if families is None:
                notes.append(
                    f"No font here has all characters of the labels of {title}: its plot numbers them in sorted "
                    "order. Install a font, such as Noto Sans CJK, and build again with --overwrite."
                )
            figures[f"together_{task}_{source}"] = _draw_heat_map(labels, pairs, title, families)

    files = [folder / f"{name}.png" for name in figures]
    for file, figure in zip(files, figures.values(), strict=True):
        figure.savefig(file, dpi=120, bbox_inches="tight")
    return files, notes


def _draw_bars(axes: "Axes", counts: Counter[tuple[str, int]]) -> None:
    """Draw bars over the numbers of labels, stacked by task."""
    numbers = range(min(number for _, number in counts), max(number for _, number in counts) + 1)
    bottom = np.zeros(len(numbers))
    for task in dict.fromkeys(task for task, _ in counts):
        heights = np.array([counts[task, number] for number in numbers])
        axes.bar(numbers, heights, bottom=bottom, label=task)
        bottom += heights
    axes.set_xticks(numbers)


def _find_fonts(characters: set[str]) -> list[str] | None:
    """Find families of installed fonts that together have all characters, if there are any."""
    from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font

    def known(family: str) -> set[str]:
        font = get_font(findfont(family))
        return {character for character in characters if font.get_char_index(ord(character))}

    families = [FONT]
    missing = characters - known(FONT)
    if missing:
        # matplotlib keeps its list of fonts forever: add those installed since
        for file in sorted({*findSystemFonts()} - {font.fname for font in fontManager.ttflist}):
            with suppress(Exception):  # matplotlib, too, skips what it cannot read
                fontManager.addfont(file)
        names = {font.name for font in fontManager.ttflist if "lastresort" not in font.name.replace(" ", "").lower()}
        having = {name: known(name) for name in sorted(names)}
    while missing:
        best = max(having, key=lambda name: (len(having[name] & missing), "Sans" in name))
        if not having[best] & missing:
            return None
        families.append(best)
        missing -= having[best]
    return families


def _draw_heat_map(
    labels: list[str], pairs: Counter[tuple[str, str]], title: str, families: list[str] | None
) -> "Figure":
    """
    Draw how often a label that has an answer (rows) is asked together with another (columns); without fonts that have
    their characters, the labels are numbers.
    """
    from matplotlib.figure import Figure

    counts = np.array([[pairs[label, other] for other in labels] for label in labels], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if families is None:
        labels, title, families = [str(number + 1) for number in range(len(labels))], "labels in sorted order", [FONT]
    size = 2 + 0.3 * len(labels)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, cmap="viridis"), label="share of the row", shrink=0.7)
    axes.set_xticks(range(len(labels)), labels, rotation=90, family=families)
    axes.set_yticks(range(len(labels)), labels, family=families)
    axes.set(xlabel="asked together with it", ylabel="has an answer")
    axes.set_title(title, family=families)
    return figure
