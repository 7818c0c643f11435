"""`iepile build` as a user runs it."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_dataset
from helpers.corpora import ALL_TASKS, ROOT, SAMPLE_CORPUS, assert_one_clear_line
from helpers.hub_server import LocalHub
from helpers.processes import is_running, wait_until_gone
from huggingface_hub import DatasetCard

from iepile_builder import IEPile
from iepile_builder.commands.build import write_parquet


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_jsonl_holds_the_builders_rows_without_what_is_absent(run_script, people: Path, tmp_path: Path) -> None:
    (people / "IE-en" / "NER" / "people" / "test.json").write_text('{"text": "Eve."}\n{"text": "Al.", "entity": []}\n')
    done = run_script("build_dataset.py", "--corpus_dir", people, "--output_dir", tmp_path / "out")
    assert "train: 2 instances (NER 2)" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".iepile",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    built = IEPile(data_dir=str(people)).as_dataset()
    for split, rows in built.items():
        assert read(tmp_path / "out" / f"{split}.jsonl") == [
            {name: value for name, value in row.items() if value is not None} for row in rows
        ]
    unknown, empty = read(tmp_path / "out" / "test.jsonl")
    assert {"output", "label"}.isdisjoint(unknown)
    assert empty["label"] == "[]"


def test_hard_negatives_are_there_and_named(run_command, people: Path, tmp_path: Path) -> None:
    options = ["--corpus_dir", SAMPLE_CORPUS, "--tasks", "NER", "RE", "EE", "--languages", "en", "--splits", "train"]
    rows = {}
    for negatives in ("hard", "random"):
        done = run_command("build", *options, "--negatives", negatives, "--output_dir", tmp_path / negatives)
        rows[negatives] = read(tmp_path / negatives / "train.jsonl")
    assert rows["hard"] != rows["random"]
    table = json.loads((SAMPLE_CORPUS / "hard_negatives.json").read_text(encoding="utf-8"))
    for task, corpus in (("NER", "daily_news"), ("RE", "lives_and_works"), ("EE", "working_life")):
        number = sum(map(len, table[task][corpus].values()))
        line = f"Hard negatives of {task} {corpus} (en): {number}, sample_corpus/hard_negatives.json."
        assert number > 10 and line in done.stdout.splitlines()
    done = run_command("build", "--corpus_dir", people, "--output_dir", tmp_path / "mined")
    assert "Hard negatives of NER people (en): 0, mined from the label names." in done.stdout.splitlines()


def test_parquet_opens_with_a_config_for_each_task(run_command, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    output_dir.mkdir()  # an empty folder is no obstacle
    options = {"tasks": ALL_TASKS, "seed": 7, "max_records": 15}
    run_command(
        "build", "--corpus_dir", SAMPLE_CORPUS, "--tasks", *ALL_TASKS, "--seed", 7, "--max_records", 15,
        "--num_proc", 2, "--format", "parquet", "--output_dir", output_dir,
    )  # fmt: skip
    built = IEPile(data_dir=str(SAMPLE_CORPUS), **options).as_dataset()
    loaded = load_dataset(str(output_dir))
    for split, rows in built.items():
        assert sorted(map(str, loaded[split])) == sorted(map(str, rows))
    for task in ALL_TASKS:
        of_task = load_dataset(str(output_dir), task)
        for split, rows in built.items():
            assert of_task[split].to_list() == [row for row in rows if row["task"] == task]


def test_parquet_files_are_as_large_as_they_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the rows is a tenth of the bytes."""
    tasks = ["NER"] * 100 + ["RE"] * 900
    rows = Dataset.from_dict({"task": tasks, "language": ["en"] * 1000, "output": ["x" * 100] * 1000})
    monkeypatch.setattr("iepile_builder.commands.build.SHARD_BYTES", rows.data.nbytes // 50)
    counts = {"train": Counter({("NER", "en", "a"): 100, ("RE", "en", "b"): 900})}
    write_parquet(DatasetDict(train=rows), counts, tmp_path, lambda number: None)
    written = Counter(path.parent.name for path in (tmp_path / "data").rglob("*.parquet"))
    assert written["NER-en"] in (5, 6)
    assert written["RE-en"] in (45, 46)


def test_the_card_says_what_is_in_it(run_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    output_dir = tmp_path / "homely"
    run_command(
        "build", "--corpus_dir", SAMPLE_CORPUS, "--tasks", "NER", "EE", "--format", "parquet",
        "--statistics", "--licenses", '{"daily_news": "CC0-1.0"}', "--output_dir", output_dir,
        "--left_out_file", tmp_path / "home" / "left.jsonl",
    )  # fmt: skip
    card = DatasetCard.load(output_dir / "README.md")
    assert [config["config_name"] for config in card.data.configs] == [
        "default", "EE", "NER", "EE-en", "EE-zh", "NER-en", "NER-zh",
    ]  # fmt: skip
    assert card.data.language == ["en", "zh"]
    built = IEPile(data_dir=str(SAMPLE_CORPUS), tasks=["NER", "EE"]).as_dataset()
    for task, language in (("NER", "zh"), ("EE", "en")):
        of_both = load_dataset(str(output_dir), f"{task}-{language}")
        streamed = load_dataset(str(output_dir), f"{task}-{language}", streaming=True)
        for split, rows in built.items():
            wanted = [row for row in rows if (row["task"], row["language"]) == (task, language)]
            assert of_both[split].to_list() == list(streamed[split]) == wanted
    count = sum(row["source"] == "daily_news" for row in built["train"])
    text = card.text.replace("\\", "")  # Markdown's escapes
    assert f"| NER | en | daily_news | CC0-1.0 | 14 | {count:,} |" in text
    assert "| EE | zh | working_life_zh | not stated |" in text
    assert "iepile build --corpus_dir" in card.text
    assert f"--output_dir {output_dir} --left_out_file ~/left.jsonl\n" in card.text
    assert "`sports team`" in card.text
    plots = sorted(path.name for path in (output_dir / "statistics").iterdir())
    heat_maps = ["together_EE_working_life.png", "together_NER_daily_news.png"]  # of the larger corpora
    assert plots == ["labels.png", "lengths.png", *heat_maps]
    assert all(f"statistics/{name}" in card.text for name in plots)


KILLED = """
import os, signal, sys
from iepile_builder.commands import build, cli
when, sys.argv[1:] = sys.argv[1], sys.argv[2:]
prepare = build.IEPile.download_and_prepare

def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def prepare_or_kill(self, **kwargs):
    prepare(self, **kwargs) if self.config.splits != ["test"] else kill()

if when == "test":
    build.IEPile.download_and_prepare = prepare_or_kill
else:
    build.write_jsonl = kill
cli.run("build")
"""


def test_a_killed_build_leaves_nothing_that_looks_whole_and_goes_on(run_command, people: Path, tmp_path: Path) -> None:
    output_dir, work = tmp_path / "out", tmp_path / ".out.incomplete"
    arguments = ["--corpus_dir", str(people), "--output_dir", str(output_dir)]
    program = KILLED
    built = []
    for when in ("test", "writing"):
        done = subprocess.run([sys.executable, "-c", program, when, *arguments], cwd=tmp_path, capture_output=True)
        assert done.returncode < 0, done.stderr
        assert not output_dir.exists()
        (file,) = work.rglob("*train*.arrow")
        built.append((file, file.stat().st_mtime_ns))
    assert built[0] == built[1]  # a finished split is not built again
    run_command("build", *arguments)
    assert not work.exists()
    run_command("build", *arguments[:-1], tmp_path / "whole")
    for split in ("train", "validation", "test"):
        assert (output_dir / f"{split}.jsonl").read_bytes() == (tmp_path / "whole" / f"{split}.jsonl").read_bytes()


LOADED = """
import json, sys
from datasets import load_dataset

whole = load_dataset("user/mine")
print(json.dumps({split: rows.to_list() for split, rows in whole.items()}))
streamed = load_dataset("user/mine", "NER-en", split="train", streaming=True)
print(json.dumps(list(streamed)))
"""


def test_a_build_can_be_pushed_and_loaded(people: Path, tmp_path: Path, hub: LocalHub) -> None:
    output_dir = tmp_path / "out"
    command = [sys.executable, "-m", "iepile_builder", "build", "--corpus_dir", people, "--format", "parquet"]
    command += ["--statistics", "--output_dir", output_dir, "--push_to_hub", "mine"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=hub.environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/datasets/user/mine" in done.stdout
    written = {
        path.relative_to(output_dir).as_posix(): path.read_bytes()
        for path in output_dir.rglob("*.*")
        if path.is_file() and path.name != ".iepile"
    }
    assert "statistics/lengths.png" in written
    written["README.md"] = written["README.md"].replace(b'load_dataset("./mine"', b'load_dataset("user/mine"')
    repository = hub.repository("user/mine", "dataset")
    assert repository.files() == written
    assert repository.private

    code = re.findall(r"```python\n(.*?)\n```", written["README.md"].decode(), re.DOTALL)
    whole, streamed, count = map(json.loads, hub.run(LOADED + code[0] + "\nprint(len(dataset))").splitlines()[-3:])
    built = IEPile(data_dir=str(people)).as_dataset()
    assert whole == {split: rows.to_list() for split, rows in built.items()}
    assert streamed == whole["train"]
    assert count == len(built)

    # A rebuild in one shard less, or of another name, leaves nothing of the one before
    for path in (output_dir / "data").rglob("test-*.parquet"):
        path.rename(path.with_name("test-00000-of-00002.parquet"))
    Path(tmp_path / "config.yaml").write_text(f"repo_id: user/mine\nfolder: {output_dir}\n")
    command = [sys.executable, ROOT / "scripts" / "push_to_hub.py", "dataset", "--config", tmp_path / "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=hub.environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [path for path in repository.files() if "test-" in path] == ["data/NER-en/test-00000-of-00002.parquet"]


def test_options_can_stand_in_a_file(run_command, people: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"corpus_dir: [{people}]\ntasks: [NER]\nsplits: [test]\nsplit_num: 1\nseed: 3\n")
    run_command("build", "--config", config, "--split_num", 2, "--output_dir", tmp_path / "out")
    rows = read(tmp_path / "out" / "test.jsonl")
    assert [len(json.loads(row["instruction"])["schema"]) for row in rows] == [2, 1, 2, 1]
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_an_output_folder_is_replaced_only_when_told(run_command, people: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    (output_dir / "precious.txt").write_text("mine")
    arguments = ("build", "--corpus_dir", people, "--output_dir", output_dir)
    for overwrite in ([], ["--overwrite"]):
        done = run_command(*arguments, *overwrite, check=False)
        assert_one_clear_line(done, str(output_dir), "not empty, and not written by iepile build")
    (output_dir / "precious.txt").rename(tmp_path / "precious.txt")
    run_command(*arguments, "--splits", "test")
    assert_one_clear_line(run_command(*arguments, check=False), "not empty; give another folder or --overwrite")
    run_command(*arguments, "--splits", "train", "--overwrite")
    assert sorted(path.name for path in output_dir.iterdir()) == [".iepile", "train.jsonl"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


@pytest.mark.parametrize(
    ("output_dir", "how"), [(".", "is the working"), ("..", "holds the working"), ("tree", "is the corpus")]
)
def test_no_build_writes_over_its_corpora(
    run_command, people: Path, tmp_path: Path, output_dir: str, how: str
) -> None:
    before = sorted(people.rglob("*"))
    done = run_command("build", "--corpus_dir", people, "--output_dir", output_dir, "--overwrite", check=False)
    assert_one_clear_line(done, f"error: {output_dir}: the output folder {how}")
    assert sorted(people.rglob("*")) == before


def test_a_wrong_option_does_not_throw_away_what_a_killed_build_has_done(
    run_command, people: Path, tmp_path: Path
) -> None:
    arguments = ["--corpus_dir", str(people), "--output_dir", str(tmp_path / "out")]
    program = KILLED
    subprocess.run([sys.executable, "-c", program, "test", *arguments], cwd=tmp_path, capture_output=True)
    (finished,) = (tmp_path / ".out.incomplete").rglob("*train*.arrow")
    for wrong in (["--negatives", "nonsense"], ["--corpora", "animals"], ["--hard_negatives", "nowhere.json"]):
        assert_one_clear_line(run_command("build", *arguments, *wrong, check=False), wrong[1])
        assert finished.exists()


RUNNING = """
import os, sys, time
from iepile_builder.commands import build, cli
from iepile_builder.data import batching

def wait(self, records):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece
    time.sleep(600)

batching.SchemaBatching.__call__ = wait
cli.run("build")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_one_build_at_a_time_and_its_processes_end_with_it(run_command, people: Path, tmp_path: Path) -> None:
    train = people / "IE-en" / "NER" / "people" / "train.json"
    train.write_text(train.read_text() * 1000)
    arguments = ["--corpus_dir", str(people), "--output_dir", str(tmp_path / "out")]
    program = RUNNING
    command = [sys.executable, "-c", program, *arguments, "--num_proc", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as first:
        pids = [int(first.stdout.readline()) for _ in range(2)]
        for options in ([], ["--overwrite"], ["--negatives", "nonsense"]):
            done = run_command("build", *arguments, *options, check=False)
            assert_one_clear_line(done, "unknown negatives" if "nonsense" in options else "another run is writing it")
        assert all(map(is_running, pids))
        first.kill()
    wait_until_gone(pids)


CHANGING = """
import sys
from iepile_builder.commands import build, cli
from iepile_builder import iepile
from pathlib import Path
to_shards = iepile.to_shards

def change(corpus, split, *args):
    path = corpus.file("train")
    path.write_text(path.read_text().replace("city", "river", 1))
    return to_shards(corpus, split, *args)

iepile.to_shards = change
cli.run("build")
"""


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_corpus_that_changes_during_the_build_is_named(people: Path, tmp_path: Path, num_proc: int) -> None:
    train = people / "IE-en" / "NER" / "people" / "train.json"
    train.write_text(train.read_text() * 1000)
    command = [sys.executable, "-c", CHANGING, "--corpus_dir", str(people)]
    command += ["--output_dir", str(tmp_path / "out"), "--num_proc", str(num_proc)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_one_clear_line(done, f"{train}: changed while it was read")
    assert not (tmp_path / ".out.incomplete").exists()


def test_unusable_records_can_be_skipped_and_are_counted(run_script, people: Path, tmp_path: Path) -> None:
    path = people / "IE-en" / "NER" / "people" / "train.json"
    path.write_text(path.read_text() + '{"text": "Ada.", "entity": [{"entity": "Ada", "entity_type": "Person"}]}\n{\n')
    arguments = ("build_dataset.py", "--corpus_dir", people, "--output_dir", tmp_path / "out")
    done = run_script(*arguments, "--on_error", "skip")
    assert "left out 2 records; the first: " in done.stderr
    assert "train.json, line 3" in done.stderr
    assert len(read(tmp_path / "out" / "train.jsonl")) == 2


def test_the_counts_may_lie_in_the_output_folder(run_command, people: Path, tmp_path: Path) -> None:
    arguments = ["build", "--corpus_dir", people, "--output_dir", "out", "--left_out_file", "out/far/left_out.jsonl"]
    for overwrite in ("false", "true"):
        run_command(*arguments, "--overwrite", overwrite)
        assert [of["records"] for of in read(tmp_path / "out" / "far" / "left_out.jsonl")] == [2, 1, 2]


def test_a_number_of_processes_below_one_ends_with_one_clear_line(run_command, people: Path, tmp_path: Path) -> None:
    done = run_command(
        "build", "--corpus_dir", people, "--output_dir", tmp_path / "out", "--num_proc", 0, check=False
    )  # fmt: skip
    assert_one_clear_line(done, "num_proc is 0; give 1 or more")


def test_a_build_says_which_schema_it_made_of_the_records(run_command, people: Path) -> None:
    (people / "IE-en" / "NER" / "people" / "schema.json").unlink()
    done = run_command("build", "--corpus_dir", people, "--output_dir", "out", "--negatives", "all")
    assert re.search(r"^Schema of NER people \(en\): the \d labels of its records\.$", done.stdout, re.MULTILINE)


def test_a_build_says_which_epoch_of_a_schedule_it_is_of(run_command, people: Path, tmp_path: Path) -> None:
    options = ["--corpus_dir", people, "--output_dir", "out", "--overwrite", "--negatives_schedule", "ratio", "all"]
    assert "Negatives of epoch 0: ratio." in run_command("build", *options).stdout
    assert "Negatives of epoch 5: all." in run_command("build", *options, "--epoch", 5).stdout


def test_the_names_of_the_sample_corpus_need_no_path(run_command, tmp_path: Path) -> None:
    options = ["--corpus_dir", "sample_corpus", "--tasks", "RE", "--languages", "en", "--splits", "train"]
    run_command("build", *options, "--output_dir", "own")
    table = ["--label_synonyms", "sample_corpus/label_synonyms.json"]
    notes = run_command("build", *options, *table, "--output_dir", "renamed").stdout.splitlines()
    assert "Labels with other names: 14 of 14." in notes
    assert "Names for 12 labels that these corpora do not have, not used." in notes
    own, renamed = (read(tmp_path / name / "train.jsonl") for name in ("own", "renamed"))
    assert own != renamed
