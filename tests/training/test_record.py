"""What is kept of a run, and what the trackers get."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers.corpora import write_lines
from helpers.tiny import CHATML
from helpers.training import F1_WHILE_TRAINING, cities, losses
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.data.output import write_marker
from iepile_builder.engines.loading import BASE_NOTE, SMOLLM2
from iepile_builder.hub.cards import ModelFacts
from iepile_builder.hub.files import model_files
from iepile_builder.training.record import add_labels, describe_build, find_build


def test_what_is_kept(
    train: Callable[..., list[dict]], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    template = tmp_path / "other.jinja"
    template.write_text(
        CHATML.replace("im_start|>'", "im_start|>' + 'the '").replace("|>assistant", "|>the assistant")
    )
    write_lines(data / "validation.jsonl", cities(2))
    log = train(data_args={"ie_f1_records": 2}, chat_template_path=str(template), **F1_WHILE_TRAINING)
    out = tmp_path / "out"
    assert load_file(out / "adapter_model.safetensors")
    modules = json.loads((out / "adapter_config.json").read_text())["target_modules"]
    assert len(modules) > 5 and modules == sorted(modules)  # the same file whatever the seed of hashes
    assert load_tokenizer(str(out)).chat_template == template.read_text()

    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "peft" and card.data.base_model is None
    kept = [entry for entry in log if "eval_loss" in entry][-1]  # none answers anything yet: the last is kept
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {"ie_f1": 0, "loss": pytest.approx(kept["eval_loss"], abs=1e-4)}
    for text in (
        "Trained on 24 instances, ",
        "LoRA of rank 4",
        "4 rows x 1 accumulated x 1",
        "those of step 6",
        "0.01",
    ):
        assert text in card.text
    for entry in log:
        if "eval_loss" in entry or "loss" in entry:
            assert f"{entry.get('loss', entry.get('eval_loss')):.4f}" in card.text
    assert str(tmp_path) not in card.content
    assert capsys.readouterr().out.splitlines()[-1] == f"adapter, tokenizer with chat template, card, plot: {out}"


def test_a_calibration_goes_with_the_weights_that_it_was_fitted_to(
    train: Callable[..., list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    kept = {"save_strategy": "steps", "save_steps": 1}
    train(max_steps=1, **kept)
    file = tmp_path / "out" / "calibration.json"
    file.write_text('{"empty_bias": {"NER": -2.5}, "score": {}}')
    train(max_steps=1, **kept)  # nothing is left to do: the weights are those of before
    assert file.exists()
    train(max_steps=2, **kept)
    assert not file.exists() and "-2.5" not in (file.parent / "README.md").read_text()
    assert capsys.readouterr().out.count(f"{file}: removed, ") == 1


def test_what_the_rows_were_built_with(tmp_path: Path) -> None:
    write_marker(
        tmp_path, command="build", options={"negatives": "all", "label_synonyms": str(tmp_path / "names.json")}
    )
    found = find_build(str(tmp_path))
    assert found == {"options": {"negatives": "all", "label_synonyms": "names.json"}}
    assert describe_build(found) == {"instances built with": "negatives all; label_synonyms names.json"}
    assert find_build(str(tmp_path / "train.jsonl")) == find_build("zjunlp/iepile") == describe_build({}) == {}


def test_a_run_too_short_for_a_plot_has_no_word_of_it(
    train: Callable[..., list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train(model_args={"use_peft": False}, max_steps=1, logging_steps=5)
    assert capsys.readouterr().out.splitlines()[-1] == f"model, tokenizer with chat template, card: {tmp_path / 'out'}"
    assert not list(tmp_path.glob("out/*.png"))
    assert ".png" not in (tmp_path / "out" / "README.md").read_text()


def test_the_tasks_that_were_trained(train: Callable[..., list[dict]], tmp_path: Path) -> None:
    train(max_steps=1)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["tasks"] == ["NER", "RE"]
    train("ner", {"tasks": ["NER"]}, max_steps=1)
    assert json.loads((tmp_path / "ner" / "training.json").read_text())["tasks"] == ["NER"]


def test_the_labels_that_training_has_seen(train: Callable[..., list[dict]], tmp_path: Path) -> None:
    train(max_steps=1)
    labels = json.loads((tmp_path / "out" / "training.json").read_text())["labels"]
    assert labels.keys() == {"NER", "RE"}
    assert "city" in labels["NER"]
    assert add_labels(None, labels) == labels
    assert add_labels(str(tmp_path / "out"), {"NER": ["river"], "EE": ["meet"]}) == {
        "NER": sorted([*labels["NER"], "river"]),
        "RE": labels["RE"],
        "EE": ["meet"],
    }
    assert add_labels(str(tmp_path), labels) is None  # an adapter without a record
    for damaged in ("{", "[]", '{"labels": {"NER": 3}}'):
        (tmp_path / "training.json").write_text(damaged)
        with pytest.raises(InputError, match="training.json: not the record of a training"):
            add_labels(str(tmp_path), labels)


def test_what_continues_an_adapter_has_its_licence(train: Callable[..., list[dict]], tmp_path: Path) -> None:
    train("first", max_steps=1)
    assert json.loads((tmp_path / "first" / "training.json").read_text())["terms"] == {}
    (tmp_path / "first" / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# An adapter\n")
    train("second", {"adapter_name_or_path": str(tmp_path / "first")}, max_steps=1)
    facts = ModelFacts(base_model="user/base")  # a base of another licence
    files = model_files("adapter", tmp_path / "second", "user/a", facts)
    assert "license: cc-by-nc-sa-4.0" in bytes(files["README.md"]).decode()
    assert "license: cc-by-nc-sa-4.0" in (tmp_path / "second" / "README.md").read_text()
    own = model_files("adapter", tmp_path / "second", "user/a", replace(facts, license="mit"))
    assert "license: mit" in bytes(own["README.md"]).decode()


def test_the_recipe_repeats_the_run(train: Callable[..., list[dict]], model: str, tmp_path: Path) -> None:
    def read(name: str) -> tuple[str, dict]:
        text = (tmp_path / name / "recipe.yaml").read_text()
        return text.splitlines()[0], yaml.safe_load(text)

    train("first", max_steps=1)
    first, recipe = read("first")
    assert "--dataset_name, --model_name_or_path and --output_dir" in first  # the base is a folder
    assert recipe["use_peft"]
    base = shutil.copytree(model, tmp_path / "base")
    (base / BASE_NOTE).write_text("4 bits")
    base_args = {"model_name_or_path": str(base)}
    train("second", {"adapter_name_or_path": str(tmp_path / "first")}, base_args, max_steps=1)
    first, recipe = read("second")
    assert "--adapter_name_or_path (this run continued first)" in first and "--model_name" not in first
    assert recipe["model_name_or_path"] == SMOLLM2
    assert not any(str(tmp_path) in (tmp_path / name / "recipe.yaml").read_text() for name in ("first", "second"))


def test_trackio(train: Callable[..., list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = pytest.importorskip("trackio.sqlite_storage")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path)
    log = train(report_to="trackio", project="ie", run_name="a run")
    (tmp_path / "ie.db").stat()
    recorded = [
        entry["train/loss"] for entry in storage.SQLiteStorage.get_logs("ie", "a run") if "train/loss" in entry
    ]
    assert recorded == losses(log)


def test_tensorboard(train: Callable[..., list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    log = train(report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses(log))


def test_wandb(train: Callable[..., list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(report_to="wandb", run_name="a run")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_the_name_of_a_base_keeps_its_dot(train: Callable[..., list[dict]], model: str, tmp_path: Path) -> None:
    base = shutil.copytree(model, tmp_path / "tiny-0.6b")
    train(model_args={"model_name_or_path": str(base)}, max_steps=1)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["base_name"] == "tiny-0.6b"
