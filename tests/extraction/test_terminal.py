"""An extraction in the terminal: coloured spans, and nothing in a text controls the terminal."""

import io
import re

from helpers.rules import AnswerEngine
from rich.console import Console

from iepile_builder import Extractor
from iepile_builder.extraction.terminal import label_styles, mark_text, show


def test_nothing_in_a_text_moves_the_terminal() -> None:
    text = "\x1b[2J\x1b]0;title\x07Ada [bold]here[/bold]\x9b31m \r\b " + "x" * 7000
    result = Extractor(AnswerEngine({"per\x1bson": ["Ada", "\x1b[31mEve"]}))(text, "NER", ["per\x1bson"])
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=200)
    show(result, console)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert not set(plain) & set(map(chr, (*range(10), *range(11, 32), 155)))
    assert "[bold]here[/bold]" in out and "more characters: see --output_file" in " ".join(plain.split())
    assert re.search(r"\x1b\[1;30;48;2;[0-9;]+mAda", out)


def test_a_newline_at_the_end_makes_no_empty_line() -> None:
    result = Extractor(AnswerEngine({"person": ["Ada"]}))("Eve met Ada.\n", "NER", ["person"])
    assert mark_text(result, label_styles(["person"], None)).plain == "Eve met Ada person ."


def test_spans_within_and_across_each_other() -> None:
    answer = {"a": ["New York City"], "b": ["New York"], "c": ["City Council"]}
    result = Extractor(AnswerEngine(answer))("The New York City Council met.", "NER", ["a", "b", "c"])
    text = mark_text(result, label_styles(["a", "b", "c"], "truecolor"))
    assert text.plain == "The New York b  City a  Council c  met."
    bold = sorted(text.plain[span.start : span.end] for span in text.spans if "bold" in str(span.style))
    assert bold == ["City a  Council", "New York", "New York b  City"]


def test_labels_differ_in_a_terminal_of_eight_colours() -> None:
    result = Extractor(AnswerEngine({"person": ["Ada"], "city": ["Rome"]}))(
        "Ada is in Rome.", "NER", ["person", "city"]
    )
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=200)
    show(result, console)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    styles = dict(re.findall(r"\x1b\[1;(30;4\d)m(Ada|Rome)", out))
    assert sorted(styles.values()) == ["Ada", "Rome"]
