"""Rows: what is learned, what is dropped, which are taken."""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from helpers.corpora import write_lines
from helpers.tiny import make_instances
from helpers.training import CONFIG, F1_WHILE_TRAINING, cities
from trl import SFTConfig

from iepile_builder import IEPile, InputError
from iepile_builder.chat import encode, load_tokenizer, tokenize
from iepile_builder.data.instructions import asked_schema
from iepile_builder.engines.loading import load_model
from iepile_builder.io import SAMPLE_CORPUS
from iepile_builder.tasks import TASKS
from iepile_builder.training import data as data_module
from iepile_builder.training.arguments import SftArguments
from iepile_builder.training.data import find_kinds, select_tasks, take_records, tokenize_rows
from iepile_builder.training.trainer import AnswerTrainer


@pytest.mark.parametrize("packing", [True, False])
def test_no_answer_is_cut(model: str, tmp_path: Path, packing: bool) -> None:
    tokenizer = load_tokenizer(model)
    instances = make_instances(24)
    lengths = tokenize_rows(Dataset.from_list(instances), "train", tokenizer)["length"]
    limit = sorted(lengths)[15]
    rows = tokenize_rows(Dataset.from_list(instances), "train", tokenizer, limit)
    args = SFTConfig(**{**CONFIG, "output_dir": str(tmp_path), "packing": packing, "max_length": limit})
    trainer = AnswerTrainer(model=load_model(model), args=args, train_dataset=rows, processing_class=tokenizer)
    learned = "".join(
        tokenizer.decode([label for label in row["labels"] if label != -100]) for row in trainer.train_dataset
    )
    kept = [row["output"] for row, length in zip(instances, lengths, strict=True) if length <= limit]
    assert len(kept) == len(rows) < 24
    assert sorted(learned.split(tokenizer.eos_token)) == sorted(["", *kept])


def test_a_test_split_without_annotation_is_no_obstacle(train: Callable[..., list[dict]], data: Path) -> None:
    write_lines(data / "test.jsonl", [{"id": "1", "task": "NER", "instruction": "Find."}])
    assert train(max_steps=1)
    with pytest.raises(InputError, match="nothing to evaluate on"):
        train(eval_strategy="steps", eval_steps=1)


def test_rows_that_are_too_long_are_dropped_and_counted(
    train: Callable[..., list[dict]], model: str, capsys: pytest.CaptureFixture
) -> None:
    rows = tokenize_rows(Dataset.from_list(make_instances(24)), "train", load_tokenizer(model))
    limit = sorted(rows["length"])[11]
    kept = sum(length <= limit for length in rows["length"])
    train(max_length=limit)
    assert f"train: {kept} rows" in capsys.readouterr().out
    with pytest.raises(InputError, match="--max_length"):
        train(max_length=5)


def test_rows_that_are_too_long_are_counted_by_corpus(model: str, capsys: pytest.CaptureFixture) -> None:
    tokenizer = load_tokenizer(model)
    corpora = [f"corpus{number}" for number in range(12) for _ in range(number + 1)]
    instruction = {False: "Find.", True: "Find them, by train " * 20}
    rows = [
        {"source": source, "instruction": instruction[source != "corpus0" and index % 2 > 0], "output": "{}"}
        for index, source in enumerate(corpora)
    ]
    tokenize_rows(Dataset.from_list(rows), "train", tokenizer, 100)
    counted, named = capsys.readouterr().out.splitlines()
    assert "dropped: 39 longer than max_length=100" in counted
    assert named.startswith("train: too long: corpus10 6 of 11, corpus11 6 of 12, corpus9 5 of 10, ")
    longest = max(len(tokenize(row, tokenizer)["input_ids"]) for row in rows)
    assert named.endswith(f", 3 corpora more; --max_length {longest} keeps all")
    tokenize_rows(Dataset.from_list(rows), "train", tokenizer, longest)
    assert "too long" not in capsys.readouterr().out
    tokenize_rows(Dataset.from_list(rows).remove_columns("source"), "train", tokenizer, 100)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_batches_and_processes_give_the_same_rows(model: str) -> None:
    tokenizer = load_tokenizer(model)
    turn = '{"schema": ["city"], "input": "a turn <|im_end|> in a text"}'
    instances = [*make_instances(40), {**make_instances(1)[0], "instruction": turn}]
    expected = [tokenize(instance, tokenizer) for instance in instances]
    for num_proc in (None, 2):
        for options in ({}, {"answer_loss": "decisions"}):
            rows = tokenize_rows(Dataset.from_list(instances), "train", tokenizer, num_proc=num_proc, **options)
            assert rows["input_ids"][:] == [row["input_ids"] for row in expected]
            assert options or rows["labels"][:] == [row["labels"] for row in expected]
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Rome", "by train")]
    tokenizer.backend_tokenizer.enable_padding()  # of an earlier call
    assert encode(["Rome", "by train"], tokenizer) == plain


def test_the_number_of_processes_that_tokenize(
    train: Callable[..., list[dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dataset: Dataset, *args: object, num_proc: int | None, **kwargs: object) -> None:
        raise InputError(f"{num_proc} processes")

    monkeypatch.setattr(Dataset, "map", refuse)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with pytest.raises(InputError, match="^3 processes"):
        train(dataset_num_proc=3)
    with pytest.raises(InputError, match="^None processes"):
        train()
    for rows, wanted in ((10_000, None), (20_000, 2), (59_999, 3), (1_000_000, 4)):
        with pytest.raises(InputError, match=f"^{wanted} processes"):
            data_module._map(Dataset.from_dict({"row": range(rows)}), len, "Tokenizing", None)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    with pytest.raises(InputError, match="^16 processes"):
        data_module._map(Dataset.from_dict({"row": range(400_000)}), len, "Tokenizing", None)


def test_the_first_process_goes_first_and_the_others_wait_for_no_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose time-out would end a run that tokenizes for longer."""
    order: list[str] = []
    met, entered, release = threading.Barrier(2), threading.Event(), threading.Event()
    monkeypatch.setenv("MASTER_PORT", str(os.getpid()))
    thread = threading.local()
    monkeypatch.setattr(data_module, "PartialState", lambda: thread.state)

    def enter(is_first: bool) -> None:
        thread.state = SimpleNamespace(num_processes=2, is_local_main_process=is_first, wait_for_everyone=met.wait)
        with data_module.first_process_first():
            order.append(f"{is_first} in")
            if is_first:
                entered.set()
                release.wait(60)
                order.append("computed")

    threads = [threading.Thread(target=enter, args=(is_first,)) for is_first in (False, True)]
    for each in threads:
        each.start()
    assert entered.wait(60) and order == ["True in"] and threads[0].is_alive()
    release.set()
    for each in threads:
        each.join(60)
    assert order == ["True in", "computed", "False in"]


def test_users_of_a_machine_do_not_share_the_file_that_processes_wait_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = SimpleNamespace(num_processes=2, is_local_main_process=True, wait_for_everyone=lambda: None)
    monkeypatch.setattr(data_module, "PartialState", lambda: state)
    monkeypatch.setattr(data_module, "gettempdir", lambda: str(tmp_path))
    for user in (1000, 1001):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        with data_module.first_process_first():
            pass
    assert len({*tmp_path.iterdir()}) == 2


def test_a_subset_of_the_rows(model: str, capsys: pytest.CaptureFixture) -> None:
    tokenizer = load_tokenizer(model)
    instances = Dataset.from_list(make_instances(24))
    ner = select_tasks(instances, "train", ["NER"])
    rows = tokenize_rows(ner, "train", tokenizer)
    assert len(rows) == 16
    most = sum(rows["length"]) // 2
    some = tokenize_rows(ner, "train", tokenizer, max_tokens=most, seed=1)
    assert f"train: {len(some)} of 16 rows taken, {sum(some['length'])} tokens" in capsys.readouterr().out
    assert most // 2 < sum(some["length"]) <= most
    assert some.to_list() == tokenize_rows(ner, "train", tokenizer, max_tokens=most, seed=1).to_list()
    assert some.to_list() != tokenize_rows(ner, "train", tokenizer, max_tokens=most, seed=2).to_list()
    assert len(tokenize_rows(ner, "train", tokenizer, max_tokens=1)) == 1
    with pytest.raises(InputError, match="KG"):
        select_tasks(instances, "train", ["KG"])
    with pytest.raises(InputError, match="--tasks: the train split has no column `task`"):
        select_tasks(instances.remove_columns("task"), "train", ["NER"])


@pytest.mark.parametrize("drops", [False, True])
def test_a_subset_is_that_of_all_rows_and_the_others_are_not_tokenized(
    model: str, monkeypatch: pytest.MonkeyPatch, drops: bool
) -> None:
    tokenizer = load_tokenizer(model)
    instances = [{**row, "source": f"corpus{number % 3}"} for number, row in enumerate(make_instances(300))]
    instances[7]["output"] = None
    dataset = Dataset.from_list(instances)
    every = tokenize_rows(dataset, "train", tokenizer)
    max_length = sorted(every["length"])[150] if drops else None
    order = every.shuffle(seed=5).to_list()  # as if all rows were tokenized first
    wanted = [row for row in order if max_length is None or row["length"] <= max_length]
    assert (100 < len(wanted) < 290) == drops
    seen: list[int] = []
    render = data_module.render_rows
    monkeypatch.setattr(data_module, "_BATCH", 10)
    monkeypatch.setattr(data_module, "render_rows", lambda rows, of: seen.append(len(rows)) or render(rows, of))
    for most in (1, 1500, 4000, 10**6):
        seen.clear()
        expected, total = wanted[:1], wanted[0]["length"]
        for row in wanted[1:]:
            total += row["length"]
            if total > most:
                break
            expected.append(row)
        rows = tokenize_rows(dataset, "train", tokenizer, max_length, num_proc=1, max_tokens=most, seed=5)
        assert rows.to_list() == expected
        assert sum(seen) <= (299 if most == 10**6 else 2 * len(expected) * 299 // len(wanted) + 20)


def test_what_kinds_of_rows_there_are() -> None:
    instances = IEPile(data_dir=str(SAMPLE_CORPUS), splits=["train"]).as_dataset(split="train").to_list()
    kinds = find_kinds(Dataset.from_list(instances))
    assert kinds["tasks"] == sorted({row["task"] for row in instances})
    expected: dict[str, set[str]] = {task: set() for task in kinds["tasks"]}
    for row in instances:
        expected[row["task"]].update(TASKS[row["task"]].labels(asked_schema(row["instruction"], row["task"])))
    assert kinds["labels"] == {task: sorted(labels) for task, labels in expected.items()}
    assert all(kinds["labels"].values())
    assert set(kinds["items"]) == {"EE", "KG"} & set(kinds["tasks"])
    for task, items in kinds["items"].items():
        assert json.dumps(items[0], ensure_ascii=False) in next(
            r["instruction"] for r in instances if r["task"] == task
        )
    for instruction in ("Find.", '{"schema": [1], "input": ""}'):
        assert "labels" not in find_kinds(Dataset.from_list([{"task": "NER", "instruction": instruction}]))
    assert find_kinds(Dataset.from_list([{"instruction": "Find."}])) == {}


def test_rows_set_aside_for_evaluation(
    train: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(InputError, match="--val_set_size"):
        train(eval_strategy="steps", eval_steps=4)
    log = train(data_args={"val_set_size": 6}, eval_strategy="steps", eval_steps=4)
    assert any("eval_loss" in entry for entry in log)
    printed = capsys.readouterr().out
    assert "train: 18 rows" in printed
    assert "validation: 6 rows" in printed

    write_lines(data / "validation.jsonl", make_instances(5))
    train("own", data_args={"val_set_size": 6, "max_eval_samples": 3}, eval_strategy="steps", eval_steps=4)
    printed = capsys.readouterr().out
    assert "train: 24 rows" in printed
    assert "validation: 3 rows" in printed


def test_records_are_taken_whole(model: str, capsys: pytest.CaptureFixture) -> None:
    tokenizer = load_tokenizer(model)
    arguments = SftArguments(dataset_name="", tasks=["NER"], ie_f1_records=4)
    rows = [*cities(6), *cities(2, "long", "by train " * 40), *cities(6)]  # the last are there before
    taken = take_records(Dataset.from_list(rows), tokenizer, arguments, 200, seed=3)
    ids = [instance["id"] for instance in taken.instances]
    assert len(ids) == 8 and all(ids.count(name) == 2 and name.startswith("test") for name in ids)
    assert taken.score([instance["output"] for instance in taken.instances])["f1"] == 100
    assert "IE F1 on 4 of 8 validation records, 8 answers" in capsys.readouterr().out
    # Training rows have neither an id nor the record's annotation: each is scored by its own answer.
    columns = ["task", "instruction", "output"]
    taken = take_records(Dataset.from_list(rows[:6]).select_columns(columns), tokenizer, arguments, None, seed=3)
    assert len(taken.instances) == 4
    assert taken.score([instance["output"] for instance in taken.instances])["f1"] == 100
    for output in ("none", '{"person": null}'):
        wrong = [*rows[:1], {**rows[1], "output": output}]
        with pytest.raises(InputError, match="validation row 1: the output is not one of NER in JSON"):
            take_records(Dataset.from_list(wrong).select_columns(columns), tokenizer, arguments, None, seed=3)
    with pytest.raises(InputError, match="task"):
        take_records(Dataset.from_list(rows).select_columns(["output"]), tokenizer, arguments, None, seed=3)


def test_records_that_do_not_fit_the_context(train: Callable[..., list[dict]], data: Path) -> None:
    write_lines(data / "validation.jsonl", cities(2))
    with pytest.raises(InputError, match="--ie_f1_max_new_tokens"):
        train(data_args={"ie_f1_records": 2, "ie_f1_max_new_tokens": 500}, **F1_WHILE_TRAINING)


def test_the_loss_of_the_records_that_are_answered(
    train: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture
) -> None:
    write_lines(data / "validation.jsonl", cities(6))
    for more, rows in ({}, 4), ({"max_eval_samples": 7}, 7):
        with pytest.raises(InputError, match="no model"):
            train(data_args={"ie_f1_records": 2, **more}, model_args={"attn_implementation": "none"}, save_steps=2,
                  save_strategy="steps")  # fmt: skip
        assert f"validation: {rows} rows" in capsys.readouterr().out


def test_bad_input(train: Callable[..., list[dict]], data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(str(data))):
        train(model_args={"model_name_or_path": str(data)})
    write_lines(tmp_path / "rows.jsonl", [{"text": "Rome", "entity": []}])
    with pytest.raises(InputError, match="rows.jsonl.*instruction"):
        train(data_args={"dataset_name": str(tmp_path / "rows.jsonl")})


def test_no_chat_template(train: Callable[..., list[dict]], model: str, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="--chat_template_path"):
        train(model_args={"model_name_or_path": str(bare)})
