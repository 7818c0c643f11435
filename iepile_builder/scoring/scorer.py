"""
Score facts: precision, recall and F1.

The batches of a record are merged before they are compared with its gold annotation. By default facts are compared as
multisets of exact strings; see [`Matching`].
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from iepile_builder.answers.parse import Answer, load_answer, load_json, parse_answer
from iepile_builder.answers.scores import (
    Calibration,
    Decision,
    check_decisions,
    decide_facts,
    keep_likeliest,
    score_decision,
)
from iepile_builder.data.index import collector_off
from iepile_builder.data.instructions import read_asked
from iepile_builder.errors import InputError
from iepile_builder.io import located, read_objects
from iepile_builder.schema import Schema
from iepile_builder.scoring.matching import Matching, in_text
from iepile_builder.scoring.significance import paired_test
from iepile_builder.scoring.tally import Cell, Counts, RecordKey, ScoredRecord, Tally, by_block, report_tally
from iepile_builder.tasks import TASKS, find_task
from iepile_builder.tasks.facts import Fact


logger = logging.getLogger(__name__)

FIELDS = ("id", "task", "source", "instruction", "label", "output")
STRICT = Matching()
NO_SCORES = "its answers have no 'decisions', so that facts have no scores"
SHOWN = 500  # characters that are kept of an answer that does not parse


class Scorer:
    """
    Score answers, one instance at a time.

        scorer = Scorer()
        for instance in predictions:
            scorer.add(instance)
        report = scorer.report()

    Args:
        repair (`bool`, *optional*, defaults to `False`):
            Also read answers that are only nearly JSON; see [`repair_json`].
        min_score (`float`, *optional*, defaults to 0.0):
            Leave out predicted facts with a lower score, or with none; 0 for all facts.
        multi_label (`bool`, *optional*, defaults to `True`):
            Whether an entity of NER may have several labels; if not, that of its highest score counts.
        calibration ([`Calibration`], *optional*):
            Turns scores into probabilities.
    """

    def __init__(
        self,
        repair: bool = False,
        min_score: float = 0.0,
        multi_label: bool = True,
        calibration: Calibration | None = None,
    ) -> None:
        self.repair = repair
        self.min_score = min_score
        self.multi_label = multi_label
        self.calibration = calibration
        self.has_decisions = self.repeated = False
        self.records: dict[RecordKey, ScoredRecord] = {}

    def add(self, instance: dict[str, Any]) -> None:
        """
        Add an answer to one instruction.

        Args:
            instance (`dict[str, str]`):
                `id`, `task`, `source`, `instruction`, `label` (the record's annotation in JSON) and `output` (the
                model's answer). Instances of the same task, source, id, label and text are batches of one record. The
                optional `decisions` of the engine give the facts their scores. A second answer to a label, in the same
                batch or another one, counts once; the first one is logged.

        Raises:
            `InputError`: If a field is missing or not as described, or a record has two different answers to
                a label. A wrong `output` never raises.
        """
        for name in FIELDS:
            if not isinstance(instance.get(name), str):
                cure = "; only instances with annotation can be scored" if name == "label" else ""
                raise InputError(f"field {name!r} is missing or not a string{cure}")
        task, source, id, label = (instance[name] for name in ("task", "source", "id", "label"))
        asked, text = read_asked(instance["instruction"], find_task(task).name)
        key = RecordKey(task, source, id, _digest(text, asked.language, label))
        record = self.records.get(key)
        if record is None:
            _read_gold(task, label, asked.schema)  # raises while the line is known
            record = self.records[key] = ScoredRecord(text, asked.language, label)
        said = hash(instance["output"])
        if asked in record.asked:
            if said != record.answers[record.asked.index(asked)]:
                raise InputError(
                    f"record {id!r} of {source!r} ({task}) has another answer to the same labels above; keep one"
                )
            self._warn_of_repeats(key)
            return
        answer = parse_answer(instance["output"], key.task, asked.schema, self.repair, text)
        labels = TASKS[task].labels(asked.schema)
        joined = _join_labels(record.labels, labels)
        if len(joined) < len(record.labels) + len(labels) and (again := record.labels.intersection(labels)):
            answer = self._leave_out(again, answer, record, key)
        record.labels = joined
        record.asked.append(asked)
        record.answers += (said,)
        decisions: list[Decision | None] = [None] * len(answer.facts)
        if instance.get("decisions") is not None:
            check_decisions(instance["decisions"])
            self.has_decisions = True
            if answer.facts:
                value = load_answer(instance["output"])
                decided = decide_facts(value, instance["decisions"], key.task, asked.schema)
                decisions = [decided.get(fact) for fact in answer.facts]
        if self.min_score > 0:
            scores = [self.score(decision, key.task) for decision in decisions]
            kept = [score is not None and score >= self.min_score for score in scores]
            record.facts += compress(answer.facts, kept)
            record.decisions += compress(decisions, kept)
        else:
            record.facts += answer.facts
            record.decisions += decisions
        if not self.multi_label and TASKS[task].one_label:
            kept = keep_likeliest([(fact.mentions[0], fact.asked_label) for fact in record.facts], record.decisions)
            record.facts = list(compress(record.facts, kept))
            record.decisions = list(compress(record.decisions, kept))
        record.repaired += answer.repaired
        record.outside_schema += answer.outside
        if not answer.parsed:
            record.unparsed.append(instance["output"][:SHOWN])

    def _leave_out(self, labels: frozenset[str], answer: Answer, record: ScoredRecord, key: RecordKey) -> Answer:
        """Leave out what an answer says of labels that the record was asked for before, which must be the same."""
        place = f"record {key.id!r} of {key.source!r} ({key.task})"
        if self.min_score > 0 or not self.multi_label:  # what the record has is filtered
            option = "--min_score" if self.min_score > 0 else "--multi_label false"
            raise InputError(f"{place} was asked for {min(labels)!r} twice, which {option} cannot use; keep one")
        before, now = (
            Counter(fact for fact in facts if fact.asked_label in labels) for facts in (record.facts, answer.facts)
        )
        for fact in (before - now) + (now - before):
            raise InputError(f"{place} has another answer to {fact.asked_label!r} above; keep one")
        self._warn_of_repeats(key)
        return replace(answer, facts=[fact for fact in answer.facts if fact.asked_label not in labels])

    def _warn_of_repeats(self, key: RecordKey) -> None:
        """Say once that a record has an answer twice."""
        if not self.repeated:
            logger.warning(
                "record %r of %r (%s) has the same answer twice; repeated answers count once",
                key.id,
                key.source,
                key.task,
            )
        self.repeated = True

    def score(self, decision: Decision | None, task: str) -> float | None:
        """Compute the score of a fact, `None` where its decision is not known."""
        return None if decision is None else score_decision(decision, task, self.calibration)

    def compared(self) -> Iterator[tuple[RecordKey, ScoredRecord, list[Fact]]]:
        """Yield each record with its gold facts."""
        for key, record in self.records.items():
            yield key, record, _read_gold(key.task, record.label, record.schema())

    def tally(self, matching: Matching = STRICT) -> Tally:
        """Compare all records."""
        tally = Tally()
        for number, (key, record, gold) in enumerate(self.compared()):
            totals = {block: Counts() for block in TASKS[key.task].blocks}
            compared = matching.compare(gold, record.facts, record.text, key.task)
            for (block, label), (tp, pred, annotated) in compared.items():
                tally.labels[key.task, block, label].add_facts(tp, pred, annotated)
                totals[block].add_facts(tp, pred, annotated)
            for block, counts in totals.items():
                cell = Cell(key.task, key.source, record.language, block)
                tally.rows[cell].extend((number, counts.tp, counts.pred, counts.gold))
                tally.facts[cell].add_facts(counts.tp, counts.pred, counts.gold)
            answers = tally.answers[key.task, key.source, record.language]
            answers.records += 1
            answers.answers += len(record.asked)
            answers.unparsed += len(record.unparsed)
            answers.repaired += record.repaired
            answers.outside_schema += record.outside_schema
            answers.not_in_text += sum(not in_text(fact, record.text) for fact in record.facts)
            answers.gold_not_in_text += sum(not in_text(fact, record.text) for fact in gold)
        return tally

    def report(
        self, matching: Matching = STRICT, resamples: int = 0, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, Any]:
        """
        Score the records that have been added.

        Args:
            matching ([`Matching`], *optional*):
                When a predicted fact matches a gold fact; strict by default.
            resamples (`int`, *optional*, defaults to 0):
                Bootstrap resamples of the records; 0 for no intervals.
            confidence (`float`, *optional*, defaults to 0.95):
                Confidence of the intervals.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same intervals.

        Returns:
            `dict`: `overall`, `tasks` (by task), `sources` (by source and task), `languages` and `labels` (by task and
            label). Each is a dictionary of `precision`, `recall`, `f1` (percentages), `tp`, `pred`, `gold` (facts),
            `records`, `answers`, `unparsed` and `repaired` (answers), `outside_schema` (labels), `not_in_text` and
            `gold_not_in_text` (facts with a string that is not in the text); labels have only scores and facts.
            With resamples there are also `intervals` of precision, recall and f1; `n_too_small` is `True` where they
            are of fewer than 10 records, too few for the interval to mean anything.
            EE has a `trigger` and an `argument` block of these instead, EEA an `argument` block; `overall` and each
            language pool all facts, and also have these two blocks if there is EE.

            `macro` has `overall` and `tasks`, with the means over `sources` (the corpora of each task) and over the
            `labels` that have gold facts. A mode that ignores labels has no scores by label.
        """
        return report_tally(self.tally(matching), len(self.records), matching, resamples, confidence, seed)

    def compare(
        self,
        other: "Scorer",
        matching: Matching = STRICT,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Any]:
        """
        Test the difference between two systems' F1 on the same records.

        Args:
            other ([`Scorer`]):
                The other system's answers to the same records.
            matching ([`Matching`], *optional*):
                When a predicted fact matches a gold fact; strict by default.
            resamples (`int`, *optional*, defaults to 1000):
                Number of resamples, of the bootstrap and of the randomization.
            confidence (`float`, *optional*, defaults to 0.95):
                Confidence of the interval.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same result.

        Returns:
            `dict`: `overall` and `tasks`, each with the results of [`paired_test`].

        Raises:
            `InputError`: If the records are not the same.
        """
        alone = self.records.keys() ^ other.records.keys()
        if alone:
            example = min(alone)
            raise InputError(
                f"{len(alone)} records are in only one of the two, such as {example.id!r} of {example.source!r} "
                f"({example.task}): a paired test needs the same records"
            )
        numbers = {key: number for number, key in enumerate(self.records)}
        ours = np.arange(len(numbers))
        theirs = np.array([numbers[key] for key in other.records])
        tallies = ((self.tally(matching), ours), (other.tally(matching), theirs))

        def test(cells: list[Cell]) -> dict[str, Any]:
            parts = {(cell.task, cell.block) for cell in cells}
            counts = np.zeros((2, len(numbers), 3))
            concerned = np.zeros(len(numbers), dtype=bool)
            for system, (tally, places) in enumerate(tallies):
                for cell in tally.rows:
                    if (cell.task, cell.block) in parts:
                        records, values = tally.values(cell)
                        counts[system, places[records]] += values
                        concerned[places[records]] = True
            return paired_test(counts[0, concerned], counts[1, concerned], resamples, confidence, seed)

        cells = list(tallies[0][0].rows)
        of_task = {task: group for task in TASKS if (group := [cell for cell in cells if cell.task == task])}
        return {
            "overall": test(cells),
            "tasks": {task: by_block(task, group, test) for task, group in of_task.items()},
        }


def read_predictions(
    path: Path,
    repair: bool = False,
    min_score: float = 0.0,
    multi_label: bool = True,
    calibration: Calibration | None = None,
) -> Scorer:
    """
    Read the answers of a file of JSON lines into a [`Scorer`] with these options, line by line.

    Raises:
        `InputError`: With file and line, if an instance cannot be scored; if there is a `min_score`, or no
            `multi_label`, and no answer has decisions.
    """
    scorer = Scorer(repair, min_score, multi_label, calibration)
    with collector_off():
        for number, row in read_objects(path):
            with located(path, number):
                scorer.add(row)
    if not scorer.records:
        raise InputError(f"{path}: no predictions in it")
    if (min_score > 0 or not multi_label) and not scorer.has_decisions:
        option = "--min_score" if min_score > 0 else "--multi_label false"
        raise InputError(f"{path}: {NO_SCORES}; leave out {option}, or predict with --scores")
    return scorer


def score(instances: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Score instances strictly; see [`Scorer.report`]."""
    scorer = Scorer()
    for instance in instances:
        scorer.add(instance)
    return scorer.report()


@lru_cache(maxsize=1 << 14)
def _join_labels(labels: frozenset[str], more: tuple[str, ...]) -> frozenset[str]:
    return labels.union(more)


def _digest(text: str, language: str, label: str) -> int:
    """Hash what makes a record, apart from its names; the order of keys in its annotation makes no difference."""
    try:
        annotation = orjson.dumps(orjson.loads(label), option=orjson.OPT_SORT_KEYS)
    except (ValueError, TypeError):
        annotation = label.encode("utf-8", "surrogatepass")  # as `NaN` is none for `orjson`
    whole = b"\0".join((language.encode(), annotation, text.encode("utf-8", "surrogatepass")))
    return int.from_bytes(blake2b(whole, digest_size=8).digest(), "big")


def _read_gold(task: str, label: str, schema: Schema) -> list[Fact]:
    """Read the facts of a record's annotation."""
    try:
        facts = TASKS[task].facts(load_json(label), schema)
        for fact in facts:
            "".join(fact)  # a TypeError if a name or a mention is no string
        return facts
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"the label is not an annotation of {task} in JSON: {label[:80]!r}") from None
