"""Make the graph of an extraction, and draw it as SVG, in columns from left to right."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from iepile_builder.html import render


if TYPE_CHECKING:  # a result makes its graph with this file
    from iepile_builder.extraction.result import Extraction


ROW, CHARACTER, PADDING = 44, 7.4, 12  # pixels
MAX_NODE, MAX_LABEL = 34, 36  # characters

Ends = tuple[str, str]  # source and target of an edge
Point = tuple[float, float]


class Node(NamedTuple):
    """A node: what it is called, and its type, `""` where it has none."""

    label: str
    kind: str


class Edge(NamedTuple):
    """An edge: the names of its nodes, what it is called, and the score of its fact."""

    source: str
    label: str
    target: str
    score: float | None = None


class _Box(NamedTuple):
    """A node's rectangle: the middle of its left side and of its right side."""

    column: int
    left: Point
    right: Point


def make_graph(results: Iterable[Extraction]) -> tuple[dict[str, Node], list[Edge]]:
    """
    Make a graph of facts: nodes by name, and the edges between them.

    Equal strings are one node; an event is a node of its own, with an edge to each of its arguments.
    """
    results = list(results)
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str, str], Edge] = {}

    def node(mention: str, kind: str = "") -> str:
        name = str(mention)
        if name not in nodes or not nodes[name].kind:
            nodes[name] = Node(name, kind)
        return name

    def edge(*ends: str, score: float | None) -> None:
        source, label, target = ends
        known = edges.get((source, label, target))
        if known is None or (known.score or 0) < (score or 0):
            edges[source, label, target] = Edge(source, label, target, score)

    for result in results:
        for fact, score in () if result.events else zip(result.facts, result.scores, strict=True):
            ends = [node(mention, kind) for mention, kind in fact.nodes]
            if len(ends) == 2:
                edge(ends[0], fact.edge, ends[1], score=score)
    scored = [pair for each in results for pair in zip(each.events, each.event_scores, strict=True)]
    strings = {*nodes, *(str(argument.argument) for event, _ in scored for argument in event.arguments)}
    free = (name for number in count(1) if (name := f"event {number}") not in strings)
    for (event, score), name in zip(scored, free, strict=False):
        label = f"{event.event_type}: {event.trigger}" if event.trigger else event.event_type
        nodes[name] = Node(label, event.event_type)
        for argument in event.arguments:
            edge(name, argument.role, node(argument.argument), score=score)
    return nodes, list(edges.values())


def hue(label: str, labels: list[str]) -> int:
    """Choose the hue of a label, in degrees: each as far as possible from those before it."""
    index = labels.index(label) if label in labels else len(labels)
    return round(index * 137.508 + 215) % 360


def draw(nodes: dict[str, Node], edges: list[Edge], colors: list[str]) -> str:
    """
    Draw a graph as an SVG element. Nodes without an edge are left out; `colors` are the types of nodes, in the order
    of their colours.
    """
    labels, mutual = _join_labels(edges)
    depth = _count_steps(edges)
    names = {name: _shorten(nodes[name].label, MAX_NODE) for name in depth}
    gap = max(90.0, max(_measure(label) for label in labels.values()) * 0.9 + 50)
    boxes, right, height = _place(names, depth, edges, gap)
    lines = []
    going, coming = Counter(source for source, _ in labels), Counter(target for _, target in labels)
    for ends, label in labels.items():
        # the label goes where the edges that share an end are apart
        share = 0.66 if going[ends[0]] >= coming[ends[1]] else 0.34
        share, curve = _route(boxes[ends[0]], boxes[ends[1]], right, share)
        middle = [_interpolate(share, *values) for values in zip(*curve, strict=True)]
        lines.append((curve, ends in mutual, label, middle, _measure(label)))
    return render(
        "graph.svg",
        width=max(right.values()) + 70,
        height=height + 8,
        lines=lines,
        boxes=[
            (nodes[name], hue(nodes[name].kind, colors), *box.left, box.right[0] - box.left[0], names[name])
            for name, box in boxes.items()
        ],
        padding=PADDING,
    )


def _join_labels(edges: list[Edge]) -> tuple[dict[Ends, str], set[Ends]]:
    """Join the labels of edges with the same ends; the set holds those that are mutual."""
    joined: dict[Ends, list[str]] = defaultdict(list)
    for edge in edges:
        joined[edge.source, edge.target].append(edge.label)
    labels = {ends: _shorten(", ".join(said), MAX_LABEL) for ends, said in joined.items()}
    mutual = set()
    for source, target in joined:
        reverse = target, source
        if source != target and reverse not in mutual and labels.get(reverse) == labels[source, target]:
            mutual.add((source, target))
            del labels[reverse]
    return labels, mutual


def _count_steps(edges: list[Edge]) -> dict[str, int]:
    """Count the steps from a node without incoming edges to each node."""
    targets: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        targets[edge.source].append(edge.target)
    pointed_at = {edge.target for edge in edges if edge.target != edge.source}
    depth: dict[str, int] = {}
    starts = [edge.source for edge in edges if edge.source not in pointed_at]
    for start in [*starts, *(edge.source for edge in edges)]:  # the latter for cycles
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


def _place(
    names: dict[str, str], depth: dict[str, int], edges: list[Edge], gap: float
) -> tuple[dict[str, _Box], dict[int, float], float]:
    """Place the nodes in columns: the boxes, the right side of each column, and the height of all."""
    columns: dict[int, list[str]] = defaultdict(list)
    for name in depth:
        columns[depth[name]].append(name)
    height = float(ROW * max(map(len, columns.values())))
    boxes: dict[str, _Box] = {}
    right: dict[int, float] = {}
    left = 8.0
    pairs = list(dict.fromkeys((edge.source, edge.target) for edge in edges))
    for column in sorted(columns):
        sources = {
            name: [boxes[source].left[1] for source, target in pairs if target == name and source in boxes]
            for name in columns[column]
        }
        # in the order of the nodes that point to them
        order = sorted(
            columns[column], key=lambda name: sum(sources[name]) / len(sources[name]) if sources[name] else 0
        )
        for number, name in enumerate(order):
            y = height / len(order) * (number + 0.5)
            boxes[name] = _Box(column, (left, y), (left + _measure(names[name]) + 2 * PADDING, y))
        right[column] = max(boxes[name].right[0] for name in order)
        left = right[column] + gap
    return {name: boxes[name] for name in names}, right, height


def _route(source: _Box, target: _Box, right: dict[int, float], share: float) -> tuple[float, list[Point]]:
    """Route an edge: the position of its label along the way, and the four points of a cubic curve."""
    if target.column == source.column:  # around the right side, to the node itself too
        start, (x, y) = source.right, target.right
        end = (x, y + 8 if source is target else y)
        around = right[source.column] + 30
        return 0.5, [start, (around, start[1] - 10), (around, end[1] + 10), end]
    if target.column > source.column:
        start, end = source.right, target.left
        bend = max(abs(end[0] - start[0]) / 2, 30)
        return share, [start, (start[0] + bend, start[1]), (end[0] - bend, end[1]), end]
    # back, below the edges that go forward
    start, end = (source.left[0], source.left[1] + 6), (target.right[0], target.right[1] + 6)
    bend = max((start[0] - end[0]) / 2, 30)
    return 0.34, [start, (start[0] - bend, start[1] + 18), (end[0] + bend, end[1] + 18), end]


def _interpolate(t: float, a: float, b: float, c: float, d: float) -> float:
    """Compute a coordinate of a cubic curve."""
    s = 1 - t
    return s * s * s * a + 3 * s * s * t * b + 3 * s * t * t * c + t * t * t * d


def _measure(text: str) -> float:
    """Estimate the width of a text in pixels."""
    return sum(CHARACTER * (1.8 if unicodedata.east_asian_width(character) in "WF" else 1) for character in text)


def _shorten(text: str, length: int) -> str:
    """Put a text on one line of at most `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
