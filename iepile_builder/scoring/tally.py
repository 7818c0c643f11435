"""Count facts, records and answers."""

from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from iepile_builder.answers.scores import Decision
from iepile_builder.data.instructions import Asked
from iepile_builder.schema import Schema
from iepile_builder.scoring.matching import Label
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
