"""The code blocks of the README and of the documentation: found, checked, and run as a reader would."""

import ast
import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from helpers.corpora import ROOT
from iepile_builder.commands import cli
from iepile_builder.commands.training import LaunchOptions


BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)(?: title=\"(?P<title>[^\"\n]+)\")?\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(name: str) -> list[dict[str, str]]:
    """List the blocks of a page, each with its language, its code, and the comment and the title that it may have."""
    return [match.groupdict() for match in BLOCK.finditer((ROOT / name).read_text(encoding="utf-8"))]


def commands(code: str) -> Iterator[list[str]]:
    """Split a block of shell into commands and these into words."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def check(block: dict[str, str]) -> None:
    """Check a block that cannot run here: it parses, and all commands, options and names in it exist."""
    language, code = block["language"], block["code"]
    if language == "bash":
        subprocess.run(["bash", "-n", "-c", code], check=True)
        for words in commands(code):
            if words[0] == "iepile":
                check_options(words[1], words[2:])
    elif language == "python":
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iepile_builder"):
                for name in node.names:
                    assert hasattr(import_module(node.module or ""), name.name), f"{node.module}.{name.name}"
    elif language in ("yaml", "json"):  # also JSON lines
        for each in [code] if language == "yaml" or code.startswith("{\n") else code.splitlines():
            yaml.safe_load(each)


def check_options(name: str, words: list[str]) -> None:
    """Check that a command has these options, and that a recipe that it names is there."""
    module = import_module(f"iepile_builder.commands.{name.replace('-', '_')}")
    known = {"help", "help_all", "config", *LaunchOptions.__dataclass_fields__}
    if hasattr(module, "OPTIONS"):
        known = {"config", "help"}.union(*map(cli.documented, module.OPTIONS))
    else:
        import trl

        config = {"train": trl.SFTConfig, "grpo": trl.GRPOConfig}[name]
        arguments = getattr(module, {"train": "SftArguments", "grpo": "GrpoArguments"}[name])
        known |= {field for each in (config, trl.ModelConfig, arguments) for field in each.__dataclass_fields__}
    for option in words:
        if option.startswith("--"):
            assert option[2:].partition("=")[0] in known, f"iepile {name} has no {option}"
    for option, value in zip(words, words[1:], strict=False):
        if option == "--config" and value.count("/") == 2:
            assert (ROOT / "recipes" / value).is_file(), value


class Reader:
    """Runs the blocks of a page in one folder, the Python in one namespace, and keeps what the last one printed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.printed = folder, ""
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def follow(self, block: dict[str, str]) -> None:
        mark, language, code = block["mark"] or "", block["language"], block["code"]
        if mark == "prints":
            assert squeeze(self.printed) == squeeze(code)
        elif mark.startswith("needs") or mark == "installs":
            check(block)
        elif block["title"]:
            check(block)
            (self.folder / block["title"]).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block["title"]).write_text(code, encoding="utf-8")
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, "block", "exec"), self.names)
            self.printed = out.getvalue()
        elif language == "bash":
            self.printed = "".join(map(self.run, commands(code)))
        else:
            check(block)

    def run(self, words: list[str]) -> str:
        """Run a command in this process if it is one of ours, and return what it prints."""
        if words[0] != "iepile":
            return subprocess.run(words, check=True, capture_output=True, text=True).stdout
        launched = {f"--{name}" for name in LaunchOptions.__dataclass_fields__}
        while index := next((index for index, word in enumerate(words) if word in launched), 0):
            del words[index : index + 2]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            cli.run(words[1], words[2:])
        return out.getvalue()


def squeeze(text: str) -> str:
    """Leave out what depends on the width of the terminal."""
    return " ".join(text.replace("─", "").split())
