"""`extraction.extractor`: long texts, and models with a short context; the engine answers from rules."""

import random
import re

import pytest
from helpers.counting import count_calls
from helpers.rules import RuleEngine, tagged

from iepile_builder import Extractor, InputError


FIRST = ["Ada", "Bao", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivan", "Jun"]
FILLER = (
    "The committee met again on a grey morning and put off what it could. ",
    'Mr. Smith of the U.S. branch asked, "Is that all? Surely not." and sat down. ',
    "Prices rose by 3.5 per cent in the first quarter, e.g. in Inc. and Ltd. companies. ",
    "Nobody could say why the bridge had been closed since St. Stephen's day.\n\n",
)
ZH_FILLER = (
    "委员会在灰蒙蒙的早晨再次开会。",
    "他问：“就这些吗？当然不是。”然后坐下了。",
    "第一季度价格上涨了3.5%！\n",
    "没有人知道桥为什么关闭……",
)


def planted(number: int, every: int, chinese: bool = False) -> tuple[str, list[tuple[str, int, int]]]:
    """A text of so many sentences, and the persons that were put into it with their places."""
    draw = random.Random(number)
    filler = ZH_FILLER if chinese else FILLER
    pieces, found, length = [], [], 0
    for index in range(number):
        if index % every == every // 2:
            name = f"{draw.choice(FIRST)}{index}"
            sentence = (
                f"昨天人物:{name}来到城市:罗马{index}。"
                if chinese
                else f"Then person:{name} met the city:Rome{index} council. "
            )
            place = length + sentence.index(name)
            found.append((name, place, place + len(name)))
        else:
            sentence = draw.choice(filler)
        pieces.append(sentence)
        length += len(sentence)
    return "".join(pieces), found


def born(item: object, text: str) -> list[dict]:
    """RE: head and tail from one sentence of the passage."""
    return [
        {"subject": head, "object": tail}
        for head, tail in re.findall(r"person:(\w+) met the city:(\w+) council\.", text)
    ]


def test_progress_is_told_from_the_start_and_between() -> None:
    text, _ = planted(300, every=7)
    told: list[tuple[int, int]] = []
    extractor = Extractor(RuleEngine(tagged), max_seconds=60, progress=lambda done, of: told.append((done, of)))
    extractor(text, "NER", ["person"])
    numbers = [done for done, _ in told]
    assert numbers[0] == 0 and numbers[-1] == told[-1][1] and len(numbers) > 2
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("chinese", [False, True])
def test_a_long_text(chinese: bool) -> None:
    text, expected = planted(4200, every=7, chinese=chinese)
    assert chinese or len(text.split()) > 50_000
    schema = ["人物"] if chinese else ["person"]
    engine = RuleEngine(lambda item, text: re.findall(rf"{item}:([A-Za-z]+\d+)", text))
    result = Extractor(engine, passage_tokens=200)(text, "NER", schema)
    assert [(str(fact.entity), fact.entity.start, fact.entity.end) for fact in result.facts] == expected
    assert all(fact.entity.match == "exact" for fact in result.facts)
    assert len(result.passages) > 100
    assert any(before.end > after.start for before, after in zip(result.passages, result.passages[1:], strict=False))


def test_relations_and_events_of_a_long_text() -> None:
    text, people = planted(2000, every=5)
    result = Extractor(RuleEngine(born), passage_tokens=150)(text, "RE", ["met"])
    assert [(fact.head, fact.head.start) for fact in result.facts] == [(name, start) for name, start, _ in people]
    assert all(
        text[fact.tail.start : fact.tail.end] == fact.tail and 0 < fact.tail.start - fact.head.end < 20
        for fact in result.facts
    )

    def meet(item: object, text: str) -> list[dict]:
        pairs = born(item, text)
        return [{"trigger": "met", "arguments": {"who": pair["subject"], "whom": pair["object"]}} for pair in pairs]

    result = Extractor(RuleEngine(meet), passage_tokens=150)(text, "EE", {"meet": ["who", "whom"]})
    assert [event.arguments[0].argument.start for event in result.events] == [start for _, start, _ in people]
    assert all(event.trigger.start - event.arguments[0].argument.end == 1 for event in result.events)
    assert len(result.facts) == 3 * len(people)

    triggers = Extractor(RuleEngine(lambda item, text: ["met"] * text.count(" met ")), passage_tokens=150)(
        text, "EET", ["meet"]
    )
    result = Extractor(RuleEngine(meet), passage_tokens=150)(text, "EEA", {"meet": ["who", "whom"]}, triggers=triggers)
    assert [event.arguments[0].argument.start for event in result.events] == [start for _, start, _ in people]
    assert len(result.facts) == 2 * len(people)


def test_what_one_passage_has_and_another_only_claims() -> None:
    """The model says the same of each passage: what is in the text of one is no second fact in that of another."""
    text = "Ada was born in Rome. It rained for days.\n\n" + "Nobody knew anything about it. " * 20
    everywhere = Extractor(RuleEngine(lambda item, text: ["Ada", "Zenobia"]), passage_tokens=40)
    result = everywhere(text, "NER", ["person"])
    assert len(result.passages) > 2
    assert [(fact.entity, fact.entity.start) for fact in result.facts] == [("Ada", 0), ("Zenobia", None)]

    married = [{"subject": "Ada", "object": "Rome"}, {"subject": "Zenobia", "object": "Ada"}]
    result = Extractor(RuleEngine(lambda item, text: married), passage_tokens=40)(text, "RE", ["married to"])
    assert [(fact.head, fact.tail.start) for fact in result.facts] == [("Ada", 16), ("Zenobia", 0)]


@pytest.mark.parametrize("tokens", [25, 40, 77, 1000])
@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_a_name_that_stands_everywhere(tokens: int, overlap: int) -> None:
    text = "Then person:Ada left. Why? Nobody knew person:Bob, or so person:Ada said.\n\n" * 20
    engine = RuleEngine(lambda item, text: re.findall(rf"{item}:(\w+)", text))
    result = Extractor(engine, passage_tokens=tokens, overlap=overlap)(text, "NER", ["person"])
    found = [(str(fact.entity), fact.entity.start) for fact in result.facts]
    assert found == [(match[1], match.start(1)) for match in re.finditer(r"person:(\w+)", text)]


def test_a_hostile_text() -> None:
    text = "(“" * 50_000 + "a" * 50_000 + " person:Ada " + "\n" * 50_000
    engine = RuleEngine(lambda item, text: ["Ada", "(“" * 99, "a" * 199 + "b", "Eve " * 50])
    result = Extractor(engine)(text, "NER", ["person"])
    assert ("Ada", text.index("Ada")) in [(fact.entity, fact.entity.start) for fact in result.facts]


def test_time_grows_with_the_text_alone() -> None:
    def extract(number: int) -> None:
        text, _ = planted(number, every=7)
        Extractor(RuleEngine(tagged), passage_tokens=200)(text, "NER", ["person", "city"])

    assert count_calls(extract, 4000) < 5 * count_calls(extract, 1000)


def test_a_small_context_makes_short_passages() -> None:
    text, expected = planted(200, every=7)
    engine = RuleEngine(lambda item, text: re.findall(rf"{item}:([A-Za-z]+\d+)", text), room=2000)
    result = Extractor(engine, max_new_tokens=1200)(text, "NER", ["person"])
    assert all(engine.context_left(request, 1200) >= 0 for request in engine.requests)
    assert [fact.entity.start for fact in result.facts] == [start for _, start, _ in expected]


def test_a_context_that_is_too_small() -> None:
    engine = RuleEngine(tagged, room=700)
    for split_num in (6, -1):
        with pytest.raises(InputError) as error:
            Extractor(engine, max_new_tokens=512)("person:Ada. " * 20, "NER", ["person", "city"], split_num=split_num)
        assert "no room for the text beside 2 labels asked at once" in str(error.value)
        assert "lower split_num or max_new_tokens" in str(error.value)
    assert Extractor(engine, max_new_tokens=100)("person:Ada. " * 20, "NER", ["person"]).facts
