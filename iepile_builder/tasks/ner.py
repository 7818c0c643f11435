"""Named entities (NER)."""

from collections.abc import Iterable, Sequence
from typing import Any

from iepile_builder.schema import Schema
from iepile_builder.tasks.base import Task, distinct_in_text, parse_list
from iepile_builder.tasks.facts import Annotation, Entity, Fact


class NER(Task):
    """Named entities: `{"person": ["A", "B"], "location": []}`."""

    name = "NER"
    field = "entity"
    mentions = ("entity",)
    names = ("entity_type",)
    split_num = 6

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.types

    def read_items(self, items: Iterable[Any]) -> Schema:
        return Schema(types=tuple(items))

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        return distinct_in_text((annotation["entity"] for annotation in annotations), text)

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [{"entity": entity, "entity_type": label} for label, value in answer.items() for entity in value]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [Entity(annotation["entity_type"], annotation["entity"]) for annotation in annotations]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        return [Entity(label, entity) for label, value in answer.items() for entity in parse_list(value)]
