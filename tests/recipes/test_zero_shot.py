"""The zero-shot recipe: its files name real options and corpora apart, and annotations become the mentions of NER."""

import importlib
import json
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from helpers.corpora import ROOT, write_lines

from iepile_builder import Extractor, InputError
from iepile_builder.data.options import InstanceOptions
from iepile_builder.engines.loading import SMOLLM2
from iepile_builder.tasks import TASKS
from iepile_builder.training.arguments import SftArguments


FOLDER = ROOT / "recipes" / "smollm2-135m-instruct" / "zero_shot"


@pytest.fixture(scope="module")
def levers() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("levers")
    finally:
        sys.path.remove(str(FOLDER))


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


def test_no_corpus_is_trained_on_and_held_out() -> None:
    corpora = read("corpora.yaml")
    trained = {name for of_task in corpora["train"].values() for name in of_task}
    assert trained.isdisjoint(name for names in corpora["held_out"].values() for name in names)
    assert trained.issuperset(name for names in corpora["in_domain"].values() for name in names)
    assert trained.issuperset(read("recycled.yaml"))
    assert all("none" not in about["licence"] for of_task in corpora["train"].values() for about in of_task.values())


def test_every_setting_changes_options_that_exist() -> None:
    levers = read("levers.yaml")
    building = {field.name for field in fields(InstanceOptions)}
    training = {field.name for field in fields(SftArguments)}
    training |= {"num_train_epochs", "learning_rate", "chat_template_path"}  # TRL's
    for name, setting in {"all": levers["all"], **levers["settings"]}.items():
        assert setting.keys() <= {"tasks", "recycled", "build", "train"}, name
        assert setting.get("build", {}).keys() <= building, name
        assert setting.get("train", {}).keys() <= training, name
        assert {*setting.get("tasks", ())} <= TASKS.keys(), name


def test_annotations_become_mentions(levers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relations = [
        {"head": "Emma", "relation": "author", "tail": "Jane Austen", "head_type": "work", "tail_type": "person"},
        {"head": "Emma", "relation": "country", "tail": "England", "head_type": "work", "tail_type": "location"},
    ]
    arguments = [
        {"argument": argument, "role": role}
        for argument, role in (("she", "speaker"), ("Miss Bates", "speaker"), ("no", "message"), ("a " * 6, "speaker"))
    ]
    event = {"event_type": "statement", "event_trigger": "said", "arguments": arguments}
    write_lines(tmp_path / "IE-en" / "RE" / "books" / "train.json", [{"text": "...", "relation": relations}])
    write_lines(tmp_path / "IE-en" / "EE" / "talk" / "train.json", [{"text": "...", "event": [event]}])
    (tmp_path / "recycled.yaml").write_text(
        "books: {types: {person: human}, tails: {author: author}}\ntalk: {roles: {speaker: speaker}}\n"
    )
    monkeypatch.setattr(levers, "FOLDER", tmp_path)
    folder = levers.recycle(tmp_path, tmp_path / "out") / "IE-en" / "NER"

    def entities(name: str) -> list[tuple[str, str]]:
        (record,) = map(json.loads, (folder / name / "train.json").read_text().splitlines())
        return [(each["entity"], each["entity_type"]) for each in record["entity"]]

    assert entities("books-mentions") == [("Jane Austen", "human"), ("Jane Austen", "author")]
    assert entities("talk-mentions") == [("Miss Bates", "speaker")]
    assert (folder / "books-mentions" / "schema.json").read_text() == '["author", "human"]\n[]\n{}\n'


def test_another_file_of_a_corpus_is_refused(levers: ModuleType, tmp_path: Path) -> None:
    corpora = {"NER": {"people": {"licence": "CC0", "sha256": "0" * 64}}}
    with pytest.raises(InputError, match="no such corpus"):
        levers.check_corpora(tmp_path, corpora)
    write_lines(tmp_path / "IE-en" / "NER" / "people" / "train.json", [])
    with pytest.raises(InputError, match="another sha256"):
        levers.check_corpora(tmp_path, corpora)


def test_the_adapter_that_ships_extracts(smollm2: str) -> None:
    folder = FOLDER / "adapter"
    assert (folder / "adapter_model.safetensors").stat().st_size <= 20_000_000
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == SMOLLM2
    extract = Extractor.from_pretrained()
    text = "Marie Curie was born in Warsaw and moved to Paris in 1891 to study at the Sorbonne."
    found = {(fact.entity_type, fact.entity) for fact in extract(text, "NER", ["person", "city", "university"]).facts}
    assert {("person", "Marie Curie"), ("city", "Warsaw"), ("university", "Sorbonne")} <= found
