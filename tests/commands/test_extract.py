"""`iepile extract`: what it shows in the terminal and what it writes; the engine answers from rules."""

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.rules import AnswerEngine

from iepile_builder import InputError
from iepile_builder.commands import extract
from iepile_builder.commands.cli import parse_options


TEXT = "Ada Lovelace resigned from Acme on Monday."
SCHEMA = '{"resign": ["employee", "employer", "time"]}'
ANSWER = {
    "resign": [
        {"trigger": "resigned", "arguments": {"employee": "Ada Lovelace", "employer": "ACME", "time": "Friday"}}
    ]
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run the command in this process, with an engine that gives an answer; returns what it prints."""

    def run(*arguments: object, answer: dict | None = None, stdin: str | None = None) -> str:
        if answer is not None:
            monkeypatch.setattr(extract, "load_engine", lambda options: AnswerEngine(answer))
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        extract.main(*parse_options("extract", "", extract.OPTIONS, list(map(str, arguments))))
        return capsys.readouterr().out

    return run


def test_events_in_the_terminal(run: Callable[..., str], tmp_path: Path) -> None:
    html, facts = tmp_path / "new" / "out.html", tmp_path / "out.json"
    out = run("--text", TEXT, "--task", "EE", "--schema", SCHEMA, "--output_file", html, facts, answer=ANSWER)
    assert "Ada Lovelace employee  resigned resign  from Acme employer" in out
    assert re.search(r"resign +resigned 13:21 +employee Ada Lovelace 0:12 *\n", out)
    assert "employer Acme 27:31, answered: ACME" in out
    assert "time Friday not in the text" in out
    assert "1 answer about 1 passage, instructions in en; 1 fact not in the text." in out
    assert "resigned" in html.read_text()
    assert json.loads(facts.read_text())["events"][0]["trigger"]["start"] == 13


def test_min_score_asks_the_engine_for_scores(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(extract, "load_engine", lambda options: asked.append(options.scores) or AnswerEngine(ANSWER))
    arguments = ["--text", TEXT, "--task", "EE", "--schema", SCHEMA]
    assert "left out" not in run(*arguments)
    assert "4 facts left out: a score below" in run(*arguments, "--min_score", "0.5")
    assert asked == [False, True]


def test_a_text_with_a_byte_order_mark_and_odd_line_ends(run: Callable[..., str], tmp_path: Path) -> None:
    text = "Ada\u2028is\r\nin\u0085Rome."
    (tmp_path / "text.txt").write_bytes(f"\ufeff{text}".encode())
    answer = {"city": ["Rome"]}
    file = run("--file", tmp_path / "text.txt", "--schema", '["city"]', "--output_file", "-", answer=answer)
    piped = run("--schema", '["city"]', "--output_file", "-", stdin=f"\ufeff{text}")
    assert json.loads(file) == json.loads(piped)
    assert piped == run("--file", "-", "--schema", '["city"]', "--output_file", "-", stdin=f"\ufeff{text}")
    assert json.loads(file)["text"] == text
    assert json.loads(file)["facts"][0]["entity"]["start"] == text.index("Rome")


def test_json_alone(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('["person"]')
    (tmp_path / "text.txt").write_text("Ada is here.")
    out = run(
        "--file",
        tmp_path / "text.txt",
        "--schema",
        tmp_path / "schema.json",
        "--output_file",
        "-",
        answer={"person": ["Ada"]},
    )
    assert json.loads(out)["facts"][0]["entity"]["text"] == "Ada"
    arguments = ("--schema", '["person"]', "--output_file", "-")
    assert json.loads(run(*arguments, answer={"person": ["Ada"]}, stdin="Ada 在这里。"))["facts"]


@pytest.mark.parametrize("task", ["RE", "SPO", "KG"])
def test_relations_in_the_terminal(run: Callable[..., str], task: str) -> None:
    schema, answer = {
        "RE": ('["employer"]', {"employer": [{"subject": "Ada Lovelace", "object": "Acme"}]}),
        "SPO": ('["person_employer_company"]', {"employer": [{"subject": "Ada Lovelace", "object": "Acme"}]}),
        "KG": ('{"person": ["employer"]}', {"person": {"Ada Lovelace": {"employer": "Acme"}}}),
    }[task]
    out = run("--text", TEXT, "--task", task, "--schema", schema, answer=answer)
    assert re.search(r"Ada Lovelace 0:12 +employer +(company +)?Acme 27:31", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "a", "--engine", "lookup"], "--engine lookup: give the instances to look up"),
        (["--text", "a", "--file", "b"], "give --text or --file, not both"),
        (["--file", "no/such.txt"], "no/such.txt: No such file or directory; give a text, PDF, HTML or DOCX file"),
        (["--text", "caf\udce9"], "--text: not UTF-8"),
        (["--text", "a", "--schema", '["\udce9"]'], r"the schema: '\udce9' is not valid Unicode"),
        (["--text", "a", "--task", "EE"], "EE does not take a list of labels"),
        (["--text", "a", "--examples", "no/such.jsonl"], "no/such.jsonl: no such file"),
        (["--text", "a", "--model_name_or_path", "no/such/model"], "no/such/model"),
    ],
)
def test_bad_input(run: Callable[..., str], arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        run("--schema", '["person"]', *arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("file", [[], ["--file", "-"]])
def test_no_text_on_the_standard_input(run: Callable[..., str], file: list[str]) -> None:
    with pytest.raises(InputError, match="no text given: --text, --file or standard input"):
        run("--schema", '["person"]', *file, answer={}, stdin="\n")


def test_several_tasks(run: Callable[..., str], tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(f'{{"entities": ["person"], "events": {SCHEMA}}}')
    out = run("--text", TEXT, "--schema", schema, answer={"person": ["Ada Lovelace"], **ANSWER})
    assert re.search(r"person +Ada Lovelace 0:12", out) and re.search(r"resign +resigned 13:21", out)
    assert "2 answers about 1 passage, instructions in en; 1 fact not in the text." in out
    with pytest.raises(InputError, match="unknown task 'person'; known: entities, "):
        run("--text", TEXT, "--schema", '{"person": ["age"]}')
    assert "person" in run("--text", TEXT, "--schema", '{"person": "a human"}', answer={"person": ["Ada Lovelace"]})


def test_a_document(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<title>x</title><p>Ada is in <b>Rome</b>.</p>")
    out = run("--file", tmp_path / "page.html", "--schema", '["city"]', answer={"city": ["Rome"]})
    assert re.search(r"city +Rome \d+:\d+", out) and "<b>" not in out


def test_graphs(run: Callable[..., str], tmp_path: Path) -> None:
    files = [tmp_path / f"out.{suffix}" for suffix in ("ttl", "cypher", "graphml", "json", "html")]
    out = run("--text", TEXT, "--task", "EE", "--schema", SCHEMA, "--output_file", *files, answer=ANSWER)
    assert "resigned" in out and all("Ada Lovelace" in file.read_text() for file in files)
    with pytest.raises(InputError, match="out.txt: of no known kind; give a name that ends in .html, .json, .graphml"):
        run("--text", TEXT, "--task", "EE", "--schema", SCHEMA, "--output_file", tmp_path / "out.txt")
