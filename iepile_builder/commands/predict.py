"""
Answer the instances of a dataset with a model, greedily and in batches.

    iepile predict --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --adapter_name_or_path outputs/adapter \\
        --dataset_name data/iepile --split test --output_file outputs/preds.jsonl
    iepile predict --base_url http://127.0.0.1:8000/v1 --dataset_name data/iepile --output_file outputs/preds.jsonl

Each line of the output is an instance with the model's text in `output`; the reference answer, if any, moves to
`reference`. With `--scores`, `decisions` tells how sure the model was: for each label a pair for each item, the
log-odds that an item followed and the log-probability of its tokens, and one for the end. A killed run is resumed by
the same command; where only the annotation has changed since, answers get the new one. What made the answers is
recorded beside them (`preds.run.json`), and a resume with another model or with options that change answers is
refused. Under `accelerate launch` or `torchrun` the processes share the work.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from iepile_builder.chat import to_prompt
from iepile_builder.data.instances import load_instances
from iepile_builder.data.instructions import read_answer_schema
from iepile_builder.engines import EngineOptions, load_engine
from iepile_builder.engines.base import Completion, Decisions, Engine, Request
from iepile_builder.engines.record import describe_engine, find_differences, run_file
from iepile_builder.errors import InputError
from iepile_builder.io import check_apart, locked, write_whole
from iepile_builder.tasks import find_task


if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset


@dataclass
class PredictOptions:
    """
    Data.

    Args:
        dataset_name (`str`):
            Folder, file or Hub id of instances.
        output_file (`Path`):
            JSON lines to write, or to resume.
        split (`str`, *optional*, defaults to `"test"`):
            Split of a folder or Hub id.
        tasks (`list[str]`, *optional*):
            Tasks to answer, by default all.
        max_samples (`int`, *optional*):
            Answer only the first N instances.
    """

    dataset_name: str
    output_file: Path
    split: str = "test"
    tasks: list[str] | None = None
    max_samples: int | None = None


OPTIONS = (PredictOptions, EngineOptions)


class Answer(NamedTuple):
    line: str
    cut: bool
    fits: bool


def main(options: PredictOptions, engine_options: EngineOptions) -> None:
    predict(options, engine_options)
    join_processes(engine_options).destroy_process_group()


def predict(
    options: PredictOptions,
    engine_options: EngineOptions,
    description: dict[str, Any] | None = None,
    load: Callable[[EngineOptions], Engine] | None = None,
    bar: tqdm[Any] | None = None,
) -> None:
    """
    Answer the instances that are not answered yet.

    `description` is that of [`describe_engine`], if it has been made; `load` gives the engine, when there is something
    to answer; `bar` counts the instances of several calls, in place of a bar and a line on the file for each.

    Raises:
        `InputError`: If the options are wrong, or there are answers of another engine or to other instances.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    output_file = options.output_file
    record = run_file(output_file.resolve())  # of a link, for which the lock is there, too
    for written in (output_file, record):
        check_apart(written, [options.dataset_name])
    state = join_processes(engine_options)
    if state.num_processes > 1 and state.is_main_process:
        print(f"{state.num_processes} processes", file=sys.stderr)

    with state.main_process_first():
        dataset = select_instances(options)

    with locked(output_file) if state.is_main_process else nullcontext():
        done = 0
        if state.is_main_process:
            run = {"engine": description or describe_engine(engine_options), "data": describe_data(options)}
            done, complete, outdated = check_done(output_file, dataset, run["engine"])
            if output_file.exists() and complete < output_file.stat().st_size:
                os.truncate(output_file, complete)
            if outdated:
                update_done(output_file, dataset)
                has = "answer has" if outdated == 1 else "answers have"
                tqdm.write(f"{output_file}: {outdated} {has} the annotation as it is now", sys.stderr)
            if done:
                if bar is None:
                    print(f"{output_file}: {done} of {len(dataset)} are answered already", file=sys.stderr)
                else:
                    bar.update(done)
        [done] = broadcast_object_list([done])
        if done == len(dataset):
            return

        is_here = engine_options.base_url is None and engine_options.engine == "transformers"
        if is_here and state.is_main_process and state.device.type == "cuda" and len(dataset) - done > 1000:
            print("on a GPU, --engine vllm is made for many instances", file=sys.stderr)
        engine = (load or load_engine)(engine_options)
        if state.is_main_process and not done:
            write_whole(record, json.dumps(run, ensure_ascii=False, indent=2) + "\n")

        cut = too_long = 0
        size = engine_options.window(state.device.type)
        turn = size * state.num_processes
        # Windows depend on the dataset alone, not on where a run was stopped or on the number of processes: padding
        # changes the last bits of what a model computes, so an instance is always answered in the same company.
        starts = range(done - done % size, len(dataset), turn)
        own = {"total": len(dataset), "initial": done, "disable": not state.is_main_process}
        with nullcontext(bar) if bar is not None else tqdm(unit="instance", desc="Answering", **own) as progress:
            for start in starts:
                first = min(start + size * state.process_index, len(dataset))
                window = dataset.select([*range(first, min(first + size, len(dataset)))])  # an empty range raises
                answers = gather_object(answer(engine, window, first + 1, engine_options))[max(0, done - start) :]
                if state.is_main_process:
                    try:
                        with output_file.open("a", encoding="utf-8") as output:
                            output.writelines(answer.line for answer in answers)
                    except OSError as error:
                        raise InputError(
                            f"{output_file}: {error.strerror}; the same command resumes from there"
                        ) from None
                cut += sum(answer.cut for answer in answers)
                too_long += sum(not answer.fits for answer in answers)
                progress.update(len(answers))
        if state.is_main_process and getattr(engine, "structured", None) is False:
            # A server tells only when it is asked whether it holds answers to a schema
            said = {**json.loads(record.read_bytes()), "constrained": False}
            write_whole(record, json.dumps(said, ensure_ascii=False, indent=2) + "\n")

    if state.is_main_process:
        longest = f"--max_new_tokens {engine_options.max_new_tokens}"
        if bar is None:
            print(f"answers: {output_file}", file=sys.stderr)
        file = "" if bar is None else f"{output_file}: "
        if cut:
            tqdm.write(f"{file}{cut} {'answers were' if cut > 1 else 'answer was'} cut at {longest}", sys.stderr)
        if too_long:
            prompts = "prompts leave" if too_long > 1 else "prompt leaves"
            tqdm.write(
                f"{file}{too_long} {prompts} no room for {longest} in the model's context: an empty answer", sys.stderr
            )


def join_processes(options: EngineOptions) -> PartialState:
    """Find the other processes of `accelerate launch` or `torchrun`; they leave the GPUs to vLLM, if it answers."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Several processes on a CPU find each other only if they are told that it is one.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or options.engine == "vllm"
    # A process may wait for another one's whole window, in the last turn without one of its own; NCCL gives 10 minutes
    state = PartialState(cpu=on_cpu or not torch.accelerator.is_available(), timeout=timedelta(days=1))
    if state.num_processes != int(os.environ.get("WORLD_SIZE", 1)):
        raise InputError(f"{os.environ['WORLD_SIZE']} processes were started, but each of them runs alone")
    return state


def select_instances(options: PredictOptions) -> Dataset:
    """Load the instances to answer."""
    for task in options.tasks or ():
        find_task(task)
    columns = ("instruction",) if options.tasks is None else ("instruction", "task")
    splits = load_instances(options.dataset_name, columns)
    split = "train" if Path(options.dataset_name).is_file() else options.split
    if split not in splits:
        raise InputError(f"{options.dataset_name}: no {split} split, only {', '.join(splits)}")
    dataset = splits[split]
    if options.tasks is not None:
        dataset = dataset.select([row for row, task in enumerate(dataset["task"]) if task in options.tasks])
        if len(dataset) == 0:
            raise InputError(
                f"{options.dataset_name}: the {split} split has no instance of {', '.join(options.tasks)}"
            )
    if options.max_samples is not None:
        dataset = dataset.select(range(min(options.max_samples, len(dataset))))
    return dataset


def check_done(file: Path, dataset: list[dict[str, Any]] | Dataset, engine: dict[str, Any]) -> tuple[int, int, int]:
    """Read the answers that are there as [`read_done`] does, and refuse those of another engine."""
    if not file.exists() or not file.stat().st_size:
        return 0, 0, 0
    done, complete, outdated = read_done(file, dataset)
    its = f"its {done} answers were" if done else "its unfinished line was"
    check_run(run_file(file.resolve()), engine, f"{file}: {its} made with ", done == len(dataset))
    return done, complete, outdated


def read_done(file: Path, dataset: Iterable[dict[str, Any]]) -> tuple[int, int, int]:
    """
    Count the answers that an earlier run left in the file, and their bytes, without an unfinished line; and those
    whose instance has changed in something that is not asked, such as the annotation.
    """
    done = complete = outdated = 0
    instances = iter(dataset)
    with file.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                answered, instance = json.loads(line), next(instances)
                same = answered["instruction"] == instance["instruction"]
                outdated += answered != _update(answered, instance)
            except (ValueError, KeyError, TypeError, StopIteration):
                same = False
            if not same:
                raise InputError(
                    f"{file}, line {done + 1}: not an answer to instance {done + 1} of this dataset: "
                    "give another output, or delete this file"
                )
            done += 1
            complete += len(line)
    return done, complete, outdated


def update_done(file: Path, dataset: Iterable[dict[str, Any]]) -> None:
    """Write the instances as they are now into their answers."""
    with file.open("rb") as lines:
        updated = [_update(json.loads(line), instance) for line, instance in zip(lines, dataset, strict=False)]
    write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in updated))


def _update(answered: dict[str, Any], instance: dict[str, Any]) -> dict[str, Any]:
    """Give a line of the output with its instance as it is now."""
    return to_line(instance, answered["output"], answered.get("decisions"))


def to_line(instance: dict[str, Any], output: str, decisions: object) -> dict[str, Any]:
    """Make a line of the output: an instance with its answer."""
    line = {key: value for key, value in instance.items() if value is not None}
    reference = {"reference": line["output"]} if "output" in line else {}
    return {**line, "output": output, **reference, **({} if decisions is None else {"decisions": decisions})}


def describe_data(options: PredictOptions) -> dict[str, Any]:
    """Name the instances, for the record of a run."""
    split = None if Path(options.dataset_name).is_file() else options.split
    return {"dataset_name": options.dataset_name, "split": split, "tasks": options.tasks}


def check_run(record: Path, engine: dict[str, Any], found: str, complete: bool) -> None:
    """Refuse answers that another model or other options made; if they are complete, scores do no harm."""
    try:
        made = json.loads(record.read_bytes())["engine"]
        if complete and "scores" not in engine:
            made.pop("scores", None)
        differences = find_differences(made, engine)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        differences = [f"an unknown model: {record} is missing or damaged"]
    if differences:
        raise InputError(f"{found}{'; '.join(differences)}: give another output, or delete this file")


def answer(engine: Engine, instances: Dataset, first: int, options: EngineOptions) -> list[Answer]:
    """Answer a window of instances, the first of which has the number `first`."""
    # A field that a line does not have is null in the table.
    rows = [{key: value for key, value in row.items() if value is not None} for row in instances]
    requests = [to_request(row, first + index, options) for index, row in enumerate(rows)]
    # A server that does not tell its context refuses by itself what does not fit.
    with ThreadPoolExecutor(getattr(engine, "concurrency", 1)) as pool:  # each count of a server's is a request
        left = list(pool.map(lambda request: engine.context_left(request, options.max_new_tokens), requests))
    fits = [(tokens or 0) >= 0 for tokens in left]
    completions = iter(engine.generate(list(compress(requests, fits)), options.max_new_tokens))
    answers = []
    for row, fit in zip(rows, fits, strict=True):
        completion = next(completions) if fit else Completion("")
        decisions = None if completion.decisions is None else _rounded(completion.decisions)
        line = json.dumps(to_line(row, completion.text, decisions), ensure_ascii=False) + "\n"
        answers.append(Answer(line, completion.cut, fit))
    return answers


def _rounded(decisions: Decisions) -> dict[str, list[list[float | None]]]:
    return {
        label: [[None if number is None else round(number, 4) for number in pair] for pair in pairs]
        for label, pairs in decisions.items()
    }


def to_request(instance: dict[str, Any], number: int, options: EngineOptions) -> Request:
    """Ask for the answer to an instance, with the schema that it must satisfy if the instruction has one."""
    schema = None
    if options.constrain != "off":
        try:
            schema = read_answer_schema(instance["instruction"], instance.get("task", ""), options.copied_in_force)
        except InputError as error:
            if options.constrain == "on":
                raise InputError(f"instance {number}: {error}; leave it free with --constrain auto or off") from None
    return Request(to_prompt(instance), schema, instance.get("task", ""))
