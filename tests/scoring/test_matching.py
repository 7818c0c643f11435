"""The match modes, by cases worked by hand and against exhaustive search."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import InputError
from iepile_builder.scoring.matching import Matching, Overlaps, max_matching
from iepile_builder.tasks.facts import Argument, Attribute, Entity, Fact, Relation, Trigger, TypedRelation


optimize = pytest.importorskip("scipy.optimize")

TEXT = "Ada, wife of Bob Lee, met the mayor of New York City in Rome."


def compare(gold: list[Fact], predicted: list[Fact], task: str = "NER", text: str = TEXT, **options: object) -> tuple:
    """Matches, predicted and gold facts of all blocks and labels."""
    counts = Matching(**options).compare(gold, predicted, text, task).values()
    return tuple(sum(part) for part in zip(*counts, strict=True))


GOLD = [Entity("person", "Ada"), Entity("person", "Bob Lee"), Entity("city", "New York City"), Entity("city", "Rome")]
PREDICTED = [
    Entity("person", "Ada"),  # right
    Entity("person", "Ada"),  # again
    Entity("person", "Bob"),  # too short
    Entity("person", "New York City"),  # wrong type
    Entity("city", "York"),  # too short
    Entity("city", "rome."),  # not in the text as it stands
    Entity("city", "Paris"),  # not in the text
]


@pytest.mark.parametrize(
    ("mode", "tp", "pred", "gold"),
    [
        ("strict", 1, 7, 4),
        ("set", 1, 6, 4),
        ("normalized", 2, 7, 4),
        ("squad", 2, 6, 4),
        ("boundary", 2, 7, 4),
        ("type", 3, 7, 4),
        ("partial", 2.5, 7, 4),
        ("grounded", 1, 5, 4),
    ],
)
def test_modes_by_hand(mode: str, tp: float, pred: int, gold: int) -> None:
    assert compare(GOLD, PREDICTED, mode=mode) == (tp, pred, gold)


@pytest.mark.parametrize(
    ("gold", "predicted", "normalized", "squad"),
    [
        ("The Hague", "hague", True, True),
        ("U.S.", "US", False, True),  # punctuation inside
        ("Bank of the West", "bank of west", False, True),  # an article inside
        ("Fahrenheit 9/11", "fahrenheit 911", False, True),
        ("vitamin A", "vitamin", False, True),  # "A" is taken for an article
        ("theory", "ory", False, False),
        ("“Yesterday”", "Yesterday", True, False),  # ASCII punctuation alone
        ("ＩＢＭ", "ibm", True, False),  # Unicode compatibility forms
        ("The", "An", False, True),  # nothing is left of both
    ],
)
def test_squad_normalizes_as_the_scorer_of_universal_ner(
    gold: str, predicted: str, normalized: bool, squad: bool
) -> None:
    for mode, equal in (("normalized", normalized), ("squad", squad)):
        assert compare([Entity("x", gold)], [Entity("x", predicted)], mode=mode)[0] == equal


def test_squad_counts_a_mention_of_a_type_once_in_a_text() -> None:
    gold = [Entity("x", "the Beatles"), Entity("x", "Beatles"), Entity("y", "Beatles")]
    assert compare(gold, [Entity("x", "BEATLES"), Entity("x", "beatles.")], mode="squad") == (1, 1, 2)


def test_the_minimum_overlap_is_a_share_of_the_gold_mention() -> None:
    gold, predicted = [Entity("city", "New York City")], [Entity("city", "York")]  # 4 of 13 characters
    for share, tp in ((0, 1), (0.3, 1), (4 / 13, 1), (0.31, 0), (1, 0)):
        assert compare(gold, predicted, mode="type", min_overlap=share)[0] == tp
        assert compare(gold, predicted, mode="partial", min_overlap=share)[0] == tp / 2
    assert compare(predicted, gold, mode="type", min_overlap=1)[0] == 1  # all of the gold mention is in the other


def test_mentions_overlap_where_they_stand_in_the_text() -> None:
    text = "New York, York Road"
    assert compare([Entity("x", "New York")], [Entity("x", "York")], text=text, mode="type")[0] == 1
    assert compare([Entity("x", "New York")], [Entity("x", "York Road")], text=text, mode="type")[0] == 0
    assert compare([Entity("x", "New York")], [Entity("x", "Old York")], text=text, mode="type")[0] == 0
    # equal strings match anywhere
    assert compare([Entity("x", "Oslo")], [Entity("x", "Oslo")], text=text, mode="type")[0] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Rome", "ROME"),
        ("ＡＢＣ 公司", "ABC 公司"),
        ("New\n  York ", "New York"),
        ("“Rome”，", "Rome"),
        ("the mayor", "mayor"),
    ],
)
def test_what_normalization_ignores(one: str, other: str) -> None:
    gold, predicted = [Entity("x", one)], [Entity("x", other)]
    assert compare(gold, predicted, mode="normalized")[0] == 1
    assert compare(gold, predicted)[0] == 0


def test_normalization_leaves_something_of_every_mention() -> None:
    assert compare([Entity("x", "...")], [Entity("x", "!!!")], mode="normalized")[0] == 0
    assert compare([Entity("x", "The")], [Entity("x", "the")], mode="normalized")[0] == 1
    assert compare([Entity("x", "a b")], [Entity("x", "b")], mode="normalized")[0] == 1
    assert compare([Entity("x", "ab")], [Entity("x", "b")], mode="normalized")[0] == 0


@pytest.mark.parametrize(
    ("mode", "tp"), [("strict", 1), ("boundary", 2), ("type", 2), ("partial", 2.5), ("normalized", 2)]
)
def test_relations_match_at_both_ends(mode: str, tp: float) -> None:
    gold = [Relation("wife", "Ada", "Bob Lee"), Relation("met", "Ada", "mayor"), Relation("in", "mayor", "Rome")]
    predicted = [
        Relation("wife", "Ada", "Bob Lee"),
        Relation("met", "Ada", "the mayor"),
        Relation("from", "mayor", "Rome"),
        Relation("in", "mayor", "Ada"),
    ]
    assert compare(gold, predicted, "RE", mode=mode) == (tp, 4, 3)


def test_relations_with_and_without_the_types_of_their_ends() -> None:
    gold = [TypedRelation("person", "wife", "person", "Ada", "Bob Lee")]
    predicted = [TypedRelation("person", "wife", "man", "Ada", "Bob Lee")]
    assert compare(gold, predicted, "SPO")[0] == 0
    assert compare(gold, predicted, "SPO", entity_types=False)[0] == 1
    assert compare(gold, predicted, "SPO", mode="boundary")[0] == 1


def test_events_identification_classification_and_linking() -> None:
    gold = [
        Trigger("meet", "met"),
        Argument("meet", "who", "Ada", "met"),
        Argument("meet", "where", "Rome", "met"),
        Argument("meet", "who", "mayor", "met"),
    ]
    predicted = [
        Trigger("marry", "met"),
        Argument("meet", "who", "Ada", "met"),
        Argument("meet", "who", "Rome", "met"),
        Argument("meet", "who", "mayor", "wife"),
        Argument("marry", "who", "Ada", "met"),
    ]

    def blocks(**options: object) -> tuple[float, float]:
        counts = Matching(**options).compare(gold, predicted, TEXT, "EE")
        return tuple(
            sum(tp for (of, _), (tp, _, _) in counts.items() if of == block) for block in ("trigger", "argument")
        )

    assert blocks() == (0, 2)  # classification
    assert blocks(mode="boundary") == (1, 3)  # identification: whatever the role, but of the right event type
    assert blocks(linked=True) == (0, 1)
    assert blocks(mode="boundary", linked=True) == (1, 2)
    assert compare(gold[1:], predicted[1:], "EEA") == (2, 4, 3)


def test_attributes_have_a_type_and_a_name() -> None:
    gold = [Attribute("person", "Ada", "spouse", "Bob Lee")]
    for predicted, tps in (
        (Attribute("person", "Ada", "spouse", "Bob Lee"), (1, 1, 1, 1)),
        (Attribute("person", "Ada", "friend", "Bob Lee"), (0, 1, 0, 1)),
        (Attribute("person", "Ada", "spouse", "Bob"), (0, 0, 1, 0.5)),
        (Attribute("person", "Rome", "spouse", "Bob Lee"), (0, 0, 0, 0)),
    ):
        modes = ("strict", "boundary", "type", "partial")
        assert tuple(compare(gold, [predicted], "KG", mode=mode)[0] for mode in modes) == tps


def test_wrong_options_are_the_users_fault() -> None:
    with pytest.raises(InputError, match="unknown mode 'fuzzy'; known: strict, set"):
        Matching(mode="fuzzy")
    with pytest.raises(InputError, match="min_overlap is 30"):
        Matching(min_overlap=30)


@given(st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), max_size=6))
def test_max_matching_is_what_exhaustive_search_finds(edges: list[list[int]]) -> None:
    best = max(
        sum(j in edges[i] for i, j in enumerate(order[: len(edges)])) for order in itertools.permutations(range(6))
    )
    assert max_matching(edges) == best


pieces = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=6)


@given(gold=pieces, predicted=pieces, text=st.text("ab", min_size=15, max_size=15))
def test_overlap_modes_reach_the_best_assignment(gold: list, predicted: list, text: str) -> None:
    """The library's exact solver of assignments, on overlaps counted character by character."""
    sides = [[text[start : start + length] for start, length in side] for side in (gold, predicted)]

    def places(mention: str) -> list[set[int]]:
        return [set(range(i, i + len(mention))) for i in range(len(text)) if text.startswith(mention, i)]

    def credit(one: str, other: str, partial: bool) -> float:
        if one == other:
            return 1
        shared = max(len(a & b) for a in places(one) for b in places(other))
        assert shared == Overlaps(text, 0).shared(one, other)
        return (shared > 0) * (0.5 if partial else 1)

    facts = [[Entity("x", mention) for mention in side] for side in sides]
    for mode in ("type", "partial"):
        credits = np.array([[credit(a, b, mode == "partial") for b in sides[1]] for a in sides[0]])
        credits = credits.reshape(len(gold), len(predicted))
        best = credits[optimize.linear_sum_assignment(credits, maximize=True)].sum()
        assert (compare(*facts, text=text, mode=mode) or (0,))[0] == best


class SearchedText(str):
    """A text that counts how often it is searched."""

    searches = 0

    def __contains__(self, part: str) -> bool:
        self.searches += 1
        return super().__contains__(part)


def test_repetitive_mentions_take_no_more_work_than_others() -> None:
    text = SearchedText("a" * 3000)
    assert Overlaps(text, 0).shared("a" * 1500, "a" * 1000) == 1000  # 1,501 and 2,001 occurrences
    assert text.searches == 1
    text = SearchedText("ab" * 1500)
    assert Overlaps(text, 0).shared("ab" * 700, "b" + "ab" * 700) == 1400
    assert Overlaps(text, 0).shared("ab" * 700, "b" * 700) == 0
    assert text.searches <= 1 + 2 * 700
    sides = [[Entity("x", "a" * (1001 - side - 2 * index)) for index in range(100)] for side in (0, 1)]
    assert compare(*sides, text="a" * 3000, mode="type") == (100, 100, 100)
    assert compare(*sides, text="a" * 3000, mode="partial") == (50, 100, 100)
