"""
Train the same model on the same records with several kinds of negatives and schema batches, test each run with several
schema sizes, and print the scores with their intervals.

    python recipes/schema_batching_study/run.py --config recipes/schema_batching_study/config_cpu.yaml \
        --corpus_dir path/to/IE-en/NER/mit-movie --output_dir outputs/schema_batching_study

A run is one corpus, seed, `split_num` and kind of negatives. All runs of a corpus see the same records, repeated
up to the same number of tokens. The same command resumes a stopped study, and adds further seeds, split_nums or kinds
of negatives to it.
"""

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from iepile_builder import InputError, SchemaBatching
from iepile_builder.chat import load_tokenizer, to_prompt_completion
from iepile_builder.data.corpus import Corpus, find_corpora
from iepile_builder.data.hard_negatives import PUBLISHED, corpus_hard_negatives, load_hard_negatives
from iepile_builder.data.index import read_split
from iepile_builder.data.instructions import asked_schema
from iepile_builder.engines.loading import embedded_model
from iepile_builder.io import to_json, write_whole
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.scoring.significance import (
    compute_interval,
    draw_resamples,
    paired_test,
    precision_recall_f1,
)
from iepile_builder.tasks import TASKS


ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
RECIPE = ROOT / "recipes" / "schema_batching_study" / "sft_cpu.yaml"
RESAMPLES, CONFIDENCE = 2000, 0.95
# All runs in one output folder must share these settings and the contents of the recipe.
SETTINGS = ("corpus_dir", "model_name_or_path", "num_random", "hard_negatives", "train_records", "max_train_tokens")
SETTINGS += ("max_length", "test_records", "test_split_nums", "max_new_tokens")


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--corpus_dir", type=str, nargs="+", required=True, help="corpus folders or trees of them")
    parser.add_argument("--model_name_or_path", type=str, help="default: the embedded SmolLM2-135M-Instruct")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="how to train, a YAML file for iepile train")
    parser.add_argument(
        "--negatives", type=str, nargs="+", default=["hard", "random"], help="of hard random all ratio"
    )
    parser.add_argument(
        "--split_nums", type=int, nargs="+", default=[4, -1], help="labels in one training instruction"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the negatives and the training")
    parser.add_argument("--num_random", type=int, default=0, help="random labels besides the hard negatives")
    parser.add_argument("--hard_negatives", type=str, help="dictionary in JSON; default: the published one")
    parser.add_argument("--train_records", type=int, default=100, help="number of training records")
    parser.add_argument("--max_train_tokens", type=int, default=30_000, help="tokens of each run, padding not counted")
    parser.add_argument("--max_length", type=int, default=512, help="tokens of a row, or of a pack of rows")
    parser.add_argument("--test_records", type=int, default=60)
    parser.add_argument("--test_split_nums", type=int, nargs="+", default=[1, 4, 6, -1], help="labels in one question")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="maximum number of tokens of an answer")
    parser.add_argument("--batch_size", type=int, default=32, help="number of answers generated at once")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()

    model = args.model_name_or_path
    if model is None:
        model = embedded_model()
        os.environ["HF_HUB_OFFLINE"] = "1"  # nothing else is needed from the Hub
    table = load_hard_negatives(args.hard_negatives or PUBLISHED)

    settings = to_json({**{name: args[name] for name in SETTINGS}, "recipe": args.recipe.read_text()})
    settings_file = args.output_dir / "settings.json"
    if settings_file.exists() and settings_file.read_text() != settings:
        raise InputError(f"{args.output_dir}: holds runs with other settings; give another --output_dir")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(settings_file, settings)
    tokenizer = load_tokenizer(model)

    report = []
    for corpus in find_corpora(args.corpus_dir):
        folder = args.output_dir / f"{corpus.task}-{corpus.source}"
        folder.mkdir(exist_ok=True)
        train = draw_records(corpus, "train", args.train_records)
        test = draw_records(corpus, "test", args.test_records)
        hard_negatives = corpus_hard_negatives(table, corpus.task, corpus.source)
        batching = SchemaBatching(corpus.task, corpus.language, corpus.source, corpus.schema)
        batching = replace(batching, hard_negatives=hard_negatives, num_random=args.num_random)

        # Every test record is asked for all labels, once for each schema size.
        questions = []
        for split_num in args.test_split_nums:
            asking = replace(batching, negatives="all", schema_order="schema", split_num=split_num)
            questions += [{**row, "test_split_num": str(split_num)} for row in instances(asking, test)]
        write_whole(folder / "test.jsonl", "".join(to_json(row) + "\n" for row in questions))

        runs = [
            (seed, split_num, negatives)
            for seed in args.seeds
            for split_num in args.split_nums
            for negatives in args.negatives
        ]
        for number, (seed, split_num, negatives) in enumerate(runs, start=1):
            name = f"{negatives}-{split_num}-{seed}"
            print(f"\n== {corpus.source}, run {number} of {len(runs)}: {name}", flush=True)
            place = folder / name
            place.mkdir(exist_ok=True)
            if not (place / "rows.json").exists():
                asking = replace(batching, negatives=negatives, split_num=split_num, seed=seed)
                rows, counts = training_rows(asking, train, tokenizer, args.max_train_tokens, args.max_length)
                write_whole(place / "train.jsonl", "".join(to_json(row) + "\n" for row in rows))
                write_whole(place / "rows.json", json.dumps(counts))
            if not (place / "adapter" / "trainer_state.json").exists():
                run(
                    "train", sys.executable, SCRIPTS / "sft.py", "--config", args.recipe,
                    "--model_name_or_path", model, "--dataset_name", place / "train.jsonl",
                    "--max_length", str(args.max_length), "--seed", str(seed), "--output_dir", place / "adapter",
                )  # fmt: skip
            if number_of_lines(place / "predictions.jsonl") < len(questions):
                run(
                    "test", sys.executable, SCRIPTS / "predict.py", "--model_name_or_path", model,
                    "--adapter_name_or_path", place / "adapter", "--dataset_name", folder / "test.jsonl",
                    "--dtype", "bfloat16", "--batch_size", str(args.batch_size),
                    "--constrain", "off",  # validity of answers is a result, too
                    "--max_new_tokens", str(args.max_new_tokens), "--output_file", place / "predictions.jsonl",
                )  # fmt: skip
        report += [f"## {corpus.task}, {corpus.source}", *corpus_report(folder, corpus, args.test_split_nums)]

    text = "\n\n".join(report) + "\n"
    write_whole(args.output_dir / "report.md", text)
    print("\n" + text)
    print(f"written to {args.output_dir / 'report.md'}")


def run(name: str, *command: str | Path) -> None:
    """Run the command of a stage."""
    print(f"{name}: {shlex.join(map(str, command))}", flush=True)
    if subprocess.run(command).returncode != 0:
        raise InputError(f"{name} ended with the message above; the same command continues from there")


def number_of_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def draw_records(corpus: Corpus, split: str, number: int) -> list[dict[str, Any]]:
    """Draw annotated records of a split, always the same ones."""
    records = [each for each in read_split(corpus, split) if each[TASKS[corpus.task].field] is not None]
    if len(records) < number:
        raise InputError(f"{corpus.file(split)}: {len(records)} annotated records, not {number}")
    return sorted(records, key=lambda record: sha256(record["id"].encode()).digest())[:number]


def instances(batching: SchemaBatching, records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        yield from batching.instances(record["id"], record["text"], record[TASKS[batching.task].field])


def training_rows(
    batching: SchemaBatching, records: list[dict[str, Any]], tokenizer: Any, max_tokens: int, max_length: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Make instances of the records, epoch after epoch, up to `max_tokens` tokens, and count them."""
    rows: list[dict[str, Any]] = []
    tokens = seen = 0
    for epoch in count():
        batching = replace(batching, epoch=epoch)
        order = random.Random(f"{batching.seed} {epoch}").sample(records, len(records))
        for row in instances(batching, order):
            messages = to_prompt_completion(row)
            length = len(tokenizer.apply_chat_template(messages["prompt"] + messages["completion"])["input_ids"])
            if length > max_length:
                raise InputError(f"a training instance of {row['source']} has {length} tokens: raise --max_length")
            if tokens + length > max_tokens:
                if epoch == 0:
                    raise InputError(f"{max_tokens} tokens are used up within the first epoch: fewer --train_records")
                return rows, {"instances": len(rows), "tokens": tokens, "epochs": seen / len(records)}
            seen += not rows or rows[-1]["id"] != row["id"]
            tokens += length
            rows.append({**row, "epoch": epoch})
    raise AssertionError


def corpus_report(folder: Path, corpus: Corpus, test_split_nums: list[int]) -> list[str]:
    """Make the tables of a corpus, in Markdown, from all finished runs."""
    runs: dict[tuple[str, int], list[Path]] = {}  # by negatives and split_num
    for place in sorted(folder.glob("*/predictions.jsonl"), key=lambda path: int(path.parent.name.split("-")[-1])):
        if number_of_lines(place) == number_of_lines(folder / "test.jsonl"):
            negatives, split_num = place.parent.name.rsplit("-", 1)[0].split("-", 1)
            runs.setdefault((negatives, int(split_num)), []).append(place.parent)
    runs = dict(sorted(runs.items(), key=lambda run: (run[0][0], run[0][1] if run[0][1] > 0 else sys.maxsize)))

    data, scores, values = [], [], {}
    for (negatives, split_num), places in runs.items():
        counts = [json.loads((place / "rows.json").read_text()) for place in places]
        steps = [json.loads((place / "adapter" / "trainer_state.json").read_text())["global_step"] for place in places]
        asked = [labels for place in places for labels in first_epoch(place, corpus).values()]
        data.append((
            negatives, size(split_num),
            f"{np.mean([len(positive) + len(negative) for positive, negative in asked]):.1f}",
            *(", ".join(f"{each[name]:.4g}" if name == "epochs" else f"{each[name]:,}" for each in counts)
              for name in ("epochs", "instances", "tokens")),
            ", ".join(map(str, steps)),
        ))  # fmt: skip
        for tested in test_split_nums:
            scorers = [read_answers(place, tested) for place in places]
            of_seeds = np.array([record_counts(scorer) for scorer in scorers])
            values[negatives, split_num, tested] = dict(
                zip([place.name.rsplit("-")[-1] for place in places], of_seeds, strict=True)
            )
            summed = of_seeds.sum(axis=0)
            precision, recall, f1 = precision_recall_f1(summed.sum(axis=0))
            samples = np.concatenate([weights @ summed for weights in draw_resamples(len(summed), RESAMPLES, seed=0)])
            low, high = compute_interval(precision_recall_f1(samples)[:, 2], CONFIDENCE)
            overall = [scorer.report()["overall"] for scorer in scorers]
            answers = sum(each["answers"] for each in overall)
            valid = 100 * (1 - sum(each["unparsed"] for each in overall) / answers)
            scores.append((
                negatives, size(split_num), size(tested), f"{f1:.1f} [{low:.1f}, {high:.1f}]",
                ", ".join(f"{each['f1']:.1f}" for each in overall), f"{precision:.1f}", f"{recall:.1f}",
                f"{valid:.1f}", str(answers),
            ))  # fmt: skip

    comparisons = []
    for (negatives, split_num), (other, other_split_num) in pairs(list(runs)):
        for tested in test_split_nums:
            ours, theirs = values[negatives, split_num, tested], values[other, other_split_num, tested]
            if seeds := sorted(ours.keys() & theirs.keys()):
                first, second = (np.sum([of_run[seed] for seed in seeds], axis=0) for of_run in (ours, theirs))
                result = paired_test(first, second, RESAMPLES, CONFIDENCE, seed=0)
                (low, high), p = result["interval"], result["p_value"]
                totals = [np.array([of_run[seed].sum(axis=0) for seed in seeds]) for of_run in (ours, theirs)]
                of_seeds = np.subtract(*(precision_recall_f1(total)[:, 2] for total in totals))
                comparisons.append((
                    f"{negatives}, {size(split_num)}", f"{other}, {size(other_split_num)}", size(tested),
                    ", ".join(seeds),
                    f"{result['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
                    f"{p:.3f}" if p >= 0.001 else "< 0.001", ", ".join(f"{each:+.1f}" for each in of_seeds),
                ))  # fmt: skip
    return [
        f"{number_of_lines(folder / 'test.jsonl')} questions on the same records for each run; the labels asked in "
        f"training are of {len(TASKS[corpus.task].labels(corpus.schema))}.",
        markdown(["negatives", "split_num", "labels asked", "epochs", "instances", "tokens", "steps"], data),
        *overlap(runs, corpus),
        markdown(
            ["negatives", "split_num", "tested with", "F1 [95%]", "F1 by seed", "precision", "recall", "valid JSON %",
             "answers"], scores,
        ),
        markdown(
            ["trained with", "against", "tested with", "seeds", "difference in F1 [95%]", "p", "by seed"], comparisons
        ),
    ]  # fmt: skip


def size(split_num: int) -> str:
    return "all" if split_num == -1 else str(split_num)


def pairs(arms: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    """List the arms to compare: those that differ in one setting."""
    for first in arms:
        for second in arms[arms.index(first) + 1 :]:
            if (first[0] == second[0]) != (first[1] == second[1]):
                yield first, second


def read_lines_of(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def first_epoch(place: Path, corpus: Corpus) -> dict[str, tuple[set[str], set[str]]]:
    """Collect, by record, the positive and negative labels that the first epoch of a run asked for."""
    task = TASKS[corpus.task]
    labels: dict[str, tuple[set[str], set[str]]] = {}
    for row in read_lines_of(place / "train.jsonl"):
        if row["epoch"] == 0:
            found = {task.label(annotation, corpus.schema) for annotation in json.loads(row["label"])}
            asked = set(task.labels(asked_schema(row["instruction"], corpus.task)))
            positive, negative = labels.setdefault(row["id"], (set(), set()))
            positive |= asked & found
            negative |= asked - found
    return labels


def overlap(runs: dict[tuple[str, int], list[Path]], corpus: Corpus) -> list[str]:
    """Compute the share of common negatives of two kinds, which bounds the difference that a comparison can show."""
    lines = []
    for (negatives, split_num), (other, other_split_num) in pairs(list(runs)):
        if split_num == other_split_num:
            ours = first_epoch(runs[negatives, split_num][0], corpus)
            theirs = first_epoch(runs[other, split_num][0], corpus)
            shared = sum(len(ours[record][1] & theirs[record][1]) for record in ours)
            total = sum(len(negative) for _, negative in ours.values())
            lines.append(
                f"split_num {size(split_num)}: of the negatives that `{negatives}` asks a record for, `{other}` asks "
                f"{100 * shared / max(total, 1):.0f}%, too."
            )
    return lines


def read_answers(place: Path, test_split_num: int) -> Scorer:
    """Read the answers of a run to the questions of one size."""
    scorer = Scorer()
    for row in read_lines_of(place / "predictions.jsonl"):
        if row["test_split_num"] == str(test_split_num):
            scorer.add(row)
    return scorer


def record_counts(scorer: Scorer) -> np.ndarray:
    """Count matches, predicted and gold facts of each record."""
    tally = scorer.tally()
    counts = np.zeros((len(scorer.records), 3))
    for cell in tally.rows:
        numbers, values = tally.values(cell)
        counts[numbers] += values
    return counts


def markdown(head: list[str], rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
