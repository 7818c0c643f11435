"""
Measure speed and memory of building: this library against a plain loop over the records, in one run.

    python benchmarks/build.py --corpora_dir path/to/corpora
    python benchmarks/build.py --corpora_dir path/to/corpora --corpora mit-movie --instances 2000000

The plain loop is what most scripts do: read a line, choose and shuffle labels, `json.dumps` the instruction, the
answer and the row, write a line of JSON. It writes the same columns for the same number of instances, but checks
nothing. The library checks every record and writes Arrow. Each corpus is repeated, with a number in every text, until
it gives `--instances` instances; every measurement runs in its own process and excludes imports. Two plain loops at
once show the gain of a second process on this machine. On a busy machine read the column "on free cores" instead of
the seconds: the instances per second if no process had waited for a core, computed from the CPU seconds of the main
process and of the workers, which share the work evenly.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser


NAMES = {
    "plain": "plain loop, JSON lines",
    "plain twice": "two plain loops at once",
    "1": "library, 1 process",
}
USAGES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
CORPORA = {"mit-movie": ("NER", "en", "hard"), "FinRE": ("RE", "zh", "all"), "fewfc": ("EE", "zh", "hard")}


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--corpora_dir", type=Path, required=True, help="the tree that holds mit-movie, FinRE, fewfc")
    parser.add_argument("--corpora", type=list[str], default=list(CORPORA))
    parser.add_argument("--instances", type=int, default=200_000, help="about this many for each corpus")
    parser.add_argument("--repeats", type=int, default=3, help="take the fastest of this many runs")
    parser.add_argument("--variants", type=list[str], default=["plain", "plain twice", "1", "2"])
    args = parser.parse_args()

    packages = " ".join(f"{name} {version(name)}" for name in ("datasets", "pyarrow", "numpy", "orjson"))
    print(f"Python {sys.version.split()[0]}, {packages}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print(
        "| corpus | what | instances | seconds | instances/s | against plain | instances/CPU-s | against plain "
        "| on free cores | MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for source in args.corpora:
        task, language, negatives = CORPORA[source]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, f"IE-{language}", task, source)
            repeat_corpus(args.corpora_dir / f"IE-{language}" / task / source, folder, negatives, args.instances)
            plain = None
            for variant in args.variants:
                runs = [run(variant, folder, negatives) for _ in range(args.repeats)]
                best = {name: min(run[name] for run in runs) for name in runs[0]}
                speed, per_cpu, free = (best["instances"] / best[name] for name in ("wall", "cpu", "free"))
                if variant == "plain":
                    plain = speed, per_cpu
                against = [f"{value / base:.2f}" for value, base in zip((speed, per_cpu), plain or (), strict=False)]
                against = against or ["", ""]
                what = NAMES.get(variant, f"library, {variant} processes")
                print(
                    f"| {source} ({task}, {negatives}) | {what} | {best['instances']:,} | {best['wall']:.1f} | "
                    f"{speed:,.0f} | {against[0]} | {per_cpu:,.0f} | {against[1]} | {free:,.0f} | "
                    f"{best['memory']:.0f} |",
                    flush=True,
                )


def run(variant: str, folder: Path, negatives: str) -> dict[str, Any]:
    """Measure in a new process, or in two at once for the upper bound of two processes."""
    command = [sys.executable, __file__, "--measure", variant.split()[0], str(folder), negatives]
    at_once = 2 if variant.endswith("twice") else 1
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(at_once)]
    found = [json.loads(process.communicate()[0]) for process in processes]
    return {
        "instances": sum(each["instances"] for each in found),
        "wall": max(each["wall"] for each in found),
        "cpu": sum(each["cpu"] for each in found),
        "free": max(each["free"] for each in found),
        "memory": max(each["memory"] for each in found),
    }


def repeat_corpus(source: Path, folder: Path, negatives: str, instances: int) -> None:
    """Write a training split that gives about this many instances."""
    folder.mkdir(parents=True)
    (folder / "schema.json").write_bytes((source / "schema.json").read_bytes())
    lines = (source / "train.json").read_text(encoding="utf-8").strip().split("\n")
    of_one = plain_loop(source, negatives, Path(os.devnull))
    with (folder / "train.json").open("w", encoding="utf-8") as file:
        for copy in range(max(1, round(instances / of_one))):
            for line in lines:
                record = json.loads(line)
                record["text"] += f" {copy}"
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def measure(variant: str, folder: Path, negatives: str) -> dict[str, Any]:
    """Build once, and measure the time and the memory of the largest process."""
    if variant != "plain":
        import datasets

        from iepile_builder import IEPile

        datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        start, before = time.perf_counter(), [cpu_seconds(who) for who in USAGES]
        if variant == "plain":
            instances = plain_loop(folder, negatives, Path(temporary, "train.jsonl"))
        else:
            builder = IEPile(corpus_dirs=[str(folder)], splits=["train"], negatives=negatives, cache_dir=temporary)
            builder.download_and_prepare(num_proc=int(variant))
            instances = builder.info.splits["train"].num_examples
        wall = time.perf_counter() - start
        main, others = (cpu_seconds(who) - earlier for who, earlier in zip(USAGES, before, strict=True))
        free = main + others / (1 if variant == "plain" else int(variant))
    memory = max(resource.getrusage(who).ru_maxrss for who in USAGES) / 1024
    return {"instances": instances, "wall": wall, "cpu": main + others, "free": free, "memory": memory}


def cpu_seconds(who: int) -> float:
    """Return the CPU seconds of this process, or of the child processes it waited for."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def plain_loop(folder: Path, negatives: str, output_file: Path) -> int:
    """Write the instances of a training split in the straightforward way."""
    from iepile_builder.data.hard_negatives import load_hard_negatives, select_corpus
    from iepile_builder.tasks import TASKS

    language, task, source = folder.parent.parent.name.removeprefix("IE-"), folder.parent.name, folder.name
    types, relations, type_roles = map(json.loads, (folder / "schema.json").read_text(encoding="utf-8").splitlines())
    labels = relations if task == "RE" else types
    split_num = 6 if task == "NER" else 4
    hard = select_corpus(load_hard_negatives(), task, source)
    random.seed(42)
    instances = 0
    with (folder / "train.json").open(encoding="utf-8") as file, output_file.open("w", encoding="utf-8") as output:
        for line in file:
            record = json.loads(line)
            text = record["text"]
            annotations = record[{"NER": "entity", "RE": "relation", "EE": "event"}[task]]
            positives: dict[str, list] = {}
            for annotation in annotations:
                label = annotation[{"NER": "entity_type", "RE": "relation", "EE": "event_type"}[task]]
                positives.setdefault(label, []).append(annotation)
            if negatives == "all":
                asked = list(labels)
            else:
                asked = list(positives)
                for label in positives:
                    asked += [near for near in hard.get(label, []) if near not in asked]
                rest = [label for label in labels if label not in asked]
                asked += random.sample(rest, min(split_num, len(rest)))
            random.shuffle(asked)
            batches = [asked[start : start + split_num] for start in range(0, len(asked), split_num)]
            if len(batches) > 1 and len(batches[-1]) < split_num // 2:
                batches[-2] += batches.pop()
            for batch in batches:
                schema: list[Any] = batch
                if task == "NER":
                    answer = {
                        label: list(dict.fromkeys(entity["entity"] for entity in positives.get(label, [])))
                        for label in batch
                    }
                elif task == "RE":
                    answer = {
                        label: [
                            {"subject": triple["head"], "object": triple["tail"]}
                            for triple in positives.get(label, [])
                        ]
                        for label in batch
                    }
                else:
                    schema, answer = [], {}
                    for label in batch:
                        roles = list(type_roles.get(label, []))
                        random.shuffle(roles)
                        schema.append({"event_type": label, "trigger": True, "arguments": roles})
                        answer[label] = [plain_event(event, roles) for event in positives.get(label, [])]
                instruction = {"instruction": TASKS[task].instructions[language], "schema": schema, "input": text}
                row = {
                    "id": sha256(text.encode()).hexdigest(),
                    "task": task,
                    "source": source,
                    "language": language,
                    "instruction": json.dumps(instruction, ensure_ascii=False),
                    "output": json.dumps(answer, ensure_ascii=False),
                    "label": json.dumps(annotations, ensure_ascii=False),
                }
                output.write(json.dumps(row, ensure_ascii=False) + "\n")
                instances += 1
    return instances


def plain_event(event: dict[str, Any], roles: list[str]) -> dict[str, Any]:
    """Write an event of an answer."""
    arguments: dict[str, Any] = {}
    if event["arguments"]:
        for role in roles:
            found = [argument["argument"] for argument in event["arguments"] if argument["role"] == role]
            arguments[role] = found[0] if len(found) == 1 else found or "NAN"
    return {"trigger": event["event_trigger"], "arguments": arguments}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]), sys.argv[4])))
    else:
        main()
