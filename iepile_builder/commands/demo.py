"""
Try extraction in the browser: a text and a schema in; marked text, graph, tables and JSON out.

    iepile demo --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --adapter_name_or_path outputs/adapter
    iepile demo --base_url http://127.0.0.1:8000/v1

The page is at http://127.0.0.1:7860, for this machine alone unless `--server_name 0.0.0.0` is given. What is typed
into it is neither stored nor logged. In a Space, or in any other program:

    from iepile_builder import Extractor
    from iepile_builder.commands.demo import build_demo, look

    build_demo(Extractor.from_pretrained("path/or/hub-id")).launch(**look())
"""

from __future__ import annotations

import base64
import html
import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from iepile_builder.engines import EngineOptions, load_engine
from iepile_builder.engines.loading import find_calibration
from iepile_builder.errors import InputError
from iepile_builder.extraction.clock import start_clock
from iepile_builder.extraction.extractor import Extractor
from iepile_builder.extraction.page import render_fragment, render_page
from iepile_builder.extraction.result import Extraction
from iepile_builder.html import render
from iepile_builder.tasks import TASKS, find_task


if TYPE_CHECKING:
    import gradio as gr

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

MAX_FACTS = 10_000  # that are drawn
PRESETS = {
    "News: people, places, companies": (
        "NER",
        "person\ncompany\ncity\ncountry\nproduct\ndate",
        "Ingrid Halvorsen, who runs the shipyard Nordlys Marine in Bergen, showed its first electric ferry, the "
        "Havsule, on 3 May. It will sail between Norway and Denmark.",
    ),
    "Lives: founder, spouse, birthplace": (
        "RE",
        "founder\nspouse\nplace of birth\nlives in\nemployee of",
        "Thomas Edison, born in Milan, Ohio, founded General Electric. He and his wife Mina Miller lived in West "
        "Orange.",
    ),
    "Companies: hire, resign, acquire": (
        "EE",
        "hire: employer, employee, position, time\nresign: employee, employer, position, time\n"
        "acquire: buyer, target, price, time",
        "Clara Osei resigned as finance director of Tallis Foods on Monday. The company, which bought the bakery "
        "Crumb for 40 million euros last year, hired Jonas Weber to replace her.",
    ),
    "Cities and people: attributes": (
        "KG",
        "person: birthplace, occupation, spouse\ncity: located in, population, mayor",
        "Luang Prabang, a city in Laos with some 55,000 inhabitants, was the home of the weaver Keo Sirisombath, who "
        "was born in Vientiane.",
    ),
    "新闻：人物、机构、地点": (
        "NER",
        "人物\n公司\n城市\n日期",
        "5月3日，林晓彤在杭州宣布，她创办的清溪科技将在成都开设新的研究中心。",
    ),
    "公司事件：任命、辞职、收购": (
        "EE",
        "任命：公司，人物，职位，时间\n辞职：人物，公司，职位，时间\n收购：收购方，被收购方，价格，时间",
        "周一，青禾食品宣布以三亿元收购面包品牌麦香。财务总监赵明宇同日辞职，由陈思远接任。",
    ),
}
STYLE = f"""<style>
.ie {{ --ink: var(--body-text-color); --soft: color-mix(in srgb, var(--body-text-color) 65%, transparent);
  --line: var(--border-color-primary); --page: var(--background-fill-primary);
  --card: var(--background-fill-secondary); font-size: 15px; }}
{render("extraction.css")}
.ie h3 {{ font-size: 1rem; font-weight: 600; margin: 1.2rem 0 .4rem; }} .ie a {{ color: var(--link-text-color); }}
.ie p {{ margin: .3rem 0 .8rem; }}
</style>"""
EMPTY = '<div class="ie"><p class="note">What is found in the text comes here.</p></div>'


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
    """

    max_characters: int = 20_000
    max_seconds: float = 120
    server_name: str = "127.0.0.1"
    server_port: int | None = None


OPTIONS = (EngineOptions, DemoOptions)


def parse_schema(typed: str, task: str) -> Any:
    """Parse a typed schema: JSON, or one label a line, with a description or roles after a colon; never a path."""
    typed = typed.strip()
    if typed.startswith(("[", "{")):
        try:
            return json.loads(typed)
        except ValueError as error:
            raise InputError(f"the schema is not JSON: {error}") from None
    labels: list[tuple[str, str]] = []
    for line in typed.replace("：", ":").splitlines():
        label, _, rest = line.partition(":")
        if line.strip():
            labels.append((label.strip(), rest.strip()))
    if find_task(task).roles_name:
        return [TASKS[task].item(label, _split_names(rest), ()) for label, rest in labels]
    if any(rest for _, rest in labels) and len(dict(labels)) == len(labels):
        return dict(labels)
    return [label for label, _ in labels]


def _split_names(typed: str) -> list[str]:
    """Split at commas, Western and Chinese."""
    return [name.strip() for name in typed.replace("，", ",").replace("、", ",").split(",") if name.strip()]


def _parse_triggers(typed: str) -> dict[str, list[str]]:
    """Parse typed triggers: one event type a line, its triggers after a colon."""
    lines = [line.partition(":") for line in typed.replace("：", ":").splitlines() if line.strip()]
    return {label.strip(): _split_names(rest) for label, _, rest in lines}


def _embed(*parts: str) -> str:
    """Escape what `gr.HTML` would take for a template."""
    escaped = "".join(parts).replace("{", "&#123;").replace("$", "&#36;").replace("`", "&#96;")
    return f'<div class="ie">{escaped}</div>'


def _download_links(result: Extraction) -> str:
    """Make links that hold what they download, so that the server stores no file."""
    links = []
    for name, kind, content in (
        ("extraction.json", "application/json", result.to_json()),
        ("extraction.html", "text/html", render_page(result)),
    ):
        data = base64.b64encode(content.encode("utf-8", "xmlcharrefreplace")).decode()
        links.append(f'<a download="{name}" href="data:{kind};base64,{data}">{name}</a>')
    return f'<p class="note">Download: {" · ".join(links)}</p>'


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

    def extract(
        text: str | None,
        task: str,
        schema: str | None,
        triggers: str | None,
        language: str | None,
        drop: bool,
        min_score: float | None = None,
    ) -> tuple[str, str]:
        text, schema, triggers = text or "", schema or "", triggers or ""  # a program may leave them out
        check_time = start_clock(max_seconds)
        try:
            if len(text) > max_characters:
                raise InputError(f"the text has {len(text):,} characters: give at most {max_characters:,}")
            if len(schema) + len(triggers) > max_characters:
                raise InputError(f"the schema is too long: give at most {max_characters:,} characters")
            asked = replace(extractor, max_seconds=max_seconds, drop_ungrounded=drop, min_score=min_score or 0.0)
            result = asked(
                text,
                task,
                parse_schema(schema, task),
                language=language or None,
                triggers=_parse_triggers(triggers) if find_task(task).triggers_given else None,
            )
            if len(result.facts) > MAX_FACTS:
                raise InputError(f"the answers hold {len(result.facts):,} facts, too many to show: give fewer labels")
            found = render_fragment(result)
            check_time()
            links = _download_links(result)
            check_time()
        except RecursionError:
            raise _message("the schema is nested too deeply") from None
        except InputError as error:
            raise _message(str(error)) from None
        return _embed(found, links), result.to_json()

    def shown_for(task: str) -> tuple[Any, Any]:
        return gr.update(info=TASKS[task].hint), gr.update(visible=TASKS[task].triggers_given)

    def preset_chosen(name: str) -> tuple[str, str, str]:
        return PRESETS[name]

    first = next(iter(PRESETS))
    with gr.Blocks(title="Information extraction", analytics_enabled=False) as demo:
        gr.HTML(STYLE, js_on_load=None)
        gr.Markdown(
            "# Information extraction\nA language model looks for what your schema asks for; each string of its "
            "answer is located in the text."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                preset = gr.Dropdown(list(PRESETS), value=first, label="Preset")
                text = gr.Textbox(
                    PRESETS[first][2], label="Text", lines=6, max_lines=16, max_length=max_characters, elem_id="text"
                )
                task = gr.Dropdown(
                    [(f"{each.title} ({name})", name) for name, each in TASKS.items()],
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
                    info="One event type a line, with its triggers: `resign: quit, left`",
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
        preset.input(preset_chosen, preset, [task, schema, text], api_visibility="private")
        task.change(shown_for, task, [schema, triggers], api_visibility="private")
        button.click(
            extract,
            [text, task, schema, triggers, language, drop, min_score],
            [found, data],
            concurrency_limit=1,
            show_progress_on=found,
            api_name="extract",
        )
    demo.queue(max_size=20)
    return demo


def main(options: EngineOptions, page_options: DemoOptions) -> None:
    extractor = Extractor(
        load_engine(options),
        max_new_tokens=options.max_new_tokens,
        constrained=options.constrain != "off",
        copied=options.copied,
        calibration=None
        if options.base_url
        else find_calibration(options.model_name_or_path, options.adapter_name_or_path),
    )
    demo = build_demo(extractor, page_options.max_characters, page_options.max_seconds)
    demo.launch(server_name=page_options.server_name, server_port=page_options.server_port, share=False, **look())
