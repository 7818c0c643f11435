"""Compiled layers: the same losses, F1, checkpoints and files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.corpora import write_lines
from helpers.training import F1_WHILE_TRAINING, cities, losses, scores
from safetensors.torch import load_file
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from iepile_builder import InputError
from iepile_builder.training.trainer import compile_layers


try:
    get_cpp_compiler()
except InvalidCxxCompiler:
    pytest.skip("no C++ compiler", allow_module_level=True)


@pytest.mark.parametrize("peft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_layers_learn_the_same(
    train: Callable[..., list[dict]], data: Path, tmp_path: Path, peft: bool
) -> None:
    write_lines(data / "train.jsonl", cities(12, "train"))
    write_lines(data / "validation.jsonl", cities(2))
    name = "adapter_model.safetensors" if peft else "model.safetensors"
    f1, model_args = {"ie_f1_records": 2}, {"use_peft": peft}
    plain = train("plain", f1, model_args, **F1_WHILE_TRAINING)
    torch._dynamo.utils.counters.clear()
    compiled = train("compiled", {**f1, "compile_layers": True}, model_args, **F1_WHILE_TRAINING)
    # One for all layers, and with an adapter another for the first, whose input needs no gradient; none of evaluations
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1 + peft
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)
    assert len(scores(compiled)) == 3 and scores(compiled) == scores(plain)

    shutil.copytree(tmp_path / "compiled" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    resumed = train("resumed", {**f1, "compile_layers": True}, model_args, **F1_WHILE_TRAINING)
    assert losses(resumed) == pytest.approx(losses(compiled), abs=1e-6)
    weights = {folder: load_file(tmp_path / folder / name) for folder in ("plain", "compiled")}
    assert weights["plain"].keys() == weights["compiled"].keys()


def test_models_and_machines_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="not with Linear"):
        compile_layers(torch.nn.Linear(2, 2))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(InputError, match="no C.. compiler"):
        compile_layers(torch.nn.Linear(2, 2))
