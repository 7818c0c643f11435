"""The task for Inspect: its scores are those of this library, on the sample corpus and on a corpus of one's own."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from helpers.corpora import ROOT


inspect_ai = pytest.importorskip("inspect_ai", reason="Inspect is not installed: pip install inspect-ai")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count tokens without the table that Inspect's mock model downloads."""
    monkeypatch.setattr("inspect_ai.model._model.count_text_tokens", len)


@pytest.fixture(scope="module")
def ie() -> Any:
    spec = spec_from_file_location("ie", ROOT / "recipes" / "inspect" / "ie.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluate(task: Any, folder: Path, changed: dict[str, Any] | None = None, limit: int | None = None) -> Any:
    """Let a model answer that knows the reference answers, and changes those to some labels."""
    from inspect_ai.model import ModelOutput, get_model

    rows = [sample.metadata for sample in task.dataset]
    known = {row["instruction"]: json.dumps({**json.loads(row["output"]), **(changed or {})}) for row in rows}

    def answer(messages: Any, *_: Any) -> Any:
        return ModelOutput.from_content("mock", known[messages[-1].text])

    model = get_model("mockllm/model", custom_outputs=answer)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(folder), display="none", limit=limit)
    assert log.status == "success", log.error
    return {name: each.value for name, each in log.results.scores[0].metrics.items()}


def test_reference_answers_score_100(ie: Any, tmp_path: Path) -> None:
    assert evaluate(ie.ie(), tmp_path, limit=24) == {"f1": 100, "precision": 100, "recall": 100}


def test_scores_are_over_the_facts_of_a_corpus(ie: Any, people: Path, tmp_path: Path) -> None:
    scores = evaluate(ie.ie(str(people), ["NER"]), tmp_path, {"city": []})  # of Ada, Bob and Rome, Rome is missing
    assert scores == {"f1": pytest.approx(80), "precision": 100, "recall": pytest.approx(200 / 3)}
