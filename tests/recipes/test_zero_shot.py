"""The zero-shot recipe: its files name real options and corpora apart, and annotations become the mentions of NER."""

import importlib
import json
import runpy
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from helpers.corpora import ROOT, SAMPLE_CORPUS, write_lines
from helpers.tiny import save_tiny_model

from iepile_builder import Extractor, InputError
from iepile_builder.commands import cli
from iepile_builder.commands.cli import parse_options
from iepile_builder.data.options import InstanceOptions
from iepile_builder.engines import EngineOptions
from iepile_builder.engines.loading import SMOLLM2
from iepile_builder.io import hash_file
from iepile_builder.tasks import TASKS
from iepile_builder.training.arguments import SftArguments


FOLDER = ROOT / "recipes" / "smollm2-135m-instruct" / "zero_shot"


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        return {name: importlib.import_module(name) for name in ("prepare", "levers", "make", "low_rank")}
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def prepare(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["prepare"]


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("name", ["make.py", "levers.py", "low_rank.py", "calibration.py"])
@pytest.mark.usefixtures("scripts")  # they import each other
def test_help_names_the_script(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"usage: {name} [")


def test_no_corpus_is_trained_on_and_held_out() -> None:
    corpora = read("corpora.yaml")
    trained = {name for of_task in corpora["train"].values() for name in of_task}
    assert trained.isdisjoint(name for names in corpora["held_out"].values() for name in names)
    assert trained.issuperset(read("recycled.yaml"))
    held_out = {name.removesuffix("-attributes") for name in corpora["held_out"]["KG"]}
    assert {*read("attributes.yaml")} - held_out <= corpora["train"]["RE"].keys()
    assert held_out <= {*corpora["held_out"]["RE"]}
    assert all("none" not in about["licence"] for of_task in corpora["train"].values() for about in of_task.values())


def test_the_card_lists_what_was_trained_on_with_its_licence() -> None:
    card = (FOLDER / "adapter" / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    listed = {name: row[0] for row in rows if len(row) == 2 for name in row[1].split(", ")}
    train = read("corpora.yaml")["train"]
    licences = {name: about["licence"] for of_task in train.values() for name, about in of_task.items()}
    assert {name: listed.get(name) for name in licences} == licences
    assert f"{len(licences)} English corpora" in card
    assert f"license: {read('corpora.yaml')['license']}" in card


def test_every_setting_changes_options_that_exist() -> None:
    levers, corpora = read("levers.yaml"), read("corpora.yaml")
    building = {field.name for field in fields(InstanceOptions)}
    training = {field.name for field in fields(SftArguments)}
    training |= {"num_train_epochs", "save_strategy", "save_total_limit"}  # TRL's
    for name, setting in {"all": levers["all"], **levers["settings"]}.items():
        assert setting.keys() <= {"against", "build", "train"}, name
        assert setting.get("against", "baseline") in levers["settings"], name
        assert setting.get("build", {}).keys() <= building, name
        assert setting.get("train", {}).keys() <= training, name
    answering = {field.name for field in fields(EngineOptions)}
    assert all(each.keys() <= answering for each in levers["answering"].values())
    assert {*levers["tests"]["in_domain"]} <= corpora["train"]["NER"].keys()
    assert {*levers["tests"]["held_out"]} == {*corpora["held_out"]["NER"]}


def test_annotations_become_mentions(prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(prepare, "FOLDER", tmp_path)
    folder = prepare.recycle(tmp_path, tmp_path / "out") / "IE-en" / "NER"

    def entities(name: str) -> list[tuple[str, str]]:
        (record,) = map(json.loads, (folder / name / "train.json").read_text().splitlines())
        return [(each["entity"], each["entity_type"]) for each in record["entity"]]

    assert entities("books-mentions") == [("Jane Austen", "human"), ("Jane Austen", "author")]
    assert entities("talk-mentions") == [("Miss Bates", "speaker")]
    assert (folder / "books-mentions" / "schema.json").read_text() == '["author", "human"]\n[]\n{}\n'


def test_relations_become_attributes(prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("head", "head_type", "relation", "tail", "tail_type")
    relations = [
        dict(zip(keys, values, strict=True))
        for values in (
            ("Emma", "work", "author", "Jane Austen", "person"),
            ("Jane Austen", "person", "country", "England", "place"),
            ("Emma", "work", "country", "England", "place"),  # the attribute is one of writers
            ("Jane Austen", "person", "sibling", "Cassandra", "person"),  # no attribute
        )
    ]
    for split in ("train", "dev"):
        write_lines(tmp_path / "IE-en" / "RE" / "books" / f"{split}.json", [{"text": "...", "relation": relations}])
    (tmp_path / "attributes.yaml").write_text(
        "books: {book: {head_type: work, attributes: [author]}, writer: {head_type: person, attributes: [country]}}\n"
    )
    monkeypatch.setattr(prepare, "FOLDER", tmp_path)
    folder = prepare.derive_attributes(tmp_path, tmp_path / "out") / "IE-en" / "KG" / "books-attributes"
    for split in ("train", "dev"):
        (record,) = map(json.loads, (folder / f"{split}.json").read_text().splitlines())
        assert record["relation"] == [
            {"head": "Emma", "relation": "author", "tail": "Jane Austen"},
            {"head": "Jane Austen", "relation": "country", "tail": "England"},
        ]
    assert (folder / "schema.json").read_text().splitlines() == [
        '["book", "writer"]', '["author", "country"]', '{"book": ["author"], "writer": ["country"]}'
    ]  # fmt: skip


def test_another_file_of_a_corpus_is_refused(prepare: ModuleType, tmp_path: Path) -> None:
    corpora = {"NER": {"people": {"licence": "CC0", "sha256": "0" * 64}}}
    with pytest.raises(InputError, match="no such corpus"):
        prepare.check_corpora(tmp_path, corpora)
    write_lines(tmp_path / "IE-en" / "NER" / "people" / "train.json", [])
    with pytest.raises(InputError, match="another sha256"):
        prepare.check_corpora(tmp_path, corpora)


def test_one_command_makes_an_adapter_and_reuses_what_is_finished(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With a model of a few thousand weights and corpora of the sample; every stage in this process."""
    make, low_rank = scripts["make"], scripts["low_rank"]
    trained = {"NER": "daily_news", "RE": "lives_and_works", "EE": "working_life"}
    held_out = {"EE": ["working_life"], "KG": ["held_out-attributes"]}
    hashes = {name: hash_file(SAMPLE_CORPUS / "IE-en" / task / name / "train.json") for task, name in trained.items()}
    listed = {task: {name: {"licence": "MIT", "sha256": hashes[name]}} for task, name in trained.items()}
    (tmp_path / "corpora.yaml").write_text(yaml.safe_dump({"license": "mit", "train": listed, "held_out": held_out}))
    (tmp_path / "recycled.yaml").write_text("lives_and_works: {tails: {lives in: home town}}\n")
    people = {"person": {"head_type": "person", "attributes": ["spouse", "lives in"]}}
    (tmp_path / "attributes.yaml").write_text(yaml.safe_dump({"lives_and_works": people, "held_out": people}))
    small = {"compile_layers": False, "max_length": 2048, "per_device_train_batch_size": 2}
    (tmp_path / "sft_cpu.yaml").write_text(yaml.safe_dump({**read("sft_cpu.yaml"), **small}))
    tree = tmp_path / "corpora"
    shutil.copytree(SAMPLE_CORPUS, tree)
    shutil.copytree(tree / "IE-en" / "RE" / "lives_and_works", tree / "IE-en" / "RE" / "held_out")
    model = save_tiny_model(tmp_path / "model", max_position_embeddings=4096)
    ran: list[str] = []

    def run(*arguments: object) -> None:
        name, *words = map(str, arguments)
        ran.append(Path(name).stem)
        if name.endswith(".py"):
            low_rank.main(*parse_options("low_rank", "", [low_rank.LowRankOptions], words))
        else:
            cli.run(name, words)

    monkeypatch.setattr(make, "run", run)
    monkeypatch.setattr(make.cuda, "is_available", lambda: False)
    for module in (make, scripts["prepare"]):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    options = make.MakeOptions(
        tree, tmp_path / "out", max_records=8, max_train_tokens=4000, continue_tokens=2000, every_task_tokens=2000,
        test_records=1, model_name_or_path=str(model),
    )  # fmt: skip
    make.main(options)
    runs = ["build", "train", "build", "build", "train"]  # synonyms also have mentions
    last = [*["build"] * 5, "train", "low_rank"]  # the instances as before, EET, EEA, SPO and KG
    assert ran == [*runs, "low_rank", "build", "train", *last, "build", "build", "predict", "score"]
    out, adapter = tmp_path / "out", tmp_path / "out" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 16
    record = json.loads((adapter / "training.json").read_text())
    labels = record["labels"]
    assert "home town" in labels["NER"] and "spouse" in labels["RE"]
    assert {*labels} == {*record["tasks"]} == {*TASKS}
    derived = map(json.loads, (out / "every_task" / "KG" / "train.jsonl").read_text().splitlines())
    assert {row["source"] for row in derived} == {"lives_and_works-attributes"}
    report = json.loads((out / "report.json").read_text())
    assert report["tasks"]["EE"]["trigger"]["records"] == report["tasks"]["KG"]["records"] == 1
    assert "license: mit" in (adapter / "README.md").read_text()
    assert (out / "synonyms" / "train.jsonl").read_bytes() != (out / "plain" / "train.jsonl").read_bytes()

    ran.clear()
    make.main(options)
    assert ran == [] and "reused" in capsys.readouterr().out
    with pytest.raises(InputError, match="made with other settings"):
        make.main(replace(options, max_records=9))
    with pytest.raises(InputError, match="unknown none; known: plain, synonyms"):
        make.main(replace(options, runs=["none"]))


def test_a_mix_limits_rows_without_a_fact(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """Of 100 rows, 30 with a fact; a share of 40 rows takes 12 without, and the 28 with one."""
    make = scripts["make"]
    rows = [json.dumps({"id": i, "output": json.dumps({"a": ["x"] if i < 30 else []})}) + "\n" for i in range(100)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    make.mix({tmp_path / "rows.jsonl": 0.4}, 100, tmp_path / "mixed.jsonl")
    mixed = (tmp_path / "mixed.jsonl").read_text().splitlines(keepends=True)
    assert len({*mixed} & {*rows[:30]}) == 28 and len({*mixed} & {*rows[30:]}) == 12 == len(mixed) - 28


def test_levers_compare_settings_with_the_baseline(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levers = scripts["levers"]
    file = SAMPLE_CORPUS / "IE-en" / "NER" / "daily_news" / "train.json"
    listed = {"NER": {"daily_news": {"licence": "MIT", "sha256": hash_file(file)}}}
    (tmp_path / "corpora.yaml").write_text(yaml.safe_dump({"train": listed}))
    names = ["daily_news"]
    settings = {
        "tests": {"held_out": names, "in_domain": names},
        "all": {"build": {"tasks": ["NER"]}, "train": {"save_strategy": "no"}},
        "settings": {"baseline": {}, "few_hard": {"build": {"num_hard": 1, "num_random": 0}}},
        "answering": {"free": {"constrain": "off", "copied": False}, "calibrated": {}},
    }
    (tmp_path / "levers.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    small = {"compile_layers": False, "max_length": 2048, "per_device_train_batch_size": 2}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump({**read("sft.yaml"), **small}))
    ran = []

    def run(*arguments: object) -> None:
        name, *words = map(str, arguments)
        ran.append(name)
        if name == "predict":  # the calibration of a run that was stopped changes no other answers
            assert ("--empty_bias 0" in " ".join(words)) is ("/calibrated-" not in words[-1])
        cli.run(name, words)

    monkeypatch.setattr(levers, "run", run)
    monkeypatch.setattr(levers, "FOLDER", tmp_path)
    out = tmp_path / "out"
    options = levers.LeverOptions(
        SAMPLE_CORPUS, out, seeds=[1], max_train_tokens=2000, test_records=20, max_new_tokens=8,
        model_name_or_path=str(save_tiny_model(tmp_path / "model", max_position_embeddings=4096)),
    )  # fmt: skip
    levers.main(options)
    answered = ["predict", "score"] * 2
    calibrated = ["predict", "calibrate", *answered]
    assert ran == ["build", "build", "train", *answered, *answered, *calibrated, "train", *answered]
    rows = [line.split(" | ") for line in (out / "report.md").read_text().splitlines()]
    assert [row[0] for row in rows[2:]] == ["| baseline", "| few_hard", "| free", "| calibrated"]
    assert not list(out.glob("*/model"))  # large
    ran.clear()
    levers.main(options)
    assert ran == []
    with pytest.raises(InputError, match="other settings"):
        levers.main(replace(options, max_train_tokens=3000, settings=["few_hard"]))
    assert ran == []
    with pytest.raises(InputError, match="unknown none"):
        levers.main(replace(options, settings=["none"]))


def test_the_difference_of_two_settings_is_the_mean_over_seeds_and_corpora(scripts: dict[str, ModuleType]) -> None:
    levers = scripts["levers"]
    right, half, wrong = (np.array([[tp, 1, 1]] * 20) for tp in (1, 0.5, 0))
    good, poor = {"a": right, "b": half}, {"a": half, "b": wrong}
    differences, interval = levers.compare([(good, poor), (poor, poor)])
    assert differences == [50.0, 0.0]
    assert interval == [0.0, 50.0]  # the records of a corpus are alike: what varies is the seed


def test_the_adapter_that_ships_extracts(smollm2: str) -> None:
    folder = FOLDER / "adapter"
    assert (folder / "adapter_model.safetensors").stat().st_size <= 20_000_000
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == SMOLLM2
    extract = Extractor.from_pretrained()
    text = "Marie Curie was born in Warsaw and moved to Paris in 1891 to study at the Sorbonne."
    found = {(fact.entity_type, fact.entity) for fact in extract(text, "NER", ["person", "city", "university"]).facts}
    assert {("person", "Marie Curie"), ("city", "Warsaw"), ("university", "Sorbonne")} <= found
