"""The shape of every task, by worked examples."""

import json

import pytest
from helpers.corpora import ALL_TASKS, SHARED, needs_shared

from iepile_builder import InputError, Schema, SchemaBatching
from iepile_builder.data.corpus import Corpus, check_schema
from iepile_builder.data.index import check_record
from iepile_builder.extraction.user_schema import read_schema
from iepile_builder.io import read_json
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.base import Task
from iepile_builder.tasks.facts import Argument, Attribute, Entity, Relation, Trigger, TypedRelation
from iepile_builder.tasks.relations import split_label


TEXT_OF_EVENT = "On Monday rebels attacked Rome and Pisa."
EVENT = {
    "event_trigger": "attacked",
    "event_type": "attack",
    "arguments": [
        {"argument": "Pisa", "role": "target"},
        {"argument": "rebels", "role": "attacker"},
        {"argument": "Rome", "role": "target"},
    ],
}
EVENTS = Schema(("attack", "meet"), ("attacker", "target", "time"), {"attack": ("attacker", "target", "time")})
KG = Schema((), ("spouse", "award", "mayor"), {"person": ("award", "spouse"), "city": ("mayor",)})

# task, schema, text, annotations; then all of its schema items, the whole answer, and the facts
EXAMPLES = [
    (
        "NER", Schema(("person", "city")), "Bob met Ada.",
        [{"entity": "Ada", "entity_type": "person"}, {"entity": "Bob", "entity_type": "person"}],
        ["person", "city"],
        {"person": ["Bob", "Ada"], "city": []},
        [Entity("person", "Ada"), Entity("person", "Bob")],
    ),
    (
        "RE", Schema((), ("wife", "children")), "Ada, wife of Bob",
        [{"head": "Ada", "relation": "wife", "tail": "Bob"}],
        ["wife", "children"],
        {"wife": [{"subject": "Ada", "object": "Bob"}], "children": []},
        [Relation("wife", "Ada", "Bob")],
    ),
    (
        "SPO", Schema(("person_lives_in_city", "person_wife_person")), "Ada lives in Rome.",
        [{"head": "Ada", "head_type": "person", "relation": "lives_in", "tail": "Rome", "tail_type": "city"}],
        [
            {"subject_type": "person", "predicate": "lives_in", "object_type": "city"},
            {"subject_type": "person", "predicate": "wife", "object_type": "person"},
        ],
        {"lives_in": [{"subject": "Ada", "object": "Rome"}], "wife": []},
        [TypedRelation("person", "lives_in", "city", "Ada", "Rome")],
    ),
    (
        "EE", EVENTS, TEXT_OF_EVENT, [EVENT],
        [
            {"event_type": "attack", "trigger": True, "arguments": ["attacker", "target", "time"]},
            {"event_type": "meet", "trigger": True, "arguments": []},
        ],
        {
            "attack": [
                {"trigger": "attacked", "arguments": {"attacker": "rebels", "target": ["Rome", "Pisa"], "time": "NAN"}}
            ],
            "meet": [],
        },
        [
            Trigger("attack", "attacked"),
            Argument("attack", "target", "Pisa", "attacked"),
            Argument("attack", "attacker", "rebels", "attacked"),
            Argument("attack", "target", "Rome", "attacked"),
        ],
    ),
    (
        "EET", EVENTS, TEXT_OF_EVENT, [EVENT, {"event_trigger": "", "event_type": "meet", "arguments": []}],
        ["attack", "meet"],
        {"attack": ["attacked"], "meet": []},
        [Trigger("attack", "attacked")],
    ),
    (
        "EEA", EVENTS, TEXT_OF_EVENT, [EVENT, {"event_trigger": "", "event_type": "meet", "arguments": []}],
        [
            {"event_type": "attack", "trigger": ["attacked"], "arguments": ["attacker", "target", "time"]},
            {"event_type": "meet", "trigger": ["NAN"], "arguments": []},
        ],
        {
            "attack": [
                {"trigger": "attacked", "arguments": {"attacker": "rebels", "target": ["Rome", "Pisa"], "time": "NAN"}}
            ],
            "meet": [{"trigger": "NAN", "arguments": {}}],
        },
        [
            Argument("attack", "target", "Pisa", "attacked"),
            Argument("attack", "attacker", "rebels", "attacked"),
            Argument("attack", "target", "Rome", "attacked"),
        ],
    ),
    (
        "KG", KG, "Ada, wife of Bob, won the Oscar and the Bambi.",
        [
            {"head": "Ada", "relation": "award", "tail": "Bambi"},
            {"head": "Ada", "relation": "award", "tail": "Oscar"},
            {"head": "Bob", "relation": "spouse", "tail": "Ada"},
            {"head": "Ada", "relation": "spouse", "tail": "Bob"},
        ],
        [
            {"entity_type": "person", "attributes": ["award", "spouse"]},
            {"entity_type": "city", "attributes": ["mayor"]},
        ],
        {"person": {"Ada": {"award": ["Oscar", "Bambi"], "spouse": "Bob"}, "Bob": {"spouse": "Ada"}}, "city": {}},
        [
            Attribute("person", "Ada", "award", "Bambi"),
            Attribute("person", "Ada", "award", "Oscar"),
            Attribute("person", "Bob", "spouse", "Ada"),
            Attribute("person", "Ada", "spouse", "Bob"),
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("task", "schema", "text", "annotations", "items", "answer", "facts"), EXAMPLES)
def test_worked_example(task, schema, text, annotations, items, answer, facts) -> None:
    batching = SchemaBatching(task, "en", "example", schema, negatives="all", schema_order="schema", split_num=-1)
    (row,) = batching.instances("1", text, annotations)
    expected = {"instruction": TASKS[task].instructions["en"], "schema": items, "input": text}
    assert row["instruction"] == json.dumps(expected, ensure_ascii=False)
    assert row["output"] == json.dumps(answer, ensure_ascii=False)
    assert TASKS[task].facts(annotations, schema) == facts
    assert sorted(TASKS[task].parse(answer, TASKS[task].read_items(items))) == sorted(facts)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_split_num_is_that_of_the_paper(task: str) -> None:
    assert TASKS[task].split_num == {"NER": 6, "KG": 1}.get(task, 4)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_an_example_is_answered_in_full(task: Task) -> None:
    for items, text, answer in task.examples.values():
        schema = task.read_items(items)
        assert list(answer) == [task.answer_key(label) for label in task.labels(schema)]
        facts = task.parse(answer, schema)
        assert facts
        assert all(task.is_asked(fact, schema) for fact in facts)
        assert all(mention in text for fact in facts for mention in fact.mentions)
        annotations = task.annotations(answer, schema)
        assert task.facts(annotations, schema) == facts
        batching = SchemaBatching(task.name, "en", "", schema, negatives="all", schema_order="schema", split_num=-1)
        (instance,) = batching.instances("1", text, annotations)
        assert json.loads(instance["instruction"])["schema"] == items
        assert json.loads(instance["output"]) == answer


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_the_form_that_is_shown_is_a_schema(task: Task) -> None:
    schema, _ = read_schema(task.form, task.name)
    labels = {label: task.roles(label, schema) for label in task.labels(schema)}
    assert list(labels) == list(task.form)
    assert task.to_schema(labels) == schema


def test_reading_removes_exact_duplicates_and_nothing_else() -> None:
    triple = {"head": "Ada", "head_type": "person", "relation": "wife", "tail": "Bob", "tail_type": "person"}
    other = {**triple, "tail_type": "man"}
    assert TASKS["RE"].distinct([triple, other]) == [triple]  # RE does not see the types
    assert TASKS["SPO"].distinct([triple, other, triple]) == [triple, other]
    repeated = {**EVENT, "arguments": [*EVENT["arguments"], EVENT["arguments"][0]]}
    fewer = {**EVENT, "arguments": EVENT["arguments"][:1]}
    assert TASKS["EE"].distinct([repeated, EVENT, fewer]) == [EVENT, fewer]  # two events of one type and trigger
    assert TASKS["EET"].distinct([EVENT, fewer]) == [EVENT]
    shuffled = {**EVENT, "arguments": EVENT["arguments"][::-1]}
    assert TASKS["EE"].distinct([EVENT, shuffled]) == [EVENT]


def test_mentions_that_are_not_in_the_text_come_last() -> None:
    annotations = [{"entity": name, "entity_type": "person"} for name in ("Eve", "Bob", "Ada")]
    assert TASKS["NER"].answer_value(annotations, (), "Ada and Bob") == ["Ada", "Bob", "Eve"]


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        ({"attack": [{"trigger": "t", "arguments": {"who": ["A", "B"], "when": "NAN", "where": ""}}]}, ["A", "B"]),
        ({"attack": [{"who": "A"}]}, ["A"]),  # the flat form
        ({"attack": [{"who": ["A", "NAN"]}, {"who": "B"}]}, ["A", "B"]),
        ({"attack": {"trigger": "t", "arguments": {"who": "A"}}}, ["A"]),
        ({"attack": [{"trigger": "NAN", "arguments": {}}]}, []),
        ({"attack": [{"trigger": None, "arguments": None}]}, []),
    ],
)
def test_forms_of_event_arguments(answer: dict, facts: list[str]) -> None:
    assert [fact.argument for fact in TASKS["EEA"].parse(answer, EVENTS)] == facts


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("NER", {"person": "Ada"}),
        ("NER", {"person": [1999]}),
        ("NER", {"person": {"Ada": "Bob"}}),
        ("RE", {"wife": [["Ada", "Bob"]]}),
        ("RE", {"wife": [{"subject": "Ada"}]}),
        ("RE", {"wife": [{"subject": "Ada", "object": ["Bob"]}]}),
        ("EE", {"attack": ["attacked"]}),
        ("EE", {"attack": [{"trigger": ["attacked"]}]}),
        ("EE", {"attack": [{"trigger": "NAN", "arguments": ["Rome"]}]}),
        ("EEA", {"attack": [{"trigger": "attacked", "arguments": "Rome"}]}),
        ("EET", {"attack": [{"trigger": "attacked"}]}),
        ("KG", {"person": ["Ada"]}),
        ("KG", {"person": {"Ada": "Bob"}}),
        ("KG", {"person": {"Ada": {"spouse": 7}}}),
    ],
)
def test_a_value_of_another_form_is_a_wrong_fact(task: str, answer: dict) -> None:
    if (task, answer) == ("EE", {"attack": ["attacked"]}):
        assert TASKS["EEA"].parse(answer, EVENTS) == []
    (fact,) = TASKS[task].parse(answer, {"KG": KG}.get(task, EVENTS))
    assert any(text.startswith("\ufffd") for text in fact)


def test_an_spo_answer_with_a_predicate_that_was_not_asked() -> None:
    answer = {"p": [{"subject": "A", "object": "B"}], "z": [{"subject": "A", "object": "B"}]}
    assert TASKS["SPO"].parse(answer, Schema(("x_p_y",))) == [
        TypedRelation("x", "p", "y", "A", "B"),
        TypedRelation("", "z", "", "A", "B"),
    ]


def test_labels_are_split_at_the_first_and_the_last_underscore() -> None:
    assert split_label("Peop_Live_In_Loc") == ("Peop", "Live_In", "Loc")
    for wrong in ("a_b", "abc", "_b_c", "a_b_", "a__c"):
        with pytest.raises(InputError, match="subjecttype_predicate_objecttype"):
            split_label(wrong)


@needs_shared
@pytest.mark.parametrize("task", ALL_TASKS)
def test_published_samples_can_be_read_and_round_trip(task: str) -> None:
    folder = SHARED / "format" / "samples" / task
    corpus = Corpus(folder, task, "zh", "sample", Schema.read(folder / "schema.json"))
    check_schema(corpus)
    batching = SchemaBatching(task, "zh", "sample", corpus.schema)
    for line in (folder / "sample.json").read_bytes().splitlines():
        record = read_json(line)
        check_record(record, corpus, "train")
        annotations = record[TASKS[task].field]
        found = []
        for row in batching.instances("1", record["text"], annotations):
            schema = TASKS[task].read_items(json.loads(row["instruction"])["schema"])
            found += TASKS[task].parse(json.loads(row["output"]), schema)
        assert sorted(found) == sorted(TASKS[task].facts(TASKS[task].distinct(annotations), corpus.schema))
