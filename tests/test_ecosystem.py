"""What other programs read of this repository: headers of scripts, the skill for agents, the packages' metadata."""

import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from helpers.corpora import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from iepile_builder import __version__
from iepile_builder.commands.cli import COMMANDS, EXTRAS, documented, make_parser
from iepile_builder.io import find_resource


if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
HEADER = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # PEP 723
SKILL = ROOT / "skills" / "iepile" / "SKILL.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_it_needs(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    (found,) = HEADER.finditer(text)
    assert found["type"] == "script" and found.start() == 0
    header = tomllib.loads("".join(line[2:] for line in found["content"].splitlines(keepends=True)))
    assert SpecifierSet(header["requires-python"]) == SpecifierSet(PROJECT["requires-python"])
    (needed,) = map(Requirement, header["dependencies"])
    (command,) = re.findall(r'run\("([\w-]+)"', text)
    assert needed.name == PROJECT["name"]
    assert needed.extras == ({EXTRAS[command]} if command in EXTRAS else set())
    assert needed.extras <= PROJECT["optional-dependencies"].keys()


def test_the_skill_has_a_name_and_says_when_it_is_used() -> None:
    front, _, body = SKILL.read_text(encoding="utf-8").removeprefix("---\n").partition("\n---\n")
    about = yaml.safe_load(front)
    assert about["name"] == SKILL.parent.name
    assert 40 < len(about["description"]) <= 1024 and "Use it when" in about["description"]
    assert len(body.splitlines()) < 200


def skill_commands() -> list[str]:
    text = SKILL.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    inline = [" ".join(code.split()) for code in re.findall(r"`(iepile [a-z][^`]*--[a-z][^`]*)`", text)]
    return [*blocks.splitlines(), *inline]


@pytest.mark.parametrize("line", skill_commands())
def test_commands_of_the_skill_are_real(line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert program == "iepile" and command in COMMANDS
    module = import_module(f"iepile_builder.commands.{command.replace('-', '_')}")
    if not hasattr(module, "parse"):
        parser = make_parser(command, "", module.OPTIONS)
        parser.parse_args(arguments)  # raises for what is unknown, missing or of another type
        assert any(documented(each) for each in module.OPTIONS)
    if "--config" in arguments:
        assert find_resource("recipes", arguments[arguments.index("--config") + 1]).is_file()


def test_the_skill_has_commands_to_check() -> None:
    assert len(skill_commands()) > 8


def test_the_container_starts_the_demo_with_real_options() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    program, command, *arguments = json.loads(entry)
    assert (program, command) == ("iepile", "demo")
    options = import_module("iepile_builder.commands.demo").OPTIONS
    examples = re.findall(r"docker run .*? iepile-demo (.*)$", text, re.MULTILINE)
    assert examples
    for example in examples:
        make_parser("demo", "", options).parse_args([*arguments, *shlex.split(example)])
    (extras,) = re.findall(r"/tmp/source\[(.*?)\]", text)
    assert {*extras.split(",")} <= PROJECT["optional-dependencies"].keys()


def test_the_version_is_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", __version__)
    for name in ("CITATION.cff", "setup.py", "pyproject.toml"):
        assert __version__ not in (ROOT / name).read_text(encoding="utf-8").split('"')


def test_ci_runs_the_oldest_python_and_a_declared_newer_one() -> None:
    (workflow,) = (ROOT / ".github" / "workflows").glob("tests.yml")
    tested = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert f">={tested[0]}" == PROJECT["requires-python"]
    assert {f"Programming Language :: Python :: {version}" for version in tested} <= {*PROJECT["classifiers"]}
