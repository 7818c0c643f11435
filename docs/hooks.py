"""What MkDocs calls as it builds the site: pages of commands and notebooks, docstrings in Hugging Face's format."""

import inspect
import json
import re
from argparse import Action
from html import escape
from importlib import import_module
from types import ModuleType
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from iepile_builder.commands.cli import COMMANDS, make_parser
from iepile_builder.commands.training import LaunchOptions


FOLDER = "reference/commands"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the commands into the navigation."""
    for part in config.nav or []:
        for each in part.get("Reference", ()) if isinstance(part, dict) else ():
            if isinstance(each, dict) and "Commands" in each:
                each["Commands"] += [{f"iepile {name}": f"{FOLDER}/{name}.md"} for name in COMMANDS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the pages of the commands, what `--help` shows, and of the notebooks, which stay beside them as files."""
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        page = notebook_page(json.loads(file.content_string), file.name)
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=page))
    rows = []
    for name in COMMANDS:
        module = import_module(f"iepile_builder.commands.{name.replace('-', '_')}")
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=command_page(name, module)))
        rows.append(f"| [`{name}`]({name}.md) | {(module.__doc__ or '').strip().splitlines()[0]} |")
    index = files.get_file_from_path(f"{FOLDER}/index.md")
    assert index is not None
    text = index.content_string.replace("<!-- commands -->", "\n".join(rows))
    files.remove(index)
    files.append(File.generated(config, index.src_path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """
    Name the files of the repository that are no pages, in place of a link, which leads nowhere on the site; and link
    to the pages of notebooks in place of their files.
    """
    markdown = re.sub(r"(\]\([^)]*)\.ipynb\)", r"\1.md)", markdown)
    depth = page.file.src_uri.count("/") + 1
    return re.sub(r"(\(?)\[([^]]*)\]\(" + r"\.\./" * depth + r"([\w][^)#]*)(?:#[^)]*)?\)(\)?)", named_file, markdown)


def named_file(found: re.Match[str]) -> str:
    """Write a file's path behind what it is called, unless one has the other."""
    before, text, path, after = found.groups()
    if path in text:
        return f"{before}{text}{after}"
    if path.startswith(text):
        return f"{before}`{path}`{after}"
    return f"({text}: `{path}`)" if before and after else f"{before}{text} (`{path}`){after}"


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """Write the page of a notebook: its text, its code, and what the cells have printed and shown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"````{'bash' if source.startswith('%%bash') else 'python'}\n{source}\n````")
        for output in cell["outputs"]:
            data = output.get("data", {})
            text = "".join(output.get("text") or data["text/plain"]).rstrip()
            parts.append("".join(data.get("text/html", f"````text\n{text}\n````")))
    parts.insert(1, f'<a href="{name}.ipynb" download>Download this notebook</a>')
    return "\n\n".join(parts)


def command_page(name: str, module: ModuleType) -> str:
    """Write the page of a command from its docstring and its parser."""
    first, _, rest = (module.__doc__ or "").strip().partition("\n")
    parts = [f"# iepile {name}", first, code_blocks(rest)]
    parser = make_parser(name, "", command_options(module))
    formatter = parser._get_formatter()
    for group in sorted(parser._action_groups, key=lambda group: group.title == "options"):  # --config last
        actions = [action for action in group._group_actions if "--help" not in action.option_strings]
        if actions:
            title = "Other options" if group.title == "options" else (group.title or "")
            parts += [f"## {title}", *(describe(action, formatter._expand_help(action)) for action in actions)]
    if hasattr(module, "SHOWN"):
        parts += ["## Options of TRL that are needed most", f"`iepile {name} --help_all` lists all of them."]
        parts += [f"`--{option}`\n:   {escape(text, quote=False)}" for option, text in module.SHOWN.items()]
    return "\n\n".join(parts)


def command_options(module: ModuleType) -> tuple[type, ...]:
    """Find the dataclasses of a command's options; those of training commands are the first that `main` takes."""
    if hasattr(module, "OPTIONS"):
        return module.OPTIONS
    data_args = next(iter(inspect.signature(module.main).parameters.values()))
    return getattr(module, str(data_args.annotation)), LaunchOptions


def code_blocks(text: str) -> str:
    """Fence the indented examples of a docstring."""

    def fence(found: re.Match[str]) -> str:
        code = inspect.cleandoc(found[0])
        language = "python" if code.startswith("from ") else "json" if code.startswith("--schema") else "bash"
        return f"```{language}\n{code}\n```\n\n"

    return re.sub(r"(?m)(?:^    .*\n(?:\n(?=    ))?)+\n?", fence, text.strip("\n") + "\n")


def describe(action: Action, text: str) -> str:
    """Write an option with its type, its default and its description."""
    about = re.search(r" ?\(((?:required|type: |default: )[^()]*(?:\([^()]*\))?[^()]*)\)$", text)
    kind = about[1] if about else ""
    if action.choices:
        kind = ", ".join([" or ".join(f"`{choice}`" for choice in action.choices), *filter(None, [kind])])
    return (
        f"`{action.option_strings[0]}` {kind and f'<small>{kind}</small>'}\n"
        f":   {escape(text[: about.start()] if about else text, quote=False)}"
    )


class HuggingFaceDocstrings(griffe.Extension):
    """
    Turn ``name (`int`, *optional*, defaults to `1`):`` into `name:` (types and defaults are in the signature), and
    references such as ``[`~iepile_builder.schema.Schema`]`` into code.
    """

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of what was read."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^(\s+\*{0,2}[\w, ]+) \(.*?\):(?=\s)", r"\1:", obj.docstring.value)
            text = re.sub(r"(?m)^(\s+)\[?`([^`]*)`\]?(.*?):", r"\1\2\3:", text)  # what is raised or returned
            if obj.is_class and any("NamedTuple" in str(base) for base in obj.bases):  # has fields alone
                text = re.sub(r"(?m)^(\s*)Args:$", r"\1Attributes:", text)
            obj.docstring.value = re.sub(r"\[`~?([\w.]*?)(\w+)`\](\[[\w.]*\])?", r"`\2`", text)
