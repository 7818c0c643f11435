"""`iepile convert`: from an export to instances, and one clear line for what cannot be read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.columns import BIO
from helpers.corpora import assert_one_clear_line, write_lines


TEXT = "Ada Lovelace kam am 3. Mai nach Köln."


def export(folder: Path) -> Path:
    """An export of Label Studio of a German text."""
    spans = {"p": (0, 12, "Person"), "o": (32, 36, "Ort")}
    results = [
        {
            "id": id, "from_name": "label", "to_name": "text", "type": "labels",
            "value": {"start": start, "end": end, "text": TEXT[start:end], "labels": [label]},
        }
        for id, (start, end, label) in spans.items()
    ]  # fmt: skip
    relation = {"from_id": "p", "to_id": "o", "type": "relation", "direction": "right", "labels": ["reist nach"]}
    rows = [{"id": 1, "data": {"text": TEXT}, "annotations": [{"id": 1, "result": [*results, relation]}]}]
    path = folder / "reise.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_from_an_export_to_instances(run_command, tmp_path: Path) -> None:
    arguments = ("convert", "--corpus_dir", export(tmp_path), "--languages", "de", "--output_dir", "out")
    done = run_command(*arguments)
    assert done.stdout.splitlines() == [
        "NER reise (de): train 1 record; 2 labels, of its records",
        "RE reise (de): train 1 record; 1 label, of its records",
        "written to out; iepile build --corpus_dir out makes instances of them",
    ]
    assert_one_clear_line(run_command(*arguments, check=False), "out: not empty; give another folder or --overwrite")
    assert run_command(*arguments, "--overwrite").stdout == done.stdout
    record = json.loads((tmp_path / "out" / "IE-de" / "NER" / "reise" / "train.json").read_text(encoding="utf-8"))
    assert record["entity"][1] == {"entity": "Köln", "entity_type": "Ort", "start": 32, "end": 36}
    converted = run_command("build", "--corpus_dir", "out", "--output_dir", "built", "--negatives", "all")
    assert "train: 2 instances (NER 1, RE 1)" in converted.stdout
    direct = run_command(
        "build", "--corpus_dir", "reise.json", "--languages", "de", "--output_dir", "direct", "--negatives", "all"
    )
    assert "train: 2 instances (NER 1, RE 1)" in direct.stdout
    assert "Converted NER reise (de): train 1 record; 2 labels, of its records." in direct.stdout.splitlines()
    built, of_export = ((tmp_path / folder / "train.jsonl").read_text() for folder in ("built", "direct"))
    assert built == of_export
    instruction = json.loads(json.loads(built.splitlines()[0])["instruction"])
    assert instruction["instruction"].startswith("You are an expert")
    assert instruction["input"] == TEXT


def test_a_build_takes_corpora_of_several_formats(run_command, tmp_path: Path, people: Path) -> None:
    (tmp_path / "news").mkdir()
    (tmp_path / "news" / "train.conll").write_text(BIO)
    arguments = ("--corpus_dir", people, "news", export(tmp_path), "--languages", "en", "--output_dir", "out")
    done = run_command("build", *arguments, "--negatives", "all", "--tasks", "NER")
    sources = {json.loads(line)["source"] for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()}
    assert sources == {"people", "news", "reise"}
    assert "Converted NER news (en): train 2 records; 2 labels, of its records." in done.stdout.splitlines()


@pytest.mark.parametrize("command", ["convert", "build"])
def test_what_is_not_used_is_said(run_command, tmp_path: Path, command: str) -> None:
    path = export(tmp_path)
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps([{**row, "annotations": 2 * row["annotations"]}]), encoding="utf-8")
    done = run_command(command, "--corpus_dir", path, "--languages", "de", "--output_dir", "out")
    assert "second and further annotations of a text, not used: 1" in done.stdout.lower()


@pytest.mark.parametrize("command", ["convert", "build"])
def test_what_cannot_be_read_ends_in_one_clear_line(run_command, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "news"
    folder.mkdir()
    arguments = (command, "--corpus_dir", folder, "--output_dir", "out")
    assert_one_clear_line(
        run_command(*arguments, check=False), "news: no file of a known format; known: conll, label_"
    )
    (folder / "train.conll").write_text("Ada B-PER\nmet\n")
    done = run_command(*arguments, "--languages", "en", check=False)
    assert_one_clear_line(done, "train.conll, line 2: one column only: 'met'")
    (folder / "train.conll").write_text(BIO)
    done = run_command(command, "--corpus_dir", "news/train.conll", "--output_dir", "out", check=False)
    assert_one_clear_line(done, "news/train.conll: its path does not say the language", "--languages, such as en")
    done = run_command(*arguments, "--languages", "German", check=False)
    assert_one_clear_line(done, "unknown language 'German'; give the two or three letters of its code")
    done = run_command(*arguments, "--input_format", "xml", check=False)
    assert_one_clear_line(done, "unknown input_format 'xml'; known: conll, label_studio, doccano")
    (folder / "train.conll").unlink()
    write_lines(folder / "all.jsonl", [{"text": "Ada", "label": [[0, 9, "PER"]]}])
    done = run_command(*arguments, "--languages", "en", check=False)
    assert_one_clear_line(done, "all.jsonl, line 1: offsets 0 and 9 are not in the text")
    assert not (tmp_path / "out").exists()


def test_a_share_of_few_records_may_be_none(tmp_path: Path, run_command: Callable) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "Ada left.", "label": [[0, 3, "person"]]}])
    arguments = (
        "convert",
        "--corpus_dir",
        tmp_path / "a.jsonl",
        "--languages",
        "en",
        "--output_dir",
        tmp_path / "out",
    )
    done = run_command(*arguments, "--validation", 0.4, "--test", 0.5)
    notes = [line for line in done.stdout.splitlines() if line.startswith("no record fell into")]
    assert len(notes) == 2 - any((tmp_path / "out").rglob("dev.json")) - any((tmp_path / "out").rglob("test.json"))
