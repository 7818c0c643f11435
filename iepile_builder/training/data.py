"""Turn a dataset of instances into training rows, and count what is dropped."""

from __future__ import annotations

import json
import os
import random
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import compress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import orjson
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from filelock import FileLock
from transformers import PreTrainedTokenizerBase, TrainingArguments

from iepile_builder.chat import label, render_all, render_rows, to_prompt, tokenize
from iepile_builder.data.instances import load_instances, without_dataset_bars
from iepile_builder.data.instructions import Asked, asked_schema, find_labels, read_annotations, read_asked
from iepile_builder.engines.loading import without_weight_bars
from iepile_builder.errors import InputError
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import find_task
from iepile_builder.training.arguments import DataArguments, SftArguments
from iepile_builder.training.labels import tokenize_decisions
from iepile_builder.training.words import encode_words


# Of tokenizing: processes at most, rows that one more is started for, rows at a time, tokens of a row at a guess
_WORKERS, _ROWS_OF_A_WORKER, _BATCH, _TOKENS_OF_A_ROW = 16, 20_000, 1000, 100

REWARDED = ("task", "instruction", "output")  # columns that the reward needs


@dataclass
class Questions:
    """Whole validation records to answer and score during training."""

    instances: list[dict[str, Any]]  # with the annotation of their record as `label`
    max_new_tokens: int  # longest answer

    def score(self, answers: list[str]) -> dict[str, float]:
        """Compute IE F1, precision and recall over all facts, and the share of answers that are JSON, in per cent."""
        scorer = Scorer()
        for instance, answer in zip(self.instances, answers, strict=True):
            scorer.add({**instance, "output": answer})
        overall = scorer.report()["overall"]
        scores = {name: overall[name] for name in ("f1", "precision", "recall")}
        return {**scores, "valid_json": 100 - 100 * overall["unparsed"] / overall["answers"]}


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets` and of saving: a trainer shows up to four before its own."""
    with without_dataset_bars(), without_weight_bars():
        yield


@contextmanager
def first_process_first() -> Iterator[None]:
    """
    Let the first process of each machine go first, so that the others find in the cache what it computes.

    They wait for a file, not in a barrier, which would end the run after its time-out.
    """
    state = PartialState()
    if state.num_processes == 1:
        yield
        return
    # The file stays: another user of the machine could not open it
    name = f"iepile-{os.getuid()}-{socket.gethostname()}-{os.environ.get('MASTER_PORT')}.lock"
    lock = FileLock(Path(gettempdir(), name))
    if state.is_local_main_process:
        lock.acquire()
    state.wait_for_everyone()
    try:
        if not state.is_local_main_process:
            with lock:
                pass
        yield
    finally:
        lock.release()


def load_splits(
    data_args: DataArguments, training_args: TrainingArguments, columns: tuple[str, ...]
) -> tuple[Dataset, Dataset | None]:
    """
    Load the training split and, if there is an evaluation, the validation split, both with these text columns.

    Raises:
        `InputError`: If there is no such dataset, split, column or task.
    """
    used = ["train"] if training_args.eval_strategy == "no" else ["train", "validation"]
    splits = load_instances(data_args.dataset_name, columns, used)
    if "train" not in splits:
        raise InputError(f"{data_args.dataset_name}: no train split, only {', '.join(splits)}")
    train, validation = splits["train"], splits.get("validation")
    if validation is None and data_args.val_set_size:
        if data_args.val_set_size >= len(train):
            raise InputError(f"--val_set_size {data_args.val_set_size}: there are only {len(train)} rows")
        parts = train.train_test_split(test_size=data_args.val_set_size, seed=training_args.seed)
        train, validation = parts["train"], parts["test"]
    train = select_tasks(train, "train", data_args.tasks)
    if training_args.eval_strategy == "no":
        return train, None
    if validation is None:
        raise InputError("nothing to evaluate on: give --val_set_size, or --eval_strategy no")
    return train, select_tasks(validation, "validation", data_args.tasks)


def select_tasks(dataset: Dataset, split: str, tasks: list[str] | None) -> Dataset:
    """Select the rows of these tasks."""
    if tasks is None:
        return dataset
    if "task" not in dataset.column_names:
        raise InputError(f"--tasks: the {split} split has no column `task`")
    selected = _select(dataset, "task", lambda task: task in tasks)
    if len(selected) == 0:
        raise InputError(f"the {split} split has no instance of {', '.join(tasks)}")
    return selected


def hash_rows(rows: Dataset, columns: Iterable[str]) -> str:
    """Compute the sha256 of the texts in these columns."""
    digest = sha256()
    for batch in rows.select_columns([*columns]).iter(1000):
        digest.update(orjson.dumps(batch))
    return digest.hexdigest()


def find_kinds(dataset: Dataset) -> dict[str, Any]:
    """
    Find the tasks and languages of the rows, if columns name them, the labels that each task asks for, and of tasks
    with roles or attributes the schema items of one row, as an example.
    """
    columns = {"tasks": "task", "languages": "language"}
    kinds: dict[str, Any] = {
        kind: sorted({*_values(dataset, name)}) for kind, name in columns.items() if name in dataset.column_names
    }
    if kinds.get("tasks"):
        with suppress(InputError):  # instructions of another form: unknown
            kinds["labels"] = find_labels(_values(dataset, "task", "instruction"))
            kinds["items"] = _find_items(_values(dataset, "task", "instruction"), kinds["tasks"])
    return kinds


def _find_items(rows: Iterable[tuple[str, str]], tasks: Iterable[str]) -> dict[str, list[Any]]:
    """List the schema items of the first row of each task with roles, unless they give triggers of its text away."""
    found: dict[str, list[Any]] = {}
    wanted = {name for name in tasks if find_task(name).roles_name and not find_task(name).triggers_given}
    for name, instruction in rows:
        if wanted <= found.keys():
            break
        if name in wanted and name not in found:
            task, schema = find_task(name), asked_schema(instruction, name)
            found[name] = [task.item(label, task.roles(label, schema), ()) for label in task.labels(schema)]
    return found


def select_sample(dataset: Dataset, size: int | None, seed: int) -> Dataset:
    """Select a random subset of this many rows; all of them if `size` is `None`."""
    return dataset if size is None else dataset.shuffle(seed=seed).select(range(min(size, len(dataset))))


def _select(dataset: Dataset, column: str, is_wanted: Callable[[Any], bool]) -> Dataset:
    # `Dataset.filter` always shows a bar.
    return dataset.select([index for index, value in enumerate(_values(dataset, column)) if is_wanted(value)])


def _values(dataset: Dataset, *columns: str) -> Iterator[Any]:
    """Read a column, or rows of several, in batches: a column of `datasets` reads row by row."""
    for batch in dataset.select_columns([*columns]).iter(_BATCH):
        yield from zip(*(batch[column] for column in columns), strict=True) if len(columns) > 1 else batch[columns[0]]


def _map(dataset: Dataset, function: Callable[..., Any], desc: str, num_proc: int | None, **kwargs: Any) -> Dataset:
    """Map batches of rows; in several processes, if `num_proc` is `None`, where that pays."""
    workers = num_proc or min(_WORKERS, os.cpu_count() or 1, 1 + len(dataset) // _ROWS_OF_A_WORKER)
    return dataset.map(
        function, batched=True, batch_size=_BATCH, num_proc=workers if workers > 1 else None, desc=desc, **kwargs
    )


def _to_instances(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def tokenize_rows(
    dataset: Dataset,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    answer_loss: str = "all",
    empty_weight: float = 1.0,
    draw: str | None = None,
    num_proc: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Dataset:
    """
    Turn instances into rows of tokens and labels, with their `length`; drop rows without an answer or of more than
    `max_length` tokens, whose answers the trainer would cut.

    `answer_loss` and `empty_weight` are those of [`SftArguments`]; if the latter is not 1, the labels say where it
    applies, see [`tokenize_decisions`]. Of a `draw`, by its name, only what is dropped is printed. `num_proc` is the
    number of processes, by default chosen by the number of rows.

    With `max_tokens`, the rows are a random subset of about that many tokens, in random order: the first ones that are
    kept of all in the order of `seed`. No more instances are read than it takes.

    Raises:
        `InputError`: If no row is left.
    """
    only_decisions = answer_loss == "decisions"
    looks_inside = only_decisions or empty_weight != 1
    if looks_inside and "task" not in dataset.column_names:
        raise InputError(f"--answer_loss decisions and --empty_weight: the {split} rows have no column `task`")
    answered = _select(dataset, "output", lambda output: output is not None)
    if max_tokens is not None:
        answered = answered.shuffle(seed=seed)

    def to_rows(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        instances = _to_instances(columns)
        if looks_inside:
            rows = [tokenize_decisions(instance, tokenizer, only_decisions) for instance in instances]
        else:
            rows = label(encode_words(render_rows(instances, tokenizer), tokenizer))
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return {**columns, "length": [len(row["input_ids"]) for row in rows]}

    columns = ["instruction", "output", *(["task"] if looks_inside else [])]
    parts: list[Dataset] = []
    lengths: list[int] = []  # of the rows so far
    kept = 0  # tokens of those that are kept
    is_full = False
    while len(lengths) < len(answered) and not is_full:
        begin, end = len(lengths), len(answered)
        if max_tokens is not None:
            end = min(end, begin + max(_BATCH, (max_tokens - kept) // _TOKENS_OF_A_ROW))
        rows = answered.select(range(begin, end)).select_columns(columns)
        rows = _map(rows, to_rows, f"Tokenizing {split}", num_proc, remove_columns=columns)
        fitting = []
        for index, length in enumerate(rows["length"][:]):
            if max_length is None or length <= max_length:
                is_full = max_tokens is not None and kept > 0 and kept + length > max_tokens
                if is_full:
                    break
                fitting.append(index)
                kept += length
            lengths.append(length)
        parts.append(rows.select(fitting))

    count, too_long = sum(map(len, parts)), [max_length is not None and length > max_length for length in lengths]
    whole = f"{count} of {len(answered)} rows taken" if max_tokens is not None else f"{count} rows"
    if draw is None or any(too_long) or len(answered) < len(dataset):
        PartialState().print(
            f"{draw or split}: {whole}, {kept} tokens; dropped: {sum(too_long)} longer than max_length={max_length}, "
            f"{len(dataset) - len(answered)} without an answer"
        )
    if any(too_long) and "source" in answered.column_names:
        sources = [*_values(answered.select(range(len(lengths))), "source")]
        of_source, all_of_source = Counter(compress(sources, too_long)), Counter(sources)
        counts = [f"{source} {count} of {all_of_source[source]}" for source, count in of_source.most_common(8)]
        more = [f"{len(of_source) - 8} corpora more"] if len(of_source) > 8 else []
        PartialState().print(
            f"{draw or split}: too long: {', '.join(counts + more)}; --max_length {max(lengths)} keeps all"
        )
    if count == 0:
        raise InputError(f"no row of the {split} split is left: raise --max_length")
    return concatenate_datasets(parts)


def take_records(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, data_args: SftArguments, max_length: int | None, seed: int
) -> Questions:
    """
    Select random whole records of the validation split to answer at every evaluation; skip records with a row of more
    than `max_length` tokens.

    Raises:
        `InputError`: If no record is left, or one cannot be scored.
    """
    if "task" not in dataset.column_names:
        raise InputError("--ie_f1_records: the validation rows have no `task` column to score their answers by")
    records: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    known: dict[tuple[str, ...], list[tuple[Asked, str]]] = defaultdict(list)
    for index, row in enumerate(dataset):
        if row["output"] is None:
            continue
        instance = {"source": "", **row}
        if row.get("id") is None or row.get("label") is None:  # a training row: a record of its own
            try:
                annotations = read_annotations(row["output"], row["instruction"], find_task(row["task"]).name)
            except InputError as error:
                raise InputError(f"--ie_f1_records: validation row {index}: {error}") from None
            instance |= {"id": str(index), "label": json.dumps(annotations, ensure_ascii=False)}
        key = (instance["task"], instance["source"], instance["id"], instance["label"])
        asked = read_asked(instance["instruction"], find_task(instance["task"]).name)
        if asked not in known[key]:  # asked again, a label would count twice
            known[key].append(asked)
            records[key].append(instance)

    order = list(records.values())
    random.Random(seed).shuffle(order)
    instances: list[dict[str, Any]] = []
    taken = too_long = 0
    for record in order:
        lengths = [len(tokenize(instance, tokenizer)["input_ids"]) for instance in record]
        if max_length is not None and max(lengths) > max_length:
            too_long += 1
            continue
        instances += record
        taken += 1
        if taken == data_args.ie_f1_records:
            break
    PartialState().print(
        f"IE F1 on {taken} of {len(records)} validation records, {len(instances)} answers each time; left out: "
        f"{too_long} longer than max_length={max_length}"
    )
    if not instances:
        raise InputError("--ie_f1_records: no validation record to answer is left: raise --max_length")
    longest = max(len(tokenizer(instance["output"])["input_ids"]) for instance in instances)
    questions = Questions(instances, data_args.ie_f1_max_new_tokens or 3 * longest // 2)
    questions.score([instance["output"] for instance in instances])  # fail before the training, not in it
    return questions


def make_prompts(
    dataset: Dataset, split: str, tokenizer: PreTrainedTokenizerBase, max_completion_length: int, context: int
) -> Dataset:
    """
    Turn instances into prompts with the columns that the reward needs; drop those whose prompt and longest answer
    exceed the context.

    Raises:
        `InputError`: If no row is left.
    """
    answered = _select(dataset, "output", lambda output: output is not None)

    def to_rows(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        prompts = [to_prompt(instance) for instance in _to_instances(columns)]
        asked = encode_words(render_all(prompts, tokenizer), tokenizer)
        answers = encode_words(columns["output"], tokenizer)
        fits = [
            len(answer) + 1 <= max_completion_length
            and len(prompt) + max_completion_length <= context  # the end token
            for prompt, answer in zip(asked, answers, strict=True)
        ]
        return {"prompt": prompts, "fits": fits}

    rows = _map(answered.select_columns([*REWARDED]), to_rows, f"Tokenizing {split}", None)
    fitting = _select(rows, "fits", bool).select_columns(["prompt", *REWARDED])
    PartialState().print(
        f"{split}: {len(fitting)} prompts; dropped: {len(rows) - len(fitting)} whose answer is longer than "
        f"max_completion_length={max_completion_length} or would go beyond the context of {context} tokens, "
        f"{len(dataset) - len(answered)} without a reference answer"
    )
    if len(fitting) == 0:
        raise InputError(f"no row of the {split} split is left: raise --max_completion_length")
    return fitting
