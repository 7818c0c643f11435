"""The error report: kinds of error by hand, and a page that is whole and safe."""

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.answers import entities, instance, scorer_of
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder.scoring.confusable import count_confusable
from iepile_builder.scoring.report import KINDS, Finding, Part, cover_spans, diagnose, mark_mentions, write_report
from iepile_builder.tasks.facts import Entity, Fact, TypedRelation


TEXT = "Ada, wife of Bob Lee, met Eve in New York."
KEYS = frozenset(["person", "city"])


def kinds(
    gold: list[Fact], predicted: list[Fact], task: str = "NER", keys: frozenset[str] = KEYS, text: str = TEXT
) -> list[str]:
    return sorted(finding.kind for finding in diagnose(gold, predicted, text, task, keys))


def test_kinds_of_error_by_hand() -> None:
    gold = [Entity("person", "Ada"), Entity("person", "Bob Lee"), Entity("city", "New York"), Entity("person", "Eve")]
    predicted = [
        Entity("person", "Ada"),  # right
        Entity("person", "Ada"),  # repeated
        Entity("person", "Bob"),  # wrong boundary
        Entity("person", "New York"),  # wrong type
        Entity("city", "wife"),  # spurious
        Entity("city", "Paris"),  # not in the text
        Entity("river", "Ada"),  # label outside the schema
    ]
    everything = ["right", *KINDS]
    assert kinds(gold, predicted) == sorted(everything)
    assert kinds(gold, predicted[::-1]) == sorted(everything)
    assert kinds(gold, []) == ["missed"] * 4
    assert kinds(gold, gold) == ["right"] * 4


def test_a_string_with_many_labels_is_confused_even_where_it_is_found() -> None:
    labels = ["person", "city", "river"]
    gold = entities(person=["Ada"], city=["Rome"])
    answer = {"person": ["Ada", "Rome", "Eve"], "city": ["Ada", "Ada"], "river": ["Ada", "Rome"]}
    scorer = scorer_of([instance("NER", labels, gold, answer)])
    [(_, record, facts)] = scorer.compared()
    found = Counter(kinds(facts, record.facts, keys=frozenset(labels), text="Ada met Eve in Rome."))
    assert found == {"right": 1, "wrong type": 4, "spurious": 1, "repeated": 1}
    counts = count_confusable(scorer, {"person": ["city"]})["overall"]
    assert (counts["right"], counts["confusable"] + counts["other"]) == (found["right"], found["wrong type"])


def test_the_label_of_spo_is_known_by_its_predicate() -> None:
    gold = [TypedRelation("person", "wife", "person", "Ada", "Bob Lee")]
    outside = [TypedRelation("", "husband", "", "Bob Lee", "Ada")]
    assert kinds(gold, gold, "SPO", frozenset(["wife"])) == ["right"]
    assert kinds(gold, outside, "SPO", frozenset(["wife"])) == ["label outside the schema", "missed"]


class Page(HTMLParser):
    """Check that each tag is closed; gather tags, addresses and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


DECIDED = [[1.0, -0.5], [0.5, -0.5], [-1.0, None]]
PAYLOADS = (
    "<script>alert('&')</script>",
    "\"'><img src=x onerror=alert(2)>&lt;",
    "</style></title><svg onload=alert(3)>",
    "javascript:alert(4)",
    "{{ 7*7 }}{% include 'page.css' %}",
)


@pytest.mark.parametrize("evil", PAYLOADS)
def test_no_input_becomes_markup(tmp_path: Path, evil: str) -> None:
    changed = {"source": evil, "id": evil}
    label = instance("NER", [evil], entities(**{evil: [evil]}), {evil: [evil, "Ada"]}, **changed)
    instruction = {**json.loads(label["instruction"]), "input": f"{evil} met Ada"}
    roles = [{"event_type": evil, "trigger": True, "arguments": [evil]}]
    event = {"event_trigger": evil, "event_type": evil, "arguments": [{"argument": evil, "role": evil}]}
    rows = [
        {**label, "instruction": json.dumps(instruction), "decisions": {evil: DECIDED}},
        instance("NER", [evil], entities(**{evil: ["Ada"]}), evil, **{**changed, "id": "2"}),
        instance("EE", roles, [event], {evil: [{"trigger": "met", "arguments": {evil: evil}}]}, **changed),
    ]
    scorer = scorer_of(rows)
    options = {"system": evil, "other": evil, "comparison": scorer.compare(scorer, resamples=20)}
    html = write_report(tmp_path, scorer, resamples=20, **options).read_text(encoding="utf-8")
    page = Page(html)
    assert page.text.count(evil) >= 10  # shown as it is
    assert page.tags == Page(harmless_page(tmp_path / "harmless")).tags
    assert not page.attributes & {"src", "href", "onerror", "onload"}


def harmless_page(folder: Path) -> str:
    """A report with something in each of its sections."""
    event = {"event_trigger": "met", "event_type": "meet", "arguments": [{"argument": "Ada", "role": "who"}]}
    items = [{"event_type": "meet", "trigger": True, "arguments": ["who", "where"]}]
    answer = {"person": ["Ada"], "city": ["Bob"]}
    rows = [
        {
            **instance("NER", ["person", "city"], entities(person=["Ada", "Bob"]), answer),
            "decisions": {"person": DECIDED, "city": DECIDED},
        },
        instance("NER", ["person"], entities(person=["Ada"]), "no JSON", id="2"),
        instance("NER", ["person"], entities(person=["Ada"]), '{"\\ud800": ["\\udfff", "Ada"]}', id="3"),
        instance("EE", items, [event], {"meet": [{"trigger": "met", "arguments": {"where": "Ada"}}]}),
    ]
    return write_report(folder, scorer_of(rows), resamples=20).read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    html = harmless_page(tmp_path / "report")
    assert [file.name for file in (tmp_path / "report").iterdir()] == ["index.html"]
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert not page.attributes & {"src", "href"}
    assert not re.search(r"url\(|@import|https?:", html)
    for part in (*KINDS, "unparsed", "Macro F1 over corpora", "NER", "EE argument", "meet: where", "grounded"):
        assert part in page.text
    assert "Comparison" not in page.text
    assert "average precision" in page.text and "polyline" in page.tags
    assert "prefers-color-scheme: dark" in html
    assert '<mark class="gold right">Ada</mark>' in html
    assert html == harmless_page(tmp_path / "again")


@pytest.mark.skipif(not (browser := shutil.which("chromium")), reason="no chromium on this machine")
def test_the_worst_records_are_filtered_by_kind_of_error(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    harmless_page(tmp_path)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        page.goto((tmp_path / "index.html").as_uri())
        shown = page.locator(".record:visible")
        assert shown.count() == 4
        page.select_option(".filter", label="with: unparsed")
        assert shown.count() == 1 and "no JSON" in shown.inner_text()
        page.select_option(".filter", label="with: label outside the schema")
        assert shown.count() == 1 and "NER, hand, 3" in shown.inner_text()
        chromium.close()


def test_a_page_without_decisions_says_so(tmp_path: Path) -> None:
    row = instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada"]})
    page = Page(write_report(tmp_path, scorer_of([row]), resamples=10).read_text(encoding="utf-8"))
    assert "Not available: the answers have no decisions" in page.text
    assert "svg" not in page.tags


@given(st.text("ab", max_size=20), st.lists(st.text("ab", max_size=6), max_size=4))
def test_a_mention_is_marked_wherever_it_occurs(text: str, mentions: list[str]) -> None:
    findings = [Finding("missed", Part("", ("x",), (mention,)), None) for mention in mentions]
    expected = {
        place
        for mention in mentions
        for start in range(len(text))
        if text.startswith(mention, start)
        for place in range(start, start + len(mention))
    }
    marked = [name for piece, name in mark_mentions(text, findings) for _ in piece]
    assert "".join(piece for piece, _ in mark_mentions(text, findings)) == text
    assert {place for place, name in enumerate(marked) if name} == expected


def test_repetitive_mentions_are_marked_in_few_steps() -> None:
    assert len(list(cover_spans("a" * 1500, "a" * 3000))) == 3
    assert len(list(cover_spans("a", "a" * 3000))) == 3000
    many = instance("NER", ["x"], entities(x=["a" * 1500]), {"x": ["a"] * 1000})
    many["instruction"] = json.dumps({**json.loads(many["instruction"]), "input": "a" * 3000})
    (_, record, gold), *_ = scorer_of([many]).compared()
    found = Counter(kinds(gold, record.facts, keys=frozenset(["x"]), text=record.text))
    assert found == {"wrong boundary": 1, "repeated": 999}
