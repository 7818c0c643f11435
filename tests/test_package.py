"""What the package needs, and what each command and script says about itself."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers.corpora import ALL_TASKS, ROOT, SAMPLE_CORPUS

from iepile_builder.commands.cli import COMMANDS


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "trl", "peft", "accelerate", "evaluate"):
    sys.modules[name] = None  # importing it is an ImportError
import iepile_builder
from iepile_builder import IEPile
from iepile_builder.scoring.scorer import score
rows = IEPile(data_dir=sys.argv[1], tasks=sys.argv[3:], max_records=5, cache_dir=sys.argv[2]).as_dataset(split="test")
print(score(rows)["overall"]["f1"])
"""
FROM_PRETRAINED = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from iepile_builder import Extractor, InputError
try:
    Extractor.from_pretrained("user/model")
except InputError as error:
    print(error)
"""
HELP = """
import contextlib, io, json, sys
from iepile_builder.commands import cli
text = io.StringIO()
with contextlib.redirect_stdout(text):
    try:
        cli.run(sys.argv[1], ["--help"])
    except SystemExit as end:
        assert not end.code, end.code
print(json.dumps([text.getvalue(), list(sys.modules)]))
"""
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "gradio", "matplotlib", "sklearn", "openai", "vllm"}
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def test_the_core_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(SAMPLE_CORPUS), str(tmp_path), *ALL_TASKS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "100.0\n", done.stderr


def test_an_extractor_without_torch_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", FROM_PRETRAINED], capture_output=True, text=True)
    assert done.stdout.endswith("is not installed: pip install 'iepile-builder[extract]'\n"), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example_and_all_options_and_imports_nothing_heavy(command: str) -> None:
    module = import_module(f"iepile_builder.commands.{command.replace('-', '_')}")
    classes = getattr(module, "OPTIONS", ())
    done = subprocess.run([sys.executable, "-c", HELP, command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, modules = json.loads(done.stdout)
    assert HEAVY.isdisjoint(modules)
    assert module.__doc__.strip() in text
    assert f"\n    iepile {command} " in text
    options = [name for each in classes for name in documented(each)] or [*module.SHOWN]
    assert [name for name in options if f"--{name}" not in text] == []


def documented(options: type) -> list[str]:
    """The fields that the docstrings of a dataclass and of its bases list under `Args:`."""
    docs = [each.__doc__ or "" for each in options.__mro__ if each.__module__.startswith("iepile_builder")]
    lines = [line.strip() for doc in docs for line in doc.partition("Args:")[2].splitlines()]
    return [name for name in options.__dataclass_fields__ if any(line.startswith(f"{name} (`") for line in lines)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_a_docstring_with_its_command_and_one_call(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    assert f"scripts/{script.name} " in (ast.get_docstring(tree) or "")
    (name,) = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "run"
    ]
    assert name in COMMANDS
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"usage: iepile {name} " in done.stdout


def test_every_command_has_a_script() -> None:
    assert len(SCRIPTS) == len(COMMANDS)
