"""The command `iepile`: options, recipes by name, errors in one line."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from iepile_builder.commands import cli
from iepile_builder.errors import InputError


@dataclass
class Options:
    """
    Some options.

    Args:
        model_name_or_path (`str`):
            A model.
        lora_r (`int`, *optional*, defaults to 8):
            A rank.
        flag (`bool`, *optional*, defaults to `False`):
            A flag.
        names (`list[str]`, *optional*):
            Some names.
        share (`float` or `dict[str, float]`, *optional*):
            A share.
    """

    model_name_or_path: str
    lora_r: int = 8
    flag: bool = False
    names: list[str] | None = None
    share: float | dict[str, float] | None = None
    internal: int = 0  # not documented, so no option
    __module__ = "iepile_builder.commands.some"  # options are documented in the library


def parse(*argv: str) -> Options:
    (options,) = cli.parse_options("score", "Doc.", (Options,), argv)
    return options


def test_options_are_the_documented_fields() -> None:
    assert parse("--model_name_or_path", "m") == Options("m")
    given = parse("--model_name_or_path", "m", "--lora_r", "4", "--flag", "--names", "a", "b")
    assert given == Options("m", 4, True, ["a", "b"])
    assert parse("--model_name_or_path", "m", "--flag", "false") == Options("m")
    with pytest.raises(InputError, match="internal"):
        parse("--model_name_or_path", "m", "--internal", "1")
    with pytest.raises(InputError, match="model_name_or_path.*see iepile score --help"):
        parse()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config.yaml: not a YAML file of options"),
        ("- a\n", "config.yaml: not a YAML file of options"),
        ("model_name_or_path: m\nnames: a\n", r"config.yaml: names is a list: write names: \[a\]"),
    ],
)
def test_a_config_of_another_form(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        parse("--config", str(file))


def test_a_value_of_none_of_several_types() -> None:
    with pytest.raises(InputError, match=r"--share: Expected float, dict\[str, float\]. Got value: abc; see"):
        parse("--model_name_or_path", "m", "--share", "abc")
    with pytest.raises(InputError, match="the JSON of an option is nested too deeply; see"):
        parse("--model_name_or_path", "m", "--share", "[" * 990 + "]" * 990)


def test_a_number_that_is_none_and_an_unknown_option_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--lora_r: 'two' is not an integer; see"):
        parse("--model_name_or_path", "m", "--lora_r", "two")
    file = tmp_path / "config.yaml"
    file.write_text("lora_rank: 2\n")
    with pytest.raises(InputError, match=r"config.yaml: Option 'lora_rank' is not accepted"):
        parse("--config", str(file))


def test_a_config_is_a_file_or_a_recipe_s_name_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model_name_or_path: m\nlora_r: 2\n")
    assert parse("--config", str(file)) == Options("m", 2)
    assert parse("--config", str(file), "--lora_r", "3") == Options("m", 3)
    with pytest.raises(InputError, match="'(dtype|attn_implementation)' is not accepted"):
        parse("--config", "qwen3-4b/sft/config_lora.yaml")  # found by name; it has options of `iepile train`
    with pytest.raises(InputError, match="qwen3-4b, qwen3-8b"):
        parse("--config", "qwen3/config.yaml")
    file.write_bytes(b"\xff\xfem\0")
    with pytest.raises(InputError, match=r"config\.yaml: not UTF-8 \(invalid start byte at byte 0\)"):
        parse("--config", str(file))


def test_a_name_with_line_breaks_and_escapes_stays_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise InputError("a\nb\u2028\x1b[31m é: no such file")

    module = SimpleNamespace(main=main, OPTIONS=(), __doc__="Doc.")
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    with pytest.raises(SystemExit) as ended:
        cli.run("predict", [])
    assert ended.value.code == r"error: a\nb\u2028\x1b[31m é: no such file"


def test_a_missing_package_names_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    module = SimpleNamespace(main=main, OPTIONS=(), __doc__="Doc.")
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    with pytest.raises(SystemExit, match=r"^error: torch is not installed: pip install 'iepile-builder\[extract\]'$"):
        cli.run("predict", [])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TimeoutError()])
def test_ctrl_c_ends_in_one_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def main() -> None:
        error.__context__ = KeyboardInterrupt()  # the second is one of a library that cleans up
        raise error

    module = SimpleNamespace(main=main, OPTIONS=(), __doc__="Doc.")
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    for name, line in {
        "predict": "interrupted: finished answers are kept, and the same command resumes\n",
        "score": "interrupted\n",
    }.items():
        with pytest.raises(SystemExit) as ended:
            cli.run(name, [])
        assert ended.value.code == 130
        assert capsys.readouterr().err == line


def test_output_that_nobody_reads_ends_silently() -> None:
    code = (
        "import sys, types\n"
        "from iepile_builder.commands import cli\n"
        "module = types.SimpleNamespace(main=lambda: print('x' * int(sys.argv[1])), OPTIONS=(), __doc__='Doc.')\n"
        "cli.import_module = lambda name: module\n"
        "cli.run('push', [])\n"
    )
    for length in ("10", "1000000"):  # the first is written at the end
        with subprocess.Popen(
            [sys.executable, "-c", code, length], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 141


def test_another_broken_pipe_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise BrokenPipeError("of a server")

    module = SimpleNamespace(main=main, OPTIONS=(), __doc__="Doc.")
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    with pytest.raises(BrokenPipeError, match="of a server"):
        cli.run("push", [])


def test_an_unknown_command_lists_the_known_ones() -> None:
    with pytest.raises(SystemExit, match="unknown command 'buidl'; known: convert, build, mine"):
        cli.main(["buidl"])
