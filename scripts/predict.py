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

Lines come in the order of the input and are flushed as soon as they are known. Stopped at any time, the same command
goes on where it was. Arguments can also stand in a YAML file, given with `--config`.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from iepile_builder.chat import load_instances, to_prompt
from iepile_builder.engines import Completion, Request, TransformersEngine
from iepile_builder.errors import InputError


# Within so many batches instances of similar length are answered together; their lines wait for each other.
WINDOW = 4


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


def main(args: Namespace) -> None:
    from tqdm import tqdm

    # Data
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
    output_file.parent.mkdir(parents=True, exist_ok=True)
    done = read_done(output_file, dataset) if output_file.exists() else 0
    if done:
        print(f"{output_file}: {done} of {len(dataset)} are answered already", file=sys.stderr)
    if done == len(dataset):
        return

    # Model
    engine = TransformersEngine.from_pretrained(
        args.model_name_or_path,
        args.adapter_name_or_path,
        chat_template_path=args.chat_template_path,
        dtype=args.dtype,
        load_in_4bit=args.load_in_4bit,
        load_in_8bit=args.load_in_8bit,
        attn_implementation=args.attn_implementation,
        batch_size=args.batch_size,
    )

    # Answers
    too_long = cut = 0
    size = WINDOW * args.batch_size
    with (
        output_file.open("a", encoding="utf-8") as output,
        tqdm(total=len(dataset), initial=done, unit="instance", desc="Answering") as progress,
    ):
        # Windows depend on the dataset alone, not on where a run was stopped: padding changes the last bits of what a
        # model computes, so an instance must always be answered in the same company.
        for start in range(done - done % size, len(dataset), size):
            rows = dataset.select(range(start, min(start + size, len(dataset))))
            # A field that a line does not have is null in the table.
            instances = [{key: value for key, value in row.items() if value is not None} for row in rows]
            requests = [Request(to_prompt(instance)) for instance in instances]
            fitting = [
                i for i, request in enumerate(requests) if engine.context_left(request, args.max_new_tokens) >= 0
            ]
            completions = dict(
                zip(
                    fitting,
                    engine.generate([requests[index] for index in fitting], args.max_new_tokens),
                    strict=True,
                )
            )
            too_long += len(instances) - len(fitting)
            for index in range(max(0, done - start), len(instances)):
                completion = completions.get(index, Completion(""))
                cut += completion.cut
                answer = {"output": completion.text}
                if "output" in instances[index]:
                    answer["reference"] = instances[index]["output"]
                output.write(json.dumps({**instances[index], **answer}, ensure_ascii=False) + "\n")
                output.flush()
                progress.update()

    print(f"answers: {output_file}", file=sys.stderr)
    if cut:
        print(f"{cut} answers were cut at --max_new_tokens {args.max_new_tokens}", file=sys.stderr)
    if too_long:
        print(
            f"{too_long} prompts leave no room for --max_new_tokens {args.max_new_tokens} in the model's context: "
            "their answers are empty",
            file=sys.stderr,
        )


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", action="config", help="YAML file of arguments")
    parser.add_argument("--model_name_or_path", type=str, required=True, help="folder or Hub id of the model")
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
    parser.add_argument("--chat_template_path", type=str | None, help="Jinja file, the tokenizer's own by default")
    try:
        main(parser.parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
