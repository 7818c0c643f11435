"""
Measure how fast instances become rows of tokens, with one process and with several.

    python benchmarks/tokens.py --model path/to/SmolLM2-135M-Instruct --corpus path/to/IE-en/NER/mit-movie

It prints rows a second and CPU microseconds a row (all processes together), without the start of the processes, which
a first small run shows. On a busy machine rows a second say little; microseconds are then too high as well, because
the caches are shared.
"""

import os
import resource
import tempfile
import time
from typing import Any

from jsonargparse import ArgumentParser


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", type=str, required=True, help="folder or Hub id with a tokenizer")
    parser.add_argument("--corpus", type=str, required=True, help="corpus folder")
    parser.add_argument("--rows", type=int, default=50_000, help="number of rows; those of the corpus are repeated")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()

    from datasets import concatenate_datasets

    from iepile_builder import IEPile
    from iepile_builder.chat import load_tokenizer

    tokenizer = load_tokenizer(args.model)
    instances = IEPile(data_dir=args.corpus, splits=["train"]).as_dataset(split="train")
    copies = -(-args.rows // len(instances))
    dataset = concatenate_datasets([instances] * copies).select(range(args.rows))
    print(f"{args.rows} rows; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    first: float | None = None
    for processes in args.processes:
        start = measure(dataset.select(range(10 * processes)), tokenizer, processes)
        whole = measure(dataset, tokenizer, processes)
        speed = args.rows / (whole["seconds"] - start["seconds"])
        cost = (whole["cpu"] - start["cpu"]) / args.rows * 1e6
        first = first or speed
        print(
            f"{processes} process{'es' if processes > 1 else ''}: {speed:,.0f} rows/s, {speed / first:.2f} of one; "
            f"{cost:.0f} CPU microseconds a row, {whole['tokens'] / args.rows:.0f} tokens a row; start "
            f"{start['seconds']:.1f} s"
        )


def measure(dataset: Any, tokenizer: Any, processes: int) -> dict[str, float]:
    """Tokenize as `iepile train` does, without what an earlier run left in the cache."""
    from datasets import disable_caching

    from iepile_builder.training.data import tokenize_rows, without_bars

    disable_caching()
    with tempfile.TemporaryDirectory() as folder, without_bars():
        tempfile.tempdir = folder
        wall, cpu = time.perf_counter(), used()
        rows = tokenize_rows(dataset, "train", tokenizer, 10**6, draw="rows", num_proc=processes)
        result = {"seconds": time.perf_counter() - wall, "cpu": used() - cpu, "tokens": float(sum(rows["length"]))}
        tempfile.tempdir = None
    return result


def used() -> float:
    """Sum the CPU seconds of this process and of those that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main()
