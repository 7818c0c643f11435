"""
Choose the labels that a record is asked for, order them, split them into batches: annotated records to instances.

These are the hard-negative batched instructions of IEPile (https://huggingface.co/papers/2402.14710, section 3).
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any

from iepile_builder.instructions import instruction_string, to_json
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS, Annotation


COLUMNS = ("id", "task", "source", "language", "instruction", "output", "label")


@dataclass(frozen=True)
class SchemaBatching:
    """
    Annotated records of one corpus to instances, as a transform for `datasets`:

        batching = SchemaBatching("NER", "en", "my_corpus", schema)
        records.map(batching, batched=True, remove_columns=records.column_names)

    The instances of a record depend on these arguments and on the record alone: they are the same for any number of
    processes, order of records or hash seed.

    Args:
        task (`str`):
            One of the seven tasks.
        language (`str`):
            `"en"` or `"zh"`, the language of the instruction.
        source (`str`):
            Name of the corpus.
        schema (`Schema`):
            What the corpus may be asked.
        negatives (`str`, *optional*, defaults to `"hard"`):
            Which labels are asked besides the record's own: `"hard"`, their hard negatives and as many others at
            random as `split_num` says; `"all"`, all labels; `"ratio"`, each with probability `negative_ratio`. EEA has
            none.
        negative_ratio (`float`, *optional*, defaults to 1.0):
            For `negatives="ratio"`, between 0 and 1.
        split_num (`int`, *optional*):
            Labels in one instruction; -1 for all in one. By default the task's: 6 for NER, 1 for KG, 4 for the others.
        schema_order (`str`, *optional*, defaults to `"random"`):
            `"random"`, `"sorted"` or `"schema"`: the order of the labels, and of the roles of each.
        hard_negatives (`dict[str, list[str]]`, *optional*, defaults to `{}`):
            Label to confusable labels; a label without an entry has none.
        seed (`int`, *optional*, defaults to 42):
            Another seed gives another draw.
        epoch (`int`, *optional*, defaults to 0):
            Another epoch gives another draw.
    """

    task: str
    language: str
    source: str
    schema: Schema
    negatives: str = "hard"
    negative_ratio: float = 1.0
    split_num: int | None = None
    schema_order: str = "random"
    hard_negatives: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 42
    epoch: int = 0

    def __call__(self, records: dict[str, list]) -> dict[str, list]:
        """
        A batch of records to their instances, both as columns.

        Args:
            records (`dict[str, list]`):
                `text`; the task's annotation (`entity`, `relation` or `event`), absent or `None` for text without
                annotation; and `id`, by default the sha256 of the text.
        """
        texts = records["text"]
        ids = records.get("id", [sha256(text.encode()).hexdigest() for text in texts])
        annotations = records.get(TASKS[self.task].field, [None] * len(texts))
        instances = [
            instance for record in zip(ids, texts, annotations, strict=True) for instance in self.instances(*record)
        ]
        return {column: [instance[column] for instance in instances] for column in COLUMNS}

    def instances(self, id: str, text: str, annotations: list[Annotation] | None) -> Iterator[dict[str, Any]]:
        """The instances of one record; their `output` and `label` are `None` where it has no annotation."""
        task = TASKS[self.task]
        by_label = defaultdict(list)
        label = None
        if annotations is not None:
            annotations = task.distinct(annotations)
            label = to_json(annotations)
            for annotation in annotations:
                by_label[task.label(annotation, self.schema)].append(annotation)
        rng = random.Random(to_json([self.seed, self.epoch, self.source, self.task, text, label]))
        text_json = to_json(text)
        for batch in self.batches(set(by_label), rng):
            items, values = [], []
            for name in batch:
                roles = ordered(task.roles(name, self.schema), self.schema_order, rng)
                found = by_label.get(name, [])
                triggers = task.given_triggers(found)
                items.append(item_json(self.task, name, tuple(roles), triggers))
                value = task.answer_value(found, roles, text) if found else task.nothing
                values.append(f"{to_json(task.answer_key(name))}: {to_json(value)}")
            yield {
                "id": id,
                "task": self.task,
                "source": self.source,
                "language": self.language,
                "instruction": instruction_string(self.task, self.language, items, text_json),
                "output": None if label is None else "{" + ", ".join(values) + "}",
                "label": label,
            }

    def batches(self, positives: set[str], rng: random.Random) -> list[list[str]]:
        """The labels that a record with these positive labels is asked for, a list for each instruction."""
        task = TASKS[self.task]
        labels = task.labels(self.schema)
        split_num = task.split_num if self.split_num is None else self.split_num
        if self.task == "EEA":  # the event types are given
            chosen = [label for label in labels if label in positives]
        elif self.negatives == "all":
            chosen = list(labels)
        elif self.negatives == "ratio":
            chosen = [label for label in labels if label in positives or rng.random() < self.negative_ratio]
            chosen = chosen or [rng.choice(labels)]
        else:
            near = positives.union(*(self.hard_negatives.get(label, ()) for label in positives))
            rest = [label for label in labels if label not in near]
            drawn = rest if split_num == -1 else rng.sample(rest, min(split_num, len(rest)))
            near.update(drawn)
            chosen = [label for label in labels if label in near]
        return split_labels(ordered(chosen, self.schema_order, rng), split_num, task.answer_key)


def ordered(names: Sequence[str], schema_order: str, rng: random.Random) -> list[str]:
    """Names in random, alphabetical or the given (`"schema"`) order."""
    if schema_order == "random":
        return rng.sample(names, len(names))
    return sorted(names) if schema_order == "sorted" else list(names)


def split_labels(labels: list[str], split_num: int, answer_key: Callable[[str], str]) -> list[list[str]]:
    """
    Split labels into batches of `split_num` (-1: one batch) in which no two share a key in the answer.

    A remainder of fewer than `split_num // 2` labels joins the batch before it where their keys allow it.
    """
    split_num = len(labels) if split_num == -1 else split_num
    batches = []
    rest = labels
    while rest:
        batch: dict[str, str] = {}
        left = []
        for label in rest:
            key = answer_key(label)
            if len(batch) < split_num and key not in batch:
                batch[key] = label
            else:
                left.append(label)
        batches.append(batch)
        rest = left
    if len(batches) > 1 and len(batches[-1]) < split_num // 2 and batches[-1].keys().isdisjoint(batches[-2]):
        batches[-2:] = [batches[-2] | batches[-1]]
    return [list(batch.values()) for batch in batches]


@lru_cache(maxsize=65536)
def item_json(task: str, label: str, roles: tuple[str, ...], triggers: tuple[str, ...]) -> str:
    """A schema item as JSON; most items are asked in many instances."""
    return to_json(TASKS[task].item(label, roles, triggers))


def is_negative(instance: dict[str, Any]) -> bool:
    """Whether the reference answer finds nothing for any label of the instance."""
    return instance["output"] is not None and not any(json.loads(instance["output"]).values())


def negative_rank(instance: dict[str, Any]) -> int:
    """Decides which purely negative instances are kept: as good as random, but the instance's own."""
    return int.from_bytes(sha256(instance["instruction"].encode()).digest()[:8], "big")
