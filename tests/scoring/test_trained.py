"""Label names that training has seen are scored apart from the others."""

import json
from pathlib import Path

import pytest
from helpers.answers import entities, instance, scorer_of
from helpers.corpora import write_lines

from iepile_builder import InputError
from iepile_builder.engines.loading import ZERO_SHOT
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.report import by_task_and_block
from iepile_builder.scoring.trained import score_by_training
from iepile_builder.training.record import read_trained_labels


def event(kind: str, **arguments: str) -> dict:
    listed = [{"role": role, "argument": argument} for role, argument in arguments.items()]
    return {"event_type": kind, "event_trigger": "met", "arguments": listed}


ROWS = [
    instance(
        "NER",
        ["Person_Name", "city"],
        entities(Person_Name=["Ada", "Bob"], city=["Rome"]),
        {"Person_Name": ["Ada", "Eve"], "city": []},
    ),
    instance("NER", ["date"], entities(date=["1999"]), {"date": ["1999"]}, source="other"),
    instance(
        "EE",
        [
            {"event_type": "meet", "trigger": True, "arguments": ["who"]},
            {"event_type": "marry", "trigger": True, "arguments": ["who"]},
        ],
        [event("meet", who="Ada")],
        {"meet": [{"trigger": "met", "arguments": {"who": "Eve"}}], "marry": []},
    ),
    instance("EET", ["meet"], [{"event_type": "meet", "event_trigger": "met"}], {"meet": ["met"]}),
]
TRAINED = {"NER": ["person name", "DATE"], "EE": ["meet"], "RE": ["city"]}


def counts(of: dict) -> tuple[int, int, int, int]:
    return of["tp"], of["pred"], of["gold"], of["labels"]


def test_seen_and_unseen_labels_are_counted_by_task() -> None:
    report = score_by_training(scorer_of(ROWS), TRAINED)
    assert counts(report["NER"]["seen"]) == (2, 3, 3, 2)  # whatever their case, with underscores or not
    assert counts(report["NER"]["unseen"]) == (0, 0, 1, 1)  # a relation of this name is no entity type
    assert counts(report["EE"]["argument"]["seen"]) == (0, 1, 1, 1)  # a role is seen with its event type
    assert counts(report["EE"]["trigger"]["unseen"]) == (0, 0, 0, 1)
    assert counts(report["EET"]["seen"]) == (1, 1, 1, 1)  # corpora of EE serve EET
    assert "intervals" not in report["NER"]["seen"]


@pytest.mark.parametrize("mode", ["strict", "normalized", "type"])
def test_the_two_parts_are_all_facts(mode: str) -> None:
    scorer, matching = scorer_of(ROWS), Matching(mode)
    whole = scorer.report(matching)["tasks"]
    for task, block, parts in by_task_and_block(score_by_training(scorer, TRAINED, matching)):
        total = whole[task][block] if block else whole[task]
        for name in ("tp", "pred", "gold"):
            assert sum(part[name] for part in parts.values()) == total[name]


def test_intervals_are_those_of_the_report_where_all_labels_are_seen() -> None:
    rows = [{**ROWS[0], "id": str(number), "output": ROWS[0]["output"] if number % 2 else "{}"} for number in range(9)]
    scorer = scorer_of(rows)
    part = score_by_training(scorer, {"NER": ["person name", "city"]}, resamples=200, seed=3)["NER"]["seen"]
    assert part["intervals"] == scorer.report(resamples=200, seed=3)["tasks"]["NER"]["intervals"]
    assert part["records"] == 9


def test_labels_of_a_record_or_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(json.dumps({"labels": TRAINED}))
    assert read_trained_labels(tmp_path) == read_trained_labels(tmp_path / "training.json") == TRAINED
    (tmp_path / "labels.txt").write_text("person\n\ncity\n")
    assert read_trained_labels(tmp_path / "labels.txt")["KG"] == ["person", "city"]
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(InputError, match="no record of a training that lists its labels"):
        read_trained_labels(tmp_path)
    with pytest.raises(InputError, match=r"none.txt"):
        read_trained_labels(tmp_path / "none.txt")


def test_labels_of_an_adapter_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "person" in read_trained_labels(Path(ZERO_SHOT))["NER"]
    (tmp_path / "training.json").write_text(json.dumps({"labels": TRAINED}))
    monkeypatch.setattr("transformers.utils.hub.cached_file", lambda *_: str(tmp_path / "training.json"))
    assert read_trained_labels(Path("user/adapter")) == TRAINED


def test_the_command_shows_them(run_command, tmp_path: Path) -> None:
    write_lines(tmp_path / "preds.jsonl", ROWS)
    (tmp_path / "training.json").write_text(json.dumps({"labels": TRAINED}))
    options = ["--predictions_file", "preds.jsonl", "--trained_labels", "training.json", "--bootstrap", 20]
    screen = run_command("score", *options, "--output_file", "report.json").stdout
    rows = [line.split() for line in screen.splitlines()]
    assert ["NER,", "seen", "2", "3", "66.67", "66.67", "66.67", "n", "too", "small"] in rows
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["trained_labels"]["NER"]["seen"]["f1"] == pytest.approx(200 / 3)
    failed = run_command("score", *options, "--mode", "boundary", check=False)
    assert "--trained_labels: --mode boundary ignores labels" in failed.stderr
