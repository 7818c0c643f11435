"""Write Markdown that names, labels and licences cannot break."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import jinja2

from iepile_builder.io import RESOURCES, to_json


def plain(value: object) -> str:
    """Escape a string so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(str(value).split()))


def code(value: object) -> str:
    """Put a string into a code span that its content cannot end."""
    text = " ".join(str(value).split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Make a Markdown table, with line breaks and bars in cells escaped."""
    cells = [[re.sub(r"(?<!\\)\|", r"\\|", " ".join(str(cell).split())) for cell in row] for row in (header, *rows)]
    cells.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def python(value: Any) -> str:
    """Write a schema as Python does, with the quotes of JSON."""
    return json.dumps(value, ensure_ascii=False).replace(": true", ": True")


@cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(RESOURCES / "templates"),
        autoescape=False,  # Markdown; text from users goes through one of the filters
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"plain": plain, "code": code, "python": python, "json": to_json}
    return found


def render(template: str, /, **values: Any) -> str:
    """Fill in a template of `resources/templates`."""
    return _environment().get_template(template).render(**values)
