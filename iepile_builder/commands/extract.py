"""
Extracts from a text what a schema asks for, and shows it in the terminal, as a page, or as JSON.

```bash
python scripts/extract.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
    --adapter_name_or_path outputs/adapter \
    --text "Thomas Edison's laboratory is in West Orange." \
    --task RE --schema '["place of birth", "founder", "located in"]' --html outputs/edison.html
```

The text comes from `--text`, from a `--file`, or from the standard input; it may be of any length. The schema is JSON,
or a file of it, or a corpus's `schema.json`: a list of labels, a dictionary from label to description, or for EE, EEA
and KG one from type to roles. With `--base_url` the model behind an OpenAI-compatible server is asked. Arguments can
also stand in a YAML file, given with `--config`.
"""

import json
import sys
from colorsys import hls_to_rgb
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iepile_builder import Extraction, Extractor, InputError
from iepile_builder.answers.grounding import Mention, as_mention
from iepile_builder.extraction.graph import hue
from iepile_builder.extraction.page import colored, counted, marks, remarks
from iepile_builder.extraction.user_schema import read_schema
from iepile_builder.io import read_json, read_lines, write_whole
from iepile_builder.tasks import TASKS


SHOWN = 6_000  # characters of a text that the terminal shows
ROWS = 200  # of a table
# what would move the cursor or colour the terminal, if a text had it
CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")


def read_text(args: Namespace) -> str:
    """The text to read."""
    if args.text is not None and args.file is not None:
        raise InputError("give --text or --file, not both")
    if args.text is not None:
        return args.text
    if args.file is None and sys.stdin.isatty():
        raise InputError("no text: give --text or --file, or pipe a text in")
    try:
        return sys.stdin.buffer.read().decode() if args.file is None else args.file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{args.file}: {error.strerror}; give a text file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{args.file or 'the standard input'}: not UTF-8 ({error.reason})") from None


def load(args: Namespace) -> Extractor:
    """The extractor with its engine."""
    options = {
        "max_new_tokens": args.max_new_tokens,
        "passage_tokens": args.passage_tokens,
        "copied": args.copied,
        "drop_ungrounded": args.drop_ungrounded,
    }
    if args.base_url is not None:
        return Extractor.from_endpoint(args.base_url, model=args.model_name_or_path, **options)
    if args.model_name_or_path is None:
        raise InputError("no model: give --model_name_or_path, or --base_url of a server")
    return Extractor.from_pretrained(
        args.model_name_or_path,
        args.adapter_name_or_path,
        chat_template_path=args.chat_template_path,
        dtype=args.dtype,
        load_in_4bit=args.load_in_4bit,
        load_in_8bit=args.load_in_8bit,
        attn_implementation=args.attn_implementation,
        **options,
    )


def show(result: Extraction, console: Console) -> None:
    """Print the text with its mentions in colour, and the facts as tables."""
    colors = colored(result)
    console.print(marked(result, colors))
    console.print()
    if TASKS[result.task].has_events:
        table = Table("event", "trigger", "arguments", box=None, header_style="bold dim")
        for event in result.events[:ROWS]:
            arguments = Text("\n").join(
                Text.assemble(label(fact.role, colors), " ", cell(fact.argument)) for fact in event.arguments
            )
            table.add_row(label(event.event_type, colors), cell(event.trigger), arguments)
        shown, all_of_them = len(result.events[:ROWS]), len(result.events)
    else:
        columns = result.facts[0].columns if result.facts else ()
        table = Table(*(head for head, _ in columns), box=None, header_style="bold dim")
        for fact in result.facts[:ROWS]:
            values = [getattr(fact, field) for _, field in columns]
            table.add_row(*(cell(each) if isinstance(each, Mention) else label(each, colors) for each in values))
        shown, all_of_them = len(result.facts[:ROWS]), len(result.facts)
    if shown:
        console.print(table)
    if shown < all_of_them:
        console.print(f"{all_of_them - shown} more: see --html or --json", style="dim")
    console.print(f"{'; '.join(remarks(result))}.", style="dim")


def marked(result: Extraction, colors: list[str]) -> Text:
    """The text with its mentions in colour, each with what it is."""
    text = Text()
    place = 0
    inside = [mark for mark in marks(result) if mark.end <= SHOWN]
    moved = {0: 0}  # places of the text to places of what is shown
    for mark in sorted(inside, key=lambda mark: (mark.end, -mark.start)):
        text.append(plain(result.text[place : mark.end]))
        moved.update(
            (start, len(text) - mark.end + start) for start in range(place, mark.end + 1) if start not in moved
        )
        place = mark.end
        text.append(f" {plain(', '.join(mark.labels))} ", style=f"italic {background(mark.labels[0], colors)}")
    end = min(len(result.text), SHOWN)
    text.append(plain(result.text[place:end]))
    moved.update((start, len(text) - end + start) for start in range(place, end + 1) if start not in moved)
    for mark in inside:
        text.stylize(f"bold {background(mark.labels[0], colors)}", moved[mark.start], moved[mark.end])
    if len(result.text) > SHOWN:
        text.append(f" ... {counted(len(result.text) - SHOWN, 'more character')}: see --html", style="dim")
    return text


def plain(text: str) -> str:
    """A text that does nothing to the terminal."""
    return text.translate(CONTROL)


def background(name: str, colors: list[str]) -> str:
    """A label's colour, behind black."""
    red, green, blue = hls_to_rgb(hue(name, colors) / 360, 0.82, 0.7)
    return f"black on #{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def label(name: str, colors: list[str]) -> Text:
    """A label in its colour."""
    return Text(plain(name), style=background(name, colors) if name in colors else "")


def cell(string: str) -> Text:
    """A mention and where it stands."""
    mention = as_mention(string)
    if not mention:
        return Text("")
    if mention.start is None:
        return Text.assemble(plain(mention), (" not in the text", "red"))
    how = {"exact": "", "normalized": ", other spelling", "fuzzy": f", similarity {mention.score:.2f}"}
    return Text.assemble(plain(mention), (f" {mention.start}:{mention.end}{how[mention.match or 'exact']}", "dim"))


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--text", type=str, help="the text; default: the standard input")
    parser.add_argument("--file", type=Path, help="a file with the text")
    parser.add_argument("--task", type=str, default="NER", help="NER, RE, SPO, EE, EET, EEA or KG")
    parser.add_argument(
        "--schema", type=list | dict | str, required=True, help="what to ask for: JSON, or a file of it"
    )
    parser.add_argument("--triggers", type=dict[str, list[str]], help="for EEA, JSON: event type to triggers")
    parser.add_argument("--examples", type=Path, help="JSON lines with annotated records to show the model")
    parser.add_argument("--language", type=str, help="of the instructions, en or zh; default: that of the text")
    parser.add_argument("--split_num", type=int, help="labels in one instruction, -1 for all; default: the task's")
    parser.add_argument(
        "--model_name_or_path", type=str, help="folder or Hub id of the model, or its name on a server"
    )
    parser.add_argument("--adapter_name_or_path", type=str, help="folder or Hub id of a LoRA adapter")
    parser.add_argument(
        "--base_url", type=str, help="of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1"
    )
    parser.add_argument("--chat_template_path", type=str, help="a Jinja file in place of the tokenizer's template")
    parser.add_argument("--dtype", type=str, default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--load_in_4bit", type=bool, default=False, help="quantize the model to 4 bits")
    parser.add_argument("--load_in_8bit", type=bool, default=False, help="quantize the model to 8 bits")
    parser.add_argument("--attn_implementation", type=str, help="the model's attention, such as sdpa")
    parser.add_argument("--max_new_tokens", type=int, default=512, help="longest answer, in tokens")
    parser.add_argument("--passage_tokens", type=int, default=384, help="most tokens of text asked about at once")
    parser.add_argument("--copied", type=bool, default=False, help="let the model write parts of the text alone")
    parser.add_argument("--drop_ungrounded", type=bool, default=False, help="leave out what is not in the text")
    parser.add_argument("--html", type=Path, help="a page to write")
    parser.add_argument("--json", type=Path, help="a JSON file to write; - for the standard output, and nothing else")
    args = parser.parse_args()

    text = read_text(args)
    read_schema(args.schema, args.task)  # what is wrong with it is said before a model is loaded
    examples = [] if args.examples is None else [read_json(line) for _, _, line in read_lines(args.examples)]
    asked = {"examples": examples, "language": args.language, "triggers": args.triggers, "split_num": args.split_num}
    extractor = load(args)
    result = extractor(text, args.task, args.schema, **asked)

    if args.html is not None:
        result.save_html(args.html)
    if str(args.json) == "-":
        print(json.dumps(result.to_dict(), ensure_ascii=False, indent=2))
        return
    if args.json is not None:
        write_whole(args.json, result.to_json() + "\n")
    show(result, Console())


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
