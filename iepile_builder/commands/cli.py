"""
The command `iepile`: `iepile build ...` reads the options of `commands/build.py` and calls its `main`.

A command's options are dataclasses. Their documented fields are its options, their docstrings its help, and each class
is a group of the help; the library uses the same classes.
"""

import ast
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser  # type: ignore[attr-defined]

from iepile_builder import __version__
from iepile_builder.engines.loading import quiet_libraries
from iepile_builder.errors import InputError
from iepile_builder.io import check_apart, find_resource
from iepile_builder.processes import end_with_parent


COMMANDS = (
    "convert", "build", "mine", "train", "grpo", "predict", "score", "calibrate", "extract", "extract-corpus", "demo",
    "push", "merge", "export-gguf", "quickstart", "benchmark",
)  # fmt: skip
WRITTEN = {"output_file", "left_out_file", "save_partial"}  # options that name a file to write
LAUNCHED = ("train", "grpo")  # in processes that accelerate starts

# The extra that has what a command imports
EXTRAS = {
    "mine": "mine", "train": "train", "grpo": "train", "predict": "extract", "extract": "extract",
    "extract-corpus": "extract", "demo": "demo",
    "merge": "extract", "export-gguf": "gguf", "quickstart": "quickstart", "benchmark": "extract",
}  # fmt: skip

# What a command that was interrupted leaves for its next run
KEPT = {
    "build": "finished splits", "predict": "finished answers", "quickstart": "finished stages",
    "extract-corpus": "finished shards",
    "benchmark": "finished answers",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names."""
    end_with_parent()
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: iepile COMMAND [options]\n\n" + "\n".join(f"  {name:<14} {_summary(name)}" for name in COMMANDS))
        print("\niepile COMMAND --help lists the options of a command.")
    elif argv[0] == "--version":
        print(f"iepile {__version__}")
    elif argv[0] not in COMMANDS:
        sys.exit(f"error: unknown command {argv[0]!r}; known: {', '.join(COMMANDS)}")
    elif argv[0] in LAUNCHED:
        with _ended_in_one_line(argv[0]):
            import_module("iepile_builder.commands.training").launch(argv[0], argv[1:])
    else:
        run(argv[0], argv[1:])


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a command in this process; bad input ends in one line. A command may parse its own options."""
    end_with_parent()
    with quiet_libraries(), _ended_in_one_line(name):
        module = import_module(f"iepile_builder.commands.{name.replace('-', '_')}")
        if hasattr(module, "parse"):
            module.main(*module.parse(argv))
            return
        module.main(*parse_options(name, module.__doc__ or "", module.OPTIONS, argv))


@contextmanager
def _ended_in_one_line(name: str) -> Iterator[None]:
    """End a command in one line for bad input, a missing package and Ctrl-C, and silently if its output is closed."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        try:
            print(flush=True)  # was it this pipe, or one of a library?
        except BrokenPipeError:  # whoever reads the output, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
            sys.exit(141)
        raise
    except InputError as error:
        # a name may hold a line break or a terminal's escape, whoever made it up
        text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], str(error))
        sys.exit(f"error: {text}")
    except (KeyboardInterrupt, Exception) as error:
        # `datasets` raises another error while it ends its processes
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
                kept = f": {KEPT[name]} are kept, and the same command resumes" if name in KEPT else ""
                if isinstance(error, KeyboardInterrupt) and error.args:  # a command that says it itself
                    kept = f": {error}"
                print("\n" * sys.stderr.isatty() + f"interrupted{kept}", file=sys.stderr)  # below a bar and ^C
            sys.exit(130)
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if name not in EXTRAS or (missing or "").partition(".")[0] in ("", "iepile_builder"):
            raise
        sys.exit(f"error: {missing} is not installed: pip install 'iepile-builder[{EXTRAS[name]}]'")


def parse_options(name: str, doc: str, options: Sequence[type], argv: Sequence[str] | None = None) -> list[Any]:
    """
    Read the options of a command, an instance of each dataclass, from `argv` (by default that of the process) and from
    the YAML file of `--config`. `name` (of a command, or a script that is none) and `doc` are for messages and help.

    Raises:
        `InputError`: If an option is unknown, missing, or has a value of another type.
    """
    parser = make_parser(name, doc, options)
    try:
        values = parser.parse_args(argv)
    except ArgumentError as error:
        reason = re.sub(r'Parser key "([\w.]+)":', r"--\1:", " ".join(str(error).split()))
        reason = re.sub(r"<class '(\w+)'>", r"\1", reason)
        union = (
            r"Does not validate against any of the Union subtypes Subtypes: [\[(](.*?), NoneType[\])].* Given value: "
        )
        reason = re.sub(union, r"Expected \1. Got value: ", reason)
        reason = re.sub(r"Expected (?:an? )?(int|float|bool)\. Got value: (.*)", _not_a_number, reason)
        file = _config_of(argv)
        reason = f"{file}: {reason}" if file and reason.startswith("Option ") else reason
        raise InputError(f"{reason}; see {parser.prog} --help") from None
    except RecursionError:
        raise InputError(f"the JSON of an option is nested too deeply; see {parser.prog} --help") from None
    if config := _config_of(argv):
        written = [values.get(name) for name in WRITTEN]
        for file in [file for files in written for file in (files if isinstance(files, list) else [files]) if file]:
            check_apart(Path(file), [find_resource("recipes", config)])
    return [each(**{field: values[field] for field in documented(each)}) for each in options]


def _not_a_number(found: re.Match[str]) -> str:
    what = {"int": "an integer", "float": "a number", "bool": "true or false"}[found[1]]
    return f"{found[2]!r} is not {what}"


def _config_of(argv: Sequence[str] | None) -> str | None:
    """Find the file of `--config`."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    for number, word in enumerate(words):
        if word == "--config" and words[number + 1 :]:
            return words[number + 1]
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return None


def make_parser(name: str, doc: str, options: Sequence[type]) -> ArgumentParser:
    """Make the parser of a command or script, with a group of options for each dataclass."""
    prog = f"iepile {name}" if name in COMMANDS else name
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} [options]",
        description=doc.strip(),
        exit_on_error=False,
        print_config=None,
    )
    parser.formatter_class = _formatter(parser.formatter_class)
    parser.add_argument("--config", action=_ConfigFile, help="a YAML file with these options, or a recipe's name")
    for each in options:
        _add_options(parser, each)
    return parser


def documented(options: type) -> dict[str, str]:
    """Return the documented fields of a dataclass and of its bases, each with its description."""
    return {name: text for _, group in _groups(options) for name, text in group.items()}


class _ConfigFile(ActionConfigFile):
    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            file = find_resource("recipes", values)
            _check_config(parser, values, file.read_text(encoding="utf-8"))
            super().__call__(parser, cfg, str(file), option_string)  # type: ignore
        except UnicodeDecodeError as error:
            raise InputError(f"{values}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _check_config(parser: ArgumentParser, name: str, text: str) -> None:
    """Raise an `InputError` for what jsonargparse refuses in words of its own."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # it tells where
        return
    if not isinstance(content, dict):
        raise InputError(f"{name}: not a YAML file of options, one `name: value` a line")
    for action in parser._actions:
        if action.nargs == "+" and isinstance(value := content.get(action.dest), (str, int, float)):
            raise InputError(f"{name}: {action.dest} is a list: write {action.dest}: [{value}]")


def _formatter(base: Any) -> type:
    """Keep the lines of the description, which hold the example, and name types as a user does."""

    class Formatter(base):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return text

        def _expand_help(self, action: Any) -> str:
            text = re.sub(r"<class '(\w+)'>", r"\1", super()._expand_help(action))
            text = re.sub(r"type: Literal\[[^]]*\](?: \| null)?(?:, )?", "", text)
            return (
                text.replace(", default: null", "")
                .replace("default: null", "")
                .replace(" | null", "")
                .replace(", )", ")")
                .replace(" ()", "")
            )

    return Formatter


def _groups(options: type) -> list[tuple[str, dict[str, str]]]:
    """A title for each dataclass among a class and its bases, and the fields that it documents."""
    groups = []
    for each in reversed(options.__mro__):
        if is_dataclass(each) and not each.__module__.startswith(("transformers", "trl")):
            doc = parse_docstring(each.__doc__ or "")
            texts = {param.arg_name: _plain(param.description or "") for param in doc.params}
            groups.append((_plain(doc.short_description or "").rstrip("."), texts))
    return groups


def _add_options(parser: ArgumentParser, options: type) -> None:
    hints = get_type_hints(options)
    by_name = {field.name: field for field in fields(options)}
    for title, texts in _groups(options):
        group = parser.add_argument_group(title)
        for name, text in texts.items():
            field, hint = by_name[name], hints[name]
            settings: dict[str, Any] = {"type": hint}
            if hint in (bool, bool | None):
                settings = {"type": hint, "nargs": "?", "const": True}
            lists = [each for each in (hint, *get_args(hint)) if get_origin(each) is list]
            if lists:
                settings = {"type": get_args(lists[0])[0], "nargs": "+"}
            if field.default is not MISSING:
                settings["default"] = field.default
            elif field.default_factory is not MISSING:
                settings["default"] = field.default_factory()
            else:
                settings["required"] = True
            group.add_argument(f"--{name}", help=text, **settings)


def _plain(text: str) -> str:
    """A docstring's text on one line, without its markup."""
    return " ".join(re.sub(r"\[`~?([^`]*)`\]|`([^`]*)`", lambda found: found[1] or found[2], text).split())


def _summary(name: str) -> str:
    """The first line of a command's docstring; importing all commands would take long."""
    source = Path(__file__).with_name(f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
