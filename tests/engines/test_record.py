"""What makes answers is described by content, not by name."""

import json
from pathlib import Path

import pytest
from helpers.corpora import write_lines
from helpers.tiny import make_instances

from iepile_builder import InputError
from iepile_builder.engines import EngineOptions
from iepile_builder.engines.record import describe_engine, find_differences


def test_the_training_data_of_the_lookup_is_its_model(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name / "train.jsonl" for name in ("one", "same", "other"))
    for path, count in ((one, 3), (same, 3), (other, 4)):
        write_lines(path, make_instances(count))
    records = [describe_engine(EngineOptions(str(path.parent), engine="lookup")) for path in (one, same, other)]
    assert find_differences(records[0], records[1]) == []
    assert find_differences(records[0], records[2]) == [f"model {one.parent}, not {other.parent}"]
    assert find_differences(records[0], describe_engine(EngineOptions(str(one), engine="lookup"))) == []


def test_a_model_on_a_server_is_known_by_its_name() -> None:
    first = EngineOptions("small", base_url="http://127.0.0.1:1/v1")
    moved, other = (
        EngineOptions("small", base_url="http://127.0.0.1:2/v1"),
        EngineOptions("large", base_url="http://x"),
    )
    assert find_differences(describe_engine(first), describe_engine(moved)) == []
    assert find_differences(describe_engine(first), describe_engine(other)) == ["model small, not large"]


def test_a_model_of_the_hub_is_known_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789" * 4

    def cached_file(name: str, file: str) -> str:
        if file == "calibration.json":
            raise OSError("no such file")
        return f"/cache/models--a/snapshots/{commit}/{file}"

    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    assert describe_engine(EngineOptions("a/b"))["model_version"] == f"commit {commit}"


@pytest.mark.parametrize(
    ("options", "in_force"),
    [
        ({}, ["NER", "RE", "EE"]),
        ({"copied": True}, True),
        ({"copied": False}, False),
        ({"constrain": "off"}, False),
        ({"engine": "vllm"}, False),
        ({"engine": "vllm", "copied": True}, True),
        ({"base_url": "http://127.0.0.1:1/v1"}, False),
    ],
)
def test_which_answers_are_held_to_strings_of_the_text(tmp_path: Path, options: dict, in_force: object) -> None:
    (tmp_path / "config.json").write_text("{}")
    record = describe_engine(EngineOptions(str(tmp_path), **options))
    assert record["copied"] == in_force
    before = {**record, "copied": False}  # as runs without the default were recorded
    differences = [] if in_force is False else [f"copied False, not {in_force}"]
    assert find_differences(before, record) == differences
    assert json.loads(json.dumps(record)) == record


def test_without_grammars_no_answer_is_held_to_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iepile_builder.engines.record.find_spec", lambda name: None)
    record = describe_engine(EngineOptions(str(tmp_path)))
    assert (record["constrain"], record["copied"]) == (False, False)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--engine lookup: give the instances to look up"):
        describe_engine(EngineOptions(engine="lookup"))
    with pytest.raises(InputError, match="none.jinja: No such file"):
        describe_engine(EngineOptions(str(tmp_path), chat_template_path=str(tmp_path / "none.jinja")))
    with pytest.raises(InputError, match="no/such-model: no model can be loaded from it"):
        describe_engine(EngineOptions("no/such-model"))
