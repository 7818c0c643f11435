"""Relations (RE) and relations with typed ends (SPO)."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks.base import Task, parse_pairs, position
from iepile_builder.tasks.facts import Annotation, Fact, Relation, Texts, TypedRelation


class RE(Task):
    """Relations: `{"children": [{"subject": "A", "object": "B"}]}`."""

    name = "RE"
    field = "relation"
    mentions = ("head", "tail")
    names: tuple[str, ...] = ("relation",)

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.roles

    def read_items(self, items: Iterable[Any]) -> Schema:
        return Schema(roles=tuple(items))

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        pairs = annotations
        if len(pairs) > 1:
            pairs = sorted(pairs, key=lambda pair: (position(pair["head"], text), position(pair["tail"], text)))
        return [{"subject": pair["head"], "object": pair["tail"]} for pair in pairs]

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        return [
            {"head": pair["subject"], "relation": label, "tail": pair["object"]}
            for label, value in answer.items()
            for pair in value
        ]

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [Relation(triple["relation"], triple["head"], triple["tail"]) for triple in annotations]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        return [Relation(label, *pair) for label, value in answer.items() for pair in parse_pairs(value)]


class SPO(RE):
    """Relations with the types of both ends; a label is `subjecttype_predicate_objecttype`, the answer as in RE."""

    name = "SPO"
    names = ("relation", "head_type", "tail_type")
    keyed = False

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.types

    def label(self, annotation: Annotation, schema: Schema) -> str:
        return f"{annotation['head_type']}_{annotation['relation']}_{annotation['tail_type']}"

    def item(self, label: str, roles: Sequence[str], triggers: Sequence[str]) -> Any:
        subject_type, predicate, object_type = split_label(label)
        return {"subject_type": subject_type, "predicate": predicate, "object_type": object_type}

    def described_item(self, label: str, roles: Sequence[str], triggers: Sequence[str], texts: Texts) -> Any:
        return {**self.item(label, roles, triggers), "description": texts.get(label, "")}

    def answer_key(self, label: str) -> str:
        return split_label(label)[1]

    def read_items(self, items: Iterable[Any]) -> Schema:
        labels = []
        for item in items:
            check_types({"head_type": item["subject_type"], "tail_type": item["object_type"]})
            labels.append("_".join((item["subject_type"], item["predicate"], item["object_type"])))
        return Schema(types=tuple(labels))

    def check(self, annotation: object, schema: Schema) -> None:
        super().check(annotation, schema)
        check_types(annotation)

    def annotations(self, answer: dict[str, Any], schema: Schema) -> list[Annotation]:
        types = {self.answer_key(label): split_label(label) for label in schema.types}
        return [
            {**triple, "head_type": types[triple["relation"]][0], "tail_type": types[triple["relation"]][2]}
            for triple in super().annotations(answer, schema)
        ]

    def label_text(self, label: Sequence[str]) -> str:
        return "_".join(label)

    def facts(self, annotations: Iterable[Annotation], schema: Schema) -> list[Fact]:
        return [
            TypedRelation(triple["head_type"], triple["relation"], triple["tail_type"], triple["head"], triple["tail"])
            for triple in annotations
        ]

    def parse(self, answer: dict[str, Any], schema: Schema) -> list[Fact]:
        types = {self.answer_key(label): split_label(label) for label in schema.types}
        return [
            TypedRelation(*types.get(label, ("", label, "")), *pair)
            for label, value in answer.items()
            for pair in parse_pairs(value)
        ]


@cache
def split_label(label: str) -> tuple[str, str, str]:
    """
    An SPO label's subject type, predicate (which may contain `_`) and object type.

    Raises:
        `InputError`: if the label has not two `_`.
    """
    subject_type, _, rest = label.partition("_")
    predicate, _, object_type = rest.rpartition("_")
    if not (subject_type and predicate and object_type):
        raise InputError(f"label {label!r} is not of the form subjecttype_predicate_objecttype")
    return subject_type, predicate, object_type


def check_types(triple: Any) -> None:
    """Raise an `InputError` if a type of an SPO triple contains `_`, at which its label is split."""
    for key in ("head_type", "tail_type"):
        if "_" in triple[key]:
            raise InputError(f"{key} {triple[key]!r} contains '_', at which SPO labels are split; rename it")
