"""`data.instances`: folders, files and Hub repositories of instances; what cannot be read is named in one line."""

import json
import os
from pathlib import Path

import pytest
from datasets import Dataset
from helpers.corpora import write_corpus, write_lines
from helpers.hub_server import LocalHub
from helpers.tiny import make_instances

from iepile_builder import IEPile, InputError
from iepile_builder.data.instances import load_instances
from iepile_builder.scoring.scorer import read_predictions


def test_a_folder_of_splits_with_different_columns(tmp_path: Path) -> None:
    rows = make_instances(5)
    unlabelled = [{key: value for key, value in row.items() if key != "output"} for row in rows]
    write_lines(tmp_path / "train.jsonl", rows)
    write_lines(tmp_path / "test.jsonl", unlabelled)
    splits = load_instances(str(tmp_path), columns=("instruction",))
    assert splits["train"].to_list() == rows
    assert splits["test"].to_list() == unlabelled
    with pytest.raises(InputError, match=r"test\.jsonl: no text column `output`"):
        load_instances(str(tmp_path), columns=("instruction", "output"))
    assert set(load_instances(str(tmp_path), ("instruction", "output"), used=["train"])) == {"train", "test"}


@pytest.mark.usefixtures("dataset_bars")
def test_reading_shows_no_bars(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from datasets.utils import are_progress_bars_disabled

    for split in ("train", "test"):
        write_lines(tmp_path / f"{split}.jsonl", make_instances(5))
    load_instances(str(tmp_path), columns=("instruction",))
    assert capsys.readouterr() == ("", "")
    assert not are_progress_bars_disabled()  # those of the user's own calls


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet"])
def test_a_file(name: str, tmp_path: Path) -> None:
    rows = make_instances(5)
    if name.endswith(".parquet"):
        Dataset.from_list(rows).to_parquet(tmp_path / name)
    else:
        write_lines(tmp_path / name, rows)
    assert load_instances(str(tmp_path / name), columns=("instruction",))["train"].to_list() == rows


def test_a_folder_of_parquet(tmp_path: Path) -> None:
    rows = make_instances(5)
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_parquet(tmp_path / "NER" / f"{split}.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '*/train.parquet'\n"
        "  - split: validation\n    path: '*/validation.parquet'\n---\n"
    )
    splits = load_instances(str(tmp_path), columns=("instruction", "output"))
    assert {split: dataset.to_list() for split, dataset in splits.items()} == {"train": rows, "validation": rows}


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "train.jsonl", make_instances(3))
    file.write_text(file.read_text() + '{"instruction": "torn')
    with pytest.raises(InputError, match=r"train\.jsonl, line 4: "):
        load_instances(str(tmp_path), columns=("instruction",))


@pytest.mark.parametrize("depth", [980, 3000])
def test_a_line_that_is_nested_too_deeply_is_named(depth: int, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(f'{{"instruction": {"[" * depth}{"]" * depth}}}\n')
    with pytest.raises(
        InputError, match=r"test\.jsonl, line 1: not one" if depth > 1024 else "cannot be read"
    ) as error:
        load_instances(str(tmp_path), columns=("instruction",))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing", "empty", "notes.txt", "broken.parquet", "none.jsonl", "blank.jsonl"])
def test_what_is_no_dataset_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "broken.parquet").write_text("nothing")
    (tmp_path / "none.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n")
    with pytest.raises(InputError, match=name) as error:
        load_instances(str(tmp_path / name), columns=("instruction",))
    assert "\n" not in str(error.value)


def test_answers_that_are_not_text(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [{"instruction": "Find.", "output": {"city": []}}])
    with pytest.raises(InputError, match="no text column `output`"):
        load_instances(str(file), columns=("instruction", "output"))


def test_an_edited_file_is_read_anew_though_its_time_is_kept(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "test.jsonl", [{"instruction": "one"}])
    time = file.stat()
    assert load_instances(str(tmp_path), columns=("instruction",))["test"]["instruction"][:] == ["one"]
    write_lines(file, [{"instruction": "two"}])
    os.utime(file, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert load_instances(str(tmp_path), columns=("instruction",))["test"]["instruction"][:] == ["two"]


def test_the_published_repository_is_instances_beside_corpora(tmp_path: Path, hub: LocalHub) -> None:
    rows = [{"task": "NER", "source": "x", "instruction": f"{number}", "output": "{}"} for number in range(3)]
    write_lines(tmp_path / "iepile" / "train.json", rows)
    write_lines(tmp_path / "iepile" / "dev.json", rows[:1])
    record = {"text": "Ada.", "entity": [{"entity": "Ada", "entity_type": "person"}]}
    write_lines(tmp_path / "iepile" / "IE-en" / "NER" / "people" / "train.json", [record])
    write_lines(tmp_path / "iepile" / "IE-en" / "NER" / "people" / "schema.json", [["person"], [], {}])
    hub.api().create_repo("user/iepile", repo_type="dataset")
    hub.api().upload_folder(repo_id="user/iepile", repo_type="dataset", folder_path=str(tmp_path / "iepile"))
    code = (
        "import json\nfrom iepile_builder.data.instances import load_instances\n"
        "splits = load_instances('user/iepile', columns=('instruction', 'output'))\n"
        "print(json.dumps({name: rows.to_list() for name, rows in splits.items()}))"
    )
    assert json.loads(hub.run(code)) == {"train": rows, "validation": rows[:1]}
    local = load_instances(str(tmp_path / "iepile"), columns=("instruction", "output"))
    assert {name: split.to_list() for name, split in local.items()} == {"train": rows, "validation": rows[:1]}


def test_a_byte_order_mark_and_unicode_line_separators(tmp_path: Path) -> None:
    """From corpus to score: no line is cut at U+2028, U+2029 or U+0085, and a mark at the start of a file is none."""
    label, name = "ci\u2028ty\u0085", "Ro\u2029me\u0085"
    record = {"text": f"\u2028{name} is\u0085old.\u2029", "entity": [{"entity": name, "entity_type": label}]}
    corpus = write_corpus(tmp_path / "in" / "IE-en" / "NER" / "odd", [[label, "b\u2029"], [], {}], train=[record] * 2)
    write_lines(corpus / "test.json", [record])
    write_lines(tmp_path / "table.json", [{label: ["b\u2029"]}])

    def mark(path: Path) -> Path:
        path.write_bytes("\ufeff".encode() + path.read_bytes())
        return path

    for path in (*corpus.glob("*.json"), tmp_path / "table.json"):
        mark(path)
    built = IEPile(data_dir=str(tmp_path / "in"), hard_negatives=str(tmp_path / "table.json")).as_dataset()
    assert len(built["train"]) == 2
    instances = mark(write_lines(tmp_path / "test.jsonl", built["test"].to_list()))
    (loaded,) = load_instances(str(instances), columns=("instruction",))["train"].to_list()
    assert json.loads(loaded["instruction"])["input"] == record["text"]
    answers = write_lines(tmp_path / "answers.jsonl", [{**loaded, "output": built["train"][0]["output"]}])
    assert read_predictions(mark(answers)).report()["overall"]["f1"] == 100
