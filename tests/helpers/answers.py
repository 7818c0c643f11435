"""Instances with answers, written by hand."""

import json
from typing import Any

from iepile_builder.scoring.scorer import Scorer


def instance(task: str, items: list, annotations: list, answer: object, **changed: str) -> dict[str, str]:
    instruction = {"instruction": "...", "schema": items, "input": "Ada, wife of Bob, met Eve in Rome in 1999."}
    return {
        "id": "1",
        "task": task,
        "source": "hand",
        "instruction": json.dumps(instruction),
        "label": json.dumps(annotations),
        "output": answer if isinstance(answer, str) else json.dumps(answer),
        **changed,
    }


def entities(**by_type: list[str]) -> list[dict]:
    return [{"entity": name, "entity_type": kind} for kind, names in by_type.items() for name in names]


def scorer_of(rows: list[dict], **options: Any) -> Scorer:
    scorer = Scorer(**options)
    for row in rows:
        scorer.add(row)
    return scorer
