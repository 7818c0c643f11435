"""
Train a model with several kinds of negatives on the same records, and compare its decisions on confusable labels.

    python recipes/schema_batching_study/run.py --output_dir outputs/schema_batching_study \
        --corpus_dir path/to/IE-en/RE/kbp37 path/to/IE-en/RE/New-York-Times-RE

A run is a corpus, a seed and an arm of `ARMS`. Runs of a corpus and seed see the same stream of records, up to the
same number of tokens. The same command resumes a stopped study and adds seeds and arms. Two commands with other
`--seeds` may work on one `output_dir` side by side, one core each.
"""

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from report import write_report

from iepile_builder import InputError, SchemaBatching
from iepile_builder.chat import load_tokenizer, to_prompt, tokenize
from iepile_builder.commands.cli import parse_options
from iepile_builder.data.corpus import Corpus, find_corpora
from iepile_builder.data.index import read_split
from iepile_builder.data.instructions import read_instruction
from iepile_builder.data.mining import find_hard_negatives
from iepile_builder.engines.base import Request
from iepile_builder.engines.loading import embedded_model, quiet_libraries
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.io import to_json, write_whole
from iepile_builder.tasks import TASKS


FOLDER = Path(__file__).parent

# How the labels of a training record are chosen; all in instructions of `split_num`
ARMS: dict[str, dict[str, Any]] = {
    "R": {"negatives": "random", "num_hard": 2, "num_random": 1},  # as many random ones as M has negatives
    "H": {"negatives": "hard", "num_hard": 3, "num_random": 0},
    "M": {"negatives": "hard", "num_hard": 2, "num_random": 1},
    "A": {"negatives": "all"},
    "P": {"negatives": "hard"},  # the published recipe: all hard negatives and `split_num` random ones, shuffled
    "Q": {"negatives": "random"},  # as many random ones as P has negatives
    "G": {"negatives": "hard", "schema_order": "grouped"},  # the same labels, cut in groups
}


@dataclass
class StudyOptions:
    """
    Study.

    Args:
        corpus_dir (`list[str]`):
            Corpus folders, or trees of them.
        output_dir (`Path`):
            Folder of the runs and of report.md.
        arms (`list[str]`, *optional*, defaults to `["R", "H", "M", "A"]`):
            Kinds of negatives, of R H M A P Q G.
        seeds (`list[int]`, *optional*, defaults to `[1, 2, 3, 4, 5, 6]`):
            Seeds of records, negatives and training.
        split_num (`int`, *optional*, defaults to 4):
            Labels in one instruction.
        max_train_tokens (`int`, *optional*, defaults to 120000):
            Tokens of each run, without padding.
        test_records (`int`, *optional*, defaults to 150):
            Validation records, each asked for all labels.
        recipe (`Path`, *optional*):
            How to train, a YAML file for iepile train: all weights or an adapter. By default sft.yaml beside this
            script.
        model_name_or_path (`str`, *optional*):
            Model to train. By default the embedded SmolLM2-135M-Instruct.
        max_length (`int`, *optional*, defaults to 768):
            Tokens of a training row; longer ones are left out.
        max_new_tokens (`int`, *optional*, defaults to 192):
            Longest answer, in tokens.
        batch_size (`int`, *optional*, defaults to 32):
            Requests answered at once.
    """

    corpus_dir: list[str]
    output_dir: Path
    arms: list[str] = field(default_factory=lambda: ["R", "H", "M", "A"])
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6])
    split_num: int = 4
    max_train_tokens: int = 120_000
    test_records: int = 150
    recipe: Path = FOLDER / "sft.yaml"
    model_name_or_path: str | None = None
    max_length: int = 768
    max_new_tokens: int = 192
    batch_size: int = 32


def main(options: StudyOptions) -> None:
    if unknown := [arm for arm in options.arms if arm not in ARMS]:
        raise InputError(f"--arms: unknown {', '.join(unknown)}; known: {', '.join(ARMS)}")
    model = options.model_name_or_path
    if model is None:
        model = embedded_model()
        os.environ["HF_HUB_OFFLINE"] = "1"  # nothing else is needed from the Hub
    check_settings(options)
    tokenizer = load_tokenizer(model, yaml.safe_load(options.recipe.read_text()).get("chat_template_path"))

    corpora = find_corpora(options.corpus_dir, tasks=sorted({*TASKS} - {"SPO"}))
    questions = {}
    for corpus in corpora:
        folder = options.output_dir / f"{corpus.task}-{corpus.source}"
        folder.mkdir(exist_ok=True)
        table, where = find_hard_negatives(corpus)
        batching = make_batching(corpus, table, options)
        asking = replace(batching, negatives="all", schema_order="schema")
        test = draw_records(corpus, "validation", seed=0)[: options.test_records]
        questions[corpus] = list(make_instances(asking, test))
        labels = TASKS[corpus.task].labels(corpus.schema)
        about = {"labels": labels, "hard_negatives": table, "dictionary": where, "records": len(test)}
        write_whole(folder / "about.json", to_json(about))
        print(f"{corpus.source}: {len(labels)} labels, {sum(map(len, table.values()))} hard negatives ({where})")

    runs = [(seed, corpus, arm) for seed in options.seeds for corpus in corpora for arm in options.arms]
    for number, (seed, corpus, arm) in enumerate(runs, start=1):
        place = options.output_dir / f"{corpus.task}-{corpus.source}" / f"{arm}-{seed}"
        if (place / "answers.jsonl").exists():
            continue
        print(f"\n== run {number} of {len(runs)}: {corpus.source}, arm {arm}, seed {seed}", flush=True)
        place.mkdir(exist_ok=True)
        if not (place / "rows.json").exists():
            table = find_hard_negatives(corpus)[0]
            batching = replace(make_batching(corpus, table, options), **ARMS[arm], seed=seed)
            rows, counts = make_rows(batching, draw_records(corpus, "train", seed), tokenizer, options)
            write_whole(place / "train.jsonl", "".join(to_json(row) + "\n" for row in rows))
            write_whole(place / "rows.json", json.dumps(counts))
        if not (place / "model" / "trainer_state.json").exists():
            train(
                "--config", options.recipe, "--model_name_or_path", model, "--dataset_name", place / "train.jsonl",
                "--max_length", str(options.max_length), "--seed", str(seed), "--output_dir", place / "model",
            )  # fmt: skip
        answer(questions[corpus], place, model, options)
        shutil.rmtree(place / "model")  # half a gigabyte
    print(write_report(options.output_dir))


def check_settings(options: StudyOptions) -> None:
    """Refuse a folder whose runs were made with other settings."""
    shared = {
        name: value
        for name, value in asdict(options).items()
        if name not in ("corpus_dir", "output_dir", "arms", "seeds")
    }
    settings = to_json({**shared, "recipe": options.recipe.read_text()})
    file = options.output_dir / "settings.json"
    if file.exists() and file.read_text() != settings:
        raise InputError(f"{options.output_dir}: holds runs with other settings; give another --output_dir")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(file, settings)


def make_batching(corpus: Corpus, table: dict[str, list[str]], options: StudyOptions) -> SchemaBatching:
    return SchemaBatching(**corpus.names(), schema=corpus.schema, hard_negatives=table, split_num=options.split_num)


def draw_records(corpus: Corpus, split: str, seed: int) -> list[dict[str, Any]]:
    """List the annotated records of a split in an order of this seed."""
    field_name = TASKS[corpus.task].field
    records = [record for record in read_split(corpus, split) if record[field_name]]
    return sorted(records, key=lambda record: sha256(f"{seed} {record['id']}".encode()).digest())


def make_instances(batching: SchemaBatching, records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        yield from batching.instances(record["id"], record["text"], record[TASKS[batching.task].field])


def make_rows(
    batching: SchemaBatching, records: list[dict[str, Any]], tokenizer: Any, options: StudyOptions
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Make instances of the records, epoch after epoch, up to `max_train_tokens` tokens, and count them."""
    rows: list[dict[str, Any]] = []
    counts = dict.fromkeys(("records", "rows", "tokens", "labels", "empty_rows", "too_long"), 0)
    for epoch in count():
        of_epoch = replace(batching, epoch=epoch)
        for record in random.Random(f"{batching.seed} {epoch}").sample(records, len(records)) if epoch else records:
            for row in make_instances(of_epoch, [record]):
                length = len(tokenize(row, tokenizer)["input_ids"])
                if length > options.max_length:
                    counts["too_long"] += 1
                    continue
                if counts["tokens"] + length > options.max_train_tokens:
                    return rows, counts
                values = json.loads(row["output"]).values()
                rows.append(row)
                counts["rows"] += 1
                counts["tokens"] += length
                counts["labels"] += len(values)
                counts["empty_rows"] += not any(values)
            counts["records"] += 1
    raise AssertionError


def train(*arguments: str | Path) -> None:
    """Run `iepile train`."""
    command = [sys.executable, "-m", "iepile_builder", "train", *map(str, arguments)]
    print(f"iepile {shlex.join(command[3:])}", flush=True)
    if subprocess.run(command).returncode != 0:
        raise InputError("training ended with the message above; the same command starts this run again")


def answer(questions: list[dict[str, Any]], place: Path, base: str, options: StudyOptions) -> None:
    """Answer the questions, and read off the log-odds of each label while the gold answers are given."""
    requests = []
    for question in questions:
        asked = read_instruction(question["instruction"])
        schema = TASKS[question["task"]].answer_schema(asked["schema"], asked["input"])
        requests.append(Request(to_prompt(question), schema))
    settings: dict[str, Any] = {"batch_size": options.batch_size, "constrain": "on"}
    trained = str(place / "model")
    is_adapter = (place / "model" / "adapter_config.json").exists()
    model, adapter = (base, trained) if is_adapter else (trained, None)
    # In bfloat16, log-odds move in steps of about 0.1.
    scoring = TransformersEngine.from_pretrained(model, adapter, dtype="float32", **settings)
    decisions = scoring.score_decisions(requests, [question["output"] for question in questions])
    answering = TransformersEngine.from_pretrained(model, adapter, dtype="bfloat16", **settings)
    completions = answering.generate(requests, options.max_new_tokens)
    lines = [
        to_json({
            **question,
            "reference": question["output"],
            "output": completion.text,
            "log_odds": {label: round(pairs[0][0], 4) for label, pairs in (decided or {}).items()},
        })
        for question, decided, completion in zip(questions, decisions, completions, strict=True)
    ]  # fmt: skip
    write_whole(place / "answers.jsonl", "\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        with quiet_libraries():
            main(*parse_options("run.py", __doc__ or "", [StudyOptions], None))
    except InputError as error:
        sys.exit(f"error: {error}")
