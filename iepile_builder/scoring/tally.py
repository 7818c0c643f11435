"""Count facts, records and answers, and report the counts."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import fsum
from typing import Any, NamedTuple

import numpy as np

from iepile_builder.answers.scores import Decision
from iepile_builder.data.instructions import Asked
from iepile_builder.schema import Schema
from iepile_builder.scoring.matching import Label, Matching
from iepile_builder.scoring.significance import compute_interval, draw_resamples, mark_small, precision_recall_f1
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Fact


class RecordKey(NamedTuple):
    """The fields that the instances of one record share."""

    task: str
    source: str
    id: str
    digest: int  # of the text, its language and the annotation


class Cell(NamedTuple):
    """The finest group of records that a report distinguishes."""

    task: str
    source: str
    language: str
    block: str


@dataclass
class Counts:
    """Counts of facts, records and answers, summed over records."""

    tp: float = 0  # a whole number, except in mode "partial"
    pred: float = 0
    gold: float = 0
    records: int = 0
    answers: int = 0
    unparsed: int = 0
    repaired: int = 0
    outside_schema: int = 0
    not_in_text: int = 0
    gold_not_in_text: int = 0

    def __iadd__(self, other: "Counts") -> "Counts":
        for name, value in vars(other).items():
            setattr(self, name, vars(self)[name] + value)
        return self

    def add_facts(self, tp: float, pred: float, gold: float) -> None:
        """Add counts of facts."""
        self.tp += tp
        self.pred += pred
        self.gold += gold

    def scores(self) -> dict[str, float]:
        """Compute precision, recall and F1 as percentages (0 where undefined)."""
        precision = 100 * self.tp / self.pred if self.pred else 0.0
        recall = 100 * self.tp / self.gold if self.gold else 0.0
        f1 = 200 * self.tp / (self.pred + self.gold) if self.tp else 0.0
        return {"precision": precision, "recall": recall, "f1": f1}

    def report(self) -> dict[str, Any]:
        """Give the scores, then the counts."""
        return {**self.scores(), **vars(self)}


@dataclass(slots=True)
class ScoredRecord:
    """A record and its answers, as far as instances of it have been added."""

    text: str
    language: str
    label: str
    asked: list[Asked] = field(default_factory=list)
    labels: frozenset[str] = frozenset()  # that it was asked for; records that were asked alike share it
    answers: tuple[int, ...] = ()  # hashes of the answers, in the order of `asked`
    facts: list[Fact] = field(default_factory=list)
    decisions: list[Decision | None] = field(default_factory=list)  # of the facts
    unparsed: list[str] = field(default_factory=list)
    repaired: int = 0
    outside_schema: int = 0

    def schema(self) -> Schema:
        """Merge the schemas of its instructions."""
        if len(self.asked) == 1:
            return self.asked[0].schema
        type_roles: dict[str, tuple[str, ...]] = {}
        for asked in self.asked:
            type_roles.update(asked.schema.type_roles)
        return Schema(
            tuple(dict.fromkeys(label for asked in self.asked for label in asked.schema.types)),
            tuple(dict.fromkeys(role for asked in self.asked for role in asked.schema.roles)),
            type_roles,
        )


@dataclass
class Tally:
    """
    The counts of all records.

    Attributes:
        rows (`dict[Cell, array]`):
            Four numbers for each record, one record after the other: its index, matches, predicted and gold facts.
        facts (`dict[Cell, Counts]`):
            The sums of `rows`.
        answers (`dict[tuple[str, str, str], Counts]`):
            By task, source and language: all counts except those of facts.
        labels (`dict[tuple[str, str, Label], Counts]`):
            By task, block and label: the facts.
    """

    rows: dict[Cell, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    facts: dict[Cell, Counts] = field(default_factory=lambda: defaultdict(Counts))
    answers: dict[tuple[str, str, str], Counts] = field(default_factory=lambda: defaultdict(Counts))
    labels: dict[tuple[str, str, Label], Counts] = field(default_factory=lambda: defaultdict(Counts))

    def values(self, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """Give the indices of a cell's records, and their matches, predicted and gold facts."""
        values = np.array(self.rows[cell]).reshape(-1, 4)
        return values[:, 0].astype(np.int64), values[:, 1:]

    def counts(self, cells: Iterable[Cell]) -> Counts:
        """Sum the counts of some cells; a record with several blocks is one record."""
        total = Counts()
        for cell in cells:
            total += self.facts[cell]
        for part in {cell[:3] for cell in cells}:
            total += self.answers[part]
        return total


def report_tally(
    tally: Tally, records: int, matching: Matching, resamples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """Report the counts of some records; see [`Scorer.report`]."""
    samples = _bootstrap(tally, records, resamples, seed)

    def block(cells: list[Cell]) -> dict[str, Any]:
        report = tally.counts(cells).report()
        if samples and cells:
            scores = precision_recall_f1(np.sum([samples[cell] for cell in cells], axis=0))
            report["intervals"] = dict(
                zip(("precision", "recall", "f1"), compute_interval(scores, confidence), strict=True)
            )
            report |= mark_small(report["records"])
        return report

    def pooled(cells: list[Cell]) -> dict[str, Any]:
        report = block(cells)
        for task in dict.fromkeys(cell.task for cell in cells):
            if len(TASKS[task].blocks) > 1:
                report.update(by_block(task, cells, block))
        return report

    cells = list(tally.rows)
    of_task = {task: group for task in TASKS if (group := [cell for cell in cells if cell.task == task])}
    return {
        "overall": pooled(cells),
        "tasks": {task: by_block(task, group, block) for task, group in of_task.items()},
        "sources": {
            source: {
                task: by_block(task, of_source, block)
                for task, group in sorted(of_task.items())
                if (of_source := [cell for cell in group if cell.source == source])
            }
            for source in sorted({cell.source for cell in cells})
        },
        "languages": {
            language: pooled([cell for cell in cells if cell.language == language])
            for language in sorted({cell.language for cell in cells})
        },
        "labels": _report_labels(tally) if matching.labelled else {},
        "macro": {
            "overall": _average(tally, cells, matching.labelled),
            "tasks": {
                task: by_block(task, group, lambda part: _average(tally, part, matching.labelled))
                for task, group in of_task.items()
            },
        },
    }


def _bootstrap(tally: Tally, records: int, resamples: int, seed: int) -> dict[Cell, np.ndarray]:
    """Sum matches, predicted and gold facts of each cell in each resample of the records."""
    if not resamples or not records:
        return {}
    sums: dict[Cell, list[np.ndarray]] = defaultdict(list)
    rows = {cell: tally.values(cell) for cell in tally.rows}
    for weights in draw_resamples(records, resamples, seed):
        for cell, (numbers, values) in rows.items():
            sums[cell].append(weights[:, numbers] @ values)
    return {cell: np.concatenate(parts) for cell, parts in sums.items()}


def by_block(task: str, cells: list[Cell], make: Callable[[list[Cell]], dict[str, Any]]) -> dict[str, Any]:
    """Call `make` with the cells of a task, or with those of each of its blocks."""
    blocks = TASKS[task].blocks
    if blocks == ("",):
        return make(cells)
    return {name: make([cell for cell in cells if cell.block == name]) for name in blocks}


def _report_labels(tally: Tally) -> dict[str, Any]:
    """Report scores and facts by task (and block) and label, labels with more gold facts first."""
    report: dict[str, Any] = {}
    for (task, block, label), counts in sorted(tally.labels.items(), key=lambda item: (-item[1].gold, item[0])):
        place = report.setdefault(task, {})
        place = place.setdefault(block, {}) if block else place
        facts = {"tp": counts.tp, "pred": counts.pred, "gold": counts.gold}
        place[TASKS[task].label_text(label)] = {**counts.scores(), **facts}
    return report


def _average(tally: Tally, cells: list[Cell], labelled: bool) -> dict[str, Any]:
    """Average the scores over the corpora of each task in these cells, and over their labels."""
    of_source: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        of_source[cell.task, cell.source].append(cell)
    means = {"sources": _mean([tally.counts(part) for part in of_source.values()])}
    if labelled:
        parts = {(cell.task, cell.block) for cell in cells}
        means["labels"] = _mean([counts for key, counts in tally.labels.items() if key[:2] in parts and counts.gold])
    return means


def _mean(parts: list[Counts]) -> dict[str, float]:
    """Average the scores of the parts that have a gold or a predicted fact."""
    scores = [part.scores() for part in parts if part.gold or part.pred]
    names = ("precision", "recall", "f1")
    means = {name: fsum(part[name] for part in scores) / max(len(scores), 1) for name in names}
    return {**means, "count": len(scores)}
