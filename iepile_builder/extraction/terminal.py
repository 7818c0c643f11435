"""Show an extraction in the terminal: the text with its mentions in colour, and the facts as a table."""

from __future__ import annotations

from colorsys import hls_to_rgb

from rich.console import Console
from rich.table import Table
from rich.text import Text

from iepile_builder.answers.grounding import Mention, as_mention
from iepile_builder.extraction.graph import hue
from iepile_builder.extraction.page import find_marks, format_score, list_colors, list_remarks
from iepile_builder.extraction.result import Extraction, Result
from iepile_builder.io import pluralize
from iepile_builder.tasks import TASKS


_MAX_CHARACTERS = 6_000  # of the text
_MAX_ROWS = 200
# what would move the cursor or colour the terminal, if a text had it
_CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\ufffd")
_ANSI = ("yellow", "cyan", "green", "magenta", "red", "blue")


def show(result: Result, console: Console | None = None) -> None:
    """Print an extraction: the text with its mentions in colour, and the facts of each task as a table."""
    console = console or Console()
    colors = label_styles(list_colors(result), console.color_system)
    console.print(mark_text(result, colors))
    console.print()
    for each in result.results:
        table, all_of_them = _make_table(each, colors)
        if table.row_count:
            console.print(table)
        if table.row_count < all_of_them:
            console.print(f"{all_of_them - table.row_count} more: see --output_file", style="dim")
    console.print(f"{'; '.join(list_remarks(result))}.", style="dim")


def _make_table(result: Extraction, colors: dict[str, str]) -> tuple[Table, int]:
    """Make the table of the events of a task, or of its facts where it has none, and count them."""
    if TASKS[result.task].has_events:
        more = [] if all(score is None for score in result.event_scores) else ["score"]
        table = Table("event", "trigger", "arguments", *more, box=None, header_style="bold dim")
        for event, score in zip(result.events[:_MAX_ROWS], result.event_scores, strict=False):
            arguments = Text("\n").join(
                Text.assemble(_label(fact.role, colors), " ", _cell(fact.argument)) for fact in event.arguments
            )
            cells = [_label(event.event_type, colors), _cell(event.trigger), arguments]
            table.add_row(*cells, *(format_score(score) for _ in more))
        return table, len(result.events)
    columns = result.facts[0].columns if result.facts else ()
    more = [] if all(score is None for score in result.scores) else ["score"]
    table = Table(*(head for head, _ in columns), *more, box=None, header_style="bold dim")
    for fact, score in zip(result.facts[:_MAX_ROWS], result.scores, strict=False):
        values = [getattr(fact, field) for _, field in columns]
        cells = [_cell(each) if isinstance(each, Mention) else _label(each, colors) for each in values]
        table.add_row(*cells, *(format_score(score) for _ in more))
    return table, len(result.facts)


def mark_text(result: Result, colors: dict[str, str]) -> Text:
    """Colour the mentions in the text, each followed by its labels."""
    whole = result.results[0].text.rstrip()  # a file ends in a newline, which would be an empty line here
    text = Text()
    place = 0
    inside = [mark for mark in find_marks(result) if mark.end <= _MAX_CHARACTERS]
    moved = {0: 0}  # offsets in the text to offsets in what is shown
    for mark in sorted(inside, key=lambda mark: (mark.end, -mark.start)):
        text.append(_plain(whole[place : mark.end]))
        moved.update(
            (start, len(text) - mark.end + start) for start in range(place, mark.end + 1) if start not in moved
        )
        place = mark.end
        text.append(f" {_plain(', '.join(mark.labels))} ", style=f"italic {colors[mark.labels[0]]}")
    end = min(len(whole), _MAX_CHARACTERS)
    text.append(_plain(whole[place:end]))
    moved.update((start, len(text) - end + start) for start in range(place, end + 1) if start not in moved)
    for mark in inside:
        text.stylize(f"bold {colors[mark.labels[0]]}", moved[mark.start], moved[mark.end])
    if len(whole) > _MAX_CHARACTERS:
        more = pluralize(len(whole) - _MAX_CHARACTERS, "more character")
        text.append(f" ... {more}: see --output_file", style="dim")
    return text


def label_styles(labels: list[str], color_system: str | None) -> dict[str, str]:
    """Give each label a background; a terminal of 8 or 16 colours has six that differ, which are used in turn."""
    if color_system in ("standard", "windows"):
        return {name: f"black on {_ANSI[number % len(_ANSI)]}" for number, name in enumerate(labels)}
    styles = {}
    for name in labels:
        red, green, blue = hls_to_rgb(hue(name, labels) / 360, 0.82, 0.7)
        styles[name] = f"black on #{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"
    return styles


def _plain(text: str) -> str:
    """Replace what would control the terminal."""
    return text.translate(_CONTROL)


def _label(name: str, colors: dict[str, str]) -> Text:
    return Text(_plain(name), style=colors.get(name, ""))


def _cell(string: str) -> Text:
    """Show a mention with its span."""
    mention = as_mention(string)
    if not mention:
        return Text("")
    return Text.assemble(_plain(mention), (f" {_plain(mention.describe())}", "dim" if mention.grounded else "red"))
