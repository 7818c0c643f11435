"""
Make the zero-shot adapter: train, take the mean of the runs, continue it, bring it to low rank, and score it.

    python recipes/smollm2-135m-instruct/zero_shot/make.py --corpus_dir path/to/corpora --output_dir outputs/zero_shot

The corpora are those of corpora.yaml, checked by their sha256; the runs are those of `RUNS`. Training takes minutes on
a GPU (sft_gpu.yaml), and hours on two CPU cores (sft_cpu.yaml). The same command resumes a stopped run and
reuses what is finished.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml
from prepare import FOLDER, check_corpora, derive_attributes, recycle, run
from torch import cuda

from iepile_builder import InputError
from iepile_builder.commands.cli import parse_options
from iepile_builder.engines.loading import embedded_model
from iepile_builder.hub.cards import ModelFacts, model_card
from iepile_builder.io import to_json, write_whole


SYNONYMS: list[Any] = ["--label_synonyms", FOLDER / "label_synonyms.json", "--label_dropout", 0.1]

# Options of `iepile build` for each run: for its corpora, and for mentions out of other annotations, if it has them.
# These are annotated in part, so that hardly any label is a negative.
RUNS: dict[str, tuple[list[Any], list[Any]]] = {
    "plain": ([], []),
    "synonyms": (SYNONYMS, [*SYNONYMS, "--negatives", "ratio", "--negative_ratio", 0.05]),
}
# Rows of `every_task_tokens`: the instances as before, and those of the tasks that the same annotations also serve
SHARES = {"plain": 0.55, "EET": 0.13, "EEA": 0.13, "SPO": 0.11, "KG": 0.08}
# The largest part of each share that has no fact: hard negatives leave two thirds of the rows of SPO and KG empty
EMPTY = 0.3


@dataclass
class MakeOptions:
    """
    Make.

    Args:
        corpus_dir (`Path`):
            Tree of corpora, with IE-en/NER/ncbi in it.
        output_dir (`Path`):
            Folder of all that is made: the result is adapter, its scores report.json.
        runs (`list[str]`, *optional*, defaults to `["plain", "synonyms"]`):
            What the mean is taken of.
        max_records (`int`, *optional*, defaults to 3500):
            Training records that are read of each corpus.
        max_train_tokens (`int`, *optional*, defaults to 3850000):
            Tokens of each run, without padding.
        continue_tokens (`int`, *optional*, defaults to 1160000):
            Tokens on which the mean is continued.
        every_task_tokens (`int`, *optional*, defaults to 700000):
            Tokens of every task on which the result is continued once more.
        test_records (`int`, *optional*, defaults to 100):
            Validation records of each held-out corpus, at most 60 of all tasks other than NER.
        model_name_or_path (`str`, *optional*):
            Model to train. By default the embedded SmolLM2-135M-Instruct.
    """

    corpus_dir: Path
    output_dir: Path
    runs: list[str] = field(default_factory=lambda: [*RUNS])
    max_records: int = 3500
    max_train_tokens: int = 3_850_000
    continue_tokens: int = 1_160_000
    every_task_tokens: int = 700_000
    test_records: int = 100
    model_name_or_path: str | None = None


def main(options: MakeOptions) -> None:
    if unknown := {*options.runs} - RUNS.keys():
        raise InputError(f"--runs: unknown {', '.join(sorted(unknown))}; known: {', '.join(RUNS)}")
    model = options.model_name_or_path
    if model is None:
        model = embedded_model()
        os.environ["HF_HUB_OFFLINE"] = "1"  # nothing else is needed from the Hub
    recipe = FOLDER / ("sft_gpu.yaml" if cuda.is_available() else "sft_cpu.yaml")
    folder = options.output_dir
    corpora = yaml.safe_load((FOLDER / "corpora.yaml").read_text())
    check_settings(options, to_json([corpora, recipe.read_text()]))
    check_corpora(options.corpus_dir, corpora["train"])

    # Train
    tree = ["build", "--corpus_dir", options.corpus_dir, "--languages", "en"]
    names = [name for of_task in corpora["train"].values() for name in of_task]
    some = ["--splits", "train", "--max_records", options.max_records]
    every = [*tree, *some, "--corpora", *names, "--tasks", *corpora["train"], "--max_records_per_label", 150]
    train = ["train", "--config", recipe, "--model_name_or_path", model]
    for name in options.runs:
        place, (own, of_mentions) = folder / name, RUNS[name]
        stage(place / "corpora" / "train.jsonl", *every, *own, "--output_dir", place / "corpora")
        parts = [place / "corpora" / "train.jsonl"]
        if of_mentions:
            mentions = recycle(options.corpus_dir, folder / "recycled")
            build = ["build", "--corpus_dir", mentions, *some, *of_mentions]
            stage(place / "mentions" / "train.jsonl", *build, "--output_dir", place / "mentions")
            parts.append(place / "mentions" / "train.jsonl")
        join(parts, place / "train.jsonl")
        train_rows = [*train, "--dataset_name", place / "train.jsonl", "--max_train_tokens", options.max_train_tokens]
        stage(place / "adapter" / "trainer_state.json", *train_rows, "--output_dir", place / "adapter")

    # Mean, another draw of the instances
    to_rank = [FOLDER / "low_rank.py", "--base", model]
    tuned = [folder / name / "adapter" for name in options.runs]
    mean, more, of_every_task, adapter = (folder / name for name in ("mean", "continued", "every_task", "adapter"))
    stage(mean / "training.json", *to_rank, "--tuned", *tuned, "--rank", 32, "--output_dir", mean)
    draw = folder / "zero_shot_corpora"  # a name for the card
    stage(draw / "train.jsonl", *every, "--epoch", 1, "--output_dir", draw)
    go_on = [*train, "--learning_rate", 4e-4, "--max_train_tokens"]
    start = [options.continue_tokens, "--dataset_name", draw, "--adapter_name_or_path", mean]
    stage(more / "trainer_state.json", *go_on, *start, "--output_dir", more)

    # Every task
    attributes, last = derive_attributes(options.corpus_dir, folder / "attributes"), more
    if options.every_task_tokens:
        builds = {"plain": [*every, "--epoch", 2]}
        for task, of_task in {"EET": "EE", "EEA": "EE", "SPO": "RE"}.items():
            names = corpora["train"][of_task]
            builds[task] = [*tree, *some, "--corpora", *names, "--tasks", task, "--max_records_per_label", 150]
        names = [path.name for path in attributes.glob("IE-en/KG/*") if path.name not in corpora["held_out"]["KG"]]
        builds["KG"] = ["build", "--corpus_dir", attributes, *some, "--corpora", *names]
        for name, build in builds.items():
            stage(of_every_task / name / "train.jsonl", *build, "--output_dir", of_every_task / name)
        rows = of_every_task / "zero_shot_corpora.jsonl"
        number = options.every_task_tokens // 100  # about twice as many as it takes
        mix({of_every_task / name / "train.jsonl": share for name, share in SHARES.items()}, number, rows)
        start = [options.every_task_tokens, "--dataset_name", rows, "--adapter_name_or_path", more]
        last = of_every_task / "adapter"
        stage(last / "trainer_state.json", *go_on, *start, "--output_dir", last)

    # Low rank
    stage(adapter / "training.json", *to_rank, "--tuned", last, "--rank", 16, "--output_dir", adapter)

    # Score on corpora that are held out
    parts = []
    for task, of_task in corpora["held_out"].items():
        number = options.test_records if task == "NER" else min(60, options.test_records)
        some = ["--splits", "validation", "--max_records", number, "--corpora", *of_task, "--tasks", task]
        build = ["build", "--corpus_dir", attributes] if task == "KG" else tree
        place = folder / "held_out" / task
        stage(place / "validation.jsonl", *build, *some, "--output_dir", place)
        parts.append(place / "validation.jsonl")
    questions, answers, report = (folder / name for name in ("held_out.jsonl", "answers.jsonl", "report.json"))
    join(parts, questions)
    ask = ["predict", "--model_name_or_path", model, "--adapter_name_or_path", adapter, "--dataset_name", questions]
    ask += ["--batch_size", 32, "--max_new_tokens", 256, "--dtype", "bfloat16"]
    stage(report, *ask, "--output_file", answers)
    score = ["score", "--predictions_file", answers, "--bootstrap", 1000, "--trained_labels", adapter]
    stage(report, *score, "--output_file", report)
    facts = ModelFacts(report_file=report, predictions_file=answers, split="validation")
    model_card("adapter", adapter, facts=facts, license={"license": corpora["license"]}).save(adapter / "README.md")
    print(f"adapter with its card: {adapter}\nscores: {report}")


def check_settings(options: MakeOptions, recipe: str) -> None:
    """Refuse a folder whose stages were run with other settings."""
    shared = {name: value for name, value in asdict(options).items() if not name.endswith("_dir")}
    settings, file = to_json([shared, recipe]), options.output_dir / "settings.json"
    if file.exists() and file.read_text() != settings:
        raise InputError(f"{options.output_dir}: made with other settings; give another --output_dir")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(file, settings)


def stage(result: Path, *arguments: Any) -> None:
    """Run a command of `iepile`, or a script, unless its result is there."""
    if result.exists():
        print(f"{result}: reused")
    else:
        run(*arguments)


def join(parts: list[Path], file: Path) -> None:
    """Write the lines of several files into one."""
    if not file.exists():
        write_whole(file, "".join(part.read_text(encoding="utf-8") for part in parts))


def mix(parts: dict[Path, float], number: int, file: Path) -> None:
    """
    Draw rows of several files, of each its share of the number, at most `EMPTY` of these without a fact, and write
    them in random order.
    """
    if not file.exists():
        draw, rows = Random(0), []
        for part, share in parts.items():
            pools: dict[bool, list[str]] = {True: [], False: []}  # with and without a fact
            with part.open(encoding="utf-8") as lines:
                for line in lines:
                    pools[any(json.loads(json.loads(line)["output"]).values())].append(line)
            empty = min(round(EMPTY * share * number), len(pools[False]))
            filled = min(round(share * number) - empty, len(pools[True]))
            rows += draw.sample(pools[True], filled) + draw.sample(pools[False], empty)
        draw.shuffle(rows)
        write_whole(file, "".join(rows))


if __name__ == "__main__":
    try:
        main(*parse_options("make.py", __doc__ or "", [MakeOptions], None))
    except InputError as error:
        sys.exit(f"error: {error}")
