"""Draw the graph of an extraction as SVG."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from html import escape
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from iepile_builder.extraction.result import Edge, Node


ROW, CHARACTER, PADDING = 44, 7.4, 12  # pixels of the graph


def hue(label: str, labels: list[str]) -> int:
    """A colour of a label's own, in degrees: each as far as possible from those before it."""
    index = labels.index(label) if label in labels else len(labels)
    return round(index * 137.508 + 215) % 360


def columns(edges: list[Edge]) -> dict[str, int]:
    """How far each node is from one that nothing points to."""
    targets: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        targets[edge.source].append(edge.target)
    pointed_at = {edge.target for edge in edges if edge.target != edge.source}
    depth: dict[str, int] = {}
    starts = [edge.source for edge in edges if edge.source not in pointed_at]
    for start in [*starts, *(edge.source for edge in edges)]:  # the latter for circles
        if start in depth:
            continue
        depth[start] = 0
        queue = [start]
        for name in queue:
            for target in targets[name]:
                if target not in depth:
                    depth[target] = depth[name] + 1
                    queue.append(target)
    return depth


def draw(nodes: dict[str, Node], edges: list[Edge], colors: list[str]) -> str:
    """A graph as SVG."""
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for edge in edges:
        together[edge.source, edge.target].append(edge.label)
    labels = {ends: short(", ".join(said), 36) for ends, said in together.items()}
    mutual = set()  # one line with two heads for what is said in both directions
    for source, target in together:
        if (
            source != target
            and (target, source) not in mutual
            and labels.get((target, source)) == labels[source, target]
        ):
            mutual.add((source, target))
            del labels[target, source]
    depth = columns(edges)
    names = {name: short(nodes[name].label, 34) for name in depth}

    # rows: in each column in the order of what points to it
    by_column: dict[int, list[str]] = defaultdict(list)
    for name in depth:
        by_column[depth[name]].append(name)
    height = ROW * max(map(len, by_column.values()))
    y: dict[str, float] = {}
    for column in sorted(by_column):
        before = {
            name: [y[source] for source, target in together if target == name and source in y]
            for name in by_column[column]
        }
        order = sorted(
            by_column[column], key=lambda name: sum(before[name]) / len(before[name]) if before[name] else 0
        )
        step = height / len(order)
        for number, name in enumerate(order):
            y[name] = step * (number + 0.5)

    # columns: as wide as their nodes, and as far apart as the labels between them need
    gap = max(90.0, max(width(label) for label in labels.values()) * 0.9 + 50)
    x: dict[str, float] = {}
    right: dict[int, float] = {}
    left = 8.0
    for column in sorted(by_column):
        for name in by_column[column]:
            x[name] = left
        right[column] = left + max(width(names[name]) + 2 * PADDING for name in by_column[column])
        left = right[column] + gap
    total = left - gap + 70

    lines, boxes = [], []
    going, coming = Counter(source for source, _ in labels), Counter(target for _, target in labels)
    for (source, target), label in labels.items():
        # the label is where the edges that share an end are apart
        share = 0.66 if going[source] >= coming[target] else 0.34
        start, end = (x[source] + width(names[source]) + 2 * PADDING, y[source]), (x[target], y[target])
        bend = max(abs(end[0] - start[0]) / 2, 30)
        if depth[target] > depth[source]:
            first, second = (start[0] + bend, start[1]), (end[0] - bend, end[1])
        elif depth[target] == depth[source]:  # around the right side; to itself, too
            end = (x[target] + width(names[target]) + 2 * PADDING, y[target] + (8 if source == target else 0))
            share, around = 0.5, right[depth[source]] + 30
            first, second = (around, start[1] - 10), (around, end[1] + 10)
        else:  # back, below what goes forth
            start = (x[source], y[source] + 6)
            end = (x[target] + width(names[target]) + 2 * PADDING, y[target] + 6)
            share = 0.34
            bend = max((start[0] - end[0]) / 2, 30)
            first, second = (start[0] - bend, start[1] + 18), (end[0] + bend, end[1] + 18)
        curve = " ".join(f"{point[0]:.1f},{point[1]:.1f}" for point in (first, second, end))
        both = ' marker-start="url(#arrow)"' if (source, target) in mutual else ""
        lines.append(
            f'<path class="edge" marker-end="url(#arrow)"{both} d="M{start[0]:.1f},{start[1]:.1f} C{curve}"/>'
        )
        where = [bezier(share, *values) for values in zip(start, first, second, end, strict=True)]
        boxes.append(f'<text class="label" x="{where[0]:.1f}" y="{where[1] + 4:.1f}">{escape(label)}</text>')
    for name, label in names.items():
        wide = width(label) + 2 * PADDING
        look = f'style="--hue:{hue(nodes[name].kind, colors)}"' if nodes[name].kind else 'class="plain"'
        boxes.append(
            f"<g><title>{escape(nodes[name].label)}{escape(f' ({nodes[name].kind})' if nodes[name].kind else '')}"
            f'</title><rect {look} x="{x[name]:.1f}" y="{y[name] - 14:.1f}" width="{wide:.1f}" height="28" rx="7"/>'
            f'<text x="{x[name] + PADDING:.1f}" y="{y[name] + 4.5:.1f}">{escape(label)}</text></g>'
        )
    return (
        f'<svg role="img" aria-label="graph of the facts" width="{total:.0f}" height="{height + 8:.0f}" '
        f'viewBox="0 0 {total:.0f} {height + 8:.0f}"><defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0,0 8,4 0,8z" fill="currentColor" '
        'opacity=".6"/>'
        f"</marker></defs>{''.join(lines)}{''.join(boxes)}</svg>"
    )


def bezier(t: float, a: float, b: float, c: float, d: float) -> float:
    """A coordinate of a cubic curve."""
    s = 1 - t
    return s * s * s * a + 3 * s * s * t * b + 3 * s * t * t * c + t * t * t * d


def width(text: str) -> float:
    """About how many pixels wide a text is."""
    return sum(CHARACTER * (1.8 if unicodedata.east_asian_width(character) in "WF" else 1) for character in text)


def short(text: str, length: int) -> str:
    """A text of at most so many characters, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
