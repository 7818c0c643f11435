"""The worked examples of the format's specification are what the library does."""

import json
import re

import pytest
from helpers.corpora import ALL_TASKS, ROOT
from helpers.pages import blocks

from iepile_builder import Schema, SchemaBatching
from iepile_builder.data.instructions import asked_schema
from iepile_builder.data.splitting import spans
from iepile_builder.io import to_json
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Argument


PAGE = "docs/format.md"
EXAMPLES = {block["mark"]: block["code"] for block in blocks(PAGE) if block["mark"]}


def example(what: str, task: str) -> list:
    """Read an example, a value a line; EET and EEA show the record and the schema of EE."""
    name = f"{what} {task}" if f"{what} {task}" in EXAMPLES else f"{what} EE"
    return [json.loads(line) for line in EXAMPLES[name].splitlines()]


@pytest.mark.parametrize("task", ALL_TASKS)
def test_worked_examples(task: str) -> None:
    types, roles, type_roles = example("schema", task)
    schema = Schema(tuple(types), tuple(roles), {name: tuple(values) for name, values in type_roles.items()})
    [record] = example("record", task)
    batching = SchemaBatching(task, "en", "example", schema, negatives="all", schema_order="schema")
    [instance] = batching.instances("1", record["text"], record[TASKS[task].field])

    instruction = json.loads(instance["instruction"])
    assert list(instruction) == ["instruction", "schema", "input"]
    assert to_json(instruction["schema"]) == EXAMPLES[f"asked {task}"].strip()
    assert instruction["input"] == record["text"]
    assert instance["output"] == EXAMPLES[f"output {task}"].strip()

    asked = asked_schema(instance["instruction"], task)
    facts = TASKS[task].parse(json.loads(instance["output"]), asked)
    assert facts == TASKS[task].facts(json.loads(instance["label"]), schema)
    shown = [
        [*filter(None, [TASKS[task].block_of(fact)]), *(fact[:3] if isinstance(fact, Argument) else fact)]
        for fact in facts
    ]
    assert shown == example("facts", task)


def test_sentences() -> None:
    sentences = json.loads(EXAMPLES["sentences"])
    assert sentences == {name: dict(task.instructions) for name, task in TASKS.items()}


def test_sizes_of_batches() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8").partition("<!-- batches -->")[2]
    rows = re.findall(r"^\| (\d+) \| ([\d, ]+) \| ([\d, ]+) \|$", text, re.MULTILINE)
    assert len(rows) == 8
    for labels, *sizes in rows:
        for split_num, shown in zip((4, 6), sizes, strict=True):
            cut = [end - start for start, end in spans(int(labels), split_num)]
            assert cut == json.loads(f"[{shown}]")


def test_values_of_split_num() -> None:
    rows = re.findall(r"^\| ([A-Z]+) \| .* \| (\d) \|$", (ROOT / PAGE).read_text(encoding="utf-8"), re.MULTILINE)
    assert {task: int(number) for task, number in rows} == {name: task.split_num for name, task in TASKS.items()}
