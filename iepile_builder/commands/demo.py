"""
Serve a web page that extracts from a text by a schema: marked text, graph, tables, JSON.

    iepile demo
    iepile demo --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --adapter_name_or_path outputs/adapter
    iepile demo --base_url http://127.0.0.1:8000/v1

The page is at http://127.0.0.1:7860, for this machine alone unless `--server_name 0.0.0.0` is given. What is typed
into it is neither stored nor logged. Facts can be corrected, and downloaded as a tree of corpora for `iepile build`.
`--mcp_server` offers the tool `extract_facts` to assistants, at http://127.0.0.1:7860/gradio_api/mcp/. In a Space, or
in any other program:

    from iepile_builder import Extractor
    from iepile_builder.commands.demo import build_demo, look

    build_demo(Extractor.from_pretrained("path/or/hub-id")).launch(**look())
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from iepile_builder.commands.extract import make_extractor
from iepile_builder.engines import EngineOptions, load_engine
from iepile_builder.errors import InputError
from iepile_builder.extraction.corrections import collect, dump, pack, row_columns, to_correct
from iepile_builder.extraction.extractor import Extractor
from iepile_builder.extraction.page import render_fragment, render_page
from iepile_builder.extraction.result import Result
from iepile_builder.extraction.typed_schema import parse_schema, parse_schemas, parse_triggers
from iepile_builder.extraction.user_schema import show
from iepile_builder.extraction.work import start_clock
from iepile_builder.html import render
from iepile_builder.io import RESOURCES, pluralize
from iepile_builder.tasks import TASKS, find_task


if TYPE_CHECKING:
    import gradio as gr

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

MAX_FACTS = 10_000  # that are drawn
ROWS_TO_FILL = 3  # in each table of facts to correct
SEVERAL = "several"  # tasks at once
SEVERAL_HINT = "A heading for each task, then its labels: `# entities`, `# relations`, `# events`, `# attributes`, ..."
# Name to task, schema as it is typed, and text
PRESETS: dict[str, list[str]] = json.loads((RESOURCES / "demo_presets.json").read_bytes())
STYLE = f"""<style>
.ie {{ --ink: var(--body-text-color); --soft: color-mix(in srgb, var(--body-text-color) 65%, transparent);
  --line: var(--border-color-primary); --page: var(--background-fill-primary);
  --card: var(--background-fill-secondary); font-size: 15px; }}
{render("extraction.css")}
.ie h3 {{ font-size: 1rem; font-weight: 600; margin: 1.2rem 0 .4rem; }} .ie a {{ color: var(--link-text-color); }}
.ie p {{ margin: .3rem 0 .8rem; }}
</style>"""
EMPTY = '<div class="ie"><p class="note">Results appear here.</p></div>'


@dataclass
class DemoOptions:
    """
    Page.

    Args:
        max_characters (`int`, *optional*, defaults to 20000):
            Longest text.
        max_seconds (`float`, *optional*, defaults to 120):
            Longest time that one extraction may take.
        server_name (`str`, *optional*, defaults to `"127.0.0.1"`):
            Address to listen at.
        server_port (`int`, *optional*):
            Port to listen at; by default the first free one from 7860 on.
        mcp_server (`bool`, *optional*, defaults to `False`):
            Serve the tool `extract_facts` to assistants by MCP, too.
    """

    max_characters: int = 20_000
    max_seconds: float = 120
    server_name: str = "127.0.0.1"
    server_port: int | None = None
    mcp_server: bool = False


OPTIONS = (EngineOptions, DemoOptions)


def _embed(*parts: str) -> str:
    """Escape what `gr.HTML` would take for a template."""
    escaped = "".join(parts).replace("{", "&#123;").replace("$", "&#36;").replace("`", "&#96;")
    return f'<div class="ie">{escaped}</div>'


def _link(name: str, kind: str, content: bytes) -> str:
    """Make a link that holds what it downloads, so that the server stores no file."""
    return f'<a download="{name}" href="data:{kind};base64,{base64.b64encode(content).decode()}">{name}</a>'


def _download_links(result: Result) -> str:
    page = render_page(result).encode("utf-8", "xmlcharrefreplace")
    links = _link("extraction.json", "application/json", result.to_json().encode("utf-8", "xmlcharrefreplace"))
    return f'<p class="note">Download: {links} · {_link("extraction.html", "text/html", page)}</p>'


def _message(text: str) -> gr.Error:
    """Make the message that the page shows; it would take a label's `<img ...>` for HTML."""
    import gradio as gr

    return gr.Error(html.escape(text, quote=False), print_exception=False)


class _NoUploads:
    """Refuse files, which gradio would store for anybody, on a page that has nothing to upload."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        kinds = [value for name, value in scope.get("headers", ()) if name.lower() == b"content-type"]
        if any(b"multipart" in kind.lower() for kind in kinds):
            await PlainTextResponse("uploads are off", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def look() -> dict[str, Any]:
    """Give the arguments of `launch`: no fonts from elsewhere, no history of the requests, no uploads."""
    import gradio as gr
    from starlette.middleware import Middleware

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {
        "theme": theme.set(block_info_text_color="*neutral_500"),
        "footer_links": [],
        "run_history": False,
        "app_kwargs": {"middleware": [Middleware(_NoUploads)]},
    }


def build_demo(extractor: Extractor, max_characters: int = 20_000, max_seconds: float = 120) -> gr.Blocks:
    """
    Build the page that shows an extractor's answers; `launch` it with [`look`].

    A request has at most `max_characters` of text, and may take `max_seconds`.
    """
    import gradio as gr
    from gradio.events import api

    def ask(
        text: str,
        task: str,
        schema: Any,
        drop: bool = False,
        min_score: float | None = None,
        progress: bool | Callable[[int, int], None] = extractor.progress,
        **options: Any,
    ) -> Any:
        """Ask for the schema of a task, or of several, none of which may be the path of a file here."""
        for key, each in schema.items() if task == SEVERAL and isinstance(schema, dict) else ():
            if isinstance(each, str):
                raise InputError(f"the schema of {key} is {each[:80]!r}; give a list or a dictionary of labels")
        score = min_score or 0.0
        asked = replace(extractor, max_seconds=max_seconds, drop_ungrounded=drop, min_score=score, progress=progress)
        result = asked(text, schema, **options) if task == SEVERAL else asked(text, task, schema, **options)
        if len(result.facts) > MAX_FACTS:
            raise InputError(f"the answers hold {len(result.facts):,} facts, too many to show: give fewer labels")
        return result

    @contextmanager
    def limits(text: str = "", *schema: str) -> Iterator[None]:
        """Hold the limits on what is typed; say in one line what is wrong."""
        try:
            if len(text) > max_characters:
                raise InputError(f"the text has {len(text):,} characters: give at most {max_characters:,}")
            if sum(map(len, schema)) > max_characters:
                raise InputError(f"the schema is too long: give at most {max_characters:,} characters")
            yield
        except RecursionError:
            raise _message("the schema is nested too deeply") from None
        except InputError as error:
            raise _message(str(error)) from None

    def extract(
        text: str | None,
        task: str,
        schema: str | None,
        triggers: str | None,
        language: str | None,
        drop: bool,
        min_score: float | None = None,
        progress: Any = gr.Progress(),  # noqa: B008  # as gradio wants it
    ) -> tuple[str, str, str]:
        text, schema, triggers = text or "", schema or "", triggers or ""  # a program may leave them out
        check_time = start_clock(max_seconds)
        with limits(text, schema, triggers):
            several = task == SEVERAL
            result = ask(
                text,
                task,
                parse_schemas(schema) if several else parse_schema(schema, task),
                drop,
                min_score,
                progress=lambda done, of: progress((done, of), unit="answers"),
                language=language or None,
                triggers=parse_triggers(triggers) if not several and find_task(task).triggers_given else None,
            )
            found = render_fragment(result)
            check_time()
            links = _download_links(result)
            check_time()
            return _embed(found, links), result.to_json(), to_correct(result)

    def extract_facts(text: str, schema: dict[str, Any], min_score: float = 0.0) -> dict[str, Any]:
        """
        Extract entities, relations, events and attributes from a text, each with its place in the text.

        The schema has one or more of these keys: "entities", a list of types; "relations", a list of relations;
        "events", an object from event type to a list of roles; "attributes", an object from entity type to a list of
        attributes. Entity types and relations may also be an object from name to description. For example:
        {"entities": ["person"], "relations": {"founder": "who founded it"}, "events": {"resign": ["employee"]}}

        Args:
            text: The text, in any language.
            schema: What to extract: the key of each task and its labels, as described above.
            min_score: Leave out facts that score less, from 0 to 1; for models that were loaded with scores.

        Returns:
            An object with the facts of each task: "text" and its "start" and "end" in characters
            and "match", which is null for a string that is not in the text.
        """
        text = text or ""
        with limits(text, schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)):
            asked = parse_schemas(schema) if isinstance(schema, str) else schema  # programs may send JSON as a string
            if not isinstance(asked, dict):
                raise InputError(f'the schema is {show(asked)}; give an object, such as {{"entities": ["person"]}}')
            return ask(text, SEVERAL, asked, min_score=min_score).to_dict()

    def fill_tables(found: str) -> list[Any]:
        rows = json.loads(found)["rows"]
        empty = {name: [""] * len(row_columns(task)) for name, task in TASKS.items()}
        return [
            gr.update(value=[*rows.get(name, []), *(of_task for _ in range(ROWS_TO_FILL))], visible=name in rows)
            for name, of_task in empty.items()
        ]

    def add_records(found: str, collected: str, *rows: Sequence[Sequence[Any]]) -> tuple[str, str]:
        if not found:
            raise _message("extract from a text first")
        with limits():
            records = collect(found, collected, dict(zip(TASKS, rows, strict=True)))
        link = _link("corpora.zip", "application/zip", pack(records))
        return dump(records), _embed(f'<p class="note">{pluralize(len(records), "record")}: {link}</p>')

    def shown_for(task: str) -> tuple[Any, Any]:
        hint, given = (SEVERAL_HINT, False) if task == SEVERAL else (TASKS[task].hint, TASKS[task].triggers_given)
        return gr.update(info=hint), gr.update(visible=given)

    first = next(iter(PRESETS))
    with gr.Blocks(title="Information extraction", analytics_enabled=False) as demo:
        gr.HTML(STYLE, js_on_load=None)
        gr.Markdown(
            "# Information extraction\nA language model extracts what your schema asks for; each string is located in "
            "the text."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                preset = gr.Dropdown(list(PRESETS), value=first, label="Preset")
                text = gr.Textbox(
                    PRESETS[first][2], label="Text", lines=6, max_lines=16, max_length=max_characters, elem_id="text"
                )
                task = gr.Dropdown(
                    [
                        *((f"{each.title} ({name})", name) for name, each in TASKS.items()),
                        ("several at once", SEVERAL),
                    ],
                    value=PRESETS[first][0],
                    label="Task",
                )
                schema = gr.Textbox(
                    PRESETS[first][1],
                    label="Schema",
                    info=TASKS[PRESETS[first][0]].hint,
                    lines=5,
                    max_lines=14,
                    elem_id="schema",
                )
                triggers = gr.Textbox(
                    "",
                    label="Triggers",
                    info="One event type per line, with its triggers: `resign: quit, left`",
                    lines=2,
                    visible=False,
                    elem_id="triggers",
                )
                with gr.Accordion("Options", open=False):
                    language = gr.Radio(
                        [("as the text", ""), ("English", "en"), ("Chinese", "zh")],
                        value="",
                        label="Language of the instructions",
                    )
                    drop = gr.Checkbox(label="Leave out what is not in the text")
                    min_score = gr.Slider(
                        0,
                        1,
                        value=0,
                        step=0.01,
                        label="Leave out facts that score less",
                        visible=getattr(extractor.engine, "scores", False),
                    )
                button = gr.Button("Extract", variant="primary", elem_id="extract")
            with gr.Column(scale=3, min_width=320):
                found = gr.HTML(EMPTY, js_on_load=None, apply_default_css=False, elem_id="found")
                with gr.Accordion("JSON", open=False):
                    data = gr.Code(language="json", show_label=False, elem_id="json", max_lines=30)
                with gr.Accordion("Correct, and collect training records", open=False):
                    gr.Markdown(
                        "Edit cells, delete rows by their menu or empty them, and add what was missed. `corpora.zip` "
                        "has the records of all texts that you added: unpack it, and `iepile build --corpus_dir "
                        "corpora --output_dir data` makes training data of it."
                    )
                    tables = [
                        gr.Dataframe(
                            headers=[column.replace("_", " ") for column in row_columns(task)],
                            column_count=len(row_columns(task)),
                            type="array",
                            label=f"{task.title} ({name})",
                            show_label=True,
                            interactive=True,
                            wrap=True,
                            visible=False,
                            elem_id=f"rows_{name}",
                        )
                        for name, task in TASKS.items()
                    ]
                    add = gr.Button("Add to the records", elem_id="add")
                    download = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="records")
                    kept = gr.Textbox("", visible=False)
                    collected = gr.Textbox("", visible=False)
        preset.input(lambda name: PRESETS[name], preset, [task, schema, text], api_visibility="private")
        task.change(shown_for, task, [schema, triggers], api_visibility="private")
        button.click(
            extract,
            [text, task, schema, triggers, language, drop, min_score],
            [found, data, kept],
            concurrency_limit=1,
            concurrency_id="model",
            show_progress_on=found,
            api_name="extract",
            api_visibility="undocumented",  # programs have `extract_facts`
        )
        kept.change(fill_tables, kept, tables, api_visibility="private", show_progress="hidden")
        add.click(
            add_records, [kept, collected, *tables], [collected, download], api_visibility="private",
            show_progress_on=download,
        )  # fmt: skip
        api(extract_facts, api_name="extract_facts", concurrency_limit=1, concurrency_id="model")
    demo.queue(max_size=20)
    return demo


def main(options: EngineOptions, page_options: DemoOptions) -> None:
    if page_options.mcp_server and find_spec("mcp") is None:
        raise InputError("mcp is not installed: pip install 'iepile-builder[mcp]'")
    extractor = make_extractor(load_engine(options, keep_prefixes=True), options)
    demo = build_demo(extractor, page_options.max_characters, page_options.max_seconds)
    demo.launch(
        server_name=page_options.server_name,
        server_port=page_options.server_port,
        share=False,
        mcp_server=page_options.mcp_server,
        **look(),
    )
