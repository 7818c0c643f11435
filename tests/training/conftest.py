"""A tiny model, instances, and short training runs with both."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.corpora import write_lines
from helpers.tiny import make_instances
from helpers.training import run_training


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_lines(tmp_path / "data" / "train.jsonl", make_instances(24))
    return tmp_path / "data"


@pytest.fixture
def train(model: str, data: Path, tmp_path: Path) -> Callable[..., list[dict]]:
    """Train into a folder of `tmp_path` as the command does, and return the log."""

    def run(
        output: str = "out", data_args: dict | None = None, model_args: dict | None = None, **args: object
    ) -> list:
        return run_training(model, data, tmp_path / output, data_args, model_args, **args)

    return run
