"""
Measure the speed of answering against batched `generate` and against one instance at a time.

    python benchmarks/predict.py --model_name_or_path MODEL --adapter_name_or_path ADAPTER \\
        --dataset_name data/mit-movie

The first row is the loop of the published code, one instance at a time; each row adds one thing to the row above. In
float32 the answers of all unconstrained rows must equal those of the first, or the program fails. CPU seconds of one
thread depend less on other work of the machine than wall time; `--methods` picks rows.

`--gguf` adds a row for each file of `iepile export-gguf`, answered by llama.cpp in this process with `--batch_size`
slots and held to the same JSON schemas.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from iepile_builder.chat import to_prompt
from iepile_builder.data.instances import load_instances
from iepile_builder.data.instructions import read_instruction
from iepile_builder.engines.base import Completion, Request
from iepile_builder.engines.decoding import generate_padded
from iepile_builder.engines.loading import shipped_model
from iepile_builder.engines.rows import Row
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import find_task


def one_at_a_time(engine: TransformersEngine, requests: list[Request], max_new_tokens: int) -> list[Completion]:
    completions = []
    for request in requests:
        input_ids = torch.tensor([engine.prompt_ids(request)])
        with torch.inference_mode():
            generated = engine.model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                eos_token_id=sorted(engine.end_tokens),
                pad_token_id=engine.tokenizer.eos_token_id,
            )
        ids = generated[0, input_ids.shape[1] :].tolist()
        text = engine.tokenizer.decode(ids, skip_special_tokens=True)
        completions.append(Completion(text, engine.end_tokens.isdisjoint(ids)))
    return completions


def padded(engine: TransformersEngine, requests: list[Request], max_new_tokens: int) -> list[Completion]:
    token_ids = [engine.prompt_ids(request) for request in requests]
    order = sorted(range(len(requests)), key=lambda index: len(token_ids[index]))
    completions = {}
    size = engine.batch_size or 1
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        rows = [Row(token_ids[index]) for index in batch]
        generate_padded(engine.model, rows, engine.end_tokens, max_new_tokens)
        for index, row in zip(batch, rows, strict=True):
            text = engine.tokenizer.decode(row.answer, skip_special_tokens=True)
            completions[index] = Completion(text, not row.complete(engine.end_tokens))
    return [completions[index] for index in range(len(requests))]


def own_loop(share_prefix: bool, lookup: bool, constrain: str) -> Callable:
    def answer(engine: TransformersEngine, requests: list[Request], max_new_tokens: int) -> list[Completion]:
        engine.share_prefix, engine.lookup, engine.constrained = share_prefix, lookup, constrain == "on"
        return engine.generate(requests, max_new_tokens)

    return answer


def one_by_one(engine: TransformersEngine, requests: list[Request], max_new_tokens: int) -> list[Completion]:
    answer = own_loop(True, True, "on")
    return [completion for request in requests for completion in answer(engine, [request], max_new_tokens)]


def llama_cpp(file: str) -> Callable:
    """Answer with llama.cpp in this process; its server starts at the first call."""
    import xllamacpp

    from iepile_builder.engines.endpoint import EndpointEngine

    servers: list[tuple[xllamacpp.Server, EndpointEngine]] = []

    def answer(engine: TransformersEngine, requests: list[Request], max_new_tokens: int) -> list[Completion]:
        if not servers:
            slots = engine.batch_size or 1
            params = xllamacpp.CommonParams()
            params.model.path = file
            params.n_parallel = slots
            params.n_ctx = 1024 * slots
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
            params.verbosity = -1
            params.port = 0
            server = xllamacpp.Server(params)
            servers.append((server, EndpointEngine(f"{server.listening_address}/v1", concurrency=slots)))
        return servers[0][1].generate(requests, max_new_tokens)

    return answer


METHODS = {
    "one at a time": one_at_a_time,
    "batches by length, `generate`": padded,
    "own loop: ended answers leave the batch, cache in place": own_loop(False, False, "off"),
    "+ shared prefix": own_loop(True, False, "off"),
    "+ lookup": own_loop(True, True, "off"),
    "+ grammar, forced tokens": own_loop(True, True, "on"),
    "grammar without lookup": own_loop(True, False, "on"),
    "own loop, a call for each text, grammar": one_by_one,
}


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument(
        "--model_name_or_path", type=str | None, help="by default the model that ships, with its adapter"
    )
    parser.add_argument("--adapter_name_or_path", type=str | None)
    parser.add_argument("--dataset_name", type=str, required=True)
    parser.add_argument("--max_samples", type=int, default=48)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--methods", type=list[int], default=list(range(6)), help="rows, from 0")
    parser.add_argument("--gguf", type=list[str], default=[], help="files to answer with llama.cpp, too")
    args = parser.parse_args()

    torch.set_num_threads(1)
    if args.model_name_or_path is None:
        args.model_name_or_path, args.adapter_name_or_path = shipped_model()
    engine = TransformersEngine.from_pretrained(
        args.model_name_or_path, args.adapter_name_or_path, dtype=args.dtype, batch_size=args.batch_size
    )
    dataset = load_instances(args.dataset_name, columns=("instruction", "output", "label"))["test"]
    instances = list(dataset.select(range(args.max_samples)))
    requests = []
    for instance in instances:
        schema = find_task(instance["task"]).answer_schema(read_instruction(instance["instruction"])["schema"])
        requests.append(Request(to_prompt(instance), schema))
    engine.generate(requests[:2], 2)  # load what is loaded on first use

    print(f"{args.max_samples} answers of {args.dataset_name}, {args.dtype}, batches of {args.batch_size}")
    print("| | CPU s | clock s | answers per CPU s | times | equal | valid JSON | cut | F1 |")
    print("|---|---|---|---|---|---|---|---|---|")
    first: tuple[float, list[Completion]] | None = None
    methods = [list(METHODS.items())[number] for number in args.methods]
    for file in args.gguf:
        methods.append((f"llama.cpp, {Path(file).name}, grammar", llama_cpp(file)))
        methods[-1][1](engine, requests[:2], 2)
    for name, method in methods:
        start = time.process_time(), time.perf_counter()
        answers = method(engine, requests, args.max_new_tokens)
        cpu, clock = time.process_time() - start[0], time.perf_counter() - start[1]
        first = first or (cpu, answers)
        equal = sum(one == other for one, other in zip(answers, first[1], strict=True))
        scorer = Scorer()
        for instance, answer in zip(instances, answers, strict=True):
            scorer.add({**instance, "output": answer.text})
        report = scorer.report()
        print(
            f"| {name} | {cpu:.1f} | {clock:.1f} | {len(answers) / cpu:.2f} | {first[0] / cpu:.1f} | "
            f"{equal}/{len(answers)} | {sum(map(is_json, answers)) / len(answers):.1%} | "
            f"{sum(answer.cut for answer in answers)} | {report['overall']['f1']:.1f} |",
            flush=True,
        )
        if args.dtype == "float32" and equal < len(answers) and "grammar" not in name and args.methods[0] == 0:
            sys.exit("the answers are not equal")


def is_json(answer: Completion) -> bool:
    try:
        return isinstance(json.loads(answer.text), dict)
    except ValueError:
        return False


if __name__ == "__main__":
    main()
