"""The wheel, and that of the sdist, installed outside the checkout: what a user has after `pip install`."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.corpora import ROOT


pytestmark = pytest.mark.slow

LOADED = """
import sys, json
from datasets import load_dataset
import iepile_builder
rows = load_dataset("iepile", "NER", data_dir=str(iepile_builder.io.SAMPLE_CORPUS), split="train")
print(json.dumps([iepile_builder.__file__, len(rows), sys.path]))
"""
METRIC = """
import json, sys
import evaluate, iepile_builder
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
columns = {"references": "label", "tasks": "task", "sources": "source", "ids": "id", "instructions": "instruction"}
given = {name: [row[column] for row in rows] for name, column in columns.items()}
report = evaluate.load(iepile_builder.metric_path()).compute(predictions=[row["output"] for row in rows], **given)
print(report["overall"]["f1"])
"""
LICENCES = """
from importlib.metadata import metadata
print(metadata("iepile-builder")["License-Expression"], *metadata("iepile-builder").get_all("License-File"))
"""
FOLDERS = ("evaluate_metrics", "recipes")
LIST = """
import json, sys
from iepile_builder.io import RESOURCES
files = [str(path.relative_to(RESOURCES)) for name in sys.argv[1:] for path in (RESOURCES / name).rglob("*")
         if path.is_file() and path.suffix != ".pyc"]
print(json.dumps(sorted(files)))
"""
RECIPE = "qwen3-4b/sft/config_lora.yaml"
FIND = """
import sys
from iepile_builder.io import find_resource
print(find_resource("recipes", sys.argv[1]).read_text(encoding="utf-8"))
"""
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run a program of an environment in which the wheel is installed; its other packages are those of this one."""
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in files.split("\0")[:-1]:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)

    def build(hook: str, place: Path) -> Path:
        command = [sys.executable, "-c", BUILD, hook, folder]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return folder / done.stdout.splitlines()[-1]

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if request.param == "sdist":
        sdist = build("build_sdist", source)
        shutil.unpack_archive(sdist, folder / "unpacked")
        shutil.rmtree(source)
        (source,) = (folder / "unpacked").iterdir()
    wheel = build("build_wheel", source)
    shutil.rmtree(source)

    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", venv / "bin" / "python", "install", "--no-deps"]
    done = subprocess.run([*pip, wheel], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    # this environment's packages, but not its editable install of the checkout, which a .pth file of its own makes
    (place / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}

    def run(program: str, *arguments: object) -> str:
        command = [venv / "bin" / program, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_wheel_is_all_that_a_user_needs(run: Callable[..., str], tmp_path: Path) -> None:
    assert "quickstart" in run("iepile", "--help")
    assert run("python", "-m", "iepile_builder", "--help") == run("iepile", "--help")

    expected = "Apache-2.0 AND CC-BY-NC-SA-4.0 LICENSE iepile_builder/resources/LICENSE"
    assert run("python", "-c", LICENCES).strip() == expected

    place, rows, path = json.loads(run("python", "-c", LOADED).splitlines()[-1])
    assert "site-packages" in place and rows > 100
    assert not any(
        Path(entry).resolve().is_relative_to(ROOT / "iepile_builder") or Path(entry) == ROOT for entry in path
    )

    data = tmp_path / "data"
    run("iepile", "build", "--corpus_dir", Path(place).parent / "resources" / "sample_corpus", "--output_dir", data)
    test = [json.loads(line) for line in (data / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({**row, "output": "{}"}) + "\n" for row in test), encoding="utf-8")
    report = tmp_path / "report.json"
    run("iepile", "score", "--predictions_file", answers, "--output_file", report)
    assert json.loads(report.read_text(encoding="utf-8"))["overall"]["answers"] == len(test)
    assert float(run("python", "-c", METRIC, answers)) == 0

    files = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(run("python", "-c", LIST, *FOLDERS)) == sorted(files.split())
    assert run("python", "-c", FIND, RECIPE) == (ROOT / "recipes" / RECIPE).read_text(encoding="utf-8") + "\n"
