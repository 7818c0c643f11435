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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from iepile_builder.chat import load_instances, load_model, load_tokenizer, to_prompt
from iepile_builder.errors import InputError


# Within so many batches instances of similar length are answered together; their lines wait for each other.
WINDOW = 4


def read_done(file: Path, instances: list[dict[str, Any]]) -> int:
    """Counts the answers that an earlier run left in the file, and cuts a line that it could not finish."""
    content = file.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    lines = complete.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            same = number <= len(instances) and json.loads(line)["instruction"] == instances[number - 1]["instruction"]
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise InputError(
                f"{file}, line {number}: not an answer to instance {number} of this dataset: "
                "give another --output_file, or delete this one"
            )
    if len(complete) < len(content):
        with file.open("r+b") as output:
            output.truncate(len(complete))
    return len(lines)


def batches(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """
    Groups the instances by length within each window.

    The groups depend on the dataset alone, not on where a run was stopped: padding changes the last bits of what a
    model computes, so an instance must always be answered in the same company.
    """
    size = WINDOW * batch_size
    for start in range(0, len(lengths), size):
        window = sorted(range(start, min(start + size, len(lengths))), key=lambda index: lengths[index])
        yield from (window[i : i + batch_size] for i in range(0, len(window), batch_size))


def main(args: Namespace) -> None:
    import torch
    from tqdm import tqdm
    from transformers.utils import has_file

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
    # A field that a line does not have is null in the table.
    instances = [{key: value for key, value in row.items() if value is not None} for row in dataset]

    output_file = Path(args.output_file)
    output_file.parent.mkdir(parents=True, exist_ok=True)
    done = read_done(output_file, instances) if output_file.exists() else 0
    if done:
        print(f"{output_file}: {done} of {len(instances)} are answered already", file=sys.stderr)
    if done == len(instances):
        return

    # Model
    adapter = args.adapter_name_or_path
    with_tokenizer = adapter is not None and has_file(adapter, "tokenizer_config.json")
    tokenizer = load_tokenizer(adapter if with_tokenizer else args.model_name_or_path, padding_side="left")
    model = load_model(args.model_name_or_path, adapter, dtype=args.dtype, device_map="auto").eval()
    if adapter is not None:
        model = model.merge_and_unload()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    end_tokens = {tokenizer.eos_token_id}
    if (configured := model.generation_config.eos_token_id) is not None:
        end_tokens |= {configured} if isinstance(configured, int) else set(configured)
    model.generation_config = type(model.generation_config)(
        do_sample=False,
        max_new_tokens=args.max_new_tokens,
        eos_token_id=sorted(end_tokens),
        pad_token_id=tokenizer.pad_token_id,
    )

    # Answers
    prompts = [
        tokenizer.apply_chat_template(to_prompt(instance), add_generation_prompt=True, tokenize=False)
        for instance in instances
    ]
    token_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    room = model.config.get_text_config().max_position_embeddings - args.max_new_tokens
    too_long = unfinished = 0
    answers: dict[int, str] = {}
    written = done
    with (
        output_file.open("a", encoding="utf-8") as output,
        tqdm(total=len(instances), initial=done, unit="instance", desc="Answering") as progress,
    ):
        for batch in batches([len(ids) for ids in token_ids], args.batch_size):
            if max(batch) < done:
                continue
            fitting = [index for index in batch if len(token_ids[index]) <= room]
            answers |= dict.fromkeys(batch, "")
            too_long += len(batch) - len(fitting)
            if fitting:
                inputs = tokenizer.pad({"input_ids": [token_ids[index] for index in fitting]}, return_tensors="pt")
                inputs = inputs.to(model.device)
                with torch.inference_mode():
                    generated = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
                for index, ids in zip(fitting, generated.tolist(), strict=True):
                    answers[index] = tokenizer.decode(ids, skip_special_tokens=True)
                    unfinished += end_tokens.isdisjoint(ids)
            progress.update(sum(index >= done for index in batch))
            while written in answers:
                instance = instances[written]
                answer = {"output": answers[written]}
                if "output" in instance:
                    answer["reference"] = instance["output"]
                output.write(json.dumps({**instance, **answer}, ensure_ascii=False) + "\n")
                output.flush()
                written += 1

    print(f"answers: {output_file}", file=sys.stderr)
    if unfinished:
        print(f"{unfinished} answers were cut at --max_new_tokens {args.max_new_tokens}", file=sys.stderr)
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
    try:
        main(parser.parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
