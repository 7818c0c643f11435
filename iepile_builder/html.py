"""Render the HTML pages from Jinja templates; autoescape is on, so text never becomes markup."""

from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from iepile_builder.io import RESOURCES


ENVIRONMENT = Environment(
    loader=FileSystemLoader(RESOURCES / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """
    Render a file of `resources/templates`; strings are escaped. Any encoding can write the HTML: half a surrogate pair
    is a character reference.
    """
    html = ENVIRONMENT.get_template(template).render(values)
    return html.encode("utf-8", "xmlcharrefreplace").decode("utf-8")
