"""Read a schema as a user types it into a form: a label a line."""

import re
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.extraction.user_schema import parse_json, read_tasks
from iepile_builder.tasks import TASKS, find_task


def parse_schema(typed: str, task: str) -> Any:
    """Parse a typed schema: JSON, or one label a line, with a description or roles after a colon; never a path."""
    if typed.strip().startswith(("[", "{")):
        return parse_json(typed)
    labels: list[tuple[str, str]] = []
    for line in typed.strip().replace("：", ":").splitlines():
        label, _, rest = line.partition(":")
        if line.strip():
            labels.append((label.strip(), rest.strip()))
    if find_task(task).roles_name:
        return [TASKS[task].item(label, _split_names(rest), ()) for label, rest in labels]
    if any(rest for _, rest in labels) and len(dict(labels)) == len(labels):
        return dict(labels)
    return [label for label, _ in labels]


def parse_schemas(typed: str) -> Any:
    """Parse the typed schemas of several tasks: JSON, or each under a heading such as `# entities`."""
    if typed.strip().startswith(("[", "{")):
        return parse_json(typed)
    before, *parts = re.split(r"^[ \t]*#+[ \t]*(.*?)[ \t]*$", typed, flags=re.MULTILINE)
    headings, bodies = parts[::2], parts[1::2]
    if before.strip() or not parts:
        raise InputError("give each task's labels under a heading, such as # entities, # relations or # events")
    if twice := next((each for each in headings if headings.count(each) > 1), None):
        raise InputError(f"the heading {twice!r} occurs twice; give each task once")
    tasks = read_tasks(dict.fromkeys(headings))
    return {key: parse_schema(body, tasks[key].name) for key, body in zip(headings, bodies, strict=True)}


def parse_triggers(typed: str) -> dict[str, list[str]]:
    """Parse typed triggers: one event type a line, its triggers after a colon."""
    lines = [line.partition(":") for line in typed.replace("：", ":").splitlines() if line.strip()]
    return {label.strip(): _split_names(rest) for label, _, rest in lines}


def _split_names(typed: str) -> list[str]:
    """Split at commas, Western and Chinese."""
    return [name.strip() for name in typed.replace("，", ",").replace("、", ",").split(",") if name.strip()]
