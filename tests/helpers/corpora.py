"""Real corpora where they are available, small ones made here, and how a program reports bad input."""

import json
import subprocess
from pathlib import Path

import pytest

from iepile_builder.io import SAMPLE_CORPUS as SAMPLE_CORPUS


ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
ALL_TASKS = ["NER", "RE", "SPO", "EE", "EET", "EEA", "KG"]

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real corpora are not at {SHARED}")


def write_lines(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_corpus(folder: Path, schema: list, **splits: list) -> Path:
    """A corpus folder; `schema` holds the three lines of schema.json, `splits` records by file name."""
    write_lines(folder / "schema.json", schema)
    for name, records in splits.items():
        write_lines(folder / f"{name}.json", records)
    return folder


def assert_one_clear_line(done: subprocess.CompletedProcess, *parts: str) -> None:
    """A program ended as it should after bad input: not 0, one line that names these parts, no traceback."""
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: "), done.stderr
    for part in parts:
        assert part in message, message
    assert "Traceback" not in done.stderr
