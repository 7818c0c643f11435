"""`benchmarks/gpu`: the check that is ready for the minutes in which a GPU is at hand, in its small form on a CPU."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.corpora import ROOT
from helpers.tiny import save_tiny_model

from iepile_builder.commands import grpo, train
from iepile_builder.commands.cli import parse_options


FOLDER = ROOT / "benchmarks" / "gpu"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gpu")
    command = [
        sys.executable,
        str(FOLDER / "check.py"),
        "--tiny",
        "true",
        "--stages",
        "env",
        "train",
        "decode",
        "passes",
    ]
    command += ["--tokenizer", str(save_tiny_model(folder / "tiny", merges=True)), "--output_dir", str(folder / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert all(line["cell"] in done.stdout for line in lines)
    return lines


def test_every_cell_is_measured(lines: list[dict]) -> None:
    assert not [line for line in lines if "error" in line]
    cells = {stage: [line for line in lines if line["stage"] == stage] for stage in ("train", "decode", "passes")}
    assert [len(of_stage) for of_stage in cells.values()] == [2, 10, 2]
    for line in cells["train"]:
        assert line["useful_tokens_s"] > 0 and line["readme_gb"] >= 0 and len(line["losses"]) == 2
    for line in cells["decode"]:
        assert line["answers_s"] > 0
        assert "float32" not in line["cell"] or "constrained" in line["cell"] or line["equal"] == line["answers"] == 4
    assert all(line["ms"] > 0 for line in cells["passes"])


def test_stages_that_are_left_out_leave_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    share_seconds = import_module("check").share_seconds
    assert share_seconds(["passes", "decode"], 400) == pytest.approx({"decode": 300, "passes": 100})
    assert sum(share_seconds(["env", "commands", "train", "decode", "passes"], 540).values()) == pytest.approx(540)


def test_the_tokenizer_is_that_of_the_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    with pytest.raises(SystemExit, match=r"^\.gpu/tokenizer: no such folder"):
        import_module("check").main()
    assert "path/to/SmolLM2-135M-Instruct .gpu" in (FOLDER / "bundle.sh").read_text()


def test_no_prompt_is_answered_twice_and_an_error_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    cells, check = import_module("cells"), import_module("check")
    monkeypatch.setattr(cells, "SIZES", dict.fromkeys(cells.SIZES, cells.SIZES["tiny"]))
    asked: list[list[Any]] = []
    measure_way = cells.measure_way

    def measure(results: Any, cell: str, ask: Any, requests: list[Any], instances: list[Any], *rest: Any) -> Any:
        asked.append([request.messages[-1]["content"] for request in requests])
        return measure_way(results, cell, lambda some: ["{}"], requests[:2], instances[:2], *rest)  # one is missing

    monkeypatch.setattr(cells, "measure_way", measure)
    splits = {
        name: [{"task": "NER", "instruction": f'{{"schema": ["city"], "input": "{name} {number}"}}', "output": "{}"}
               for number in range(3)] * 2
        for name in ("train", "test")
    }  # fmt: skip
    monkeypatch.setattr(cells, "load_instances", lambda *args: splits)
    results = check.Results(tmp_path / "results.jsonl", "given")
    cells.measure_answers(results, save_tiny_model(tmp_path / "tiny"), tmp_path, time.time() + 60, tiny=False)
    assert [len(prompts) for prompts in asked[:4]] == [6] * 4  # of both splits
    assert all(len(set(prompts)) == len(prompts) for prompts in asked[:4])
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all("ValueError" in line["error"] for line in lines)


def test_the_commands_take_their_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    list_commands = import_module("check").list_commands
    (tmp_path / "tiny").mkdir()
    commands = list_commands(tmp_path / "tiny", tmp_path / "data", tmp_path, tiny=False)
    assert len(commands) > len(list_commands(tmp_path, tmp_path, tmp_path, tiny=True)) > 5
    for _, _, (name, *arguments) in commands:
        if name in ("train", "grpo"):
            while arguments[0] in ("--accelerate_config", "--num_processes", "--main_process_port"):
                arguments = arguments[2:]
            parsed = {"train": train, "grpo": grpo}[name].parse([*arguments, "--use_cpu", "true"])
            assert str(parsed[1].output_dir).startswith(str(tmp_path))
        else:
            parse_options(name, "", import_module(f"iepile_builder.commands.{name}").OPTIONS, arguments)


def test_it_is_for_this_library() -> None:
    """What is bundled for a machine without a network is installed here under these names."""
    from importlib.metadata import version

    text = (FOLDER / "bundle.sh").read_text().replace("\\\n", " ")
    [packages] = [line for line in text.splitlines() if line.startswith("for package in")]
    for package in packages.removeprefix("for package in").partition(";")[0].split():
        assert version(package)


def test_an_older_kernel_takes_the_arguments_of_the_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    spec = spec_from_file_location("older_torch", FOLDER / "older_torch.py")
    older_torch = module_from_spec(spec)
    spec.loader.exec_module(older_torch)

    def old(query, key, value, borders, is_causal=False, scale=None):  # no `window_size`, no `enable_gqa`
        return query.shape, key.shape, value.shape, is_causal, scale

    new = {"scale": 0.5, "window_size": (-1, 0), "enable_gqa": True}
    query, pair = torch.zeros(7, 6, 4), torch.zeros(7, 2, 4)
    assert older_torch.adapt(old)(query, pair, pair, None, **new) == (query.shape,) * 3 + (True, 0.5)

    def newest(query, key, value, *borders, scale=None, window_size=None, enable_gqa=False):
        pass

    assert older_torch.adapt(newest) is newest
