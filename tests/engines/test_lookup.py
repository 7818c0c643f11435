"""`engines.lookup`: the look-up baseline, by hand and on real corpora."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.corpora import SAMPLE_CORPUS, SHARED, needs_shared, write_corpus, write_lines

from iepile_builder import IEPile, InputError
from iepile_builder.chat import to_prompt
from iepile_builder.engines.base import Request
from iepile_builder.engines.lookup import LookupEngine
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS


def build(folder: Path, output: Path, **options: object) -> Path:
    for split, rows in IEPile(data_dir=str(folder), cache_dir=str(output / "cache"), **options).as_dataset().items():
        write_lines(output / f"{split}.jsonl", rows.to_list())
    return output


def answer(engine: LookupEngine, row: dict) -> dict:
    return json.loads(engine.generate([Request(to_prompt(row))], 1)[0].text)


def test_entities_by_hand(tmp_path: Path) -> None:
    def record(text: str, **entities: list[str]) -> dict:
        found = [{"entity": name, "entity_type": kind} for kind, names in entities.items() for name in names]
        return {"text": text, "entity": found}

    train = [
        record("Ada met Bob in New York.", person=["Ada", "Bob"], city=["New York"]),
        record("Paris is in love.", person=["Paris"]),
        record("Paris, the city.", city=["Paris"]),
        record("Paris again.", city=["Paris"]),
        record("Bob is a name.", person=[]),
        record("Bob is not.", person=[]),
        record("York is old.", city=["York"]),
    ]
    test = [record("Ada and Bob saw New York and Paris, not Adaline.")]
    folder = write_corpus(tmp_path / "IE-en" / "NER" / "hand", [["person", "city"], [], {}], train=train, test=test)
    data = build(folder, tmp_path / "out")
    engine = LookupEngine(str(data))
    (row,) = map(json.loads, (data / "test.jsonl").read_text().splitlines())
    # Bob: one of three texts. Paris: a city more often. New York is longer than York. Adaline is another word.
    assert answer(engine, row) == {"person": ["Ada"], "city": ["New York", "Paris"]}


def test_relations_and_events_by_hand(tmp_path: Path) -> None:
    def event(trigger: str, **arguments: str) -> dict:
        roles = [{"argument": value, "role": role} for role, value in arguments.items()]
        return {"event_trigger": trigger, "event_type": "resign", "arguments": roles}

    write_corpus(
        tmp_path / "in" / "IE-en" / "EE" / "hand",
        [["resign"], ["person", "time"], {"resign": ["person", "time"]}],
        train=[{"text": "Ada quit in May.", "event": [event("quit", person="Ada", time="May")]}],
        test=[{"text": "In May they quit.", "event": []}],
    )
    triple = {"head": "Ada", "relation": "knows", "tail": "Bob"}
    write_corpus(
        tmp_path / "in" / "IE-en" / "RE" / "hand",
        [[], ["knows", "likes"], {}],
        train=[{"text": "Ada knows Bob.", "relation": [triple]}],
        test=[{"text": "Bob knows Ada and Eve.", "relation": []}],
    )
    data = build(tmp_path / "in", tmp_path / "out", tasks=["RE", "EE", "EET", "EEA"])
    engine = LookupEngine(str(data))
    rows = {row["task"]: row for row in map(json.loads, (data / "test.jsonl").read_text().splitlines())}
    assert answer(engine, rows["RE"]) == {"knows": [{"subject": "Ada", "object": "Bob"}], "likes": []}
    expected = [{"trigger": "quit", "arguments": {"person": "NAN", "time": "May"}}]
    assert answer(engine, rows["EE"]) == {"resign": expected}
    assert answer(engine, rows["EET"]) == {"resign": ["quit"]}


def test_it_answers_every_task_of_the_sample_corpus(tmp_path: Path) -> None:
    data = build(SAMPLE_CORPUS, tmp_path / "out", tasks=list(TASKS))
    engine = LookupEngine(str(data))
    scorer = Scorer()
    for line in (data / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        scorer.add({**row, "output": json.dumps(answer(engine, row))})
    report = scorer.report()
    assert report["overall"]["unparsed"] == report["overall"]["outside_schema"] == 0
    assert report["overall"]["not_in_text"] == 0
    assert report["overall"]["f1"] > 0


@needs_shared
def test_a_real_corpus_is_partly_memory(tmp_path: Path) -> None:
    data = build(SHARED / "corpora" / "IE-en" / "NER" / "mit-movie", tmp_path / "out")
    engine = LookupEngine(str(data))
    scorer = Scorer()
    for line in (data / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        scorer.add({**row, "output": json.dumps(answer(engine, row))})
    overall = scorer.report()["overall"]
    assert 70 < overall["f1"] < 80 and overall["precision"] > 80


def test_what_it_needs(tmp_path: Path, people: Path, run_script: Callable) -> None:
    data = build(people, tmp_path / "data")
    out = tmp_path / "preds.jsonl"
    command = ["predict.py", "--engine", "lookup", "--model_name_or_path", data, "--dataset_name", data]
    run_script(*command, "--output_file", out)
    assert json.loads(json.loads(out.read_text().splitlines()[0])["output"])["city"] == ["Rome"]
    file = write_lines(tmp_path / "rows.jsonl", [{"instruction": "x", "output": "y"}])
    with pytest.raises(InputError, match="no text column `task`"):
        LookupEngine(str(file))
    row = json.loads((data / "train.jsonl").read_text().splitlines()[0])
    for change, message in (
        ({"output": "none"}, "train instance 2: the output is not one of NER in JSON"),
        ({"output": '{"city": 1}'}, "train instance 2: the output is not one of NER in JSON"),
        ({"task": "X"}, "unknown task 'X'"),
    ):
        file = write_lines(tmp_path / "rows.jsonl", [row, {**row, **change}])
        with pytest.raises(InputError, match=message):
            LookupEngine(str(file))
