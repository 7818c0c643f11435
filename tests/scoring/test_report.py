"""The error report: kinds of error by hand, and a page that is whole and safe."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from helpers.answers import entities, instance, scorer_of

from iepile_builder.scoring.report import KINDS, diagnose, write_report
from iepile_builder.tasks.facts import Entity, Fact, TypedRelation


TEXT = "Ada, wife of Bob Lee, met Eve in New York."
KEYS = frozenset(["person", "city"])


def kinds(gold: list[Fact], predicted: list[Fact], task: str = "NER", keys: frozenset[str] = KEYS) -> list[str]:
    return sorted(finding.kind for finding in diagnose(gold, predicted, TEXT, task, keys))


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


def test_the_label_of_spo_is_known_by_its_predicate() -> None:
    gold = [TypedRelation("person", "wife", "person", "Ada", "Bob Lee")]
    outside = [TypedRelation("", "husband", "", "Bob Lee", "Ada")]
    assert kinds(gold, gold, "SPO", frozenset(["wife"])) == ["right"]
    assert kinds(gold, outside, "SPO", frozenset(["wife"])) == ["label outside the schema", "missed"]


class Page(HTMLParser):
    """Checks that what is opened is closed; gathers tags, addresses and text."""

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
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_harmless(tmp_path: Path) -> None:
    evil = "<script>alert('&')</script>"
    gold = [{"event_trigger": "met", "event_type": "meet", "arguments": [{"argument": "Ada", "role": "who"}]}]
    items = [{"event_type": "meet", "trigger": True, "arguments": ["who", "where"]}]
    rows = [
        instance(
            "NER", ["person", "city"], entities(person=["Ada", "Bob"]), {"person": ["Ada", evil], "city": ["Bob"]}
        ),
        instance("NER", ["person"], entities(person=["Ada"]), evil, id=evil),
        instance("NER", ["person"], entities(person=["Ada"]), '{"\\ud800": ["\\udfff", "Ada"]}', id="3"),
        instance("EE", items, gold, {"meet": [{"trigger": "met", "arguments": {"where": "Ada"}}]}),
    ]
    path = write_report(tmp_path / "report", scorer_of(rows), resamples=20)
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert not page.attributes & {"src", "href"}
    assert not re.search(r"url\(|@import|https?:", html)
    assert evil in page.text  # as text
    for part in (*KINDS, "unparsed", "Macro F1 over corpora", "NER", "EE argument", "meet: where", "grounded"):
        assert part in page.text
    assert "prefers-color-scheme: dark" in html
    assert '<mark class="gold right">Ada</mark>' in html
    assert html == write_report(tmp_path / "again", scorer_of(rows), resamples=20).read_text(encoding="utf-8")


def test_the_command(run_script, tmp_path: Path) -> None:
    rows = [
        instance("NER", ["person"], entities(person=["Ada"]), {"person": ["Ada", "Bob"][index % 2 :]}, id=str(index))
        for index in range(8)
    ]
    for name, part in (("one", rows), ("other", [{**row, "output": "{'person': ['Ada']}"} for row in rows])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    options = ["--repair", "--bootstrap", 50, "--mode", "set", "--compare", "other.jsonl", "--report", "folder"]
    report = json.loads(run_script("score.py", "--predictions_file", "one.jsonl", *options).stdout)
    assert report["overall"]["intervals"]["f1"][0] < report["overall"]["f1"]
    assert report["comparison"]["overall"]["other_f1"] == 100
    assert report["comparison"]["overall"]["difference"] < 0
    assert "Error report" in (tmp_path / "folder" / "index.html").read_text()
