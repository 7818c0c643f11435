"""Show an extraction as HTML: the text with its mentions marked, the facts as a graph and as a table."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from iepile_builder.answers.grounding import Mention, as_mention
from iepile_builder.data.instructions import LANGUAGES
from iepile_builder.extraction.graph import draw, hue
from iepile_builder.html import render
from iepile_builder.io import pluralize
from iepile_builder.tasks import TASKS


if TYPE_CHECKING:  # a result renders itself with this file
    from iepile_builder.extraction.result import Extraction, Result

MAX_MARKS = 20_000
MAX_DEPTH = 6  # marks within marks
MAX_LABELS = 3  # of one mention that are shown in the text
MAX_EDGES = 80
MAX_ROWS = 1_000


class Mark(NamedTuple):
    """A span of a text, and its labels."""

    start: int
    end: int
    labels: tuple[str, ...]


class _Cell(NamedTuple):
    """A label or a mention in a table."""

    text: str
    note: str = ""
    off: bool = False  # not in the text
    hue: int | None = None


class _Table(NamedTuple):
    """Rows of columns of lines of cells."""

    what: str
    heads: list[str]
    rows: list[list[list[list[_Cell]]]]
    more: int  # rows that are not shown


def render_page(result: Result) -> str:
    """Render the whole page, which needs no network."""
    title = f"{', '.join(each.task for each in result.results)}: {pluralize(len(result.facts), 'fact')}"
    data = {"json": result.to_json(), "answers": [answer for each in result.results for answer in each.answers]}
    language = result.results[0].language
    return render("extraction.html", title=title, language=language, **data, **_describe(result))


def render_fragment(result: Result) -> str:
    """Render text, graph and tables for an element of class `ie` of another page with the style `extraction.css`."""
    return render("extraction_fragment.html", **_describe(result))


def render_notebook(result: Result) -> str:
    """Render the same with its style, on a light ground, for the output of a notebook's cell."""
    return render("extraction_notebook.html", **_describe(result))


def _describe(result: Result) -> dict[str, Any]:
    """Collect what the templates show."""
    nodes, edges = result.graph()
    colors = list_colors(result)
    return {
        "remarks": list_remarks(result),
        "tokens": _cut_text(result, colors),
        "graph": draw(nodes, edges[:MAX_EDGES], colors) if edges else "",
        "more_edges": max(len(edges) - MAX_EDGES, 0),
        "tables": [table for each in result.results if (table := _make_table(each, colors))],
    }


def list_remarks(result: Result) -> list[str]:
    """List how the text was asked about, and what went wrong."""
    several, first = result.results, result.results[0]
    passages = {passage for each in several for passage in each.passages}
    answers = pluralize(sum(len(each.answers) for each in several), "answer")
    language = first.language if first.language in LANGUAGES else "en"
    remarks = [f"{answers} about {pluralize(len(passages), 'passage')}, instructions in {language}"]
    for count, noun, what in (
        (sum(len(each.ungrounded) for each in several), "fact", "not in the text"),
        (sum(each.cut for each in several), "answer", "cut at the token limit"),
        (sum(each.unparsed for each in several), "answer", "no JSON"),
        (sum(each.repaired for each in several), "answer", "JSON only after repair"),
        (sum(each.left_out for each in several), "fact", "left out: not asked for, or without a usable form"),
        (sum(each.less_likely for each in several), "fact", "left out: the same mention has a likelier label"),
        (
            sum(each.low_score for each in several),
            "fact",
            f"left out: a score below {first.min_score:g}, or no score",
        ),
    ):
        if count:
            remarks.append(f"{pluralize(count, noun)} {what}")
    return remarks


def list_colors(result: Result) -> list[str]:
    """List the labels that have a colour of their own, in order of first occurrence."""
    return list(dict.fromkeys(label for fact in result.facts for _, label in fact.named_mentions))


def find_marks(result: Result) -> list[Mark]:
    """Find the spans to mark in the text, outer ones before those within them."""
    found: dict[tuple[int, int], dict[str, None]] = defaultdict(dict)
    for fact in result.facts:
        for string, label in fact.named_mentions:
            mention = as_mention(string)
            if mention.start is not None and mention.end is not None:
                found[mention.start, mention.end][label] = None
    places = sorted(found, key=lambda place: (place[0], -place[1]))
    return [Mark(start, end, tuple(found[start, end])) for start, end in places[:MAX_MARKS]]


def _cut_text(result: Result, colors: list[str]) -> list[tuple[str, str | int]]:
    """Cut the text where marks open (with a hue) and close (with labels); a mark that crosses another is split."""
    text = result.results[0].text
    tokens: list[tuple[str, str | int]] = []
    stack: list[Mark] = []
    place = 0

    def close_until(end: int) -> None:
        nonlocal place
        while stack and stack[-1].end <= end:
            mark = stack.pop()
            tokens.append(("text", text[place : mark.end]))
            place = max(place, mark.end)
            more = f" +{len(mark.labels) - MAX_LABELS}" if len(mark.labels) > MAX_LABELS else ""
            tokens.append(("close", ", ".join(mark.labels[:MAX_LABELS]) + more))

    queue = find_marks(result)[::-1]
    while queue:
        mark = queue.pop()
        close_until(mark.start)
        if len(stack) >= MAX_DEPTH:
            continue
        label = mark.labels[0]
        if stack and mark.end > stack[-1].end:  # they cross: the part behind the outer one comes after it
            rest = Mark(stack[-1].end, mark.end, mark.labels)
            mark = Mark(mark.start, stack[-1].end, ())
            index = len(queue)
            while index and (queue[index - 1].start, -queue[index - 1].end) < (rest.start, -rest.end):
                index -= 1
            queue.insert(index, rest)
        tokens.append(("text", text[place : mark.start]))
        place = mark.start
        tokens.append(("open", hue(label, colors)))
        stack.append(mark)
    close_until(len(text))
    tokens.append(("text", text[place:]))
    return tokens


def _make_table(result: Extraction, colors: list[str]) -> _Table | None:
    """Make a row for each event, or for each fact where the task has no events."""

    def label(name: str) -> _Cell:
        return _Cell(name, hue=hue(name, colors) if name in colors else None)

    title = TASKS[result.task].title
    if result.events:
        rows = [
            [
                [[label(event.event_type)]],
                [[_show_mention(event.trigger)]],
                [[label(fact.role), _show_mention(fact.argument)] for fact in event.arguments],
            ]
            for event in result.events[:MAX_ROWS]
        ]
        table = _Table(title, ["event", "trigger", "arguments"], rows, len(result.events) - len(rows))
        return _with_scores(table, result.event_scores)
    if TASKS[result.task].has_events or not result.facts:
        return None
    columns = result.facts[0].columns
    values = [[getattr(fact, field) for _, field in columns] for fact in result.facts[:MAX_ROWS]]
    rows = [
        [[[_show_mention(value) if isinstance(value, Mention) else label(value)]] for value in row] for row in values
    ]
    table = _Table(title, [head for head, _ in columns], rows, len(result.facts) - len(rows))
    return _with_scores(table, result.scores)


def _with_scores(table: _Table, scores: list[float | None]) -> _Table:
    """Add a column of scores, where there are any."""
    if all(score is None for score in scores):
        return table
    rows = [[*row, [[_Cell(format_score(score))]]] for row, score in zip(table.rows, scores, strict=False)]
    return table._replace(heads=[*table.heads, "score"], rows=rows)


def format_score(score: float | None) -> str:
    """Write the score of a fact."""
    return "" if score is None else f"{score:.2f}"


def _show_mention(mention: str) -> _Cell:
    """Show a mention and its span."""
    placed = as_mention(mention)
    if not placed:
        return _Cell("")
    return _Cell(placed, placed.describe(), off=not placed.grounded)
