"""
Calibrate a model on validation records: when to answer "nothing", and what its scores mean.

    iepile predict --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --adapter_name_or_path outputs/adapter \\
        --dataset_name data/iepile --split validation --scores --empty_bias 3 --output_file outputs/validation.jsonl
    iepile calibrate --predictions_file outputs/validation.jsonl --adapter_name_or_path outputs/adapter

then predict anew, without `--empty_bias`, and score: the scaling is for answers made with the bias that was fitted.
Writes `calibration.json` into the folder of the adapter (or of the whole model), where `iepile predict`, `extract`,
`demo` and `Extractor` find it: for each task the bias of a label's first decision (an item or "nothing") that has the
best F1, and the scaling that makes a fact's score the estimated probability that it is right. A bias is found by
emptying labels of the answers, so it is at most the `--empty_bias` they were made with: a generous one leaves room on
both sides of 0. Where 5-fold cross-validation finds no significant gain (p < 0.05), the bias is 0: a few
dozen records are seldom enough. Training on into the folder removes the file; a finished run that is started again
keeps it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_builder.answers.scores import CALIBRATION
from iepile_builder.engines.record import find_version, run_file
from iepile_builder.errors import InputError
from iepile_builder.hub.cards import read_run
from iepile_builder.io import find_adapter, write_whole
from iepile_builder.scoring.calibration import MIN_RECORDS_TO_FIT, fit_calibration
from iepile_builder.scoring.scorer import NO_SCORES, read_predictions


@dataclass
class CalibrateOptions:
    """
    What to calibrate, and on which answers.

    Args:
        predictions_file (`Path`):
            Answers of `iepile predict --scores` to validation records.
        adapter_name_or_path (`Path`):
            Folder of the adapter or model that made them. Of an adapter of the package, give a copy.
        split (`str`, *optional*):
            Split of these records, by default that of the run record beside the answers. The test split is refused
            unless it is given here: nothing should be chosen on test records.
    """

    predictions_file: Path
    adapter_name_or_path: Path
    split: str | None = None


OPTIONS = (CalibrateOptions,)


def main(options: CalibrateOptions) -> None:
    file, folder = options.predictions_file, options.adapter_name_or_path
    if not any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
        if (shipped := find_adapter(str(folder))) != str(folder):
            raise InputError(
                f"{folder}: nothing is written into the package; copy the adapter, `cp -r {shipped} COPY`, and give "
                "--adapter_name_or_path COPY, here and wherever it answers"
            )
        raise InputError(f"{folder}: not the folder of an adapter or model")
    run = _read_run(file)
    data, engine = run.get("data", {}), run.get("engine", {})
    split = options.split or data.get("split")
    if split is None:
        raise InputError(f"{file}: no run record beside it tells the split; give --split")
    if split == "test" and options.split is None:
        raise InputError(f"{file}: answers to the test split; predict the validation split, or give --split test")

    scorer = read_predictions(file)
    if not scorer.has_decisions:
        raise InputError(f"{file}: {NO_SCORES}; predict with --scores")
    tasks = dict.fromkeys(key.task for key in scorer.records)
    if folder.is_dir() and (made := engine.get("adapter_version") or engine.get("model_version")):
        name = "adapter_config.json" if "adapter_version" in engine else "config.json"
        if made != find_version(str(folder), name):
            raise InputError(f"{file}: answers of another adapter or model than {folder}; predict with this one")
    used = engine.get("empty_bias") or 0.0
    biases = {task: float(used.get(task, 0.0) if isinstance(used, dict) else used) for task in tasks}
    calibration, fitted = fit_calibration(scorer, biases)
    if not fitted:
        raise InputError(f"{file}: fewer than {MIN_RECORDS_TO_FIT} records of each task; predict more")

    dataset = data.get("dataset_name")
    value = {
        "empty_bias": calibration.empty_bias,
        "score": calibration.score,
        "fitted_on": {
            "dataset": Path(dataset).name if dataset and Path(dataset).exists() else dataset,
            "split": split,
            "tasks": fitted,
        },
    }
    write_whole(folder / CALIBRATION, json.dumps(value, ensure_ascii=False, indent=2) + "\n")
    for task, of in fitted.items():
        bias, records = calibration.empty_bias[task], f"{of['records']} records of {split}"
        before = "without" if of["limit"] >= 0 else f"with the {of['limit']:+.2f} of the answers"
        if bias == of["tried"]:
            print(
                f"{task}: empty_bias {bias:+.2f}; F1 {of['f1_before']:.2f} {before}, {of['f1_after']:.2f} with it, "
                f"{of['f1_cross_validated']:.2f} cross-validated (p {of['p_value']:.3f}, {records})"
            )
        else:
            gained = of["f1_cross_validated"] > of["f1_before"]
            print(
                f"{task}: empty_bias {bias:+.2f} kept; {of['tried']:+.2f} tried: F1 {of['f1_cross_validated']:.2f} "
                f"cross-validated against {of['f1_before']:.2f} (p {of['p_value']:.3f}, "
                f"{'not significant' if gained else 'no gain'}, {records})"
            )
        if bias >= of["limit"]:
            print(f"{task}: no larger bias than that of the answers could be tried: predict with --empty_bias 3")
    for task in tasks:
        if task not in fitted:
            print(f"{task}: fewer than {MIN_RECORDS_TO_FIT} records, not calibrated")
        elif task not in calibration.score:
            print(f"{task}: too few facts to scale scores")
    print(f"calibration: {folder / CALIBRATION}")


def _read_run(file: Path) -> dict[str, Any]:
    """Read the run record beside the answers; empty where there is none."""
    try:
        run = read_run(file)
        used = run.get("engine", {}).get("empty_bias") or 0.0
        for bias in used.values() if isinstance(used, dict) else [used]:
            float(bias)
        Path(run.get("data", {}).get("dataset_name") or "")
    except (InputError, ValueError, AttributeError, TypeError):
        place = run_file(file.resolve())
        raise InputError(f"{place}: not a run record of iepile predict; delete it, and give --split") from None
    return run
