"""Pydantic models: what is asked for them, and validated instances of what is found."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from helpers.rules import AnswerEngine, words
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PositiveInt, RootModel, create_model, field_validator, model_validator

from iepile_builder import Extractor, InputError
from iepile_builder.answers.grounding import Mention
from iepile_builder.extraction.records import RecordPlan, Records
from iepile_builder.extraction.values import read_value


class Status(Enum):
    PAID = "paid"
    OVER_DUE = "overdue"


class Company(BaseModel):
    name: str
    city: str | None = None


class LineItem(BaseModel):
    name: str
    quantity: PositiveInt
    price: Decimal


class Invoice(BaseModel):
    """A bill for goods."""

    number: str = Field(title="invoice number")
    issued: date = Field(description="when it was written")
    total: Decimal
    currency: Literal["EUR", "USD"] = "EUR"
    status: Status | None
    seller: Company
    items: list[LineItem]
    notes: list[str] = []


TEXT = (
    "Invoice R-17 of 3 March 2024. Siemens AG, Munich, sells 3 desks at 1,250.00 euros and 12 chairs at 99.50 euros. "
    "Total: 4,944.00 EUR. Overdue. Deliver by hand."
)
INVOICE = {
    "R-17": {
        "invoice number": "R-17", "issued": "3 March 2024", "total": "4,944.00", "status": "overdue",
        "seller": "Siemens AG", "items": ["desks", "chairs"], "notes": ["Deliver by hand"],
    }
}  # fmt: skip
ANSWER = {
    "invoice": INVOICE,
    "company": {"Siemens AG": {"city": "Munich"}},
    "line item": {
        "desks": {"quantity": "3", "price": "1,250.00 euros"},
        "chairs": {"quantity": "12", "price": "99.50 euros"},
    },
}


def extract(model: Any, answer: dict, text: str = TEXT) -> Records[Any]:
    return Extractor(AnswerEngine(answer))(text, model)


def test_an_invoice(tmp_path: Path) -> None:
    result = Extractor(AnswerEngine(ANSWER))(TEXT, Invoice)
    assert result.invalid == []
    assert result.records == [
        Invoice(
            number="R-17",
            issued=date(2024, 3, 3),
            total=Decimal("4944.00"),
            status=Status.OVER_DUE,
            seller=Company(name="Siemens AG", city="Munich"),
            items=[
                LineItem(name="desks", quantity=3, price=Decimal("1250.00")),
                LineItem(name="chairs", quantity=12, price=Decimal("99.50")),
            ],
            notes=["Deliver by hand"],
        )
    ]
    (mentions,) = result.mentions
    assert set(mentions) == {
        "number", "issued", "total", "status", "seller.name", "seller.city", "notes.0", "items.0.name",
        "items.0.quantity", "items.0.price", "items.1.name", "items.1.quantity", "items.1.price",
    }  # fmt: skip
    assert all(TEXT[each.start : each.end] == each for each in mentions.values())
    assert mentions["status"] == "Overdue"
    data = result.to_dict()
    assert data["records"][0]["items"][0] == {"name": "desks", "quantity": 3, "price": "1250.00"}
    assert data["mentions"][0]["items.0.price"]["text"] == "1,250.00 euros"
    result.save(tmp_path / "invoice.json")
    assert json.loads((tmp_path / "invoice.json").read_text()) == data
    result.save(tmp_path / "invoice.html")
    assert "Siemens AG" in (tmp_path / "invoice.html").read_text()


def test_what_is_asked() -> None:
    plan = RecordPlan(Invoice)
    assert plan.schema == {
        "attributes": {
            "invoice": {
                "invoice": "A bill for goods.", "invoice number": "", "issued": "when it was written", "total": "",
                "currency": "one of: EUR, USD", "status": "one of: paid, overdue", "seller": "", "items": "",
                "notes": "",
            },
            "company": {"company": "", "city": ""},
            "line item": {"line item": "", "quantity": "", "price": ""},
        }
    }  # fmt: skip

    class Calls(AnswerEngine):
        calls: list[int] = []

        def generate(self, requests: Sequence, max_new_tokens: int) -> list:
            self.calls.append(len(requests))
            return super().generate(requests, max_new_tokens)

    engine = Calls(ANSWER)
    assert [len(each.records) for each in Extractor(engine)([TEXT, TEXT], Invoice)] == [1, 1]
    assert engine.calls == [6]


def test_what_does_not_validate_is_listed() -> None:
    wrong = {
        **ANSWER,
        "invoice": {"R-17": {**INVOICE["R-17"], "status": "Munich", "notes": ["Deliver by hand", "x" * 9]}},
        "line item": {
            "desks": {"quantity": "Total", "price": "1,250.00"},
            "chairs": {"quantity": "12", "price": ["99.50", "4,944.00"]},
        },
    }

    class Checked(Invoice):
        @field_validator("notes")
        @classmethod
        def no_notes(cls, notes: list[str]) -> list[str]:
            if len(notes) > 1:
                raise ValueError("too many")
            return notes

    result = extract(Checked, {"checked": wrong.pop("invoice"), **wrong})
    (record,) = result.records
    assert record.items == [LineItem(name="chairs", quantity=12, price=Decimal("99.50"))]
    assert (record.status, record.notes) == (None, [])
    found = {(each.model, each.field, each.string): each.message for each in result.invalid}
    assert found.keys() == {
        ("LineItem", "quantity", "Total"), ("LineItem", "price", "4,944.00"), ("Checked", "status", "Munich"),
        ("Checked", "notes", "Deliver by hand"), ("Checked", "notes", "x" * 9),
    }  # fmt: skip
    assert "valid integer" in found["LineItem", "quantity", "Total"]
    assert found["LineItem", "price", "4,944.00"].startswith("one value is asked for")
    assert all(each.string is None or TEXT[each.string.start : each.string.end] == each.string
               for each in result.invalid if each.string != "x" * 9)  # fmt: skip
    assert set(result.mentions[0]) & {"status", "notes.0", "items.1.name"} == set()


def test_a_record_without_a_required_value_is_left_out() -> None:
    missing = {**ANSWER, "invoice": {"R-17": {"total": "4,944.00"}}}
    result = extract(Invoice, missing)
    assert result.records == [] and result.mentions == []
    assert {(each.field, each.string, each.message, each.entity) for each in result.invalid} == {
        ("number", None, "Field required", "R-17"), ("issued", None, "Field required", "R-17"),
    }  # fmt: skip
    assert result.to_dict()["invalid"][0]["entity"]["start"] == TEXT.index("R-17")
    # a value that was found and is wrong is not reported as missing, too
    result = extract(Invoice, {**ANSWER, "invoice": {"R-17": {**INVOICE["R-17"], "issued": "Overdue"}}})
    assert result.records == []
    assert [(each.field, each.string) for each in result.invalid] == [("issued", "Overdue")]
    assert result.extractions["attributes"].facts
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
    assert result.to_dict()["invalid"][0]["string"]["start"] == TEXT.index("Overdue")


def test_an_error_of_the_whole_record() -> None:
    class Range(BaseModel):
        low: int
        high: int

        @model_validator(mode="after")
        def ordered(self) -> "Range":
            if self.low > self.high:
                raise ValueError("upside down")
            return self

    result = extract(Range, {"range": {"R-17": {"low": "12", "high": "3"}}})
    assert result.records == []
    assert [(each.model, each.field, each.message) for each in result.invalid] == [
        ("Range", "", "Value error, upside down")
    ]


def test_entities_that_no_attribute_names() -> None:
    loose = {**ANSWER, "invoice": {"R-17": {**INVOICE["R-17"], "items": [], "seller": []}}}
    (record,) = extract(Invoice, loose).records  # there is one invoice alone
    assert [item.name for item in record.items] == ["desks", "chairs"] and record.seller.city == "Munich"
    two = {**loose, "invoice": {**loose["invoice"], "Total": INVOICE["R-17"]}}
    two["line item"] = {**ANSWER["line item"], "Siemens AG": {"quantity": "3", "price": "3"}}
    result = extract(Invoice, two)
    assert [len(record.items) for record in result.records] == [2]
    assert ("LineItem", "", "Siemens AG", "belongs to no invoice", "Siemens AG") in result.invalid


def test_two_fields_with_one_model_and_names_without_entities() -> None:
    class Sale(BaseModel):
        name: str
        seller: Company
        buyer: Company | None = None

    answer = {"sale": {"desks": {"seller": "siemens  ag", "buyer": "Deliver by hand"}}, "company": ANSWER["company"]}
    (record,) = extract(Sale, answer).records
    assert record.seller == Company(name="Siemens AG", city="Munich")
    assert record.buyer == Company(name="Deliver by hand")  # nothing but its name is known


def test_many_names_without_entities_of_their_own() -> None:
    class Fair(BaseModel):
        name: str
        guests: list[Company] = []
        host: Company | None = None

    names = [f"Company {number}" for number in range(50)]
    answer = {"fair": {"A": {"guests": names[:40], "host": names[0]}, "B": {"guests": names[20:], "host": names[49]}}}
    first, second = extract(Fair, answer, f"A, B: {', '.join(names)}").records
    assert first == Fair(name="A", guests=[Company(name=name) for name in names[:40]], host=Company(name=names[0]))
    assert second == Fair(name="B", guests=[Company(name=name) for name in names[20:]], host=Company(name=names[49]))


def test_a_model_that_holds_lists_is_the_whole_text() -> None:
    class Person(BaseModel):
        name: str

    class News(BaseModel):
        cities: list[str] = Field(title="city")
        amounts: set[int] = set()
        companies: list[Company] = []
        people: list[Person] = []

    assert RecordPlan(News).schema == {
        "entities": {"city": "", "amounts": "", "person": ""},
        "attributes": {"company": {"company": "", "city": ""}},
    }
    answer = {
        "city": ["Munich", "Rome"],
        "amounts": ["12", "3", "12"],
        "company": ANSWER["company"],
        "person": ["Eva"],
    }
    (news,) = extract(News, answer).records
    assert news == News(
        cities=["Munich", "Rome"],
        amounts={12, 3},
        companies=[Company(name="Siemens AG", city="Munich")],
        people=[Person(name="Eva")],
    )
    assert extract(News, {}).records == [News(cities=[])]
    assert extract(Person, {"person": ["Siemens AG", "siemens ag"]}).records == [Person(name="Siemens AG")]


def test_names_and_forms_of_fields() -> None:
    class HTTPServer(BaseModel):
        model_config = {"title": "server"}
        name: str
        ip_address: str = Field(alias="ip")
        ports: tuple[int, ...] = ()
        load: Optional[float]  # noqa: UP045
        up: bool = False

    schema = {"attributes": {"server": {"server": "", "ip": "", "ports": "", "load": "", "up": ""}}}
    assert RecordPlan(HTTPServer).schema == schema
    answer = {"server": {"a": {"ip": "10.0.0.1", "ports": ["80", "443", "x"], "up": "yes"}}}
    result = extract(HTTPServer, answer, "a 10.0.0.1 80 443 yes")
    assert result.records == [HTTPServer(ip="10.0.0.1", ports=(80, 443), load=None, up=True, name="a")]
    assert [(each.field, each.string) for each in result.invalid] == [("ports", "x")]


class Holds(BaseModel):
    other: Optional["Holds"] = None
    name: str


@dataclass
class Plain:
    x: int


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": (dict[str, int], ...)}, "Model.x: dict[str, int] is not supported there; use strings, numbers"),
        ({"x": (list[list[int]], ...)}, "Model.x: list[int] is not supported there"),
        ({"x": ("Undefined", ...)}, "Model has a field whose type is not defined"),
        ({"x": (Company | int, ...)}, "is not supported there"),
        ({"x": (Plain, ...)}, "is not supported there"),
        ({"x": (tuple[int, str], ...)}, "Model.x is a tuple of fixed length, which is not supported; use list[...]"),
        ({"x": (Holds, ...)}, "Holds holds itself, which is not supported; leave that field out"),
        ({"x": (RootModel[int], ...)}, "is a model without fields, which is not supported"),
        ({}, "Model is a model without fields"),
        ({"x": (str, ...), "y": (str, Field(title="x"))}, "two fields of Model are called alike"),
        ({"model": (str, ...)}, "two fields of Model are called alike, or as the model; give them titles"),
        ({"x": (list[Company], ...), "y": (list[Company], ...)}, "Model holds one model in two fields"),
        ({"x": (Company, ...), "company": (list[str], ...)}, "'company' is the name of two things in Model"),
    ],
)
def test_what_is_not_supported(fields: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        extract(create_model("Model", **fields), {})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("string", "number"),
    [
        ("1,234.50", "1234.50"), ("1234.5", "1234.5"), ("1,234", "1234"), ("1.234", "1.234"), ("1.234,50", "1234.50"),
        ("1.234.567", "1234567"), ("1 234,5", "1234.5"), ("1\u202f234.5", "1234.5"), ("1’234.50", "1234.50"),
        ("0,5", "0.5"), ("12,345,678", "12345678"), ("-3", "-3"), ("\u2212 3", "-3"), ("€ 4,500", "4500"),
        ("-$4,500.25", "-4500.25"), ("US$ 5", "5"), ("4,500 euros", "4500"), ("EUR 12", "12"), ("１２３", "123"),
        ("4500元", "4500"), ("1e6", "1e6"),
        ("3 million", None), ("three", None), ("5 %", None), ("5%", None), ("5 kg", None), ("1,23,456", None),
        ("12 34", None), ("1,2345,678", None), ("--3", None), ("$", None), ("", None), ("1.2.3", None),
        ("10-20", None), ("1/2", None),
    ],
)  # fmt: skip
def test_numbers(string: str, number: str | None) -> None:
    assert read_value(Mention(string), [Decimal]) == (string if number is None else number)


@given(
    st.decimals(-(10**12), 10**12, places=2), st.sampled_from([",", " ", "'", ""]), st.sampled_from(["", "€", "USD "])
)
def test_any_number_is_read_back(number: Decimal, group: str, currency: str) -> None:
    written = currency + f"{number:,}".replace(",", group)
    assert Decimal(read_value(Mention(written), [Decimal])) == number


@pytest.mark.parametrize(
    ("string", "read"),
    [
        ("3 March 2024", "2024-03-03"), ("March 3rd, 2024", "2024-03-03"), ("31.12.2023", "2023-12-31"),
        ("2024年3月3日", "2024-03-03"), ("2024/3/3", "2024-03-03"), ("2024-03-03", "2024-03-03"),
        ("2024-03-03T10:00:00Z", "2024-03-03T10:00:00Z"), ("12/25/2024", "2024-12-25"),
        ("Monday, 3 March 2025", "2025-03-03"), ("20240303", None), ("2024", None),
        ("03/04/2024", "03/04/2024"), ("03.04.2024", "03.04.2024"), ("March 2024", "March 2024"),
        ("Monday", "Monday"), ("3 March", "3 March"), ("10 Dec 99", "10 Dec 99"), ("tomorrow", "tomorrow"),
        ("10:30", "10:30"),
    ],
)  # fmt: skip
def test_dates(string: str, read: str | None) -> None:
    if read is None:
        with pytest.raises(ValueError, match="a number is no date"):
            read_value(Mention(string), [date])
    else:
        assert read_value(Mention(string), [date]) == read
    if string == "3 March 2024":
        assert read_value(Mention(string), [datetime]) == "2024-03-03T00:00:00"


# The round trip: of any model, the instances that answers were made from come back.
LEAVES: dict[Any, st.SearchStrategy] = {
    str: st.text("abcXYZ人é ", min_size=1, max_size=8).map(lambda text: f"t{text.strip()}"),
    int: st.integers(-(10**9), 10**9),
    Decimal: st.decimals(-(10**6), 10**6, places=2),
    date: st.dates(date(1000, 1, 1)),
    bool: st.booleans(),
    Status: st.sampled_from(Status),
    Literal["low", "high"]: st.sampled_from(["low", "high"]),
}


def write(value: Any) -> str:
    """A value as a text might have it."""
    if isinstance(value, Enum):
        return str(value.value).upper()
    if isinstance(value, Decimal):
        return f"{value:,}"
    return f"{value:%d %B}, {value.year}" if isinstance(value, date) else str(value)


@st.composite
def instances(draw: st.DrawFn) -> tuple[type[BaseModel], list[BaseModel]]:
    """A model with random fields, one of them perhaps a model, and instances of it with different names."""
    leaves = st.sampled_from(list(LEAVES))
    fields: dict[str, Any] = {"name": (str, ...)}
    values: dict[str, st.SearchStrategy] = {}
    for number in range(draw(st.integers(1, 4))):
        leaf, form = draw(leaves), draw(st.sampled_from(["one", "optional", "list"]))
        name = f"field_{number}"
        if form == "list":
            fields[name] = (list[leaf], [])
            values[name] = st.lists(LEAVES[leaf], max_size=3, unique_by=lambda value: write(value).casefold())
        else:
            fields[name] = (Optional[leaf], None) if form == "optional" else (leaf, ...)  # noqa: UP045
            values[name] = LEAVES[leaf] | st.none() if form == "optional" else LEAVES[leaf]
    names = iter(f"n{number}" for number in range(100))
    if draw(st.booleans()):
        inner = create_model("Inner", name=(str, ...), value=(int, ...))
        fields["inner"] = (list[inner], [])
        values["inner"] = st.lists(
            st.integers(0, 9).map(lambda value: inner(name=next(names), value=value)), max_size=3
        )
    model = create_model("Outer", **fields)
    made = [model(name=next(names), **draw(st.fixed_dictionaries(values))) for _ in range(draw(st.integers(1, 3)))]
    return model, made


@settings(max_examples=60, deadline=None)
@given(instances())
def test_instances_come_back(made: tuple[type[BaseModel], list[BaseModel]]) -> None:
    model, records = made
    answer: dict[str, dict] = {"outer": {}, "inner": {}}
    for record in records:
        of_record = answer["outer"][record.name] = {}  # type: ignore[attr-defined]
        for name, value in record:
            many = value if isinstance(value, list) else [] if value is None or name == "name" else [value]
            for each in many if name == "inner" else ():
                answer["inner"][each.name] = {"value": str(each.value)}
            if many:
                strings = [each.name if name == "inner" else write(each) for each in many]
                of_record[name.replace("_", " ")] = strings if len(strings) > 1 else strings[0]
    answer["outer"] = {name: values for name, values in answer["outer"].items() if values}
    result = extract(model, answer, " | ".join(find_strings(answer)))
    expected = [record for record in records if record.name in answer["outer"]]  # type: ignore[attr-defined]
    assert result.invalid == []
    assert sorted(result.records, key=repr) == sorted(expected, key=repr)


def find_strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (key, *find_strings(inner))]
    return value if isinstance(value, list) else [value]


def test_the_instruction_of_a_model() -> None:
    asked: list[dict] = []

    class Listens(AnswerEngine):
        def generate(self, requests: Sequence, max_new_tokens: int) -> list:
            asked.extend(map(words, requests))
            return super().generate(requests, max_new_tokens)

    Extractor(Listens({}))(TEXT, Company)
    assert asked[0]["schema"] == [{"entity_type": "company", "attributes": ["city"]}]
