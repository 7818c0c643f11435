"""
Answer by look-up of what training records annotate: the baseline that knows nothing of language models.

A string of a text is predicted if at least half of the training texts that hold it annotate it, with
the label that they give it most often; of overlapping strings the longest. A pair of strings is predicted alike, an
argument among the texts with an event of its type.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from iepile_builder.data.instances import load_instances
from iepile_builder.data.instructions import read_annotations, read_instruction
from iepile_builder.engines.base import Completion, Request
from iepile_builder.errors import InputError
from iepile_builder.io import to_json
from iepile_builder.tasks import TASKS, find_task
from iepile_builder.tasks.base import Task
from iepile_builder.tasks.facts import Annotation


# A word, one Chinese, Japanese or Korean character, or one other sign
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]")
_LONGEST = 16  # tokens of a string

Key = tuple[str, ...]


class LookupEngine:
    """
    Answer by look-up of the training split of a dataset.

    Args:
        dataset_name (`str`):
            Folder, file or Hub id of instances with a `train` split and a `task` column.

    Raises:
        `InputError`: If it is no such dataset.
    """

    def __init__(self, dataset_name: str) -> None:
        splits = load_instances(dataset_name, ("task", "instruction", "output"), used=["train"])
        if "train" not in splits:
            raise InputError(f"{dataset_name}: no train split to look up in, only {', '.join(splits)}")
        records: dict[str, dict[str, list[Annotation]]] = defaultdict(lambda: defaultdict(list))
        for number, row in enumerate(splits["train"], start=1):
            if row["output"] is not None:
                task = find_task(row["task"])
                text = read_instruction(row["instruction"])["input"]
                try:
                    records[task.name][text] += read_annotations(row["output"], row["instruction"], task.name)
                except InputError as error:
                    raise InputError(f"{dataset_name}, train instance {number}: {error}") from None
        self._tables = {task: _Table(TASKS[task], of_task) for task, of_task in records.items()}

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        return None

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        return [Completion(self._answer(request.messages[-1]["content"])) for request in requests]

    def _answer(self, instruction: str) -> str:
        value = read_instruction(instruction)
        for task in TASKS.values():
            if value.get("instruction") not in task.instructions.values():
                continue
            try:
                schema, given = task.read_items(value["schema"]), task.given_annotations(value["schema"])
                by_label: dict[str, list[Annotation]] = {label: [] for label in task.labels(schema)}
            except (KeyError, TypeError):  # the items of another task with the same sentence
                continue
            if task.name in self._tables:
                for annotation in self._tables[task.name].find(value["input"], given):
                    by_label.setdefault(task.label(annotation, schema), []).append(annotation)
            answer: dict[str, Any] = {}
            for label in task.labels(schema):
                roles = task.roles(label, schema)
                found = [
                    task.with_arguments(each, (pair for pair in task.arguments(each) if pair[0] in roles))
                    for each in task.distinct(by_label[label])
                ]
                value_of_label = task.answer_value(found, roles, value["input"]) if found else None
                answer[task.answer_key(label)] = value_of_label or task.nothing
            return to_json(answer)
        raise InputError(f"not an instruction of the format: {instruction[:80]!r}")


class _Table:
    """What the training records of a task annotate, by the strings of an annotation."""

    def __init__(self, task: Task, records: dict[str, list[Annotation]]) -> None:
        self.task = task
        self.annotated: dict[Key, Counter[str]] = defaultdict(Counter)  # in how many texts, with which annotation
        self.roles: dict[Key, Counter[str]] = defaultdict(Counter)  # by event type and string
        for of_text in records.values():
            distinct = {self._strings(each): each for each in of_text}
            for key, each in distinct.items():
                self.annotated[key][to_json(task.with_arguments(each, ()))] += 1
            roles = {(each[task.names[0]], string): role for each in of_text for role, string in task.arguments(each)}
            for key, role in roles.items():
                self.roles[key][role] += 1
        self.known = {string for key in self.annotated for string in key} | {string for _, string in self.roles}
        self.pairs: dict[str, list[Key]] = defaultdict(list)
        for key in self.annotated:
            if len(key) > 1:
                self.pairs[key[0]].append(key)
        self.held: Counter[Key] = Counter()  # how many texts hold some strings, or a string and an event of a type
        for text, of_text in records.items():
            strings = {string for _, _, string in self._find_known(text)}
            types = {each[task.names[0]] for each in of_text} if task.has_events else ()
            self.held.update((string,) for string in strings)
            self.held.update(self._find_pairs(strings))
            self.held.update((event_type, string) for event_type in types for string in strings)

    def find(self, text: str, given: list[Annotation]) -> list[Annotation]:
        """Find the annotations that a text should have; `given` are events whose arguments are asked (EEA)."""
        spans = self._find_known(text)
        strings = {string for _, _, string in spans}
        found = given
        if not given and len(self.task.mentions) > 1:
            found = [each for key in self._find_pairs(strings) for each in self._most_frequent(key)]
        elif not given:
            taken: set[int] = set()
            for start, end, string in sorted(spans, key=lambda span: span[0] - span[1]):
                if taken.isdisjoint(range(start, end)) and (annotations := self._most_frequent((string,))):
                    taken.update(range(start, end))
                    found = found + annotations
        return [
            self.task.with_arguments(each, self._find_arguments(each[self.task.names[0]], strings)) for each in found
        ]

    def _strings(self, annotation: Annotation) -> Key:
        return tuple(annotation[mention] for mention in self.task.mentions)

    def _find_known(self, text: str) -> list[tuple[int, int, str]]:
        """Find all known strings, with start and end."""
        tokens = [token.span() for token in _TOKEN.finditer(text)]
        spans = (
            (start, end, text[start:end])
            for first, (start, _) in enumerate(tokens)
            for _, end in tokens[first : first + _LONGEST]
        )
        return [span for span in spans if span[2] in self.known]

    def _find_pairs(self, strings: set[str]) -> list[Key]:
        """Find the annotated pairs whose strings are both there."""
        return [key for string in sorted(strings) for key in self.pairs.get(string, ()) if strings.issuperset(key)]

    def _find_arguments(self, event_type: str, strings: set[str]) -> list[tuple[str, str]]:
        """Find strings that are an argument in at least half of the training texts with an event of the type."""
        roles = ((string, self.roles.get((event_type, string))) for string in sorted(strings))
        return [
            (counts.most_common(1)[0][0], string)
            for string, counts in roles
            if counts and 2 * counts.total() >= self.held[event_type, string]
        ]

    def _most_frequent(self, key: Key) -> list[Annotation]:
        """Give what training texts say of some strings, if at least half of those that hold them say it."""
        counts = self.annotated.get(key)
        if not counts or 2 * counts.total() < self.held[key]:
            return []
        return [json.loads(counts.most_common(1)[0][0])]
