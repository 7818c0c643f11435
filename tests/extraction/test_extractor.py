"""`extraction.extractor`: schema batches, long texts, cut answers, merging; the engine answers from rules."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from helpers.corpora import ALL_TASKS, ROOT, SAMPLE_CORPUS
from helpers.rules import RuleEngine, tagged, words
from helpers.servers import unused_url
from helpers.tiny import CHATML
from pydantic import BaseModel

from iepile_builder import Extractor, InputError, Schema, SchemaBatching
from iepile_builder.engines.base import Completion, Request
from iepile_builder.extraction.result import Extraction
from iepile_builder.io import read_lines
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Argument, Entity


SCHEMAS: dict[str, Any] = {
    "NER": ["person", "city"],
    "RE": ["born in"],
    "SPO": ["person_born in_city"],
    "EE": {"meet": ["who", "where"]},
    "EET": ["meet"],
    "EEA": {"meet": ["who", "where"]},
    "KG": {"person": ["born in", "award"]},
}
TEXT = "Ada met Bob in Rome. Ada, born in Rome, has won an Oscar."
ANSWERS: dict[str, Any] = {
    "NER": {"person": ["Ada", "Bob"], "city": ["Rome"]},
    "RE": {"born in": [{"subject": "Ada", "object": "Rome"}]},
    "SPO": {"born in": [{"subject": "Ada", "object": "Rome"}]},
    "EE": {"meet": [{"trigger": "met", "arguments": {"who": ["Ada", "Bob"], "where": "Rome"}}]},
    "EET": {"meet": ["met"]},
    "EEA": {"meet": [{"trigger": "met", "arguments": {"who": ["Ada", "Bob"], "where": "Rome"}}]},
    "KG": {"person": {"Ada": {"born in": "Rome", "award": "Oscar"}}},
}


class Says:
    """An engine that always says the same, or one thing after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.asked: list[dict] = []

    def generate(self, requests, max_new_tokens: int) -> list[Completion]:
        completions = []
        for request in requests:
            answer = self.answers[len(self.asked) % len(self.answers)]
            self.asked.append(words(request))
            completions.append(Completion(answer if isinstance(answer, str) else json.dumps(answer)))
        return completions

    def context_left(self, request, max_new_tokens: int) -> None:
        return None


def extract(answer: Any, task: str, text: str = TEXT, schema: Any = None, **options: Any) -> Extraction:
    triggers = {"meet": ["met"]} if task == "EEA" else None
    return Extractor(Says(answer), **options)(text, task, schema or SCHEMAS[task], triggers=triggers)


def places(result: Extraction) -> list[tuple]:
    """Each fact with its mentions' places for the mentions."""
    return [
        tuple((field.start, field.end) if hasattr(field, "start") else field for field in fact)
        for fact in result.facts
    ]


@pytest.mark.parametrize("task", ALL_TASKS)
def test_every_task(task: str) -> None:
    result = extract(ANSWERS[task], task)
    assert result.to_answer() == ANSWERS[task]
    rome, second_rome = TEXT.index("Rome"), TEXT.rindex("Rome")
    second_ada = TEXT.rindex("Ada")
    expected: dict[str, list] = {
        "NER": [("person", (0, 3)), ("person", (8, 11)), ("city", (rome, rome + 4))],
        "RE": [("born in", (second_ada, second_ada + 3), (second_rome, second_rome + 4))],
        "SPO": [("person", "born in", "city", (second_ada, second_ada + 3), (second_rome, second_rome + 4))],
        "EE": [
            ("meet", (4, 7)),
            ("meet", "who", (0, 3), (4, 7)),
            ("meet", "who", (8, 11), (4, 7)),
            ("meet", "where", (rome, rome + 4), (4, 7)),
        ],
        "EET": [("meet", (4, 7))],
        "KG": [
            ("person", (second_ada, second_ada + 3), "born in", (second_rome, second_rome + 4)),
            ("person", (second_ada, second_ada + 3), "award", (TEXT.index("Oscar"), TEXT.index("Oscar") + 5)),
        ],
    }
    expected["EEA"] = expected["EE"][1:]
    assert places(result) == expected[task]
    assert json.loads(result.to_json()) == result.to_dict()
    if task in ("EE", "EEA"):
        (event,) = result.events
        assert (event.event_type, event.trigger, event.trigger.start) == ("meet", "met", 4)
        assert list(event.arguments) == [fact for fact in result.facts if isinstance(fact, Argument)]


@pytest.mark.parametrize("task", ALL_TASKS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_record_of_the_corpora_comes_back(task: str, language: str) -> None:
    """What an engine answers that knows the annotation is what the record says, in the training format."""
    folder = {"EET": "EE", "EEA": "EE", "SPO": "RE"}.get(task, task)
    (corpus,) = (SAMPLE_CORPUS / f"IE-{language}" / folder).iterdir()
    schema = Schema.read(corpus / "schema.json")
    records = [json.loads(line) for _, _, line in read_lines(corpus / "test.json")]
    if task == "SPO":
        triples = [triple for record in records for triple in record["relation"]]
        schema = Schema(types=tuple(dict.fromkeys(TASKS["SPO"].label(triple, schema) for triple in triples)))
    for record in records[:15]:
        annotation = record.get(TASKS[task].field) or []
        if task == "EEA" and not annotation:
            continue
        batching = SchemaBatching(task, language, "", schema, negatives="all", schema_order="schema")
        instances = list(batching.instances("", record["text"], annotation))
        answers = {instance["instruction"]: instance["output"] for instance in instances}

        class Knows(Says):
            def generate(self, requests, max_new_tokens: int) -> list[Completion]:
                return [Completion(answers[request.messages[-1]["content"]]) for request in requests]  # noqa: B023

        triggers: dict[str, list[str]] = {}
        for event in annotation if task == "EEA" else ():
            triggers.setdefault(event["event_type"], []).append(event["event_trigger"])
        result = Extractor(Knows())(record["text"], task, schema, triggers=triggers or None)
        assert result.language == language
        assert set(result.facts) == set(TASKS[task].facts(TASKS[task].distinct(annotation), schema))
        answer: dict[str, Any] = dict.fromkeys(result.to_answer(), TASKS[task].nothing)
        for instance in instances:
            for key, value in json.loads(instance["output"]).items():
                answer[key] = answer[key] + value if task == "SPO" else value  # relations of other types, the same key
        assert result.to_answer() == answer
        assert not result.ungrounded
        for fact in result.facts:
            for field in fact:
                if getattr(field, "match", None) == "exact":
                    assert record["text"][field.start : field.end] == field


def test_a_large_schema_is_asked_in_batches_of_training() -> None:
    schema = [f"label {index}" for index in range(500)] + ["person"]
    engine = RuleEngine(tagged)
    result = Extractor(engine)("person:Ada is here.", "NER", schema)
    batching = SchemaBatching("NER", "en", "", Schema(types=tuple(schema)), negatives="all", schema_order="schema")
    instances = batching.instances("", "person:Ada is here.", None)
    assert [request.messages for request in engine.requests] == [
        [{"role": "user", "content": instance["instruction"]}] for instance in instances
    ]
    assert result.facts == [Entity("person", "Ada")]

    engine = RuleEngine(tagged)
    Extractor(engine, max_new_tokens=5000)("person:Ada is here.", "NER", schema, split_num=100)
    assert [len(words(request)["schema"]) for request in engine.requests] == [100, 100, 100, 100, 101]


def test_descriptions_examples_and_language_are_in_the_instruction() -> None:
    example = {"text": "Eva left Oslo.", "entity": [{"entity": "Eva", "entity_type": "person"}]}
    engine = Says({})
    extractor = Extractor(engine)
    extractor("Ada met Bob.", "NER", {"person": "a human", "city": ""}, examples=[example])
    assert engine.asked[0] == {
        "instruction": engine.asked[0]["instruction"],
        "schema": {"person": "a human", "city": ""},
        "example": [{"input": "Eva left Oslo.", "output": {"person": ["Eva"], "city": []}}],
        "input": "Ada met Bob.",
    }
    assert engine.asked[0]["instruction"].endswith("You can refer to the example for extraction.")
    extractor("Ada met Bob.", "EE", {"meet": {"meet": "come together", "who": "people"}})
    assert engine.asked[1]["schema"] == {
        "meet": {"meet": "come together", "trigger": True, "arguments": {"who": "people"}}
    }
    assert extractor("艾达在罗马遇见了鲍勃。", "NER", ["人物"]).language == "zh"
    assert engine.asked[2]["instruction"].startswith("你是专门进行实体抽取的专家")
    assert extractor("艾达在罗马遇见了鲍勃。", "NER", ["人物"], language="en").language == "en"
    assert engine.asked[3]["instruction"].startswith("You are an expert")


def test_several_texts_stream_in_order() -> None:
    engine = RuleEngine(tagged)
    read: list[int] = []

    def texts():
        for index in range(200):
            read.append(index)
            yield f"person:P{index} is here. " * (1 + index % 3)

    results = Extractor(engine)(texts(), "NER", ["person", "city"])
    first = next(results)
    assert first.facts == [Entity("person", "P0")]
    assert len(read) < 100  # the rest has not been looked at
    assert [result.facts[0].entity for result in results] == [f"P{index}" for index in range(1, 200)]
    assert list(Extractor(engine)([], "NER", ["person"])) == []


def test_triggers_of_another_extraction() -> None:
    found = extract(ANSWERS["EET"], "EET")
    engine = Says(ANSWERS["EEA"])
    result = Extractor(engine)(TEXT, "EEA", {"meet": ["who", "where"], "part": ["who"]}, triggers=found)
    assert engine.asked[0]["schema"] == [{"event_type": "meet", "trigger": ["met"], "arguments": ["who", "where"]}]
    assert len(result.facts) == 3
    assert Extractor(engine)(TEXT, "EEA", {"meet": ["who"]}, triggers={}).facts == []
    texts = [TEXT, "Eva met Bob."]
    results = Extractor(engine)(texts, "EEA", {"meet": ["who"]}, triggers=[{"meet": ["met"]}, {"meet": ["met"]}])
    assert [result.text for result in results] == texts


def test_a_cut_answer_is_asked_again_for_fewer_labels() -> None:
    labels = [f"l{index}" for index in range(6)]
    text = " ".join(f"{label}:{label}{'x' * 30}" for label in labels)
    engine = RuleEngine(tagged)
    result = Extractor(engine, max_new_tokens=100)(text, "NER", labels)
    # six labels, then three and three, then one and two each
    assert [len(words(request)["schema"]) for request in engine.requests] == [6, 3, 3, 1, 2, 1, 2]
    assert (result.retried, result.cut) == (3, 0)
    assert [fact.entity_type for fact in result.facts] == labels


def test_what_is_complete_in_a_cut_answer_is_read() -> None:
    text = "person:Ada person:Bob person:Carl person:Dora"
    engine = RuleEngine(tagged)
    result = Extractor(engine, max_new_tokens=len('{"person": ["Ada", "Bob", "Ca'))(text, "NER", ["person"])
    assert (result.cut, result.retried, result.unparsed) == (1, 0, 0)
    assert [fact.entity for fact in result.facts] == ["Ada", "Bob"]
    result = Extractor(engine, max_new_tokens=5)(text, "NER", ["person"])
    assert (result.cut, result.facts) == (1, [])


def test_an_entity_of_the_text_may_be_called_none() -> None:
    engine = RuleEngine(lambda item, text: ["Nan", "None", "null", "Carl"])
    result = Extractor(engine, max_new_tokens=len('{"person": ["Nan", "None", "null", "Ca'))(
        "Nan None", "NER", ["person"]
    )
    assert (result.cut, [str(fact.entity) for fact in result.facts]) == (1, ["Nan", "None"])


@pytest.mark.parametrize(
    ("task", "answer", "facts", "counts"),
    [
        ("NER", "no JSON", 0, {"unparsed": 1}),
        ("NER", '```json\n{"person": ["Ada"]}\n```', 1, {}),
        ("NER", "Sure: {'person': ['Ada']}", 1, {"repaired": 1}),
        ("NER", {"person": ["Ada"], "river": ["Rome"]}, 1, {"left_out": 1}),
        ("NER", {"person": ["Ada", {"x": 1}, "", "NAN", None]}, 1, {"left_out": 1}),
        ("NER", {"person": ["Ada", "Eve"]}, 2, {}),
        ("RE", {"born in": [{"subject": "Ada"}, {"subject": "Ada", "object": ""}]}, 0, {"left_out": 2}),
        ("RE", {"born in": ["Ada"], "died in": [{"subject": "Ada", "object": "Rome"}]}, 0, {"left_out": 2}),
        ("SPO", {"died in": [{"subject": "Ada", "object": "Rome"}]}, 0, {"left_out": 1}),
        ("EE", {"meet": [{"trigger": "met", "arguments": {"who": "Ada", "why": "Rome"}}]}, 2, {"left_out": 1}),
        ("EE", {"meet": [{"trigger": "NAN", "arguments": {"who": "Ada", "where": "NAN"}}]}, 1, {}),
        ("EE", {"meet": [{"trigger": ["met"], "arguments": {"who": "Ada"}}]}, 1, {"left_out": 1}),
        ("EE", {"meet": [], "part": [{"trigger": "met", "arguments": {}}]}, 0, {"left_out": 1}),
        ("KG", {"person": {"Ada": {"born in": "Rome", "age": "Oscar"}}, "b": {"x": {"y": "z"}}}, 1, {"left_out": 2}),
        ("NER", '{"person":' * 900 + "1", 0, {"unparsed": 1}),
    ],
)  # fmt: skip
def test_answers_that_are_not_as_they_should_be(task: str, answer: Any, facts: int, counts: dict) -> None:
    result = extract(answer, task)
    assert len(result.facts) == facts, result.facts
    assert result.to_dict()["answers"] == {
        "all": 1, "cut": 0, "retried": 0,
        "unparsed": 0, "repaired": 0, "left_out": 0, "less_likely": 0, "low_score": 0, **counts,
    }  # fmt: skip


def test_repair_can_be_left() -> None:
    assert extract("Sure: {'person': ['Ada']}", "NER", repair=False).facts == []


def test_what_is_not_in_the_text() -> None:
    answer = {"person": ["Ada", "Zenobia", "zenobia"], "city": []}
    result = extract(answer, "NER")
    assert [fact.entity for fact in result.ungrounded] == ["Zenobia"]
    assert result.facts[-1] == Entity("person", "Zenobia")
    assert result.facts[-1].entity.to_dict() == {
        "text": "Zenobia", "start": None, "end": None, "match": None, "score": 0.0,
    }  # fmt: skip
    assert extract(answer, "NER", drop_ungrounded=True).facts == [Entity("person", "Ada")]
    event = {
        "meet": [
            {"trigger": "met", "arguments": {"who": ["Ada", "Zenobia"]}},
            {"trigger": "xyz", "arguments": {"who": "Bob"}},
        ]
    }
    result = extract(event, "EE", drop_ungrounded=True)
    assert result.to_answer() == {"meet": [{"trigger": "met", "arguments": {"who": "Ada", "where": "NAN"}}]}


def test_two_events_with_one_trigger() -> None:
    answer = {
        "meet": [
            {"trigger": "met", "arguments": {"who": "Ada", "where": "NAN"}},
            {"trigger": "met", "arguments": {"who": "Bob", "where": "NAN"}},
        ]
    }
    result = extract(answer, "EE", text="Ada and Bob met people.")
    assert result.to_answer() == answer
    assert [len(event.arguments) for event in result.events] == [1, 1]
    assert len(result.facts) == 3  # the trigger is one fact


def test_surrogates_are_no_obstacle() -> None:
    result = extract({"person": ["Ada"], "city": []}, "NER", text="\ud83d Ada")
    assert result.text == "\ufffd Ada" and result.facts[0].entity.start == 2


EEA: dict[str, Any] = {"text": "Ada met Bob", "task": "EEA", "schema": {"meet": ["who"]}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "text 1 is empty; give some text"),
        ({"text": " \n"}, "text 1 is empty; give some text"),
        ({"text": ["a", ""]}, "text 2 is empty; give some text"),
        ({"schema": []}, "the schema is empty; give NER the entity types"),
        ({"schema": ["a", "a"]}, "label 'a' occurs 2 times; give each once"),
        ({"schema": {"a": ["b"]}}, "NER does not take labels with roles; give the entity types"),
        ({"task": "XX"}, "unknown task 'XX'; known: NER, RE"),
        ({"language": "German"}, "unknown language 'German'; give the two or three letters of its code"),
        ({"split_num": 0}, "split_num is 0; give a number from 1 on"),
        ({"triggers": {"a": ["b"]}}, "NER takes no triggers, only EEA does"),
        ({"task": "EEA", "schema": {"a": ["b"]}}, "EEA asks for the arguments of known events; give triggers="),
        ({"task": "EEA", "schema": {"a": ["b"]}, "triggers": {"c": ["Ada"]}}, "for 'c', which is not in the schema"),
        ({"task": "EEA", "schema": {"a": ["b"]}, "triggers": {"a": ["zz"]}}, "trigger 'zz' of 'a' is not in the text"),
        ({"task": "EEA", "schema": {"a": ["b"]}, "text": ["Ada"], "triggers": {"a": ["Ada"]}}, "give a list of them"),
        ({"examples": [{"text": "x"}]}, "example 1 is no annotated record of NER"),
        ({"examples": [{"text": "x", "entity": ["Ada"]}]}, "example 1 is no annotated record of NER"),
        ({"examples": [{"text": None, "entity": []}]}, "example 1 is no annotated record of NER"),
        ({"examples": [{"text": "x", "entity": [{"entity": ["Ada"], "entity_type": "a"}]}]}, "example 1 is no"),
        ({"examples": [{"text": "\ud800", "entity": []}]}, r"example 1: '\ud800' is not valid Unicode"),
        ({"examples": None}, "the examples are None; give a list of annotated records"),
        ({"text": None}, "the text is None; give a string, a list of them, or read_document(path)"),
        ({"text": b"Ada"}, "the text is b'Ada' (bytes); give a string"),
        ({"text": {"text": "Ada"}}, "the text is {'text': 'Ada'} (dict); give a string"),
        ({"text": Path("a.txt")}, "(PosixPath); give a string, a list of them, or read_document(path)"),
        ({"text": ["Ada", None]}, "text 2 is None; give a string"),
        ({"task": None}, "the task is None; give its name and a schema"),
        ({"task": ["person"], "schema": None}, "the task is ['person'] (list); give its name and a schema"),
        ({"language": 3}, "unknown language 3"),
        ({"split_num": "3"}, "split_num is '3'; give a number from 1 on"),
        ({**EEA, "triggers": "met"}, "the triggers are 'met' (str); give {"),
        ({**EEA, "triggers": ["met"]}, "the triggers are ['met'] (list); give {"),
        ({**EEA, "triggers": {"meet": "met"}}, "the triggers of 'meet' are 'met' (str); give {"),
        ({**EEA, "triggers": {"meet": [None]}}, "a trigger of 'meet' is None; give a string of the text"),
        ({**EEA, "triggers": {"meet": [""]}}, "a trigger of 'meet' is '' (str); give a string of the text"),
        ({**EEA, "text": ["Ada"], "triggers": "met"}, "needs the triggers of each: give a list of them"),
        ({**EEA, "text": ["Ada met", "Bob"], "triggers": [{"meet": ["met"]}]}, "text 2 has no triggers"),
    ],
)  # fmt: skip
def test_bad_input(arguments: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        results = Extractor(Says({}))(**{"text": "Ada", "task": "NER", "schema": ["person"], **arguments})
        list(results)
    assert message in str(error.value) and "\n" not in str(error.value)


class Person(BaseModel):
    name: str


@pytest.mark.parametrize("task", [list[Person], Optional[Person], [Person], Person(name="Ada")])  # noqa: UP045
def test_a_type_that_holds_a_model(task: Any) -> None:
    with pytest.raises(InputError, match="give the model itself, Person, not .*all of its instances"):
        Extractor(Says({}))("Ada", task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "path/or/hub-id"}, "the engine is 'path/or/hub-id' (str); Extractor.from_pretrained(...)"),
        ({"passage_tokens": 0}, "passage_tokens is 0; give a whole number from 1 on"),
        ({"max_new_tokens": "9"}, "max_new_tokens is '9'; give a whole number from 1 on"),
        ({"requests_at_once": 0}, "requests_at_once is 0; give a whole number from 1 on"),
        ({"min_similarity": 85}, "min_similarity is 85; give a number from 0 to 1"),
        ({"min_score": None}, "min_score is None; give a number from 0 to 1"),
        ({"max_seconds": "9"}, "max_seconds is '9'; give a number"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Extractor(**{"engine": Says({}), **options})


def test_a_model_of_transformers(model: str) -> None:
    extractor = Extractor.from_pretrained(model, max_new_tokens=20, batch_size=4, dtype="float32")
    assert extractor.engine.batch_size == 4
    result = extractor("Ada met Bob.", "NER", ["person", "city"])
    assert len(result.answers) == 1 + result.retried  # of each answer that is cut, two are asked again
    assert all(result.answers) and result.unparsed == 0
    left = extractor.engine.context_left(Request([{"role": "user", "content": "x"}]), 0)
    with pytest.raises(InputError) as error:
        replace(extractor, max_new_tokens=left - 40)("Ada met Bob. " * 30, "NER", ["person", "city"])
    assert "no room for the text beside 2 labels asked at once" in str(error.value)


def test_the_first_answer_does_not_wait_for_the_vocabulary(model: str) -> None:
    assert "vocabulary" in vars(Extractor.from_pretrained(model).engine)
    assert "vocabulary" not in vars(Extractor.from_pretrained(model, constrain="off").engine)


def test_a_model_without_a_chat_template(model: str, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    with pytest.raises(InputError) as error:
        Extractor.from_pretrained(str(tmp_path / "bare"))
    assert "chat template" in str(error.value) and "chat_template_path" in str(error.value)
    (tmp_path / "template.jinja").write_text(CHATML)
    extractor = Extractor.from_pretrained(
        str(tmp_path / "bare"), chat_template_path=str(tmp_path / "template.jinja"), max_new_tokens=4
    )
    assert extractor("Ada met Bob.", "NER", ["person"]).answers


def test_a_server_that_is_not_there() -> None:
    pytest.importorskip("openai")
    address = unused_url()
    with pytest.raises(InputError) as error:
        Extractor.from_endpoint(address, model="m", max_new_tokens=10)
    assert address in str(error.value) and "no server can be reached there" in str(error.value)


def test_the_engine_is_told_the_form_of_the_answers() -> None:
    engine = RuleEngine(tagged)
    Extractor(engine)("person:Ada", "NER", {"person": "a human", "city": ""})
    assert list(engine.requests[0].answer_schema["properties"]) == ["person", "city"]
    assert "x-text" not in engine.requests[0].answer_schema
    Extractor(engine, constrained=False)("person:Ada", "NER", ["person"])
    assert engine.requests[1].answer_schema is None


def test_the_engine_is_told_which_strings_answers_may_have() -> None:
    class Visit(BaseModel):
        cities: list[str]
        kinds: list[Literal["holiday", "work"]]

    class City(BaseModel):
        name: str
        founded: int | None = None

    example = {"text": "city:Bergen", "entity": [{"entity": "BGO", "entity_type": "city"}]}
    engine = RuleEngine(lambda item, passage: {} if isinstance(item, dict) else [])
    for copied, free in ((None, False), (True, False), (False, True)):
        extractor = Extractor(engine, copied=copied)
        extractor("city:Rome", "NER", ["city"])
        assert engine.requests[-1].answer_schema.get("x-text") == (None if free else "city:Rome")
    for asked in (
        ("EET", ["visit"]),
        ("NER", {"city": "its code", "person": ""}),
        ({"entities": ["person"], "triggers": ["visit"]},),
        (Visit,),
        (City,),
    ):
        Extractor(engine)("city:Rome", *asked)
        assert "x-text" not in engine.requests[-1].answer_schema
    Extractor(engine)("city:Rome", "NER", ["city"], examples=[example])
    assert "x-text" not in engine.requests[-1].answer_schema
    Extractor(engine)("city:Rome", "NER", ["city"], examples=[{**example, "text": "city:Bergen (BGO)"}])
    assert engine.requests[-1].answer_schema["x-text"] == "city:Rome"
    Extractor(engine)("city:Rome", {"entities": ["person"], "triggers": ["visit"]})
    assert ["x-text" in request.answer_schema for request in engine.requests[-2:]] == [True, False]


def test_importing_it_is_light() -> None:
    program = (
        "import sys, iepile_builder; iepile_builder.Extractor; "
        "print([name for name in ('torch', 'transformers', 'pydantic', 'networkx', 'openai') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
