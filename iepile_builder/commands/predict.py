"""
Answers the instances of a dataset with a model, greedily and in batches, and writes them with the model's text in
`output`; the reference answer, where there is one, moves to `reference`.

```bash
python scripts/predict.py \
    --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
    --adapter_name_or_path outputs/smollm2-135m-iepile \
    --dataset data/iepile --split test \
    --output_file outputs/predictions.jsonl
```

Lines come in the order of the input, a window of them as soon as it is answered. Stopped at any time, the same command
goes on where it was. Under `accelerate launch` or `torchrun` the processes share the windows. Where `llguidance` is
installed, answers are held to the schema that they were asked for, so that they are always valid. With `--vllm` vLLM
runs the model, with `--endpoint http://127.0.0.1:8000/v1` a server that speaks the OpenAI chat API. Arguments can also
stand in a YAML file, given with `--config`.
"""

import json
import os
import sys
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from jsonargparse import ArgumentParser, Namespace

from iepile_builder.answers.grammar import answer_schema
from iepile_builder.chat import to_prompt
from iepile_builder.data.instances import load_instances
from iepile_builder.data.instructions import read_instruction
from iepile_builder.engines.base import Completion, Engine, Request
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.errors import InputError


# Within so many batches instances are sorted by length, and share what they have in common.
WINDOW = 8


class Answer(NamedTuple):
    line: str
    cut: bool
    fits: bool


def read_done(file: Path, dataset: Iterable[dict[str, Any]]) -> int:
    """Counts the answers that an earlier run left in the file, and cuts a line that it could not finish."""
    done = complete = 0
    instances = iter(dataset)
    with file.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                same = json.loads(line)["instruction"] == next(instances)["instruction"]
            except (ValueError, KeyError, TypeError, StopIteration):
                same = False
            if not same:
                raise InputError(
                    f"{file}, line {done + 1}: not an answer to instance {done + 1} of this dataset: "
                    "give another --output_file, or delete this one"
                )
            done += 1
            complete += len(line)
    with file.open("r+b") as output:
        output.truncate(complete)
    return done


def to_request(instance: dict[str, Any], number: int, args: Namespace) -> Request:
    """The request for an answer, with the schema that it must satisfy where the instruction has one."""
    schema = None
    if args.constrain != "off":
        try:
            asked = read_instruction(instance["instruction"])
            schema = answer_schema(instance.get("task", ""), asked["schema"], asked["input"] if args.in_text else None)
        except InputError as error:
            if args.constrain == "on":
                raise InputError(f"instance {number}: {error}; leave it free with --constrain auto or off") from None
    return Request(to_prompt(instance), schema)


def answer(engine: Engine, instances: Dataset, first: int, args: Namespace) -> list[Answer]:
    """Answers a window of instances, the first of which has this number."""
    # A field that a line does not have is null in the table.
    rows = [{key: value for key, value in row.items() if value is not None} for row in instances]
    requests = [to_request(row, first + index, args) for index, row in enumerate(rows)]
    # A server that does not tell its context refuses by itself what does not fit.
    fits = [(engine.context_left(request, args.max_new_tokens) or 0) >= 0 for request in requests]
    completions = iter(engine.generate(list(compress(requests, fits)), args.max_new_tokens))
    answers = []
    for row, fit in zip(rows, fits, strict=True):
        text, cut = next(completions) if fit else Completion("")
        reference = {"reference": row["output"]} if "output" in row else {}
        line = json.dumps({**row, "output": text, **reference}, ensure_ascii=False) + "\n"
        answers.append(Answer(line, cut, fit))
    return answers


def main(args: Namespace) -> None:
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
    from tqdm import tqdm

    # Several processes on a CPU find each other only if they are told that it is one.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    if state.num_processes != int(os.environ.get("WORLD_SIZE", 1)):
        raise InputError(f"{os.environ['WORLD_SIZE']} processes were started, but each of them runs alone")
    if state.num_processes > 1 and state.is_main_process:
        print(f"{state.num_processes} processes", file=sys.stderr)
    if args.in_text and args.constrain == "off":
        raise InputError("--in_text needs constraints: leave out --constrain off")
    if args.endpoint is None and args.model_name_or_path is None:
        raise InputError("no model: give --model_name_or_path, or --endpoint for one that a server has")
    if args.endpoint is not None and (args.vllm or args.adapter_name_or_path or args.chat_template_path):
        raise InputError("--endpoint: adapter, chat template and vLLM are the server's business: start it with them")

    # Data
    with state.main_process_first():
        splits = load_instances(args.dataset, columns=("instruction",))
        split = "train" if Path(args.dataset).is_file() else args.split
        if split not in splits:
            raise InputError(f"{args.dataset}: no {split} split, only {', '.join(splits)}")
        dataset = splits[split]
        if args.tasks is not None:
            dataset = dataset.filter(lambda task: task in args.tasks, input_columns="task")
    if args.max_samples is not None:
        dataset = dataset.select(range(min(args.max_samples, len(dataset))))

    output_file = Path(args.output_file)
    done = 0
    if state.is_main_process:
        output_file.parent.mkdir(parents=True, exist_ok=True)
        done = read_done(output_file, dataset) if output_file.exists() else 0
        if done:
            print(f"{output_file}: {done} of {len(dataset)} are answered already", file=sys.stderr)
    [done] = broadcast_object_list([done])
    if done == len(dataset):
        return

    # Model
    engine: Engine
    if args.endpoint is not None:
        from iepile_builder.engines.endpoint import EndpointEngine

        engine = EndpointEngine(args.endpoint, args.model_name_or_path, concurrency=args.batch_size)
    elif args.vllm:
        from iepile_builder.engines.vllm import VLLMEngine

        engine = VLLMEngine(
            args.model_name_or_path,
            args.adapter_name_or_path,
            chat_template_path=args.chat_template_path,
            speculative_tokens=args.speculative_tokens,
            dtype=args.dtype,
            quantization="bitsandbytes" if args.load_in_4bit else None,
        )
    else:
        engine = TransformersEngine.from_pretrained(
            args.model_name_or_path,
            args.adapter_name_or_path,
            chat_template_path=args.chat_template_path,
            dtype=args.dtype,
            load_in_4bit=args.load_in_4bit,
            load_in_8bit=args.load_in_8bit,
            attn_implementation=args.attn_implementation,
            batch_size=args.batch_size,
            constrain=args.constrain,
        )

    # Answers
    cut = too_long = 0
    size = WINDOW * args.batch_size
    turn = size * state.num_processes
    # Windows depend on the dataset alone, not on where a run was stopped or on how many processes there are: padding
    # changes the last bits of what a model computes, so an instance must always be answered in the same company.
    starts = range(done - done % size, len(dataset), turn)
    with tqdm(
        total=len(dataset), initial=done, unit="instance", desc="Answering", disable=not state.is_main_process
    ) as progress:
        for start in starts:
            first = min(start + size * state.process_index, len(dataset))
            window = dataset.select(range(first, min(first + size, len(dataset))))
            answers = gather_object(answer(engine, window, first + 1, args))[max(0, done - start) :]
            if state.is_main_process:
                with output_file.open("a", encoding="utf-8") as output:
                    output.writelines(answer.line for answer in answers)
            cut += sum(answer.cut for answer in answers)
            too_long += sum(not answer.fits for answer in answers)
            progress.update(len(answers))

    if state.is_main_process:
        print(f"answers: {output_file}", file=sys.stderr)
        if cut:
            print(f"{cut} answers were cut at --max_new_tokens {args.max_new_tokens}", file=sys.stderr)
        if too_long:
            print(
                f"{too_long} prompts leave no room for --max_new_tokens {args.max_new_tokens} in the model's context: "
                "their answers are empty",
                file=sys.stderr,
            )
    state.destroy_process_group()


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", action="config", help="YAML file of arguments")
    parser.add_argument("--model_name_or_path", type=str | None, help="folder or Hub id, or its name on the server")
    parser.add_argument("--adapter_name_or_path", type=str | None, help="folder or Hub id of a LoRA adapter")
    parser.add_argument("--dataset", type=str, required=True, help="folder, file or Hub id of instances")
    parser.add_argument("--split", type=str, default="test", help="split of a folder or Hub id")
    parser.add_argument("--output_file", type=str, required=True, help="JSON lines to write, or to go on with")
    parser.add_argument("--tasks", type=list[str] | None, nargs="+", help="tasks to answer, all by default")
    parser.add_argument("--max_samples", type=int | None, help="answer only the first N instances")
    parser.add_argument("--batch_size", type=int, default=16, help="instances answered at once")
    parser.add_argument("--max_new_tokens", type=int, default=512, help="longest answer, in tokens")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto")
    parser.add_argument("--load_in_4bit", type=bool, default=False, help="quantize the model to 4 bits")
    parser.add_argument("--load_in_8bit", type=bool, default=False, help="quantize the model to 8 bits")
    parser.add_argument("--attn_implementation", type=str | None, help="attention of the model, such as sdpa")
    parser.add_argument(
        "--constrain",
        choices=("auto", "on", "off"),
        default="auto",
        help="hold answers to their schema: always, never, or where llguidance is installed",
    )
    parser.add_argument("--in_text", type=bool, default=False, help="allow only strings of the text in answers")
    parser.add_argument("--chat_template_path", type=str | None, help="Jinja file, the tokenizer's own by default")
    parser.add_argument("--endpoint", type=str | None, help="address of an OpenAI-compatible server that answers")
    parser.add_argument("--vllm", type=bool, default=False, help="run the model with vLLM")
    parser.add_argument("--speculative_tokens", type=int, default=0, help="tokens that vLLM copies from the prompt")
    try:
        main(parser.parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
