"""
From annotated corpora to a trained, scored adapter: what `make quickstart` runs.

    python scripts/quickstart.py
    python scripts/quickstart.py --corpus_dir path/to/IE-en/NER/my_corpus
    python scripts/quickstart.py --push_to_hub user/name

Builds instances, fine-tunes SmolLM2-135M-Instruct with LoRA, answers test instances before and after, and scores both.
It is capped to take some minutes on two CPU cores. A second run reuses what is done; after an edit of the corpora, the
recipe or an option it starts anew in another folder.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from hashlib import sha256
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from iepile_builder import IEPileConfig, InputError
from iepile_builder.io import SAMPLE_CORPUS, to_json, write_whole


ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "scripts"
BASE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the embedded one is called on the Hub
RECIPES = ROOT / "recipes"
RECIPE = RECIPES / "smollm2-135m-instruct" / "sft" / "config_lora.yaml"
# A 135M English model learns this much of the sample corpus in a few minutes; it has all seven tasks, and Chinese too.
SAMPLE_PART = ["--tasks", "NER", "RE", "EE", "--languages", "en"]
# With many negatives and 60,000 tokens so small a model found next to nothing; see the recipe's README.
FEW_NEGATIVES = ["--negatives", "ratio", "--negative_ratio", "0.15", "--max_negatives_per_positive", "0.1"]


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--corpus_dir", type=str, nargs="+", help="corpus folders or trees; default: a bundled sample")
    parser.add_argument("--model_name_or_path", type=str, help="default: the embedded SmolLM2-135M-Instruct")
    parser.add_argument("--max_train_tokens", type=int, default=60_000, help="cap on training tokens")
    parser.add_argument(
        "--max_generated_tokens", type=int, default=15_000, help="cap on tokens that each model writes"
    )
    parser.add_argument("--max_new_tokens", type=int, default=128, help="cap on the tokens of one answer")
    parser.add_argument("--push_to_hub", type=str, help="publish adapter, scores and answers: user/name, private")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/quickstart"))
    args = parser.parse_args()

    base_model = args.model_name_or_path or BASE_MODEL
    if args.push_to_hub is not None:
        from iepile_builder.hub.push import check_push

        check_push(args.push_to_hub, base_model)

    if args.corpus_dir is None:
        print("Corpus: the English NER, RE and EE part of the sample corpus in the package; CORPORA=folder for yours.")
        corpus_dirs, source = [str(SAMPLE_CORPUS)], "sample"
        build = ["--corpus_dir", *corpus_dirs, *SAMPLE_PART, *FEW_NEGATIVES]
    else:
        corpus_dirs, source = args.corpus_dir, Path(args.corpus_dir[0]).resolve().name
        build = ["--corpus_dir", *corpus_dirs, *FEW_NEGATIVES]
    print(f"Capped at about {args.max_train_tokens:,} training tokens, and {args.max_generated_tokens:,} per model.")

    # One folder for all that the results depend on
    caps = [args.model_name_or_path, args.max_train_tokens, args.max_generated_tokens, args.max_new_tokens]
    key = to_json([IEPileConfig(corpus_dirs=corpus_dirs).create_config_id({}), build, RECIPE.read_text(), caps])
    folder = args.output_dir / f"{source}-{sha256(key.encode()).hexdigest()[:8]}"
    data, adapter = folder / f"{source}_data", folder / "adapter"
    folder.mkdir(parents=True, exist_ok=True)

    # Each stage is skipped where its result is there; an interrupted one goes on where it was.
    python, model = sys.executable, args.model_name_or_path
    times: dict[str, str] = {}
    if model is None:
        os.environ["HF_HUB_OFFLINE"] = "1"  # all that is needed is here
        model = str(Path(HF_HOME, "iepile", "SmolLM2-135M-Instruct"))
        run(times, "model", Path(model), python, SCRIPTS / "get_smollm2.py", "--output_dir", model)

    run(times, "build", data, python, SCRIPTS / "build_dataset.py", *build, "--output_dir", data)
    test = folder / "test.jsonl"
    if not test.exists():
        take_test_records(data, test, args.max_generated_tokens // args.max_new_tokens)

    predict = [python, SCRIPTS / "predict.py", "--model_name_or_path", model, "--dataset", test, "--batch_size", "32"]
    predict += ["--max_new_tokens", str(args.max_new_tokens), "--dtype", "bfloat16", "--constrain", "off"]
    score = [python, SCRIPTS / "score.py", "--bootstrap", "1000"]
    base, base_report = folder / "base.jsonl", folder / "base_report.json"
    run(times, "predict, base", base_report, *predict, "--output_file", base)
    run(times, "score, base", base_report, *score, "--predictions_file", base, "--output_file", base_report)
    run(
        times, "train", adapter / "trainer_state.json",
        Path(python).with_name("accelerate"), "launch", "--config_file", RECIPES / "accelerate_configs" / "cpu.yaml",
        SCRIPTS / "sft.py", "--config", RECIPE, "--model_name_or_path", model, "--dataset_name", data,
        "--max_train_tokens", str(args.max_train_tokens), "--output_dir", adapter,
    )  # fmt: skip
    tuned, tuned_report = folder / "tuned.jsonl", folder / "tuned_report.json"
    run(times, "predict, tuned", tuned_report, *predict, "--adapter_name_or_path", adapter, "--output_file", tuned)
    run(times, "score, tuned", tuned_report, *score, "--predictions_file", tuned, "--output_file", tuned_report)

    if args.push_to_hub is not None:
        os.environ["HF_HUB_OFFLINE"] = "0"
        run(
            times, "publish", None,
            python, SCRIPTS / "push_to_hub.py", "adapter", "--folder", adapter, "--repo_id", args.push_to_hub,
            "--base_model", base_model, "--report_file", tuned_report, "--predictions_file", tuned,
        )  # fmt: skip

    console = Console(width=100)
    console.print()
    console.print(score_table({"base": base_report, "tuned": tuned_report}))
    stages = Table("stage", "seconds", title="Time of every stage")
    for name, seconds in times.items():
        stages.add_row(name, seconds)
    console.print(stages)
    for what, path in {
        "instances": data,
        "adapter": adapter,
        "its card": adapter / "README.md",
        "predictions": tuned,
        "predictions, base": base,
        "reports": tuned_report,
    }.items():
        print(f"{what + ':':<19}{path}")


def run(times: dict[str, str], name: str, result: Path | None, *command: str | Path) -> None:
    """Run a stage's command unless its result is there, and note the time it took."""
    if result is not None and result.exists():
        times[name] = "reused"
        return
    print(f"\n== {name}: {shlex.join(map(str, command))}", flush=True)
    start = time.perf_counter()
    if subprocess.run(command).returncode != 0:
        raise InputError(f"the stage {name!r} ended with the message above; the same command goes on from there")
    times[name] = f"{time.perf_counter() - start:.0f}"


def take_test_records(data: Path, output_file: Path, max_instances: int) -> None:
    """Write the instances of records of the test split (else validation), in turn from every task and corpus."""
    split = next((path for name in ("test", "validation") if (path := data / f"{name}.jsonl").exists()), None)
    if split is None:
        raise InputError(f"{data}: neither a test nor a validation split to score on")
    rows = [row for line in split.open(encoding="utf-8") if "label" in (row := json.loads(line))]
    records: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for (task, source, _), instances in groupby(rows, key=lambda row: (row["task"], row["source"], row["id"])):
        records.setdefault((task, source), []).append(list(instances))
    for of_corpus in records.values():
        of_corpus.sort(key=lambda instances: sha256(instances[0]["id"].encode()).digest())  # as good as random
    turns = [instances for turn in zip_longest(*records.values()) for instances in turn if instances is not None]
    taken: list[dict[str, Any]] = []
    for instances in turns:
        if taken and len(taken) + len(instances) > max_instances:
            break
        taken += instances
    taken.sort(key=lambda row: row["task"])
    print(f"\nTest: {len(taken)} of {len(rows)} {split.stem} instances, in whole records.")
    write_whole(output_file, "".join(to_json(row) + "\n" for row in taken))


def score_table(reports: dict[str, Path]) -> Table:
    """One table of the reports of `score.py`, by task."""
    loaded = {model: json.loads(path.read_text()) for model, path in reports.items()}
    table = Table("task", "records", "answers", "model", "valid JSON %", "precision", "recall", "F1")
    for task, blocks in {**loaded["base"]["tasks"], "all": loaded["base"]["overall"]}.items():
        for block in (None,) if "f1" in blocks else tuple(blocks):
            for model, report in loaded.items():
                scores = {**report["tasks"], "all": report["overall"]}[task]
                scores = scores if block is None else scores[block]
                valid = 100 * (1 - scores["unparsed"] / scores["answers"])
                numbers = [valid, scores["precision"], scores["recall"], scores["f1"]]
                first = [f"{task} {block or ''}", str(scores["records"]), str(scores["answers"])]
                first = first if model == "base" else ["", "", ""]
                table.add_row(*first, model, *(f"{number:.1f}" for number in numbers), end_section=model == "tuned")
    return table


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
