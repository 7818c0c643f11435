"""
Turn annotated records into instances: choose the labels to ask for, order them, and split them into batches.

These are the hard-negative batched instructions of IEPile (https://huggingface.co/papers/2402.14710, section 3).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from iepile_builder.data.choosing import choose_labels, drop_labels
from iepile_builder.data.instructions import (
    Description,
    asked_schema,
    description_texts,
    instruction_end,
    instruction_start,
)
from iepile_builder.data.mining import default_hard_negatives
from iepile_builder.data.sampling import EXAMPLES, NEGATIVES, ORDER, ROLE_ORDERS, draws, shuffled
from iepile_builder.data.splitting import check_split_num, group_labels, spans, split_labels
from iepile_builder.data.synonyms import draw_names
from iepile_builder.errors import InputError
from iepile_builder.io import to_json
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.base import Task
from iepile_builder.tasks.facts import Annotation


CELLS = 1 << 22  # of a table of records by labels that is made at once
COLUMNS = ("id", "task", "source", "language", "instruction", "output", "label")


class Found(NamedTuple):
    """A record's annotation, as JSON (`None` if it has none) and by label number."""

    label: str | None
    by_label: dict[int, list[Annotation]]


class Parts(NamedTuple):
    """The pieces of instances, by label number."""

    names: dict[int, str]
    roles: dict[int, tuple[str, ...]]
    items: dict[int, str]  # of the schema, as JSON
    keys: dict[int, str]  # of the answer, as JSON
    nothing: dict[int, str]  # `key: []`, as JSON

    def values(self, task: Task, text: str, by_label: dict[int, list[Annotation]]) -> dict[int, str]:
        """Encode `key: value` of the reference answer for each positive label."""
        return {
            label: f"{self.keys[label]}: {to_json(task.answer_value(annotations, self.roles[label], text))}"
            for label, annotations in by_label.items()
            if label in self.keys
        }

    def answer(self, values: dict[int, str], batch: list[int]) -> str:
        """Put together the reference answer to a batch."""
        return "{" + ", ".join([values[label] if label in values else self.nothing[label] for label in batch]) + "}"


@dataclass
class SchemaBatching:
    """
    Turn annotated records of one corpus into instances, as a transform for `datasets`:

        batching = SchemaBatching("NER", "en", "my_corpus", schema)
        records.map(batching, batched=True, remove_columns=records.column_names)

    The instances of a record depend on these arguments and on the record alone: they are the same for any number of
    processes, order of records or hash seed. To draw new negatives and orders in each epoch of a stream:

        instances = stream.map(batching, batched=True, remove_columns=stream.column_names)
        for epoch in range(3):
            batching.set_epoch(epoch)
            for instance in instances: ...

    Args:
        task (`str`):
            Name of the task.
        language (`str`):
            Code of the text's language, such as `"en"`; the instruction is Chinese for `"zh"`, else English.
        source (`str`):
            Name of the corpus.
        schema (`Schema`):
            What the corpus may be asked.
        negatives (`str`, *optional*, defaults to `"hard"`):
            Which labels are asked besides the record's own: `"hard"`, their hard negatives and `num_random` others
            drawn at random; `"random"`, as many labels as `"hard"` would ask, all drawn at random; `"all"`, all
            labels; `"ratio"`, each with probability `negative_ratio`. EEA has none.
        negative_ratio (`float`, *optional*, defaults to 1.0):
            For `negatives="ratio"`, between 0 and 1; at 1 it is `"all"`.
        num_hard (`int`, *optional*):
            For `negatives="hard"` and `"random"`, the hard negatives drawn for a record, other ones in each epoch; a
            record without labels of its own is asked for as many random ones. By default all.
        num_random (`int`, *optional*):
            For `negatives="hard"` and `"random"`, the labels drawn at random besides the hard negatives; -1 for all.
            By default `split_num`.
        split_num (`int`, *optional*):
            Number of labels in one instruction; -1 for all in one. By default 6 for NER, 1 for KG, 4 for other tasks.
        schema_order (`str`, *optional*, defaults to `"random"`):
            `"random"`, `"sorted"` or `"schema"`: the order of the labels, and of the roles of each. `"grouped"` is
            random, but cut into instructions, greedily, so that most of a record's labels are beside their hard
            negatives, see [`group_labels`].
        hard_negatives (`dict[str, list[str]]`, *optional*):
            Label to confusable labels; a label without an entry has none. By default the published ones of the corpus,
            else mined from the label names: a `hard_negatives.json` beside the corpus, which `iepile build` takes, is
            not looked for. Give what [`~iepile_builder.data.hard_negatives.load_hard_negatives`] reads of it.
        seed (`int`, *optional*, defaults to 42):
            Another seed gives another draw.
        epoch (`int`, *optional*, defaults to 0):
            Another epoch gives another draw, see [`SchemaBatching.set_epoch`].
        repetition (`int`, *optional*, defaults to 0):
            Each repetition of a corpus for its weight gives another draw, too.
        labels (`tuple[str, ...]`, *optional*):
            The labels that may be asked and answered, by default all of the schema.
        max_negative_ranks (`dict[int, int]`, *optional*, defaults to `{}`):
            Epoch to the rank above which purely negative instances are dropped, see [`negative_ranks`]; the last holds
            from there on.
        descriptions (`dict[str, str | dict[str, str]]`, *optional*, defaults to `{}`):
            Label to description, or to descriptions of the label and its roles by name, for the `schema` of an
            instruction.
        examples (`tuple[tuple[str, str], ...]`, *optional*, defaults to `()`):
            Records that instructions may show as examples, each as its text and its annotation in JSON.
        num_examples (`int`, *optional*, defaults to 0):
            Number of examples in an instruction; examples that answer one of its labels come first.
        label_dropout (`float`, *optional*, defaults to 0.0):
            Probability with which each label is dropped, with what is annotated; a record keeps at least one.
        label_synonyms (`dict[str, list[str]]`, *optional*, defaults to `{}`):
            Label to names, one of which is asked for in its place, see [`draw_names`].
        negatives_schedule (`Sequence[str]`, *optional*, defaults to `()`):
            The `negatives` of each epoch, in place of one for all; the last holds from there on.

    Raises:
        `InputError`: If the schema has no labels or `split_num` is impossible; when called, if an annotation has a
            label that is not in the schema.
    """

    task: str
    language: str
    source: str
    schema: Schema
    negatives: str = "hard"
    negative_ratio: float = 1.0
    num_hard: int | None = None
    num_random: int | None = None
    split_num: int | None = None
    schema_order: str = "random"
    hard_negatives: dict[str, list[str]] | None = None
    seed: int = 42
    epoch: int = 0
    repetition: int = 0
    labels: tuple[str, ...] | None = None
    max_negative_ranks: dict[int, int] = field(default_factory=dict)
    descriptions: dict[str, Description] = field(default_factory=dict)
    examples: tuple[tuple[str, str], ...] = ()
    num_examples: int = 0
    label_dropout: float = 0.0
    label_synonyms: dict[str, list[str]] = field(default_factory=dict)
    negatives_schedule: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_split_num(self.split_num)
        if not TASKS[self.task].labels(self.schema):
            raise InputError(f"the schema of {self.source} has no labels for {self.task}")
        modes = {*(self.negatives_schedule or (self.negatives,))}
        if self.hard_negatives is None and (modes & {"hard", "random"} or self.schema_order == "grouped"):
            self.hard_negatives = default_hard_negatives(self.task, self.source, self.schema)[0]

    def __call__(self, records: dict[str, list]) -> dict[str, list]:
        """
        Turn a batch of records into instances, both as columns.

        Args:
            records (`dict[str, list]`):
                `text`; the task's annotation (`entity`, `relation` or `event`), absent or `None` for text without
                annotation; and `id`, by default the sha256 of the text.
        """
        task, texts = TASKS[self.task], records["text"]
        ids = records.get("id") or [sha256(text.encode()).hexdigest() for text in texts]
        annotated = records.get(task.field) or [None] * len(texts)
        try:
            found = self.find(annotated)
        except KeyError:
            self._check(ids, annotated)
            raise
        seeds = self.seeds(texts, found)
        batches = self.batches(found, seeds)
        if self.max_negative_ranks:
            limit = self.max_negative_ranks[min(self.epoch, max(self.max_negative_ranks))]
            for asked, ranks in zip(batches, negative_ranks(found, batches, seeds), strict=True):
                asked[:] = [batch for batch, rank in zip(asked, ranks, strict=True) if rank <= limit]
        orders = [0] * len(texts)
        if self.schema_order in ("random", "grouped") and any(
            task.roles(label, self.schema) for label in self.asked_labels()
        ):
            orders = (seeds % ROLE_ORDERS).tolist()
        names = self.names(seeds)
        parts_of = (
            {} if self.label_synonyms else {order: self.parts(order, self.asked_labels()) for order in set(orders)}
        )
        shown = self.find([json.loads(annotations) for _, annotations in self.examples])

        keyed = bool(self.descriptions) and task.keyed
        start = instruction_start(self.task, self.language, keyed, bool(shown))
        columns: dict[str, list] = {column: [] for column in COLUMNS}
        instructions, outputs = columns["instruction"], columns["output"]
        for row, (text, (label, by_label)) in enumerate(zip(texts, found, strict=True)):
            parts = parts_of.get(orders[row]) or self.parts(orders[row], names[row], sum(batches[row], []))
            values = parts.values(task, text, by_label)
            items = self.items_with_triggers(parts, by_label) if task.triggers_given else parts.items
            first = len(instructions)
            end = instruction_end(text, keyed)
            for batch in batches[row]:
                if shown:
                    examples = self.examples_json(text, batch, seeds[row], shown, parts)
                    end = instruction_end(text, keyed, examples)
                instructions.append(f"{start}{', '.join([items[index] for index in batch])}{end}")
                outputs.append(None if label is None else parts.answer(values, batch))
            if label is not None and (self.label_dropout or self.label_synonyms):
                label = self.answered(instructions[first:], outputs[first:])
            columns["id"] += [ids[row]] * len(batches[row])
            columns["label"] += [label] * len(batches[row])
        for column in ("task", "source", "language"):
            columns[column] = [getattr(self, column)] * len(columns["id"])
        return columns

    def _check(self, ids: list[str], records: list[list[Annotation] | None]) -> None:
        """Raise an `InputError` that names the first record with an annotation that the schema does not allow."""
        for id, annotations in zip(ids, records, strict=True):
            try:
                for annotation in annotations or ():
                    TASKS[self.task].check(annotation, self.schema)
            except InputError as error:
                raise InputError(f"record {id!r}: {error}") from None

    def answered(self, instructions: list[str], outputs: list[str]) -> str:
        """Encode the annotation that the reference answers of a record hold."""
        task, annotations = TASKS[self.task], []
        for instruction, output in zip(instructions, outputs, strict=True):
            annotations += task.annotations(json.loads(output), asked_schema(instruction, self.task))
        return to_json(annotations)

    def set_epoch(self, epoch: int) -> None:
        """
        Draw new negatives and orders from now on, as `IterableDataset.set_epoch` does for the order of a stream. A
        mapped stream follows; map a `Dataset` again (its cache sees another transform).
        """
        self.epoch = epoch

    def instances(self, id: str, text: str, annotations: list[Annotation] | None) -> Iterator[dict[str, Any]]:
        """Make the instances of one record; `output` and `label` are `None` where it has no annotation."""
        columns = self({"id": [id], "text": [text], TASKS[self.task].field: [annotations]})
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))

    def asked_labels(self) -> tuple[str, ...]:
        """List the labels that may be asked for, in schema order."""
        return TASKS[self.task].labels(self.schema) if self.labels is None else self.labels

    def find(self, records: Iterable[list[Annotation] | None]) -> list[Found]:
        """Sort the annotations of records by label, without duplicates and labels that may not be asked for."""
        task = TASKS[self.task]
        index = {label: number for number, label in enumerate(self.asked_labels())}
        found = []
        for annotations in records:
            by_label: dict[int, list[Annotation]] = {}
            if annotations is None:
                found.append(Found(None, by_label))
                continue
            annotations = task.distinct(annotations)
            if self.labels is not None:
                annotations = [each for each in annotations if task.label(each, self.schema) in index]
            for annotation in annotations:
                by_label.setdefault(index[task.label(annotation, self.schema)], []).append(annotation)
            found.append(Found(to_json(annotations), by_label))
        return found

    def seeds(self, texts: list[str], found: list[Found]) -> np.ndarray:
        """Hash each record to the number that seeds all its draws."""
        start = to_json([self.seed, self.epoch, self.repetition, self.source, self.task])
        digests = [
            sha256(f"{start}{text}\n{of_text.label}".encode()).digest()[:8]
            for text, of_text in zip(texts, found, strict=True)
        ]
        return np.frombuffer(b"".join(digests), dtype="<u8")

    def names(self, seeds: np.ndarray) -> list[Sequence[str]]:
        """Draw what each record calls the labels that may be asked for."""
        asked = self.asked_labels()
        held_out = {*TASKS[self.task].labels(self.schema)} - {*asked}
        return draw_names(asked, self.label_synonyms, seeds, held_out)

    def batches(self, found: list[Found], seeds: np.ndarray) -> list[list[list[int]]]:
        """Choose the labels that each record is asked for, by index, a list for each instruction."""
        task, labels = TASKS[self.task], self.asked_labels()
        split_num = task.split_num if self.split_num is None else self.split_num
        place = {label: number for number, label in enumerate(labels)}
        table = self.hard_negatives or {}
        near = {
            number: [place[other] for other in table.get(labels[number], ()) if other in place]
            for number in {number for _, by_label in found for number in by_label}
        }
        ranks = None
        if self.schema_order in ("sorted", "schema"):
            in_order = sorted(labels) if self.schema_order == "sorted" else labels
            rank_of = {label: rank for rank, label in enumerate(in_order)}
            ranks = np.array([rank_of[label] for label in labels], dtype=np.uint64)
        asked: list[list[int]] = []
        step = max(1, CELLS // max(1, len(labels)))
        for start in range(0, len(found), step):
            some, of_some = found[start : start + step], seeds[start : start + step]
            chosen = self.chosen(some, of_some, split_num, near)
            if self.label_dropout:
                chosen = drop_labels(chosen, of_some, self.label_dropout)
            rows, columns = np.nonzero(chosen)
            order = draws(of_some, ORDER, len(labels))[rows, columns] if ranks is None else ranks[columns]
            columns = columns[np.lexsort((order, rows))]
            ends = np.cumsum(np.bincount(rows, minlength=len(some)))
            asked += [part.tolist() for part in np.split(columns, ends[:-1])]
        keys = [task.answer_key(label) for label in labels]
        keys_of = [keys.__getitem__] * len(found)
        if self.label_synonyms:
            keys_of = [[task.answer_key(name) for name in names].__getitem__ for names in self.names(seeds)]
        if self.schema_order == "grouped":
            return [
                group_labels(row, {label: near[label] for label in by_label}, split_num, of_record, seed)
                for row, (_, by_label), of_record, seed in zip(asked, found, keys_of, seeds.tolist(), strict=True)
            ]
        if self.label_synonyms or len(set(keys)) < len(keys):
            return [split_labels(row, split_num, of_record) for row, of_record in zip(asked, keys_of, strict=True)]
        return [[row[start:end] for start, end in spans(len(row), split_num)] for row in asked]

    def chosen(self, found: list[Found], seeds: np.ndarray, split_num: int, near: dict[int, list[int]]) -> np.ndarray:
        """Tell which labels (columns) each record (rows) is asked for; `near` has the hard negatives of labels."""
        positive = np.zeros((len(found), len(self.asked_labels())), dtype=bool)
        hard = positive.copy()
        for row, (_, by_label) in enumerate(found):
            positive[row, list(by_label)] = True
            hard[row, [other for label in by_label for other in near[label]]] = True
        if not positive.size or TASKS[self.task].triggers_given:  # and the event types with them
            return positive
        schedule = self.negatives_schedule or (self.negatives,)
        negatives = schedule[min(self.epoch, len(schedule) - 1)]
        num_random = split_num if self.num_random is None else self.num_random
        return choose_labels(positive, hard, seeds, negatives, self.negative_ratio, self.num_hard, num_random)

    def parts(self, order: int, names: Sequence[str], numbers: Iterable[int] | None = None) -> Parts:
        """Encode the pieces of instances: of all labels, or of some; `order` is the random order of the roles."""
        task, labels = TASKS[self.task], self.asked_labels()
        parts = Parts({}, {}, {}, {}, {})
        for number in range(len(labels)) if numbers is None else numbers:
            roles = task.roles(labels[number], self.schema)
            if self.schema_order in ("random", "grouped"):
                roles = shuffled(roles, order)
            parts.names[number] = names[number]
            parts.roles[number] = tuple(sorted(roles)) if self.schema_order == "sorted" else roles
            parts.items[number] = self.item(number, parts)
            parts.keys[number] = to_json(task.answer_key(names[number]))
            parts.nothing[number] = f"{parts.keys[number]}: {to_json(task.nothing)}"
        return parts

    def item(self, number: int, parts: Parts, triggers: tuple[str, ...] = ()) -> str:
        """Encode a schema item as JSON, as `label: item` if the schema is an object."""
        name, roles = parts.names[number], parts.roles[number]
        if not self.descriptions:
            return item_json(self.task, name, roles, triggers)
        task, label = TASKS[self.task], self.asked_labels()[number]
        texts = description_texts(label, self.descriptions.get(label, ""))
        if name != label:
            texts = {**texts, name: texts.get(label, "")}
        item = to_json(task.described_item(name, roles, triggers, texts))
        return f"{to_json(name)}: {item}" if task.keyed else item

    def items_with_triggers(self, parts: Parts, by_label: dict[int, list[Annotation]]) -> dict[int, str]:
        """Make the schema items that name the given triggers."""
        given = TASKS[self.task].given_triggers
        return {
            number: self.item(number, parts, given(of_label))
            for number, of_label in by_label.items()
            if number in parts.items
        }

    def examples_json(self, text: str, batch: list[int], seed: np.uint64, shown: list[Found], parts: Parts) -> str:
        """Encode the examples of one instruction: other texts, with their answers to the same schema."""
        task = TASKS[self.task]
        drawn = np.argsort(draws(np.array([seed]), EXAMPLES, len(shown))[0]).tolist()
        drawn = [number for number in drawn if self.examples[number][0] != text]
        drawn.sort(key=lambda number: shown[number].by_label.keys().isdisjoint(batch))
        examples = []
        for number in drawn[: self.num_examples]:
            shown_text = self.examples[number][0]
            answer = parts.answer(parts.values(task, shown_text, shown[number].by_label), batch)
            examples.append(f'{{"input": {to_json(shown_text)}, "output": {answer}}}')
        return f"[{', '.join(examples)}]"


@lru_cache(maxsize=65536)
def item_json(task: str, label: str, roles: tuple[str, ...], triggers: tuple[str, ...]) -> str:
    """Encode a schema item as JSON; most items are asked for in many instances."""
    return to_json(TASKS[task].item(label, roles, triggers))


def negative_ranks(found: list[Found], batches: list[list[list[int]]], seeds: np.ndarray) -> list[list[int]]:
    """
    Rank the batches of each record for dropping purely negative ones: ranks are random numbers from 0 to 2**64, and -1
    for a batch with an answer or of unknown answer.
    """
    drawn = draws(seeds, NEGATIVES, max(map(len, batches), default=0)).tolist()
    return [
        [
            rank if label is not None and by_label.keys().isdisjoint(batch) else -1
            for batch, rank in zip(asked, ranks, strict=False)
        ]
        for (label, by_label), asked, ranks in zip(found, batches, drawn, strict=True)
    ]
