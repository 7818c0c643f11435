"""
Ask for the fields of a Pydantic model, and validate what is found.

A field is asked for by its `title`, its `alias`, or its name with spaces for underscores; a model by its title or its
class name in words (`LineItem`: "line item"). The descriptions of fields, to which the choices of enums and `Literal`
are added, and the first line of a model's docstring are the descriptions of a schema.

- A model is an entity type with attributes (KG); each entity that is found is an instance. Its field `name` is the
  entity itself, the string that names it. A model with nothing but `name` is an entity type (NER).
- A field with a string, a number, a boolean, a date, an enum, a `Literal` or anything else that Pydantic reads from a
  string is an attribute with one value; a list, set or `tuple[X, ...]` of them is an attribute with several.
- A field with a model, or a list of models, is an entity type of its own, and an attribute that names those entities
  that are meant. An entity that no attribute names belongs to the instance of the model that is asked for, if that is
  the only one and has one field for such entities.
- A model that is asked for, has no `name`, and whose fields are all models or lists, has one instance: the whole text.
  Its lists of strings, numbers, ... are entity types (NER), its models are as above.

Any of them may be optional. Not supported: dictionaries, unions with a model, tuples of fixed length, lists of lists,
models that hold themselves or have no fields.

Numbers, dates and choices are read leniently, see [`~iepile_builder.extraction.values`]; Pydantic validates the rest,
and all constraints and validators of the model hold. With `drop_ungrounded`, a choice that is not in the text in these
words is left out, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError

from iepile_builder.answers.grounding import Mention, as_mention
from iepile_builder.errors import InputError
from iepile_builder.extraction.result import Extractions
from iepile_builder.extraction.user_schema import field_label
from iepile_builder.extraction.values import list_choices, read_value
from iepile_builder.io import write_whole


M = TypeVar("M", bound=BaseModel)

_LISTS = (list, set, frozenset, tuple, Sequence, Set, Iterable)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Invalid(NamedTuple):
    """
    What did not become a value of a model.

    Args:
        model (`str`):
            Name of the model.
        field (`str`):
            Name of the field; `""` for the model as a whole.
        string ([`Mention`] or `None`):
            What was found, with its place in the text; `None` where a required field was not found.
        message (`str`):
            Why it is none.
        entity ([`Mention`] or `None`):
            The string that names the entity whose field it is; `None` where that is the whole text.
    """

    model: str
    field: str
    string: Mention | None
    message: str
    entity: Mention | None


@dataclass(frozen=True)
class Records(Generic[M]):
    """
    The instances of a Pydantic model that were found in a text.

    Args:
        records (`list[BaseModel]`):
            The instances, validated, in the order of the text.
        mentions (`list[dict[str, Mention]]`):
            For each of them the strings that it was made of, by field, such as `"items.0.price"`.
        invalid (`list[Invalid]`):
            What did not validate. A value that is not required is left out of its instance; an instance without a
            required one is left out.
        extractions ([`Extractions`]):
            The facts behind them.
    """

    records: list[M]
    mentions: list[dict[str, Mention]]
    invalid: list[Invalid]
    extractions: Extractions

    def to_dict(self) -> dict[str, Any]:
        """Give the instances, their mentions, and what is invalid, as JSON values."""
        mentions = [{name: each.to_dict() for name, each in of_record.items()} for of_record in self.mentions]
        invalid = [
            {name: each.to_dict() if isinstance(each, Mention) else each for name, each in of_value._asdict().items()}
            for of_value in self.invalid
        ]
        records = [record.model_dump(mode="json") for record in self.records]
        return {"records": records, "mentions": mentions, "invalid": invalid}

    def save(self, path: str | Path) -> None:
        """Write the same to a `.json` file; to any other the facts, see [`~iepile_builder.extraction.export.save`]."""
        if Path(path).suffix == ".json":
            write_whole(Path(path), json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n")
        else:
            self.extractions.save(path)


class _Field(NamedTuple):
    """A field of a model: its name, what it is asked as, and the types of a value, or the model that it holds."""

    name: str
    label: str
    description: str
    many: bool
    nullable: bool
    types: list[Any]
    inner: type[BaseModel] | None


class _Kind(NamedTuple):
    """A model: the entity type that it is asked as, whether the entity is its `name`, and its other fields."""

    model: type[BaseModel]
    label: str
    named: bool
    fields: list[_Field]


@dataclass
class _Found:
    """An entity: the string that names it, and the values of its attributes."""

    mention: Mention
    values: dict[str, list[Mention]] = field(default_factory=dict)


class _Value(NamedTuple):
    """A value of a field, and the strings that it was made of: under `""` its own, under fields those of a model."""

    value: Any
    mentions: dict[str, Mention]


class RecordPlan(Generic[M]):
    """
    What is asked for a model, and how instances are made of the answers.

    Raises:
        `InputError`: If the model has something that is not supported.
    """

    def __init__(self, model: type[M]) -> None:
        self.kinds: dict[type[BaseModel], _Kind] = {}
        self._add(model, ())
        self.root = self.kinds[model]
        inner = [each.inner for each in self.root.fields if each.inner is not None]
        self.whole = not self.root.named and all(each.many or each.inner for each in self.root.fields)
        if self.whole and len(set(inner)) < len(inner):
            raise InputError(f"{model.__name__} holds one model in two fields; give each a model of its own")
        types: list[tuple[str, str]] = []
        attributes: list[tuple[str, dict[str, str]]] = []
        for kind in self.kinds.values():
            description = (kind.model.__doc__ or "").strip().partition("\n")[0]
            asked = {each.label: each.description for each in kind.fields}
            if kind is self.root and self.whole:
                types += [(each.label, each.description) for each in kind.fields if each.inner is None]
            elif asked:
                attributes.append((kind.label, {kind.label: description, **asked}))
            else:
                types.append((kind.label, description))
        labels = [label for label, _ in (*types, *attributes)]
        for label in labels:
            if labels.count(label) > 1:
                raise InputError(f"{label!r} is the name of two things in {model.__name__}; give one another title")
        both = {"entities": dict(types), "attributes": dict(attributes)}
        self.schema: dict[str, Any] = {key: asked for key, asked in both.items() if asked}

    def _add(self, model: type[BaseModel], above: tuple[type[BaseModel], ...]) -> None:
        """Read a model and those in it."""
        if model in above:
            raise InputError(f"{model.__name__} holds itself, which is not supported; leave that field out")
        if model in self.kinds:
            return
        if model.model_rebuild(raise_errors=False) is False:  # `None`: there is nothing to be done
            raise InputError(f"{model.__name__} has a field whose type is not defined")
        if issubclass(model, RootModel) or not model.model_fields:
            raise InputError(f"{model.__name__} is a model without fields, which is not supported")
        fields = {name: _read_field(model, name) for name in model.model_fields}
        named = "name" in fields and not fields["name"].many and fields["name"].inner is None
        if named:
            del fields["name"]
        label = model.model_config.get("title") or _CAMEL.sub(" ", model.__name__).replace("_", " ").lower()
        names = [label, *(each.label for each in fields.values())]
        if len(set(names)) < len(names):
            raise InputError(f"two fields of {model.__name__} are called alike, or as the model; give them titles")
        self.kinds[model] = _Kind(model, label, named, list(fields.values()))
        for each in fields.values():
            if each.inner is not None:
                self._add(each.inner, (*above, model))

    def read(self, found: Extractions) -> Records[M]:
        """Make the instances of what was found in a text."""
        return _Reader(self, found).read()


class _Reader(Generic[M]):
    """Makes the instances of one text."""

    def __init__(self, plan: RecordPlan[M], extractions: Extractions) -> None:
        self.plan = plan
        self.extractions = extractions
        self.invalid: list[Invalid] = []
        self.made: dict[int, _Value | None] = {}  # by the id of the entity
        self.entities: dict[str, dict[str, _Found]] = {}  # by entity type and string
        for fact in extractions.facts:
            label, entity, *rest = fact
            found = self.entities.setdefault(label, {}).setdefault(_fold(entity), _Found(as_mention(entity)))
            for attribute, value in [rest] if rest else ():
                values = found.values.setdefault(attribute, [])
                if _fold(value) not in map(_fold, values):
                    values.append(as_mention(value))
        self.named = {
            id(entity)
            for kind in plan.kinds.values()
            for found in self._list(kind)
            for each in kind.fields
            for entity in self._find(each, found)
        }

    def read(self) -> Records[M]:
        root = self.plan.root
        roots = self._list(root)
        if self.plan.whole:
            lists = [each for each in root.fields if each.inner is None]
            roots = [_Found(Mention(""), {each.label: self._mentions(each.label) for each in lists})]
        self.alone = len(roots) == 1
        made = [record for each in roots if (record := self._make(root, each))]
        for kind in self.plan.kinds.values():
            for found in self._list(kind):
                if id(found) not in self.made and kind is not root:
                    self._report(kind, "", found.mention, f"belongs to no {root.label}", found)
        records: list[Any] = [record for record, _ in made]
        return Records(records, [mentions for _, mentions in made], self.invalid, self.extractions)

    def _list(self, kind: _Kind) -> list[_Found]:
        """List the entities of a model."""
        return list(self.entities.get(kind.label, {}).values())

    def _mentions(self, label: str) -> list[Mention]:
        """List the strings that name the entities of a type."""
        return [found.mention for found in self.entities.get(label, {}).values()]

    def _find(self, each: _Field, found: _Found) -> list[_Found]:
        """Find the entities that an attribute names."""
        known = self.entities.get(self.plan.kinds[each.inner].label, {}) if each.inner else {}
        return [known[_fold(value)] for value in found.values.get(each.label, ()) if _fold(value) in known]

    def _report(self, kind: _Kind, name: str, string: Mention | None, message: str, found: _Found) -> None:
        self.invalid.append(Invalid(kind.model.__name__, name, string, message, found.mention or None))

    def _make(self, kind: _Kind, found: _Found) -> _Value | None:
        """Make the instance of an entity, once, with those in it; `None` if it is not valid."""
        if id(found) not in self.made:
            self.made[id(found)] = self._validate(kind, found)
        return self.made[id(found)]

    def _validate(self, kind: _Kind, found: _Found) -> _Value | None:
        before = len(self.invalid)
        values = {each.name: self._values(kind, each, found) for each in kind.fields}
        if kind.named:
            values["name"] = [_Value(str(found.mention), {"": found.mention})]
        many = {each.name for each in kind.fields if each.many}
        nullable = {each.name for each in kind.fields if each.nullable}
        while True:
            data: dict[str, Any] = {}
            for name, of_field in values.items():
                required = kind.model.model_fields[name].is_required()
                if name in many and (of_field or required):
                    data[name] = [each.value for each in of_field]
                elif of_field:
                    data[name] = of_field[0].value
                elif required and name in nullable:
                    data[name] = None
            try:
                record = kind.model.model_validate(data, by_alias=False, by_name=True)
                break
            except ValidationError as error:
                own = {each.field for each in self.invalid[before:] if each.model == kind.model.__name__}
                if not self._drop(kind, found, error, values, many, own):
                    return None
        mentions: dict[str, Mention] = {}
        for name, of_field in values.items():
            for number, each in enumerate(of_field):
                start = f"{name}.{number}" if name in many else name
                for inner, mention in each.mentions.items():
                    mentions[f"{start}.{inner}" if inner else start] = mention
        return _Value(record, mentions)

    def _values(self, kind: _Kind, each: _Field, found: _Found) -> list[_Value]:
        """Read the values of a field: one, or several of a list."""
        values: list[_Value] = []
        if each.inner is not None:
            inner = self.plan.kinds[each.inner]
            entities = self._list(inner) if found.mention == "" and self.plan.whole else self._named(kind, each, found)
            values = [value for entity in entities if (value := self._make(inner, entity))]
        else:
            for mention in found.values.get(each.label, ()):
                try:
                    values.append(_Value(read_value(mention, each.types), {"": mention}))
                except ValueError as error:
                    self._report(kind, each.name, mention, str(error), found)
        if each.many:
            return values
        for value in values[1:]:
            string = next(iter(value.mentions.values()), None)
            self._report(kind, each.name, string, "one value is asked for, and another was found before", found)
        return values[:1]

    def _named(self, kind: _Kind, each: _Field, found: _Found) -> list[_Found]:
        """List the entities of a field that holds models: those that it names, else those that nothing names."""
        assert each.inner is not None
        inner = self.plan.kinds[each.inner]
        known = self.entities.setdefault(inner.label, {})
        for mention in found.values.get(each.label, ()):
            if inner.named and _fold(mention) not in known:
                known[_fold(mention)] = entity = _Found(mention)  # nothing but its name
                self.named.add(id(entity))
            elif _fold(mention) not in known:
                self._report(kind, each.name, mention, f"no {inner.label} of this name was found", found)
        entities = self._find(each, found)
        single = [other.inner for other in kind.fields].count(each.inner) == 1
        if kind is self.plan.root and self.alone and single and (each.many or not entities):
            entities += [entity for entity in self._list(inner) if id(entity) not in self.named]
        return entities

    def _drop(
        self,
        kind: _Kind,
        found: _Found,
        error: ValidationError,
        values: dict[str, list[_Value]],
        many: set[str],
        reported: set[str],
    ) -> bool:
        """Report the errors of an instance, and drop the values that have them; tell whether that can be enough."""
        wrong: dict[str, set[int]] = {}
        enough = True
        names = {each.alias: name for name, each in kind.model.model_fields.items() if each.alias}
        for each in error.errors(include_url=False, include_context=False):
            name, number = (*each["loc"], "", None)[:2]
            name = str(names.get(str(name), name))
            of_field = values.get(name, [])
            if not of_field:  # an error of the whole, or a value that is missing
                enough = False
                if name not in reported:
                    self._report(kind, name, None, each["msg"], found)
                continue
            numbers = {number} if name in many and isinstance(number, int) else set(range(len(of_field)))
            for index in numbers - wrong.get(name, set()):
                string = next(iter(of_field[index].mentions.values()), None)
                self._report(kind, name, string, each["msg"], found)
            wrong.setdefault(name, set()).update(numbers)
        for name, numbers in wrong.items():
            values[name] = [value for index, value in enumerate(values[name]) if index not in numbers]
        return enough


def _read_field(model: type[BaseModel], name: str) -> _Field:
    """Read a field of a model."""
    of_model = model.model_fields[name]
    types, nullable, many = *_split(of_model.annotation), False
    if len(types) == 1 and (get_origin(types[0]) or types[0]) in _LISTS:
        arguments = get_args(types[0]) or (Any,)
        if (get_origin(types[0]) or types[0]) is tuple and arguments[1:] != (...,):
            raise InputError(
                f"{model.__name__}.{name} is a tuple of fixed length, which is not supported; use list[...]"
            )
        many, types = True, _split(arguments[0])[0]
    models = [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]
    for each in types:
        held = each if isinstance(each, type) and get_origin(each) is None else object
        collection = get_origin(each) not in (None, Literal) or issubclass(held, (dict, *_LISTS[:4]))
        if collection or is_dataclass(each) or (models and len(types) > 1):
            raise InputError(
                f"{model.__name__}.{name}: {each} is not supported there; use strings, numbers, dates, enums, a "
                "model, or a list of them"
            )
    choices = list_choices(types)
    texts = [of_model.description or "", f"one of: {', '.join(choices)}" if choices else ""]
    description = "; ".join(filter(None, texts))
    inner = models[0] if models else None
    return _Field(name, field_label(name, of_model), description, many, nullable, types, inner)


def _split(annotation: Any) -> tuple[list[Any], bool]:
    """List the types of a union without `None`, and tell whether that is one of them."""
    annotation = getattr(annotation, "__value__", annotation)  # of `type X = ...`
    if get_origin(annotation) is Annotated:
        return _split(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        parts = [_split(each) for each in get_args(annotation)]
        return [each for types, _ in parts for each in types], any(nullable for _, nullable in parts)
    return ([], True) if annotation is NoneType else ([annotation], False)


def _fold(string: str) -> str:
    return " ".join(str(string).casefold().split())
