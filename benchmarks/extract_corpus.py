"""
Measure what spreading a corpus costs, with rules in place of a model.

    python benchmarks/extract_corpus.py --documents 1000000

Writes a corpus and extracts from it in a plain loop, in one process and on 1 and 2 Ray workers, each in a fresh
process, one after the other. Prints documents per second; the CPU time per document beyond that of the plain loop,
starts included; and the memory of the process and of all that it started, its peak and the curve in tenths of the run.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from iepile_builder.chat import to_prompt
from iepile_builder.engines import EngineOptions
from iepile_builder.engines.base import Completion, Request


SCHEMA = ["person", "city", "product"]
ROWS = {"plain loop": None, "one process": None, "1 Ray worker": 1, "2 Ray workers": 2}


class Rules:
    """Finds the words that start with a label."""

    def context_left(self, request: Request, max_new_tokens: int) -> None:
        return None

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        completions = []
        for request in requests:
            asked = json.loads(request.messages[-1]["content"])
            words = asked["input"].split()
            answer = {label: [word for word in words if word.startswith(label)] for label in asked["schema"]}
            completions.append(Completion(json.dumps(answer)))
        return completions


def write_corpus(path: Path, documents: int) -> None:
    with path.open("w") as file:
        for number in range(documents):
            words = " ".join(f"word{(number * 7 + place) % 997}" for place in range(25))
            file.write(json.dumps({"text": f"person{number} went to city{number % 1000} and {words} today"}) + "\n")


def loop(path: Path) -> int:
    """Ask, answer and look the strings up: what is left if nothing is checked, grounded, spread or written."""
    engine, facts = Rules(), 0
    with path.open() as file:
        for line in file:
            text = json.loads(line)["text"]
            instruction = {"instruction": "", "schema": SCHEMA, "input": text}
            request = Request(to_prompt({"instruction": json.dumps(instruction)}))
            answer = json.loads(engine.generate([request], 512)[0].text)
            facts += sum(text.find(string) >= 0 for strings in answer.values() for string in strings)
    return facts


def extract(path: Path, output_dir: str, workers: int | None) -> int:
    from iepile_builder.commands.extract_corpus import ExtractCorpusOptions, extract_corpus
    from iepile_builder.extraction.cluster import ClusterOptions
    from iepile_builder.extraction.corpus_files import DocumentOptions

    return extract_corpus(
        DocumentOptions(str(path)),
        ExtractCorpusOptions(output_dir, SCHEMA),
        ClusterOptions(num_workers=workers),
        EngineOptions(),
        {"engine": "rules"},
        lambda options: Rules(),
    )["facts"]


def watch(curve: list[float], cpu: dict[int, float], ended: threading.Event) -> None:
    """Note once a second the memory (MiB, proportional set size) and CPU seconds of this process and all below it."""
    import psutil

    process = psutil.Process()
    while not ended.wait(1):
        total = 0
        for each in (process, *process.children(recursive=True)):
            try:
                total += each.memory_full_info().pss
                times = each.cpu_times()
                cpu[each.pid] = times.user + times.system
            except psutil.Error:
                continue
        curve.append(total / 2**20)


def measure(name: str, path: Path, folder: str) -> dict[str, Any]:
    curve: list[float] = []
    cpu: dict[int, float] = {}
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(curve, cpu, ended))
    watcher.start()
    start = time.monotonic()
    facts = loop(path) if name == "plain loop" else extract(path, f"{folder}/{name}", ROWS[name])
    seconds = time.monotonic() - start
    ended.set()
    watcher.join()
    cpu[os.getpid()] = time.process_time()
    return {"seconds": seconds, "cpu": sum(cpu.values()), "facts": facts, "curve": curve}


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--rows", nargs="+", type=str, default=list(ROWS))
    parser.add_argument("--measure", help="used internally: a row, the corpus, a folder", nargs=3)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], Path(args.measure[1]), args.measure[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus.jsonl")
        write_corpus(path, args.documents)
        print(f"{args.documents} documents, {path.stat().st_size / 2**20:.0f} MiB")
        plain = None
        for name in args.rows:
            command = [sys.executable, __file__, "--measure", name, str(path), folder]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            plain = result["cpu"] if plain is None else plain
            more = 1e6 * (result["cpu"] - plain) / args.documents
            curve = result["curve"] or [0.0]
            tenths = [round(curve[place * (len(curve) - 1) // 10]) for place in range(11)]
            rate = args.documents / result["seconds"]
            print(
                f"{name:14} {rate:9,.0f} documents/s {more:6.0f} CPU us a document more; "
                f"{max(curve):6.0f} MiB at most; tenths {tenths}; {result['facts']} facts",
                flush=True,
            )


if __name__ == "__main__":
    main()
