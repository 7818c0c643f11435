"""`answers.grounding`: where a mention is found in the text, how it is described, and that no text takes long."""

import pickle

import pytest
from helpers.counting import count_calls
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder.answers.grounding import Locator, Mention, Span, ground
from iepile_builder.tasks.facts import Argument, Attribute, Entity, Relation, Trigger


TEXT = (
    "Thomas A. Edison's laboratory is in West  Orange. EDISON moved. Bob met Edison; Ａda's “éclair” was eaten in "
    "Paris.\n张三 在北京工作。"
)


def found(mention: str, text: str = TEXT) -> list[tuple[str, str | None]]:
    return [(text[span.start : span.end], span.match) for span in Locator(text)(mention)]


@pytest.mark.parametrize(
    ("mention", "expected"),
    [
        ("Edison", [("Edison", "exact"), ("Edison", "exact")]),
        ("EDISON", [("EDISON", "exact")]),
        (" moved", [("moved", "exact")]),  # the space belongs to no mention
        ("West Orange", [("West  Orange", "normalized")]),
        ("edison", [("Edison", "normalized"), ("EDISON", "normalized"), ("Edison", "normalized")]),
        ("Ada", [("Ａda", "normalized")]),
        ('"éclair"', [("“éclair”", "normalized")]),  # e and an accent of its own
        ("张三在北京", [("张三 在北京", "normalized")]),
        ("Thomas Edison", [("Thomas A. Edison", "fuzzy")]),
        ("Thomas Edison's laboratory", [("Thomas A. Edison's laboratory", "fuzzy")]),
        ("Pariss", [("Paris", "fuzzy")]),
        ("北京", [("北京", "exact")]),
        ("rang", [("rang", "exact")]),  # within a word, because it is no word of the text
        ("Thomas A. Edison 2", []),  # a digit makes it another
        ("Zürich", []),
        ("\u200b", []),
        ("Bab", []),  # too short to be taken for Bob
        (" ", []),
        ("", []),
    ],
)
def test_a_mention_is_found(mention: str, expected: list) -> None:
    assert found(mention) == expected


def test_what_is_not_seen_is_no_difference() -> None:
    text = "Curie left War\u200bsaw with a co\u00adworker.\ufeff"
    assert found("Warsaw", text) == [("War\u200bsaw", "normalized")]
    assert found("coworker", text) == [("co\u00adworker", "normalized")]
    assert found("War\u200bsaw", text.replace("\u200b", "")) == [("Warsaw", "normalized")]


def test_whole_words_come_first() -> None:
    text = "The party started. Its art is the art of the possible."
    assert [span.start for span in Locator(text)("art")] == [text.index(" art") + 1, text.rindex("art")]
    assert Locator("The CAT saw concatenated strings.")("cat") == [Span(4, 7, "normalized")]


def test_the_score_is_the_similarity() -> None:
    (span,) = Locator("Gerrit van der Meer wrote it.")("Gerrit van der Meyer")
    assert span.match == "fuzzy"
    # without white space, 16 of the characters of 16 and 17 are common to both
    assert span.score == pytest.approx(2 * 16 / (16 + 17))
    assert Locator("Gerrit van der Meer wrote it.", min_score=0.98)("Gerrit van der Meyer") == []


texts = st.text("aAbB 'é\u0301Ｅﬁß人。.\n", max_size=40)


@given(texts, texts, texts)
def test_what_is_in_the_text_is_found_exactly(before: str, mention: str, after: str) -> None:
    text = before + mention + after
    spans = Locator(text)(mention)
    if mention.strip():
        assert spans
    for index, span in enumerate(spans):
        assert (spans[index - 1].end if index else 0) <= span.start < span.end <= len(text)
        if span.match == "exact":
            assert text[span.start : span.end] == mention.strip()
        assert span.score == 1 or (span.match == "fuzzy" and 0.85 <= span.score < 1)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_and_any_mention(text: str, mention: str) -> None:
    for span in Locator(text, min_score=0)(mention):
        assert 0 <= span.start < span.end <= len(text)


@given(texts, st.lists(st.tuples(texts, texts).filter(lambda pair: all(map(str.strip, pair)))))
def test_grounding_changes_no_fact(text: str, pairs: list[tuple[str, str]]) -> None:
    groups = [[Relation("r", *pair)] for pair in pairs]
    grounded = ground(groups, Locator(text))
    answered = [[fact.map_strings(lambda mention: mention.answer) for fact in group] for group in grounded]
    assert answered == groups  # what the model wrote is kept beside the text's own string
    for (fact,) in grounded:
        for mention in fact[1:]:
            assert mention == (mention.answer if mention.start is None else text[mention.start : mention.end])
            assert mention.grounded == (mention.score > 0)
            if mention.match == "exact":
                assert text[mention.start : mention.end] == mention


def starts(text: str, *groups: list) -> list[list[int | None]]:
    grounded = ground(groups, Locator(text))
    return [
        [getattr(field, "start", None) for fact in group for field in fact if isinstance(field, Mention)]
        for group in grounded
    ]


def test_repeated_mentions_stand_in_order() -> None:
    text = "Bob saw Bob and Bob."
    bob = [Entity("person", "Bob")]
    assert starts(text, bob, bob, bob) == [[0], [8], [16]]
    assert sorted(starts(text, bob, bob, bob, bob)) == [[0], [0], [8], [16]]  # more than there are
    assert starts(text, bob, [Entity("dog", "Bob")]) == [[0], [0]]


def test_head_and_tail_are_near_each_other() -> None:
    text = "Rome is old. Paris is, too. Ada was born in Rome, Bob in Paris. Rome and Paris grew."
    assert starts(text, [Relation("born", "Ada", "Rome")]) == [[28, 44]]
    assert starts(text, [Relation("born", "Bob", "Paris")]) == [[50, 57]]
    assert starts(text, [Attribute("city", "Rome", "twin", "Paris")]) == [[64, 73]]
    twins = [Relation("twin", "Rome", "Paris")]
    assert starts(text, twins, twins) == [[44, 57], [64, 73]]


def test_events_of_one_kind_have_triggers_of_their_own() -> None:
    text = "Police fired at Ada. Later Bob was fired by Acme, and Carl was fired by Initech."

    def event(who: str) -> list:
        return [Trigger("dismiss", "fired"), Argument("dismiss", "employee", who, "fired")]

    assert starts(text, event("Carl"), event("Bob")) == [[63, 54, 63], [35, 27, 35]]
    assert starts("Ada and Bob were fired.", event("Ada"), event("Bob")) == [[17, 0, 17], [17, 8, 17]]
    assert starts(text, [Argument("dismiss", "employee", "Bob", "")]) == [[27, None]]


def test_a_mention_survives_pickling() -> None:
    mention = Mention("Ada", Span(3, 6, "fuzzy", 0.9))
    again = pickle.loads(pickle.dumps(mention))
    assert (again, again.start, again.end, again.match, again.score) == ("Ada", 3, 6, "fuzzy", 0.9)
    assert again.moved(10).to_dict() == {"text": "Ada", "start": 13, "end": 16, "match": "fuzzy", "score": 0.9}


@pytest.mark.parametrize("unit", ["a", "a ", "a\u0300\u0323", "ab", "\n", "ﷺ", "“("])
def test_a_hostile_text_is_searched_in_linear_time(unit: str) -> None:
    def search(length: int) -> None:
        locate = Locator(unit * (length // len(unit)))
        for mention in ("a", "aaab", "A" * 200 + "b", "a" * (length // 2 + 1), "\u0300b", "b a"):
            locate(mention)

    assert count_calls(search, 200_000) < 6 * count_calls(search, 40_000)
