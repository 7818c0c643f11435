"""Named entities (NER)."""

from collections.abc import Iterable
from typing import Any

from iepile_builder.schema import Schema
from iepile_builder.tasks.base import Example, Task
from iepile_builder.tasks.facts import Annotation, Entity, Fact
from iepile_builder.tasks.values import parse_list


class NER(Task):
    """Named entities: `{"person": ["A", "B"], "location": []}`."""

    name = "NER"
    title = "named entities"
    schema_key = "entities"
    field = "entity"
    mentions = ("entity",)
    names = ("entity_type",)
    split_num = 6
    label_name = "entity type"
    form = ["person", "city"]
    one_label = True
    copied = True
    examples = {
        "en": Example(
            ["person", "city"],
            "Ada Lovelace met Charles Babbage in London.",
            {"person": ["Ada Lovelace", "Charles Babbage"], "city": ["London"]},
        ),
        "zh": Example(["人物", "城市"], "王芳在北京见到了李明。", {"人物": ["王芳", "李明"], "城市": ["北京"]}),
    }

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [{"entity": entity, "entity_type": label} for label, value in answer.items() for entity in value]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [Entity(annotation["entity_type"], annotation["entity"]) for annotation in annotations]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        return [Entity(label, entity) for label, value in answer.items() for entity in parse_list(value)]
