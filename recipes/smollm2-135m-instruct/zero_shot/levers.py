"""
Train a model on many corpora with one setting after the other, and score each on corpora that none was trained on.

    python recipes/smollm2-135m-instruct/zero_shot/levers.py --corpus_dir path/to/corpora --output_dir outputs/levers

The settings and the corpora that are scored are those of levers.yaml, the training corpora those of corpora.yaml. The
same command resumes a stopped run and adds settings and seeds; two commands with other `--seeds` may work on one
`output_dir` side by side, one core each.
"""

import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from prepare import FOLDER, check_corpora, run

from iepile_builder import InputError
from iepile_builder.commands.cli import parse_options
from iepile_builder.engines.loading import embedded_model
from iepile_builder.io import read_lines, to_json, write_whole
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.scoring.significance import compute_interval, precision_recall_f1


PARTS = ("held_out", "in_domain")
RESAMPLES = 2000

# For each corpus, matches, predicted and gold facts of its records
Counts = dict[str, np.ndarray]


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
        max_train_tokens (`int`, *optional*, defaults to 120000):
            Tokens of a run, without padding.
        test_records (`int`, *optional*, defaults to 60):
            Validation records of each corpus that is scored.
        max_new_tokens (`int`, *optional*, defaults to 192):
            Longest answer, in tokens.
        model_name_or_path (`str`, *optional*):
            Model to train. By default the embedded SmolLM2-135M-Instruct.
    """

    corpus_dir: Path
    output_dir: Path
    settings: list[str] | None = None
    seeds: list[int] = field(default_factory=lambda: [1, 2])
    max_train_tokens: int = 120_000
    test_records: int = 60
    max_new_tokens: int = 192
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
    check_corpora(options.corpus_dir, corpora["train"])
    check_settings(options)

    tests = {}
    for part, names in levers["tests"].items():
        tests[part] = options.output_dir / part
        if not tests[part].exists():
            run(
                "build", "--corpus_dir", options.corpus_dir, "--languages", "en", "--tasks", "NER", "--splits",
                "validation", "--corpora", *names, "--max_records", options.test_records, "--output_dir", tests[part],
            )  # fmt: skip

    chosen = options.settings or list(levers["settings"])
    for seed, name in [(seed, name) for seed in options.seeds for name in chosen]:
        place = options.output_dir / f"{name}-{seed}"
        answering = levers["answering"] if name == "baseline" else {}
        places = {place: {}, **{options.output_dir / f"{each}-{seed}": words for each, words in answering.items()}}
        if all((each / f"{part}.json").exists() for each in places for part in tests):
            continue
        print(f"\n== {name}, seed {seed}", flush=True)
        place.mkdir(exist_ok=True)
        setting = levers["settings"][name]
        build = {**levers["all"]["build"], **setting.get("build", {})}
        if "label_synonyms" in build:
            build["label_synonyms"] = str(FOLDER / build["label_synonyms"])
        names = [each for task in build["tasks"] for each in corpora["train"][task]]
        build |= {"corpus_dir": [str(options.corpus_dir)], "corpora": names, "languages": ["en"], "seed": seed}
        write_whole(place / "build.yaml", yaml.safe_dump(build))
        model_dir = place / "model"
        if not (model_dir / "trainer_state.json").exists():
            train = {**levers["all"]["train"], **setting.get("train", {})}
            run(
                "train", "--config", FOLDER / "sft.yaml", "--model_name_or_path", model,
                "--dataset_name", place / "build.yaml", "--max_train_tokens", options.max_train_tokens,
                "--seed", seed, "--output_dir", model_dir, *_to_words(train),
            )  # fmt: skip
        for folder, answer_options in places.items():
            folder.mkdir(exist_ok=True)
            predict = [
                "predict", "--model_name_or_path", model_dir, "--dtype", "bfloat16", "--split", "validation",
                "--batch_size", "32", "--max_new_tokens", options.max_new_tokens, *_to_words(answer_options),
            ]  # fmt: skip
            if not folder.name.startswith("calibrated-"):
                predict += ["--empty_bias", "0"]  # a run that was stopped may have its calibration already
            elif not (model_dir / "calibration.json").exists():
                answers = folder / "to_calibrate.jsonl"
                run(*predict, "--scores", "--empty_bias", "3", "--dataset_name", tests["in_domain"],
                    "--output_file", answers)  # fmt: skip
                run("calibrate", "--predictions_file", answers, "--adapter_name_or_path", model_dir)
            for part, dataset in tests.items():
                answers = folder / f"{part}.jsonl"
                run(*predict, "--dataset_name", dataset, "--output_file", answers)
                run("score", "--predictions_file", answers, "--output_file", folder / f"{part}.json")
        shutil.rmtree(model_dir)  # half a gigabyte
    against = {name: setting.get("against", "baseline") for name, setting in levers["settings"].items()}
    text = make_report(options.output_dir, against | dict.fromkeys(levers["answering"], "baseline"))
    write_whole(options.output_dir / "report.md", text)
    print(f"\n{text}\nwritten to {options.output_dir / 'report.md'}")


def check_settings(options: LeverOptions) -> None:
    """Refuse a folder whose runs were made with other settings."""
    settings = to_json({
        name: value
        for name, value in asdict(options).items()
        if name not in ("corpus_dir", "output_dir", "settings", "seeds")
    })  # fmt: skip
    file = options.output_dir / "settings.json"
    if file.exists() and file.read_text() != settings:
        raise InputError(f"{options.output_dir}: holds runs with other settings; give another --output_dir")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(file, settings)


def _to_words(options: dict[str, Any]) -> list[str]:
    return [word for option, value in options.items() for word in (f"--{option}", str(value).lower())]


def make_report(output_dir: Path, against: dict[str, str]) -> str:
    """
    Make the table of all finished runs.

    Args:
        output_dir (`Path`):
            Folder of the runs.
        against (`dict[str, str]`):
            For each setting, the one that it is compared with.

    Returns:
        `str`: For the corpora that are held out and for those in domain the mean F1 of the corpora, mean and standard
        deviation over seeds; and the difference to the other setting with its interval, of a bootstrap of seeds and of
        records, the same for all seeds.
    """
    runs: dict[str, dict[int, dict[str, Counts]]] = defaultdict(dict)
    for file in sorted(output_dir.glob("*/in_domain.json")):
        name, seed = file.parent.name.rsplit("-", 1)
        runs[name][int(seed)] = {part: read_counts(file.with_name(f"{part}.jsonl")) for part in PARTS}
    head = ["setting", "seeds", "compared with"]
    for part in PARTS:
        head += [f"{part}: F1", "precision", "recall", "difference [95%]", "by seed"]
    lines = [head, ["---"] * len(head)]
    for name, other in against.items():
        if name not in runs:
            continue
        seeds = sorted(runs[name])
        shared = [seed for seed in seeds if name != other and seed in runs[other]]
        cells = [name, ", ".join(map(str, seeds)), other if shared else ""]
        for part in PARTS:
            figures = np.array([mean_of_corpora(runs[name][seed][part]) for seed in seeds])
            precision, recall, f1 = figures.T
            cells += [spread(f1), f"{precision.mean():.1f}", f"{recall.mean():.1f}"]
            if shared:
                pairs = [(runs[name][seed][part], runs[other][seed][part]) for seed in shared]
                differences, (low, high) = compare(pairs)
                cells += [f"{np.mean(differences):+.1f} [{low:+.1f}, {high:+.1f}]"]
                cells += [", ".join(f"{each:+.1f}" for each in differences)]
            else:
                cells += ["", ""]
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def read_counts(answers: Path) -> Counts:
    """Count matches, predicted and gold facts of each record: for each corpus an array of shape `(records, 3)`."""
    scorer = Scorer()
    for _, _, line in read_lines(answers):
        scorer.add(json.loads(line))
    keys = list(scorer.records)
    tally = scorer.tally()
    of_record = {
        keys[number]: values for cell in tally.rows for number, values in zip(*tally.values(cell), strict=True)
    }
    counts = defaultdict(list)
    for key in sorted(of_record):
        counts[key.source].append(of_record[key])
    return {source: np.array(rows) for source, rows in counts.items()}


def mean_of_corpora(counts: Counts) -> np.ndarray:
    """Compute precision, recall and F1, the mean of the corpora."""
    return np.mean([precision_recall_f1(rows.sum(axis=0)) for rows in counts.values()], axis=0)


def compare(pairs: list[tuple[Counts, Counts]]) -> tuple[list[float], Sequence[float]]:
    """Compute the differences in F1 by seed, and the interval of their mean."""

    def difference(first: Counts, second: Counts) -> float:
        return float(mean_of_corpora(first)[2] - mean_of_corpora(second)[2])

    def draw(counts: Counts) -> Counts:
        return {source: rows[drawn[source]] for source, rows in counts.items()}

    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = {source: rng.integers(0, len(rows), len(rows)) for source, rows in pairs[0][0].items()}
        seeds = rng.integers(0, len(pairs), len(pairs))
        means.append(np.mean([difference(draw(pairs[seed][0]), draw(pairs[seed][1])) for seed in seeds]))
    return [difference(*pair) for pair in pairs], compute_interval(np.array(means), 0.95)


def spread(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    try:
        main(*parse_options("levers.py", __doc__ or "", [LeverOptions], None))
    except InputError as error:
        sys.exit(f"error: {error}")
