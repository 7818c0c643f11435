"""
Measure the speed of scoring against the shortest possible loop: `json.loads` and `collections.Counter`.

    python benchmarks/score.py --answers 1000000

Writes a file of predictions (NER, three answers a record, a tenth of the facts wrong), scores it in two fresh
processes, one after the other, and prints the seconds, the facts per second and the peak memory of each.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser

from iepile_builder.scoring.scorer import read_predictions
from iepile_builder.tasks import TASKS


LABELS = [f"label {index}" for index in range(18)]
BATCH = 6


def predictions(answers: int) -> Iterator[dict[str, str]]:
    """Make records of about 30 words with 6 entities in 3 batches of labels."""
    rng = random.Random(0)
    vocabulary = [f"word{index}" for index in range(5000)]
    for number in range(answers // 3):
        words = rng.choices(vocabulary, k=30)
        gold = [{"entity": " ".join(words[i : i + 2]), "entity_type": rng.choice(LABELS)} for i in range(0, 30, 5)]
        label = json.dumps(gold)
        for start in range(0, len(LABELS), BATCH):
            schema = LABELS[start : start + BATCH]
            answer: dict[str, list[str]] = {name: [] for name in schema}
            for entity in gold:
                if entity["entity_type"] in answer:
                    answer[entity["entity_type"]].append(rng.choice(words) if rng.random() < 0.1 else entity["entity"])
            instruction = {"instruction": TASKS["NER"].instructions["en"], "schema": schema, "input": " ".join(words)}
            yield {
                "id": str(number),
                "task": "NER",
                "source": "benchmark",
                "instruction": json.dumps(instruction),
                "label": label,
                "output": json.dumps(answer),
            }


def plain_loop(path: Path) -> tuple[int, int, int]:
    """Parse and count without checks or report: one task, batches of a record in a row."""
    tp = pred = gold = 0
    record, annotated, answered = "", Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    with path.open() as file:
        for line in file:
            row = json.loads(line)
            if row["id"] != record:
                tp, pred, gold = tp + (annotated & answered).total(), pred + answered.total(), gold + annotated.total()
                record, answered = row["id"], Counter()
                annotated = Counter((fact["entity_type"], fact["entity"]) for fact in json.loads(row["label"]))
            answered.update((name, text) for name, texts in json.loads(row["output"]).items() for text in texts)
    return tp + (annotated & answered).total(), pred + answered.total(), gold + annotated.total()


def this_project(path: Path) -> tuple[int, int, int]:
    overall = read_predictions(path).report()["overall"]
    return overall["tp"], overall["pred"], overall["gold"]


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--measure", help="used internally: what to measure, on which file", nargs=2)
    args = parser.parse_args()

    if args.measure:
        function = {"plain loop": plain_loop, "this project": this_project}[args.measure[0]]
        start = time.process_time()
        tp, pred, gold = function(Path(args.measure[1]))
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"counts": [tp, pred, gold], "seconds": seconds, "memory": memory}))
        return

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.jsonl"
        with path.open("w") as file:
            for row in predictions(args.answers):
                file.write(json.dumps(row) + "\n")
        print(f"{args.answers} answers, {path.stat().st_size / 2**20:.0f} MiB")
        results = {}
        for name in ("plain loop", "this project"):
            command = [sys.executable, __file__, "--measure", name, str(path)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rate = result["counts"][1] / result["seconds"]
            print(f"{name:14}{result['seconds']:7.1f} s CPU {rate:10,.0f} facts/s {result['memory']:7.0f} MiB peak")
            results[name] = result
        assert results["plain loop"]["counts"] == results["this project"]["counts"]


if __name__ == "__main__":
    main()
