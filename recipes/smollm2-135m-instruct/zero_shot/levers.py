"""
Train a model on many corpora with one setting after the other, and score each on corpora that none was trained on.

    python recipes/smollm2-135m-instruct/zero_shot/levers.py --corpus_dir path/to/corpora --output_dir outputs/levers

The settings are those of levers.yaml, the corpora those of corpora.yaml. The same command resumes a stopped run and
adds settings and seeds; two commands with other `--seeds` may work on one `output_dir` side by side, one core each.
"""

import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from prepare import FOLDER, check_corpora, recycle, run

from iepile_builder import InputError
from iepile_builder.commands.cli import parse_options
from iepile_builder.engines.loading import embedded_model
from iepile_builder.io import write_whole


@dataclass
class LeverOptions:
    """
    Levers.

    Args:
        corpus_dir (`Path`):
            Tree of corpora, with IE-en/NER/ncbi in it.
        output_dir (`Path`):
            Folder of the runs and of report.md.
        settings (`list[str]`, *optional*):
            Settings of levers.yaml. By default all.
        seeds (`list[int]`, *optional*, defaults to `[1, 2]`):
            Seeds of instances and training.
        max_train_tokens (`int`, *optional*, defaults to 250000):
            Tokens of a run, without padding.
        test_records (`int`, *optional*, defaults to 60):
            Validation records of each corpus that is scored.
        max_new_tokens (`int`, *optional*, defaults to 256):
            Longest answer, in tokens.
        model_name_or_path (`str`, *optional*):
            Model to train. By default the embedded SmolLM2-135M-Instruct.
    """

    corpus_dir: Path
    output_dir: Path
    settings: list[str] | None = None
    seeds: list[int] = field(default_factory=lambda: [1, 2])
    max_train_tokens: int = 250_000
    test_records: int = 60
    max_new_tokens: int = 256
    model_name_or_path: str | None = None


def main(options: LeverOptions) -> None:
    corpora = yaml.safe_load((FOLDER / "corpora.yaml").read_text())
    levers = yaml.safe_load((FOLDER / "levers.yaml").read_text())
    if unknown := {*(options.settings or ())} - levers["settings"].keys():
        raise InputError(f"--settings: unknown {', '.join(sorted(unknown))}; known: {', '.join(levers['settings'])}")
    model = options.model_name_or_path
    if model is None:
        model = embedded_model()
        os.environ["HF_HUB_OFFLINE"] = "1"  # nothing else is needed from the Hub
    options.output_dir.mkdir(parents=True, exist_ok=True)
    check_corpora(options.corpus_dir, corpora["train"])
    recycled = recycle(options.corpus_dir, options.output_dir / "recycled")

    tests = {}
    for part in ("held_out", "in_domain"):
        tests[part] = options.output_dir / part
        if not tests[part].exists():
            names = [name for of_task in corpora[part].values() for name in of_task]
            run(
                "build", "--corpus_dir", options.corpus_dir, "--languages", "en", "--splits", "validation",
                "--corpora", *names, "--max_records", options.test_records, "--output_dir", tests[part],
            )  # fmt: skip

    chosen = options.settings or list(levers["settings"])
    for seed, name in [(seed, name) for seed in options.seeds for name in chosen]:
        place = options.output_dir / f"{name}-{seed}"
        if all((place / f"{part}.json").exists() for part in tests):
            continue
        print(f"\n== {name}, seed {seed}", flush=True)
        place.mkdir(exist_ok=True)
        setting = levers["settings"][name]
        build = {**levers["all"]["build"], **setting.get("build", {})}
        if "label_synonyms" in build:
            build["label_synonyms"] = str(FOLDER / build["label_synonyms"])
        folders = [str(options.corpus_dir), *([str(recycled)] if setting.get("recycled") else [])]
        names = [each for task in setting["tasks"] for each in corpora["train"].get(task, ())]
        names += [folder.name for folder in recycled.glob("*/*/*")] if setting.get("recycled") else []
        build |= {
            "corpus_dir": folders,
            "corpora": names,
            "languages": ["en"],
            "tasks": setting["tasks"],
            "seed": seed,
        }
        write_whole(place / "build.yaml", yaml.safe_dump(build))
        train = {**levers["all"]["train"], **setting.get("train", {})}
        if not (place / "model" / "trainer_state.json").exists():
            run(
                "train", "--config", FOLDER / "sft.yaml", "--model_name_or_path", model,
                "--dataset_name", place / "build.yaml", "--max_train_tokens", options.max_train_tokens,
                "--seed", seed, "--output_dir", place / "model",
                *(part for option, value in train.items() for part in (f"--{option}", value)),
            )  # fmt: skip
        for part, dataset in tests.items():
            answers = place / f"{part}.jsonl"
            run(
                "predict", "--model_name_or_path", place / "model", "--dataset_name", dataset, "--split", "validation",
                "--dtype", "bfloat16", "--copied", "--scores", "--batch_size", "32",
                "--max_new_tokens", options.max_new_tokens, "--output_file", answers,
            )  # fmt: skip
            run("score", "--predictions_file", answers, "--output_file", place / f"{part}.json")
        shutil.rmtree(place / "model")  # gigabytes, with its checkpoints
    text = make_report(options.output_dir)
    write_whole(options.output_dir / "report.md", text)
    print(f"\n{text}\nwritten to {options.output_dir / 'report.md'}")


def make_report(output_dir: Path) -> str:
    """Make the table of all finished runs: F1 by task, mean and standard deviation over seeds."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(output_dir.glob("*/held_out.json")):
        name = file.parent.name.rsplit("-", 1)[0]
        reports = {part: json.loads(file.with_name(f"{part}.json").read_text()) for part in ("held_out", "in_domain")}
        runs[name].append(reports)
    head = [
        "setting",
        "seeds",
        "held out: mean of corpora",
        "NER",
        "RE",
        "EE trigger",
        "EE argument",
        "in domain: NER",
    ]
    head.append("RE")
    lines = [head, ["---"] * len(head)]
    for name, reports in runs.items():
        cells = [
            spread([np.mean([*corpus_scores(each["held_out"])]) for each in reports]),
            *(spread([score_of(each["held_out"], *where) for each in reports])
              for where in (("NER",), ("RE",), ("EE", "trigger"), ("EE", "argument"))),
            *(spread([score_of(each["in_domain"], task) for each in reports]) for task in ("NER", "RE")),
        ]  # fmt: skip
        lines.append([name, str(len(reports)), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def corpus_scores(report: dict[str, Any]) -> Iterator[float]:
    """Yield the F1 of each corpus; of events, the mean of triggers and arguments."""
    for of_source in report["sources"].values():
        for scores in of_source.values():
            yield scores["f1"] if "f1" in scores else float(np.mean([block["f1"] for block in scores.values()]))


def score_of(report: dict[str, Any], task: str, block: str | None = None) -> float:
    scores = report["tasks"][task]
    return (scores if block is None else scores[block])["f1"]


def spread(values: list[Any]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    try:
        main(*parse_options("levers", __doc__ or "", [LeverOptions], None))
    except InputError as error:
        sys.exit(f"error: {error}")
