"""`iepile demo` in a browser: what it shows, that typed text is never run, logged or stored, and its limits."""

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest
from helpers.rules import AnswerEngine, RuleEngine

from iepile_builder import Extractor, InputError
from iepile_builder.answers.grounding import Locator
from iepile_builder.commands import demo
from iepile_builder.engines import EngineOptions
from iepile_builder.extraction.user_schema import read_schema
from iepile_builder.tasks import TASKS


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium, for the demo's tests in a browser"
)
ANSWER: dict[str, Any] = {
    "person": ["Ingrid Halvorsen", "Kari Nobody"],
    "company": ["Nordlys Marine"],
    "city": ["Bergen"],
    "resign": [{"trigger": "resigned", "arguments": {"employee": "Clara Osei", "employer": "Tallis Foods"}}],
    "acquire": [{"trigger": "bought", "arguments": {"target": "Crumb", "price": "40 million euros"}}],
    "<img src=x onerror=hacked()>": ["${hacked()}", "{{hacked}}", "<b>bold</b>", "`${hacked()}`"],
    "secret": ["MARKER-7351"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page; its engine answers from rules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        app = demo.build_demo(Extractor(AnswerEngine(ANSWER)), max_characters=2000)
        _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **demo.look())
        yield address
        app.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, server: str) -> Iterator[Callable[..., Any]]:
    """Open the page in a window; it asks no other server for anything and has no errors."""
    foreign: list[str] = []
    errors: list[str] = []
    pages = []

    def watch(request: Any) -> None:
        if not request.url.startswith((server, "data:")):
            foreign.append(request.url)

    def open_page(width: int = 1200, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", watch)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.add_init_script("window.hacked = () => { window.wasHacked = true }")
        page.goto(server)
        page.wait_for_selector("#extract")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not foreign
    assert not errors


def extract(page: Any, text: str | None = None, schema: str | None = None) -> None:
    for field, value in (("text", text), ("schema", schema)):
        if value is not None:
            page.fill(f"#{field} textarea", value)
    page.click("#extract")
    page.wait_for_selector("#found mark")


@needs_chromium
def test_entities_of_the_first_preset(open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = open_page()
    extract(page)
    marks = page.eval_on_selector_all("#found mark", "marks => marks.map(mark => mark.innerText)")
    assert marks == ["Ingrid Halvorsenperson", "Nordlys Marinecompany", "Bergencity"]
    assert "Kari Nobody not in the text" in page.inner_text("#found table")
    with page.expect_download() as download:
        page.click("text=extraction.json")
    result = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [fact["entity"]["text"] for fact in result["facts"]][:2] == ["Ingrid Halvorsen", "Nordlys Marine"]
    with page.expect_download() as download:
        page.click("text=extraction.html")
    assert download.value.suggested_filename == "extraction.html"
    assert Path(download.value.path()).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    page.click("text=JSON >> nth=-1")
    page.wait_for_selector("#json .cm-content")
    assert '"task": "NER"' in page.inner_text("#json .cm-content")
    page.click("text=Options")
    page.check("text=Leave out what is not in the text")
    extract(page)
    page.wait_for_selector("text=Kari Nobody", state="detached")


@needs_chromium
def test_events_in_a_narrow_dark_window(open_page: Callable[..., Any]) -> None:
    page = open_page(width=390, scheme="dark")
    page.get_by_label("Preset").click()
    page.get_by_role("option", name="Companies: hire, resign, acquire").click()
    page.wait_for_function("document.querySelector('#text textarea').value.startsWith('Clara Osei')")
    extract(page)
    texts = page.eval_on_selector_all("#found svg text", "texts => texts.map(text => text.textContent)")
    assert {"resign: resigned", "Clara Osei", "employee", "acquire: bought", "Crumb", "target"} <= set(texts)
    rows = page.eval_on_selector_all("#found tbody tr", "rows => rows.map(row => row.innerText)")
    assert len(rows) == 2 and "Tallis Foods" in rows[0]
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # what is wider scrolls by itself
    light, dark = (
        re.findall(r"\d+", page.eval_on_selector("#found mark", f"mark => getComputedStyle(mark).{name}"))[:3]
        for name in ("color", "backgroundColor")
    )
    assert sum(map(int, light)) - sum(map(int, dark)) > 250  # light writing on a dark mark


@needs_chromium
def test_nothing_that_is_typed_is_run(open_page: Callable[..., Any]) -> None:
    page = open_page()
    text = (
        "A <b>bold</b> ${hacked()} {{hacked}} `${hacked()}` <script>hacked()</script><img src=x onerror=hacked()> end"
    )
    extract(page, text, "<img src=x onerror=hacked()>")
    page.wait_for_timeout(300)
    assert page.evaluate("window.wasHacked === undefined")
    shown = page.eval_on_selector(
        "#found .text", "text => { text.querySelectorAll('small').forEach(e => e.remove()); return text.textContent }"
    )
    assert shown == text
    assert page.query_selector("#found :is(img, script, b)") is None


@needs_chromium
def test_errors_are_shown(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.fill("#schema textarea", "person\nperson")
    page.click("#extract")
    page.wait_for_selector("text=label 'person' occurs 2 times; give each once")
    page.fill("#text textarea", " ")
    page.fill("#schema textarea", "person")
    page.click("#extract")
    page.wait_for_selector("text=text 1 is empty; give some text")


@needs_chromium
def test_an_error_is_shown_as_text(open_page: Callable[..., Any]) -> None:
    page = open_page()
    label = '<img src="x"> <b>bold</b> & co'
    page.fill("#schema textarea", f"{label}\n{label}")
    page.click("#extract")
    page.wait_for_selector("text=occurs 2 times; give each once")
    assert f"label '{label}' occurs 2 times" in page.inner_text(".toast-body")
    assert page.query_selector(".toast-body :is(img, b)") is None


@needs_chromium
def test_several_tasks_are_corrected_and_downloaded_as_corpora(open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = open_page()
    page.get_by_label("Preset").click()
    page.get_by_role("option", name="Companies: several tasks at once").click()
    # The preset fills the text, then the task and with it the schema's hint: neither may overwrite what is typed
    page.wait_for_function("document.querySelector('#text textarea').value.startsWith('Priya Raman')")
    page.wait_for_selector("text=A heading for each task")
    extract(page, "Clara Osei resigned. Ingrid Halvorsen stays in Bergen.")
    page.click("text=Correct, and collect training records")
    cells = page.locator("#rows_NER [role=gridcell]")
    cells.first.wait_for()
    assert [cell for cell in cells.all_inner_texts() if cell.strip()] == [
        "person",
        "Ingrid Halvorsen",
        "city",
        "Bergen",
    ]
    cells.filter(has_text="Ingrid Halvorsen").dblclick()
    page.get_by_label("Edit cell").fill("Clara Osei")  # waits for the field
    page.keyboard.press("Enter")
    cells.filter(has_text="Clara Osei").wait_for()
    page.click("#add")
    page.wait_for_selector("#records a")
    with page.expect_download() as download:
        page.click("#records a")
    assert download.value.suggested_filename == "corpora.zip"
    with ZipFile(download.value.path()) as file:
        assert {Path(name).parts[2] for name in file.namelist()} == {"NER", "RE", "EE"}
        record = json.loads(file.read("corpora/IE-en/NER/corrected_1/train.json"))
    assert [entity["entity"] for entity in record["entity"]] == ["Clara Osei", "Bergen"]


def ask(server: str, text: str, schema: str = "secret", task: str = "NER") -> Any:
    """Call the page's program as another program can."""
    from gradio_client import Client

    client = Client(server, verbose=False)
    return client.predict(text, task, schema, "", "", False, 0, api_name="/extract")


def test_limits_hold_without_the_page(server: str) -> None:
    with pytest.raises(Exception, match="the text has 2,001 characters: give at most 2,000"):
        ask(server, "x" * 2001)
    with pytest.raises(Exception, match="the schema is too long: give at most 2,000 characters"):
        ask(server, "x", "y" * 2001)


def test_a_program_gets_the_facts_of_several_tasks(server: str) -> None:
    from gradio_client import Client

    client = Client(server, verbose=False)
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/extract_facts"]
    text, schema = "Clara Osei resigned in Bergen.", {"entities": ["city"], "events": {"resign": ["employee"]}}
    found = client.predict(text, schema, api_name="/extract_facts")
    assert found["text"] == text
    assert [fact["entity"] for fact in found["tasks"]["entities"]["facts"]][0]["start"] == text.index("Bergen")
    assert found["tasks"]["events"]["events"][0]["trigger"]["text"] == "resigned"
    assert client.predict(text, json.dumps(schema), api_name="/extract_facts") == found
    with pytest.raises(Exception, match="the schema is \\['city'\\] \\(list\\); give an object, such as"):
        client.predict(text, ["city"], api_name="/extract_facts")
    with pytest.raises(Exception, match="text 1 is empty"):
        client.predict(None, schema, api_name="/extract_facts")
    with pytest.raises(Exception, match="unknown task 'people'; known: entities"):
        client.predict(text, {"people": ["person"]}, api_name="/extract_facts")
    with pytest.raises(Exception, match="the schema of entities is '/etc/passwd'; give a list"):  # not read
        client.predict(text, {"entities": "/etc/passwd"}, api_name="/extract_facts")
    with pytest.raises(Exception, match="the text has 2,001 characters"):
        client.predict("x" * 2001, schema, api_name="/extract_facts")


def test_an_assistant_finds_and_calls_the_one_tool(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed: pip install 'mcp<2'")
    import asyncio

    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    app = demo.build_demo(Extractor(AnswerEngine(ANSWER)))
    launched = app.launch(prevent_thread_lock=True, quiet=True, mcp_server=True, **demo.look())

    async def call() -> tuple[Any, Any]:
        async with (
            streamablehttp_client(f"{launched[1]}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = await session.list_tools()
            asked = {"text": "Clara Osei left Bergen.", "schema": {"entities": ["person", "city"]}}
            return tools.tools, await session.call_tool("extract_facts", asked)

    try:
        with ThreadPoolExecutor(1) as other:  # playwright has a loop in this thread
            (tool,), called = other.submit(asyncio.run, call()).result()
    finally:
        app.close()
    assert tool.name == "extract_facts"
    assert tool.description.startswith("Extract entities, relations, events and attributes from a text")
    asked = tool.inputSchema["properties"]
    assert {name: each["type"] for name, each in asked.items()} == {
        "text": "string",
        "schema": "object",
        "min_score": "number",
    }
    assert all(each["description"] for each in asked.values())
    assert "'Bergen'" in called.content[0].text or '"Bergen"' in called.content[0].text


def test_nothing_can_be_uploaded(server: str) -> None:
    import os

    import httpx

    before = set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*"))
    for content in (b"", b"x", b"x" * 5_000_000):
        answer = httpx.post(f"{server}gradio_api/upload", files={"files": ("note.txt", content)})
        assert answer.status_code == 403
    assert not [path for path in set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*")) - before if path.is_file()]


@pytest.mark.parametrize("depth", [100, 330, 990])
def test_a_deep_schema_ends_in_one_line(server: str, depth: int, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(Exception, match=r"nested too deeply|is no label") as error:
        ask(server, "Ada met Charles.", "[" * depth + "]" * depth)
    assert "\n" not in str(error.value)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("text", "schema", "task", "message"),
    [
        (None, "person", "NER", "text 1 is empty"),
        ("Ada met Charles.", None, "NER", "the schema is empty"),
        ("Ada met Charles.", "person", None, "unknown task"),
        ("Ada met Charles.", '["\\ud800"]', "NER", r"'\\\\?ud800' is not valid Unicode"),
    ],
)
def test_a_program_that_leaves_something_out_gets_one_line(
    server: str, text: Any, schema: Any, task: Any, message: str, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(Exception, match=message):
        ask(server, text, schema, task)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_nothing_that_is_typed_is_logged_or_kept(server: str, capfd: pytest.CaptureFixture, caplog: Any) -> None:
    import os

    caplog.set_level("DEBUG")
    found, data, _ = ask(server, "This is MARKER-7351.")
    assert "MARKER-7351" in found and json.loads(data)["facts"]
    with pytest.raises(Exception, match="MARKER-7351"):
        ask(server, "This is MARKER-7351.", "MARKER-7351\nMARKER-7351")
    out, err = capfd.readouterr()
    ours = [record for record in caplog.records if not record.name.startswith(("httpcore", "httpx"))]  # the client's
    assert "MARKER-7351" not in out + err + " ".join(record.getMessage() for record in ours)
    kept = [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()]
    assert not [path for path in kept if b"MARKER-7351" in path.read_bytes()]


def test_what_is_computed_of_a_schema_is_kept_for_the_next_text(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Extractor] = []
    page = SimpleNamespace(launch=lambda **options: None)
    monkeypatch.setattr(demo, "build_demo", lambda extractor, *limits: shown.append(extractor) or page)
    demo.main(EngineOptions(model, max_new_tokens=8), demo.DemoOptions())
    for text in ("Ada ran.", "Bob met Ada."):
        list(shown[0]([text], "NER", ["person"]))
    assert len([prefix for prefix in shown[0].engine.kept if prefix]) == 1  # type: ignore[attr-defined]


def test_facts_that_score_less_are_left_out() -> None:
    page = demo.build_demo(Extractor(AnswerEngine({"person": ["Ada"]})))
    function: Any = next(each.fn for each in page.fns.values() if each.api_name == "extract")
    for min_score, left in ((None, 1), (0.0, 1), (0.5, 0)):  # this engine gives no scores
        _, data, _ = function("Ada met Charles.", "NER", '["person"]', None, None, False, min_score)
        assert len(json.loads(data)["facts"]) == left


def test_a_typed_schema_is_no_path(people: Path) -> None:
    path = str(people / "IE-en" / "NER" / "people" / "schema.json")
    for typed in (path, json.dumps(path), f"[{json.dumps(path)}]"):
        assert read_schema(demo.parse_schema(typed, "NER"), "NER")[0].types in ((path,), (json.dumps(path),))


@pytest.mark.parametrize(
    ("task", "typed", "expected"),
    [
        ("NER", "person\n\n city \n", ["person", "city"]),
        ("NER", "人物：人的名字\n城市", {"人物": "人的名字", "城市": ""}),
        ("NER", '["person"]', ["person"]),
        ("SPO", "person_founder_company", ["person_founder_company"]),
        ("EE", "resign: employee, employer\nstrike", [("resign", ["employee", "employer"]), ("strike", [])]),
        ("KG", "城市：市长，人口、省份", [("城市", ["市长", "人口", "省份"])]),
    ],
)
def test_schemas_are_typed_line_by_line(task: str, typed: str, expected: Any) -> None:
    schema = demo.parse_schema(typed, task)
    if task in ("EE", "KG"):
        read, _ = read_schema(schema, task)
        assert [(label, list(TASKS[task].roles(label, read))) for label in TASKS[task].labels(read)] == expected
    else:
        assert schema == expected
        read_schema(schema, task)


def test_all_presets_can_be_asked() -> None:
    extractor = Extractor(AnswerEngine({}))
    for task, schema, text in demo.PRESETS.values():
        if task == demo.SEVERAL:
            result = extractor(text, demo.parse_schemas(schema)).results[0]
        else:
            result = extractor(text, task, demo.parse_schema(schema, task))
        assert result.language == ("zh" if "，" in text else "en")


@pytest.mark.parametrize(
    "typed",
    [
        "# entities\nperson\n\n#relations\nfounder: who founded it\n## EE\nresign: employee, employer",
        '{"entities": ["person"], "relations": ["founder"], "EE": {"resign": ["employee", "employer"]}}',
    ],
)
def test_schemas_of_several_tasks_are_typed_under_headings(typed: str) -> None:
    result = Extractor(AnswerEngine({}))("Ada left.", demo.parse_schemas(typed))
    assert {key: each.task for key, each in result.items()} == {"entities": "NER", "relations": "RE", "EE": "EE"}
    assert result["EE"].schema.type_roles == {"resign": ("employee", "employer")}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("person\n# relations\nfounder", "give each task's labels under a heading, such as # entities"),
        ("", "under a heading"),
        ("# entities\nperson\n# entities\ncity", "the heading 'entities' occurs twice"),
        ("# people\nperson", "unknown task 'people'; known: entities"),
    ],
)
def test_headings_that_cannot_be_read(typed: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        demo.parse_schemas(typed)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the page's program in this process, with a clock that a test may set."""
    now = [0.0]

    def call(engine: Any, labels: list[str], draw: Callable[[Any], str] = demo.render_fragment) -> Any:
        page = demo.build_demo(Extractor(engine, max_new_tokens=10**6), max_seconds=8)
        function: Any = next(each.fn for each in page.fns.values() if each.api_name == "extract")
        with monkeypatch.context() as patch:
            patch.setattr("iepile_builder.extraction.work.time.monotonic", lambda: now[0])
            patch.setattr(demo, "render_fragment", draw)
            return function("Ada met Charles.", "NER", json.dumps(labels), None, None, False)

    call.now = now  # type: ignore[attr-defined]
    return call


def many_strings(label: Any, text: str) -> list[str]:
    """Find 23 strings for each label, none of which is in the text."""
    return [f"{label} no. {number} is not there" for number in range(23)]


LABELS = [f"label {number}" for number in range(1500)]
TOO_LONG = "this takes more than 8 seconds: give a shorter text or fewer labels"


def test_asking_stops_when_the_time_is_up(call: Any) -> None:
    asked: list[str] = []

    def rule(label: Any, text: str) -> list[str]:
        asked.append(label)
        call.now[0] += 0.01
        return many_strings(label, text)

    with pytest.raises(Exception, match=TOO_LONG):
        call(RuleEngine(rule), LABELS)
    assert 800 < len(asked) <= 800 + 16 * 9  # of 1,500: the clock is looked at every 16 requests


def test_grounding_stops_when_the_time_is_up(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    located: list[str] = []

    def find(self: Any, mention: str) -> list[Any]:
        located.append(mention)
        call.now[0] += 0.001
        return []

    monkeypatch.setattr(Locator, "find", find)
    engine = RuleEngine(many_strings)
    with pytest.raises(Exception, match=TOO_LONG):
        call(engine, LABELS)
    assert len(engine.requests) == 250
    assert abs(len(located) - 8000) < 3  # of 34,500


def test_drawing_is_bounded_and_in_time(call: Any) -> None:
    with pytest.raises(Exception, match="the answers hold 34,500 facts, too many to show: give fewer labels"):
        call(RuleEngine(many_strings), LABELS, lambda result: pytest.fail("drawn"))

    def draw_slowly(result: Any) -> str:
        call.now[0] += 9
        return ""

    with pytest.raises(Exception, match=TOO_LONG):
        call(RuleEngine(many_strings), LABELS[:10], draw_slowly)


@needs_chromium
@pytest.mark.slow
def test_a_real_small_model(browser: Any, smollm2: str) -> None:
    app = demo.build_demo(Extractor.from_pretrained(smollm2, max_new_tokens=24))
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **demo.look())
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#extract")
    page.fill("#text textarea", "Ada Lovelace met Charles Babbage in London.")
    page.fill("#schema textarea", "person\ncity")
    page.click("#extract")
    page.wait_for_selector("text=/\\d answers? about 1 passage/", timeout=120_000)
    link = page.get_attribute("text=extraction.json", "href")
    result = json.loads(base64.b64decode(link.partition("base64,")[2]))
    assert result["text"] == "Ada Lovelace met Charles Babbage in London." and result["answers"]["all"] >= 1
    page.close()
    app.close()
