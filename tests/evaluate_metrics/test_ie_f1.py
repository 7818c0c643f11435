"""The `evaluate` module as users of `evaluate` meet it: its card, batches, processes, combination, the Hub."""

import doctest
import importlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import fields
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from urllib.request import urlopen

import evaluate
import pytest
from gradio_client import Client
from helpers.corpora import ROOT

from iepile_builder import InputError
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.scorer import score


METRIC = ROOT / "evaluate_metrics" / "ie_f1"


def inputs(records: int) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {
        name: [] for name in ("predictions", "references", "tasks", "sources", "ids", "instructions")
    }
    for number in range(records):
        instruction = {"instruction": "...", "schema": ["person"], "input": "Ada met Bob."}
        label = [{"entity": "Ada", "entity_type": "person"}, {"entity": "Bob", "entity_type": "person"}]
        row = (
            json.dumps({"person": ["Ada", "Eve"][number % 2 :]}),
            json.dumps(label),
            "NER",
            ["one", "other"][number % 3 == 0],
            str(number),
            json.dumps(instruction),
        )
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return columns


def expected(columns: dict[str, list[str]]) -> dict:
    names = ("output", "label", "task", "source", "id", "instruction")
    return score(dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True))


@pytest.fixture
def metric(tmp_path: Path) -> evaluate.Metric:
    return evaluate.load(str(METRIC), cache_dir=str(tmp_path))


def test_the_examples_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    test = doctest.DocTestParser().get_doctest((METRIC / "README.md").read_text(encoding="utf-8"), {}, "card", None, 0)
    assert len(test.examples) > 8
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_card_names_every_option() -> None:
    card = (METRIC / "README.md").read_text(encoding="utf-8")
    for name in [*(field.name for field in fields(Matching)), "repair", "bootstrap", "confidence", "seed", "by"]:
        assert f"**{name}**" in card


def test_batches_give_what_all_at_once_gives(metric: evaluate.Metric) -> None:
    columns = inputs(10)
    for start in (0, 4, 8):
        metric.add_batch(**{name: values[start : start + 4] for name, values in columns.items()})
    assert metric.compute() == expected(columns)


def test_parts_of_the_report_by_kwargs(metric: evaluate.Metric) -> None:
    columns = inputs(10)
    report = expected(columns)
    for by in ("task", "source", "language", "label"):
        assert metric.compute(**columns, by=by) == report[f"{by}s"]
    assert set(metric.compute(**columns, by="source")) == {"one", "other"}


def test_options_by_kwargs(metric: evaluate.Metric) -> None:
    columns = inputs(6)
    columns["predictions"][0] = "{'person': ['ada']}"
    assert metric.compute(**columns)["overall"]["unparsed"] == 1
    overall = metric.compute(**columns, repair=True, mode="normalized", bootstrap=50, seed=3)["overall"]
    assert (overall["unparsed"], overall["repaired"], overall["tp"]) == (0, 1, 3)
    assert overall["intervals"]["f1"][0] < overall["f1"] < overall["intervals"]["f1"][1]
    with pytest.raises(InputError, match="unknown mode"):
        metric.compute(**columns, mode="fuzzy")


def test_it_combines_with_others(tmp_path: Path, metric: evaluate.Metric) -> None:
    (tmp_path / "lengths.py").write_text(
        "import datasets\n"
        "import evaluate\n"
        "class Lengths(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        text = datasets.Value('string')\n"
        "        features = datasets.Features({'predictions': text, 'references': text})\n"
        "        return evaluate.MetricInfo('', '', features)\n"
        "    def _compute(self, predictions, references, **others):\n"
        "        return {'length': sum(map(len, predictions))}\n"
    )
    columns = inputs(5)
    lengths = evaluate.load(str(tmp_path / "lengths.py"), cache_dir=str(tmp_path))
    results = evaluate.combine([metric, lengths]).compute(**columns)
    assert results == {**expected(columns), "length": sum(map(len, columns["predictions"]))}
    twice = evaluate.combine({"a": metric, "b": metric}, force_prefix=True).compute(**columns)
    assert twice["a_overall"] == twice["b_overall"] == expected(columns)["overall"]


TWO_PROCESSES = """
import json, sys
import evaluate

path, process, columns = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
metric = evaluate.load(path, num_process=2, process_id=process, experiment_id="gathered", cache_dir=sys.argv[4])
metric.add_batch(**{name: values[process::2] for name, values in columns.items()})
print(json.dumps(metric.compute()))
"""


def test_two_processes_are_gathered(tmp_path: Path) -> None:
    columns = inputs(10)
    environment = {**os.environ, "HF_EVALUATE_OFFLINE": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(METRIC), str(process), json.dumps(columns), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=300)[0]) for process in processes)
    assert second is None
    assert first == expected(columns)


def test_it_loads_as_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "spaces" / "user" / "ie_f1" / "resolve" / "main"
    folder.mkdir(parents=True)
    (folder / "ie_f1.py").write_bytes((METRIC / "ie_f1.py").read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import json, sys, evaluate\n"
        "metric = evaluate.load('user/ie_f1', revision='main')\n"
        "print(json.dumps(metric.compute(**json.loads(sys.argv[1]))))\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }
    columns = inputs(4)
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(columns)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    server.shutdown()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected(columns)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page of the Space."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.syspath_prepend(str(METRIC))
    return importlib.import_module("app")


def test_the_page_scores_its_examples(app: ModuleType) -> None:
    tables = [app.score(*example, "strict", 0, True)[0] for example in app.EXAMPLES]
    assert [[row[0], *row[4:]] for table in tables for row in table] == [
        ["all facts", 1, 3, 2],
        ["all facts", 1, 1, 1],
        ["all facts", 2, 4, 2],
        ["trigger", 1, 1, 1],
        ["argument", 1, 3, 1],
    ]
    with pytest.raises(app.gr.Error, match="not JSON"):
        app.score("NER", "Ada", "[", "[]", "{}", "strict", 0, False)


def test_the_page_starts_and_answers(app: ModuleType) -> None:
    _, address, _ = app.demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        assert "IE F1" in urlopen(address).read().decode()
        table, report = Client(address, verbose=False).predict(
            *app.EXAMPLES[0], "partial", 0, False, api_name="/score"
        )
    finally:
        app.demo.close()
    assert table["data"] == [["all facts", 50, 75, 60, 1.5, 3, 2]]
    assert report == app.score(*app.EXAMPLES[0], "partial", 0, False)[1]
