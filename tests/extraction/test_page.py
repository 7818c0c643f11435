"""The page of an extraction: marks, graph and table; no input becomes markup; no network is needed."""

import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.counting import count_calls
from helpers.rules import AnswerEngine
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from iepile_builder import Extractor
from iepile_builder.answers.grounding import Mention, Span
from iepile_builder.extraction.graph import draw
from iepile_builder.extraction.page import render_fragment, render_page
from iepile_builder.extraction.result import Extraction
from iepile_builder.schema import Schema
from iepile_builder.tasks.facts import Entity


TEXT = "Ada Lovelace resigned from Acme on Monday; Bob, her brother, was hired."
EVENTS = {
    "resign": [{"trigger": "resigned", "arguments": {"employee": "Ada Lovelace", "time": "Monday"}}],
    "hire": [{"trigger": "hired", "arguments": {"employee": ["Bob", "Zenobia"], "time": "NAN"}}],
}


def entities(text: str, *spans: tuple[str, int, int]) -> Extraction:
    """What an extraction of these entities is like."""
    facts = [Entity(label, Mention(text[start:end], Span(start, end))) for label, start, end in spans]
    return Extraction(text, "NER", "en", Schema(types=tuple({label for label, _, _ in spans})), facts)


def marked_text(result: Extraction) -> str:
    """The part of a page with the text."""
    return re.search(r'<div class="text">.*?</div>', render_page(result), re.DOTALL)[0]


def graph(result: Extraction) -> str:
    """The graph of a page, if it has one."""
    found = re.search(r"<svg.*</svg>", render_page(result), re.DOTALL)
    return found[0] if found else ""


def shown(html: str) -> str:
    """The text that a piece of HTML shows, without the labels of marks."""
    return unescape(re.sub(r"<small>.*?</small>|<[^>]*>", "", html, flags=re.DOTALL))


def marked(html: str) -> list[tuple[str, str]]:
    """Label and text of each mark that has a label, and of its parts before it."""
    root = ElementTree.fromstring(html)
    return [
        (label.text or "", "".join(mark.itertext()).removesuffix(label.text or ""))
        for mark in root.iter("mark")
        for label in mark.findall("small")
    ]


def test_marks_side_by_side_nested_and_crossing() -> None:
    text = "New York City Council met."
    html = marked_text(entities(text, ("city", 0, 13), ("state", 0, 8), ("body", 14, 21)))
    assert marked(html) == [("city", "New Yorkstate City"), ("state", "New York"), ("body", "Council")]
    html = marked_text(entities(text, ("city", 0, 13), ("council", 9, 21)))
    assert [label for label, _ in marked(html)] == ["city", "council"]
    assert re.findall(r"<mark[^>]*>([^<]*)", html) == ["New York ", "City", " Council"]
    html = marked_text(entities(text, ("a", 0, 3), ("b", 0, 3), ("c", 0, 3), ("d", 0, 3)))
    assert marked(html) == [("a, b, c +1", "New")]


@given(
    st.text('ab<&" \n人', min_size=1, max_size=30),
    st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 29), st.integers(1, 30)), max_size=12),
)
def test_the_text_stays_what_it_is(text: str, spans: list) -> None:
    placed = [(label, start, min(end, len(text))) for label, start, end in spans if start < min(end, len(text))]
    html = marked_text(entities(text, *placed))
    assert shown(html) == text
    ElementTree.fromstring(html)  # marks are closed in the order in which they were opened


def test_many_marks_are_no_trouble() -> None:
    def mark(words: int) -> None:
        text = "word " * words
        spans = [("x", 5 * index, min(5 * index + 1000, len(text))) for index in range(words)]
        assert shown(marked_text(entities(text, *spans))) == text

    assert count_calls(mark, 10_000) < 6 * count_calls(mark, 2000)


class Tags(HTMLParser):
    """The elements of a page, and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


EVIL = "</title></style></pre><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&lt;{{ 7*7 }}"


@pytest.mark.parametrize("render", [render_page, render_fragment, Extraction._repr_html_])
@pytest.mark.parametrize("task", ["NER", "RE", "SPO", "EE", "KG"])
def test_no_input_becomes_markup(task: str, render: Callable[[Extraction], str]) -> None:
    text = f"{EVIL} is here."
    schema, answer = {
        "NER": ([EVIL], {EVIL: [EVIL]}),
        "RE": ([EVIL], {EVIL: [{"subject": EVIL, "object": "here"}]}),
        "SPO": ([(EVIL, EVIL, EVIL)], {EVIL: [{"subject": EVIL, "object": "here"}]}),
        "EE": ({EVIL: [f"{EVIL}role"]}, {EVIL: [{"trigger": EVIL, "arguments": {f"{EVIL}role": EVIL}}]}),
        "KG": ({EVIL: [EVIL]}, {EVIL: {EVIL: {EVIL: "here"}}}),
    }[task]
    result = Extractor(AnswerEngine(answer))(text, task, schema)
    assert result.facts
    tags = Tags()
    html = render(result)
    tags.feed(html)
    assert html.count(escape(EVIL)) >= 3  # shown as it is
    assert not {tag for tag, _ in tags.found} & {"script", "img", "iframe", "link", "a"}
    for _, attributes in tags.found:
        for name, value in attributes.items():
            assert not name.startswith("on") and "://" not in (value or "")


def test_the_page_of_events(tmp_path: Path) -> None:
    schema = {"resign": ["employee", "time"], "hire": ["employee", "time"]}
    result = Extractor(AnswerEngine(EVENTS))(TEXT, "EE", schema)
    result.save_html(tmp_path / "out.html")
    html = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["out.html"]  # no unfinished file beside it
    for part in ("<h2>Graph</h2>", "<h2>Events</h2>", "1 fact not in the text", "prefers-color-scheme: dark"):
        assert part in html
    assert html.count("<table>") == 1  # no triggers and arguments beside the events, which say the same
    assert 'Zenobia <small class="off">not in the text</small>' in html
    assert "http" not in html
    assert json.loads(unescape(html.split("<pre>")[1].split("</pre>")[0])) == result.to_dict()


def test_the_graph() -> None:
    pairs = [{"subject": head, "object": tail} for head, tail in (("Ada Lovelace", "Bob"), ("Bob", "Ada Lovelace"))]
    answer = {
        "sibling": [*pairs, {"subject": "Bob", "object": "Bob"}],
        "employer": [{"subject": "Bob", "object": "Acme"}],
    }
    result = Extractor(AnswerEngine(answer))(TEXT, "RE", ["sibling", "employer"])
    svg = ElementTree.fromstring(graph(result))
    texts = ["".join(element.itertext()) for element in svg.iter("text")]
    assert sorted(texts) == ["Acme", "Ada Lovelace", "Bob", "employer", "sibling", "sibling"]
    assert [path.get("marker-start") is not None for path in svg.iter("path")].count(True) == 1  # said by both
    width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
    behind, boxes = [], []
    for rect in svg.iter("rect"):
        box = [float(rect.get(name, 0)) for name in ("x", "y", "width", "height")]
        (behind if rect.get("class") == "behind" else boxes).append(box)
    labels = [text for text in svg.iter("text") if text.get("class") == "label"]
    for label, (left, top, wide, high) in zip(labels, behind, strict=True):  # no line crosses a label
        assert left < float(label.get("x")) < left + wide
        assert top < float(label.get("y")) < top + high
    for left, top, wide, high in boxes:
        assert 0 <= left < left + wide <= width
        assert 0 <= top < top + high <= height
    for index, (left, top, wide, high) in enumerate(boxes):
        for other_left, other_top, other_wide, other_high in boxes[:index]:
            apart = left >= other_left + other_wide or other_left >= left + wide
            assert apart or top >= other_top + other_high or other_top >= top + high

    assert graph(Extractor(AnswerEngine({}))(TEXT, "RE", ["sibling"])) == ""
    many = {"employer": [{"subject": "Bob", "object": f"Acme {index}"} for index in range(300)]}
    assert "220 more edges are in the JSON" in render_page(Extractor(AnswerEngine(many))(TEXT, "RE", ["employer"]))


def test_a_graph_of_circles_alone_can_be_drawn() -> None:
    from iepile_builder.extraction.result import Edge, Node

    nodes = {name: Node(name, "") for name in "abc"}
    edges = [Edge(*ends) for ends in (("a", "x", "b"), ("b", "x", "c"), ("c", "x", "a"), ("a", "y", "a"))]
    assert draw(nodes, edges, []).count("<path") == 5  # and the arrow's head


def test_networkx() -> None:
    schema = {"resign": ["employee", "time"], "hire": ["employee", "time"]}
    drawn = Extractor(AnswerEngine(EVENTS))(TEXT, "EE", schema).to_networkx()
    assert drawn.nodes["event 1"] == {"label": "resign: resigned", "type": "resign"}
    assert sorted(drawn.edges(keys=True)) == [
        ("event 1", "Ada Lovelace", "employee"),
        ("event 1", "Monday", "time"),
        ("event 2", "Bob", "employee"),
        ("event 2", "Zenobia", "employee"),
    ]
    drawn = Extractor(AnswerEngine({"city": {"Rome": {"mayor": "Ada"}}}))("Ada, Rome", "KG", {"city": ["mayor"]})
    assert dict(drawn.to_networkx().nodes(data="type")) == {"Rome": "city", "Ada": ""}
    drawn = Extractor(AnswerEngine({"city": ["Rome"]}))("Ada, Rome", "NER", ["city"]).to_networkx()
    assert dict(drawn.nodes(data="type")) == {"Rome": "city"}
