"""
Facts to precision, recall and F1.

Micro-averaged over facts, as multisets, of exactly equal strings. The batches of a record are merged before they are
compared with its gold annotation.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from iepile_builder.answers import asked_schema, parse_answer
from iepile_builder.errors import InputError
from iepile_builder.instructions import read_instruction
from iepile_builder.schema import Schema
from iepile_builder.tasks import MENTIONS, TASKS, Argument, Fact, Trigger


# tasks whose facts are of more than one kind, or not of the task's whole answer
BLOCKS = {"EE": ("trigger", "argument"), "EEA": ("argument",)}
FIELDS = ("id", "task", "source", "instruction", "label", "output")


@dataclass
class Counts:
    """Counts of facts, records and answers, summed over records."""

    tp: int = 0
    pred: int = 0
    gold: int = 0
    records: int = 0
    answers: int = 0
    unparsed: int = 0
    outside_schema: int = 0
    not_in_text: int = 0

    def __iadd__(self, other: "Counts") -> "Counts":
        for name, value in vars(other).items():
            setattr(self, name, vars(self)[name] + value)
        return self

    def report(self) -> dict[str, float]:
        """Precision, recall and F1 as percentages (0 where they are undefined), then the counts."""
        precision = 100 * self.tp / self.pred if self.pred else 0.0
        recall = 100 * self.tp / self.gold if self.gold else 0.0
        f1 = 200 * self.tp / (self.pred + self.gold) if self.tp else 0.0
        return {"precision": precision, "recall": recall, "f1": f1, **vars(self)}


@dataclass
class ScoredRecord:
    """What is known of a record from the instances that have been added."""

    type_roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    predicted: Counter[Fact] = field(default_factory=Counter)
    answers: int = 0
    unparsed: int = 0
    outside_schema: int = 0
    not_in_text: int = 0


class Scorer:
    """
    Score answers, one instance at a time.

        scorer = Scorer()
        for instance in predictions:
            scorer.add(instance)
        report = scorer.report()
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str, str, str], ScoredRecord] = defaultdict(ScoredRecord)

    def add(self, instance: dict[str, Any]) -> None:
        """
        Add an answer to one instruction.

        Args:
            instance (`dict[str, str]`):
                `id`, `task`, `source`, `instruction`, `label` (the record's annotation in JSON) and `output` (the
                model's answer). Instances of the same task, source, id and label are batches of one record.

        Raises:
            `InputError`: if a field is missing or not as described. A wrong `output` never raises.
        """
        for name in FIELDS:
            if not isinstance(instance.get(name), str):
                cure = "; only instances with annotation can be scored" if name == "label" else ""
                raise InputError(f"field {name!r} is missing or not a string{cure}")
        task, instruction, label = instance["task"], instance["instruction"], instance["label"]
        if task not in TASKS:
            raise InputError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
        schema = asked_schema(instruction, task)
        text = read_instruction(instruction)["input"]
        key = (task, instance["source"], instance["id"], label)
        if key not in self.records:
            gold_facts(label, task, schema)  # raises while the line is known
        record = self.records[key]
        answer = parse_answer(instance["output"], task, schema)
        record.type_roles.update(schema.type_roles)
        record.predicted.update(answer.facts)
        record.answers += 1
        record.unparsed += not answer.parsed
        record.outside_schema += answer.outside
        record.not_in_text += sum(any(fact[i] not in text for i in MENTIONS[type(fact)]) for fact in answer.facts)

    def report(self) -> dict[str, Any]:
        """
        Returns:
            `dict`: `overall`, `tasks` (by task) and `sources` (by source and task). Each is a dictionary of
            `precision`,
            `recall`, `f1` (percentages), `tp`, `pred`, `gold` (facts), `records`, `answers`, `unparsed` (answers),
            `outside_schema` (labels) and `not_in_text` (predicted facts with a string that is not in the text).
            Instead, EE has a
            `trigger` and an `argument` block of these, EEA an `argument` block; `overall` pools all facts, and has
            these two blocks besides where EE is present.
        """
        overall: dict[str, Counts] = defaultdict(Counts)
        tasks: dict[str, dict[str, Counts]] = defaultdict(lambda: defaultdict(Counts))
        sources: dict[str, dict[str, dict[str, Counts]]] = {}
        for (task, source, _, label), record in self.records.items():
            gold = by_block(gold_facts(label, task, Schema(type_roles=record.type_roles)), task)
            predicted = by_block(record.predicted.elements(), task)
            answers = Counts(
                records=1,
                answers=record.answers,
                unparsed=record.unparsed,
                outside_schema=record.outside_schema,
                not_in_text=record.not_in_text,
            )
            overall[""] += answers
            for block in BLOCKS.get(task, ("",)):
                tp = (gold[block] & predicted[block]).total()
                facts = Counts(tp=tp, pred=predicted[block].total(), gold=gold[block].total())
                overall[""] += facts
                of_source = sources.setdefault(source, {}).setdefault(task, defaultdict(Counts))
                for counts in (tasks[task][block], of_source[block]):
                    counts += facts
                    counts += answers
                if block:
                    overall[block] += facts
                    overall[block] += answers
        if "EE" not in tasks:
            overall = {"": overall[""]}
        return {
            "overall": report_blocks(overall),
            "tasks": {task: report_blocks(tasks[task]) for task in TASKS if task in tasks},
            "sources": {
                source: {task: report_blocks(blocks) for task, blocks in sorted(sources[source].items())}
                for source in sorted(sources)
            },
        }


def score(instances: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The report of [`Scorer`] on instances."""
    scorer = Scorer()
    for instance in instances:
        scorer.add(instance)
    return scorer.report()


def gold_facts(label: str, task: str, schema: Schema) -> list[Fact]:
    """The facts of a record's annotation in JSON, or an `InputError`."""
    try:
        return TASKS[task].facts(json.loads(label), schema)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"the label is not an annotation of {task} in JSON: {label[:80]!r}") from None


def by_block(facts: Iterable[Fact], task: str) -> dict[str, Counter[tuple[str, ...]]]:
    """What is compared of the facts of a task, by block."""
    blocks: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for fact in facts:
        if isinstance(fact, Argument):  # whatever the trigger of its event
            blocks["argument"][fact[:3]] += 1
        else:
            blocks["trigger" if task == "EE" and isinstance(fact, Trigger) else ""][fact] += 1
    return blocks


def report_blocks(blocks: dict[str, Counts]) -> dict[str, Any]:
    """The block named "" itself, and the others in it under their names."""
    report: dict[str, Any] = blocks[""].report() if "" in blocks else {}
    report.update({name: counts.report() for name, counts in blocks.items() if name})
    return report
