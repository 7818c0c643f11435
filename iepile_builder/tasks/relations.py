"""Relations (RE) and relations with typed ends (SPO)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks.base import Example, Task
from iepile_builder.tasks.facts import Annotation, Fact, Relation, Texts, TypedRelation
from iepile_builder.tasks.values import MENTION, check_strings, list_schema, object_schema, parse_pairs, position


class RE(Task):
    """Relations: `{"children": [{"subject": "A", "object": "B"}]}`."""

    name = "RE"
    title = "relations"
    schema_key = "relations"
    field = "relation"
    mentions = ("head", "tail")
    names: tuple[str, ...] = ("relation",)
    label_name = "relation"
    form = ["founder", "spouse"]
    examples: Mapping[str, Example] = {
        "en": Example(
            ["founder", "place of birth"],
            "Ada Wong, who founded Orchard Books, was born in Leeds.",
            {
                "founder": [{"subject": "Orchard Books", "object": "Ada Wong"}],
                "place of birth": [{"subject": "Ada Wong", "object": "Leeds"}],
            },
        ),
        "zh": Example(
            ["创始人", "出生地"],
            "王芳出生于杭州，她创办了果园书店。",
            {
                "创始人": [{"subject": "果园书店", "object": "王芳"}],
                "出生地": [{"subject": "王芳", "object": "杭州"}],
            },
        ),
    }
    also_serves: tuple[str, ...] = ("SPO",)
    copied = True

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.roles

    def to_schema(self, labels: Mapping[str, Sequence[str]]) -> Schema:
        return Schema(roles=tuple(labels))

    def read_items(self, items: Iterable[Any]) -> Schema:
        return Schema(roles=tuple(items))

    def value_schema(self, item: Any) -> dict[str, Any]:
        return list_schema(object_schema({"subject": MENTION, "object": MENTION}))

    def answer_value(self, annotations: list[Annotation], roles: Sequence[str], text: str) -> Any:
        pairs = annotations
        if len(pairs) > 1:
            pairs = sorted(pairs, key=lambda pair: [position(pair, place, text) for place in self.places])
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
    title = "typed relations"
    schema_key = "typed_relations"
    names = ("relation", "head_type", "tail_type")
    keyed = False
    label_name = "typed relation"
    form = ["company_founder_person"]
    examples = {
        "en": Example(
            [{"subject_type": "company", "predicate": "founder", "object_type": "person"}],
            "Ada Wong founded Orchard Books.",
            {"founder": [{"subject": "Orchard Books", "object": "Ada Wong"}]},
        ),
        "zh": Example(
            [{"subject_type": "企业", "predicate": "创始人", "object_type": "人物"}],
            "王芳创办了果园书店。",
            {"创始人": [{"subject": "果园书店", "object": "王芳"}]},
        ),
    }
    also_serves = ()
    labels_in_annotations = True
    copied = False

    def labels(self, schema: Schema) -> tuple[str, ...]:
        return schema.types

    def to_schema(self, labels: Mapping[str, Sequence[str]]) -> Schema:
        return Schema(types=tuple(labels))

    def check_schema(self, schema: Schema) -> None:
        for label in schema.types:
            try:
                split_label(label)
            except InputError as error:
                raise InputError(f"line 1: {error}") from None

    def annotated_label(self, annotation: Any) -> str | None:
        if not isinstance(annotation, dict) or not set(self.names) <= annotation.keys():
            return None
        check_types(check_strings(annotation, self.names, self.field))
        return self.label(annotation, Schema())

    def read_label(self, label: Any) -> Any:
        if isinstance(label, (list, tuple)) and len(label) == 3 and all(isinstance(part, str) for part in label):
            check_types({"head_type": label[0], "tail_type": label[2]})
            return "_".join(label)
        return label

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
    Split an SPO label into subject type, predicate (which may contain `_`) and object type.

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
