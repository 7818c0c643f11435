"""`iepile quickstart`, whole, with a model of a few thousand weights."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers.corpora import SAMPLE_CORPUS, assert_one_clear_line, write_lines
from helpers.hub_server import LocalHub
from helpers.processes import wait_until_gone
from helpers.tiny import save_tiny_model

from iepile_builder import InputError
from iepile_builder.commands import quickstart as command
from iepile_builder.commands import train
from iepile_builder.commands.quickstart import find_device, take_test_records


@pytest.fixture
def quickstart(hub: LocalHub, tmp_path: Path):
    hub.api().create_repo("user/tiny")
    hub.api().upload_folder(repo_id="user/tiny", folder_path=save_tiny_model(tmp_path / "model"))
    card = b"---\nlicense: mit\n---\n"
    hub.api().upload_file(repo_id="user/tiny", path_or_fileobj=card, path_in_repo="README.md")

    def run(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "iepile_builder", "quickstart", "--model_name_or_path", "user/tiny"]
        command += ["--max_train_tokens", "4000", "--max_generated_tokens", "300", "--max_new_tokens", "10"]
        command = [*map(str, command), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=hub.environment)

    return run


def test_from_a_corpus_to_scores_and_again_to_the_hub(quickstart, hub: LocalHub, tmp_path: Path) -> None:
    corpus = SAMPLE_CORPUS / "IE-en" / "NER" / "daily_news"
    done = quickstart("--corpus_dir", corpus)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "quickstart").iterdir()
    assert folder.name.startswith("daily_news-")
    test = (folder / "test.jsonl").read_text().splitlines()
    assert 0 < len(test) <= 30
    for model in ("base", "lookup", "tuned"):
        answers = [json.loads(line) for line in (folder / f"{model}.jsonl").read_text().splitlines()]
        assert [row["instruction"] for row in answers] == [json.loads(line)["instruction"] for line in test]
        assert json.loads((folder / f"{model}_report.json").read_text())["overall"]["answers"] == len(test)
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    for words in ("lookup", "precision", "F1", "95% interval", "Time of every stage", "adapter", "train"):
        assert words in done.stdout
    assert "reused" not in done.stdout

    again = quickstart("--corpus_dir", corpus, "--push_to_hub", "user/mine")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("reused") == 8  # build, train, and for three systems predict and score
    assert hub.token not in again.stdout + again.stderr
    files = hub.repository("user/mine").files()
    assert files["adapter_model.safetensors"] == (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert files["predictions.jsonl"] == (folder / "tuned.jsonl").read_bytes()
    f1 = json.loads(files["score_report.json"])["overall"]["f1"]
    card = files["README.md"].decode()
    assert f"| all | **{f1:.1f}** [" in card
    assert "daily_news_data" not in card  # a folder's name
    assert str(tmp_path) not in card


@pytest.mark.slow
def test_the_shipped_adapter_is_continued(smollm2: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "iepile_builder", "quickstart", "--max_train_tokens", "1000"]
    command += ["--max_generated_tokens", "180", "--max_new_tokens", "30"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "quickstart").iterdir()
    base, shipped, tuned = [(folder / f"{system}.jsonl").read_text() for system in ("base", "shipped", "tuned")]
    assert base not in (shipped, tuned)
    card = (folder / "adapter" / "README.md").read_text()
    assert (
        "license: cc-by-nc-sa-4.0" in card
        and "the zero-shot adapter of iepile-builder (recipes/smollm2-135m-instruct/zero_shot), continued" in card
    )


def test_the_sample_is_scored_with_the_dictionary_of_its_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(times: dict, name: str, result: Path, words: list) -> None:
        if name == "score, base":
            raise InputError(" ".join(map(str, words)))

    monkeypatch.setattr(command, "start_children", lambda: None)
    monkeypatch.setattr(command, "take_test_records", lambda *_: None)
    monkeypatch.setattr(command, "_run", run)
    with pytest.raises(InputError, match="--hard_negatives .*sample_corpus/hard_negatives.json"):
        command.main(command.QuickstartOptions(model_name_or_path="m", output_dir=tmp_path))


def test_a_gpu_is_used_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cuda.is_available() or find_device() == ["cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        accelerate_config, *options = find_device()
    assert accelerate_config == "single_gpu"
    arguments = ["--config", "smollm2-135m-instruct/sft/config_lora.yaml", *options, "--bf16", "false"]
    _, training_args, model_args = train.parse([*arguments, "--dataset_name", "data", "--output_dir", "out"])
    assert not training_args.use_cpu and model_args.attn_implementation == "sdpa"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_stage_ends_with_the_command(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    command = [sys.executable, "-m", "iepile_builder", "quickstart", "--model_name_or_path", "model"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("== build") for line in process.stdout)
        while not (children := psutil.Process(process.pid).children()):
            time.sleep(0.01)
        process.terminate()
        process.wait(60)
    assert process.returncode == -signal.SIGTERM
    wait_until_gone([child.pid for child in children])


def test_whole_records_in_turn_from_every_corpus(tmp_path: Path) -> None:
    rows = [
        {"id": f"{source}{index // 2}", "task": "NER", "source": source, "instruction": str(index), "label": "[]"}
        for source, count in (("a", 40), ("b", 6))
        for index in range(count)
    ]
    unlabelled = [{name: value for name, value in row.items() if name != "label"} for row in rows[:4]]
    write_lines(tmp_path / "validation.jsonl", [*unlabelled, *rows])
    take_test_records(tmp_path, tmp_path / "test.jsonl", 13)
    taken = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert sorted(row["source"] for row in taken) == ["a"] * 6 + ["b"] * 6
    for row in taken:
        assert sum(other["id"] == row["id"] for other in taken) == 2


def test_what_cannot_be_published_is_said_before_anything_is_done(quickstart, tmp_path: Path) -> None:
    done = quickstart("--push_to_hub", "user/mine", "--model_name_or_path", tmp_path / "model")
    assert_one_clear_line(done, "is a folder", "--base_model")
    assert not (tmp_path / "outputs").exists()


def test_a_folder_that_is_no_corpus(quickstart, tmp_path: Path) -> None:
    assert_one_clear_line(quickstart("--corpus_dir", tmp_path / "nowhere"), "no such folder of corpora")


def test_an_output_folder_that_cannot_be_made_is_one_line(run_command, people: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_command(
        "quickstart", "--model_name_or_path", "m", "--corpus_dir", people, "--output_dir", "file/out", check=False
    )
    assert_one_clear_line(done, "Not a directory")
