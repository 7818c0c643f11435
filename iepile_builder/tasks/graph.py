"""Entities with their attributes (KG)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks.base import Example, Task, with_texts
from iepile_builder.tasks.facts import Annotation, Attribute, Fact, Texts
from iepile_builder.tasks.values import (
    MENTION,
    check_known,
    check_mention,
    check_strings,
    malformed,
    object_schema,
    one_or_list,
    one_or_list_schema,
    parse_one_or_list,
    position,
)


class KG(Task):
    """Entities with their attributes: `{"person": {"A": {"spouse": "B", "award": ["v", "w"]}}, "city": {}}`."""

    name = "KG"
    title = "entities with attributes"
    schema_key = "attributes"
    field = "relation"
    mentions = ("head", "tail")
    names = ("relation",)
    split_num = 1
    nothing: Any = {}
    keyed = False
    label_name = "entity type"
    roles_name = "attributes"
    roles_required = True
    form = {"city": ["mayor", "population"]}
    examples = {
        "en": Example(
            [{"entity_type": "city", "attributes": ["mayor"]}],
            "The mayor of Leeds is Ada Wong.",
            {"city": {"Leeds": {"mayor": "Ada Wong"}}},
        ),
        "zh": Example(
            [{"entity_type": "城市", "attributes": ["市长"]}],
            "杭州市长是王芳。",
            {"城市": {"杭州": {"市长": "王芳"}}},
        ),
    }

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return tuple(schema.type_roles)

    def label(self, annotation: Annotation, schema: Schema) -> str:
        return schema.owners.get(annotation["relation"], "")

    def annotated_label(self, annotation: Any) -> str | None:
        return check_strings(annotation, ("head_type",), self.field)["head_type"]

    def annotated_roles(self, annotation: Any) -> list[str]:
        return [check_strings(annotation, self.names, self.field)["relation"]]

    def to_schema(self, labels: Mapping[str, Sequence[str]]) -> Schema:
        roles = dict.fromkeys(role for of_label in labels.values() for role in of_label)
        return Schema((), tuple(roles), {label: tuple(of_label) for label, of_label in labels.items()})

    def check_schema(self, schema: Schema) -> None:
        owners = Counter(attribute for attributes in schema.type_roles.values() for attribute in attributes)
        for attribute, count in owners.items():
            if count > 1:
                raise InputError(f"line 3: attribute {attribute!r} belongs to {count} entity types; rename it")

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        return {"entity_type": label, "attributes": list(roles)}

    def described_item(self, label: str, roles: Sequence[str], triggers: Sequence[str], texts: Texts) -> Any:
        of_type = {"description": texts[label]} if texts.get(label) else {}  # the published format has none
        return {"entity_type": label, **of_type, "attributes": with_texts(roles, texts)}

    def read_items(self, items: Iterable[Any]) -> Schema:
        return Schema(type_roles={item["entity_type"]: tuple(item["attributes"]) for item in items})

    def value_schema(self, item: Any) -> dict[str, Any]:
        attributes = object_schema({attribute: one_or_list_schema([MENTION]) for attribute in item["attributes"]})
        return {"type": "object", "additionalProperties": {**attributes, "minProperties": 1, "required": []}}

    def check(self, annotation: object, schema: Schema) -> None:
        triple = check_strings(annotation, ("head", "relation", "tail"), self.field)
        for key in self.mentions:
            check_mention(triple[key], key)
        check_known(triple["relation"], schema.owners, "attribute")

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        head, tail = self.places
        values: dict[str, dict[str, list[Annotation]]] = {}
        for triple in sorted(annotations, key=lambda triple: position(triple, head, text)):
            values.setdefault(triple["head"], defaultdict(list))[triple["relation"]].append(triple)
        return {
            entity: {role: one_or_list(found[role], tail, text) for role in roles if role in found}
            for entity, found in values.items()
        }

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [
            {"head": entity, "relation": attribute, "tail": text}
            for entities in answer.values()
            for entity, attributes in entities.items()
            for attribute, value in attributes.items()
            for text in parse_one_or_list(value)
        ]

    def is_asked(self, fact: Fact, schema: Schema) -> bool:
        entity_type, attribute = fact.label
        return attribute in schema.type_roles.get(entity_type, ())

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [
            Attribute(self.label(triple, schema), triple["head"], triple["relation"], triple["tail"])
            for triple in annotations
        ]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        facts: list[Fact] = []
        for entity_type, entities in answer.items():
            if not isinstance(entities, dict):
                facts += [Attribute(entity_type, "", "", text) for text in malformed(entities)]
                continue
            for entity, attributes in entities.items():
                if not isinstance(attributes, dict):
                    facts += [Attribute(entity_type, entity, "", text) for text in malformed(attributes)]
                    continue
                for attribute, value in attributes.items():
                    facts += [Attribute(entity_type, entity, attribute, text) for text in parse_one_or_list(value)]
        return facts
