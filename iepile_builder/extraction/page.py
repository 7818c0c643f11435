"""An extraction to look at: the text with its mentions marked, the facts as a graph and as tables, in one page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from iepile_builder.answers.grounding import Mention, as_mention
from iepile_builder.extraction.graph import draw, hue
from iepile_builder.io import RESOURCES
from iepile_builder.tasks import TASKS


if TYPE_CHECKING:
    from iepile_builder.extraction.result import Extraction


STYLE = (RESOURCES / "templates" / "page.css").read_text(encoding="utf-8")
MAX_MARKS = 20_000
MAX_DEPTH = 6  # marks within marks
MAX_LABELS = 3  # of one mention that are shown in the text
MAX_EDGES = 80
MAX_ROWS = 1_000

# for the page and for what is put into another one; colours are those of report.STYLE
MARKS = """
.ie { --light: 88%; --strong: 30%; --chroma: 75%; color: var(--ink); }
.ie .text { line-height: 2.1; margin: .5rem 0; max-height: 32rem; overflow: auto; overflow-wrap: anywhere;
  white-space: pre-wrap; }
.ie mark { background: hsl(var(--hue) var(--chroma) var(--light)); border-radius: 4px; color: inherit;
  padding: .1em .25em; -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.ie mark mark { outline: 1px solid var(--page); }
.ie mark small { color: hsl(var(--hue) 80% var(--strong)); font-size: .68em; font-weight: 650; margin-left: .35em;
  user-select: none; white-space: nowrap; }
.ie .scroll { overflow-x: auto; } .ie table { border-collapse: collapse; font-size: .92em; }
.ie :is(th, td) { border: 0; border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: left;
  vertical-align: top; overflow-wrap: break-word; min-width: 6rem; max-width: 24rem; }
.ie thead th { color: var(--soft); font-weight: 600; } .ie td small { color: var(--soft); white-space: nowrap; }
.ie td .off { color: #c2410c; } .ie .kind { display: inline-block; border-radius: 4px; padding: 0 .35em;
  background: hsl(var(--hue) var(--chroma) var(--light)); }
.ie .note { color: var(--soft); } .ie svg { display: block; height: auto; }
.ie svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.ie svg .edge { fill: none; stroke: var(--soft); stroke-width: 1.2; }
.ie svg .label { fill: var(--soft); font-size: 11.5px; paint-order: stroke; stroke: var(--page); stroke-width: 4px;
  text-anchor: middle; }
.ie svg rect { fill: hsl(var(--hue) var(--chroma) var(--light)); stroke: hsl(var(--hue) 45% 55%); }
.ie svg rect.plain { fill: var(--card); stroke: var(--line); }
.ie pre { background: var(--card); max-height: 24rem; overflow: auto; overflow-wrap: anywhere; padding: .7rem;
  white-space: pre-wrap; }
.ie summary { color: var(--soft); cursor: pointer; }
"""
DARK = ".ie { --light: 26%; --strong: 78%; --chroma: 42%; } .ie td .off { color: #fb923c; }"


class Mark(NamedTuple):
    """A part of a text, and what it is."""

    start: int
    end: int
    labels: tuple[str, ...]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML."""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>'


def page(result: Extraction) -> str:
    """The whole page, which needs no network."""
    title = f"{result.task}: {counted(len(result.facts), 'fact')}"
    answers = "\n".join(result.answers)
    return (
        f'<!DOCTYPE html>\n<html lang="{result.language}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}{MARKS}@media (prefers-color-scheme: dark) {{ {DARK} }}</style></head>"
        f'<body class="ie">\n<h1>{title}</h1>\n<p class="note">{"; ".join(remarks(result))}.</p>\n'
        f"{marked_text(result)}\n{section('Graph', graph(result))}"
        f"{section('Events', event_table(result))}{section('Facts', fact_table(result))}"
        f"<h2>Data</h2><details><summary>JSON</summary><pre>{escape(result.to_json())}</pre></details>\n"
        f"<details><summary>What the model wrote</summary><pre>{escape(answers)}</pre></details>\n</body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A part of the page, if there is anything in it."""
    return f"<h2>{title}</h2>\n{content}\n" if content else ""


def remarks(result: Extraction) -> list[str]:
    """How the text was asked about, and what went wrong."""
    asked = f"{counted(len(result.answers), 'answer')} about {counted(len(result.passages), 'passage')}"
    said = [f"{asked}, instructions in {result.language}"]
    for count, one, what in (
        (len(result.ungrounded), "fact", "not in the text"),
        (result.cut, "answer", "cut at the token limit"),
        (result.unparsed, "answer", "no JSON"),
        (result.repaired, "answer", "JSON only after repair"),
        (result.left_out, "fact", "left out: not asked for, or without a usable form"),
    ):
        if count:
            said.append(f"{counted(count, one)} {what}")
    return said


def counted(number: int, one: str) -> str:
    """So many of something."""
    return f"{number} {one}{'' if number == 1 else 's'}"


def colored(result: Extraction) -> list[str]:
    """All that has a colour of its own, in the order in which it is found."""
    return list(dict.fromkeys(label for fact in result.facts for _, label in fact.named_mentions))


def marks(result: Extraction) -> list[Mark]:
    """What is to be marked in the text, outer ones before those within them."""
    found: dict[tuple[int, int], dict[str, None]] = defaultdict(dict)
    for fact in result.facts:
        for string, label in fact.named_mentions:
            mention = as_mention(string)
            if mention.start is not None and mention.end is not None:
                found[mention.start, mention.end][label] = None
    places = sorted(found, key=lambda place: (place[0], -place[1]))
    return [Mark(start, end, tuple(found[start, end])) for start, end in places[:MAX_MARKS]]


def marked_text(result: Extraction) -> str:
    """The text with its mentions marked; of two that overlap, the later one is shown in two parts."""
    colors = colored(result)
    text = result.text
    pieces: list[str] = []
    stack: list[Mark] = []
    place = 0

    def close_until(end: int) -> None:
        nonlocal place
        while stack and stack[-1].end <= end:
            mark = stack.pop()
            pieces.append(escape(text[place : mark.end]))
            place = max(place, mark.end)
            shown = ", ".join(mark.labels[:MAX_LABELS])
            more = f" +{len(mark.labels) - MAX_LABELS}" if len(mark.labels) > MAX_LABELS else ""
            pieces.append(f"<small>{escape(shown)}{more}</small></mark>" if mark.labels else "</mark>")

    queue = marks(result)[::-1]
    while queue:
        mark = queue.pop()
        close_until(mark.start)
        if len(stack) >= MAX_DEPTH:
            continue
        if stack and mark.end > stack[-1].end:  # they cross: what is behind the outer one comes after it
            rest = Mark(stack[-1].end, mark.end, mark.labels)
            mark = Mark(mark.start, stack[-1].end, ())
            index = len(queue)
            while index and (queue[index - 1].start, -queue[index - 1].end) < (rest.start, -rest.end):
                index -= 1
            queue.insert(index, rest)
            label = rest.labels[0]
        else:
            label = mark.labels[0] if mark.labels else ""
        pieces.append(escape(text[place : mark.start]))
        place = mark.start
        pieces.append(f'<mark style="--hue:{hue(label, colors)}">')
        stack.append(mark)
    close_until(len(text))
    pieces.append(escape(text[place:]))
    return f'<div class="text">{"".join(pieces)}</div>'


def cell(mention: str) -> str:
    """A mention in a table, and where it stands."""
    placed = as_mention(mention)
    if not placed:
        return ""
    if placed.start is None:
        return f'{escape(placed)} <small class="off">not in the text</small>'
    how = {"exact": "", "normalized": ", other spelling", "fuzzy": f", similarity {placed.score:.2f}"}
    return f"{escape(placed)} <small>{placed.start}:{placed.end}{how[placed.match or 'exact']}</small>"


def kind(label: str, colors: list[str]) -> str:
    """A label in its colour, if it has one."""
    if label not in colors:
        return escape(label)
    return f'<span class="kind" style="--hue:{hue(label, colors)}">{escape(label)}</span>'


def fact_table(result: Extraction) -> str:
    """The facts, a row for each; empty where events say the same."""
    if TASKS[result.task].has_events or not result.facts:
        return ""
    colors = colored(result)
    columns = result.facts[0].columns
    values = [[getattr(fact, field) for _, field in columns] for fact in result.facts[:MAX_ROWS]]
    rows = [[cell(value) if isinstance(value, Mention) else kind(value, colors) for value in row] for row in values]
    return table([head for head, _ in columns], rows) + more(len(result.facts) - len(rows), "facts")


def event_table(result: Extraction) -> str:
    """The events, a row for each."""
    if not result.events:
        return ""
    colors = colored(result)
    rows = [
        (
            kind(event.event_type, colors),
            cell(event.trigger),
            "<br>".join(f"{kind(fact.role, colors)} {cell(fact.argument)}" for fact in event.arguments),
        )
        for event in result.events[:MAX_ROWS]
    ]
    return table(("event", "trigger", "arguments"), rows) + more(len(result.events) - len(rows), "events")


def more(number: int, what: str) -> str:
    """What is said of that which is not shown."""
    return f'<p class="note">{number} more {what} are in the JSON.</p>' if number > 0 else ""


def graph(result: Extraction) -> str:
    """The facts as a graph, an inline SVG in columns from left to right; empty where there are no edges."""
    nodes, edges = result.graph()
    shown = edges[:MAX_EDGES]
    if not shown:
        return ""
    drawing = draw(nodes, shown, colored(result))
    return f'<div class="scroll">{drawing}</div>' + more(len(edges) - len(shown), "edges")
