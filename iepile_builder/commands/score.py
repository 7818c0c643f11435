"""
Score a file of predictions: precision, recall and F1 by task, by corpus and overall.

    iepile score --predictions_file preds.jsonl
    iepile score --predictions_file preds.jsonl --mode partial --bootstrap 1000 --output_file report.json
    iepile score --predictions_file preds.jsonl --compare other_preds.jsonl --report report/
    iepile score --predictions_file preds.jsonl --json | jq .overall.f1
    iepile score --predictions_file preds.jsonl --trained_labels outputs/adapter --bootstrap 1000
    iepile score --predictions_file preds-1.jsonl --save_partial 1.json; iepile score --partial 1.json 2.json

The file has JSON lines with `id`, `task`, `source`, `instruction`, `label` and `output`, as `iepile predict` and the
code that was published with IEPile write them. The screen shows a table by task; the full report, with scores by
corpus, language and label, goes to `--output_file` as JSON, or to the standard output with `--json`.
In Python: `evaluate.load(iepile_builder.metric_path())`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from iepile_builder.answers.scores import CALIBRATION, Calibration, load_calibration
from iepile_builder.data.hard_negatives import load_hard_negatives
from iepile_builder.data.output import read_marker
from iepile_builder.engines.record import run_file
from iepile_builder.errors import InputError
from iepile_builder.hub.cards import read_run
from iepile_builder.io import check_output, write_whole
from iepile_builder.scoring.confidence import report_confidence
from iepile_builder.scoring.confusable import count_confusable, describe_confusable
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.partial import combine_partial, write_partial
from iepile_builder.scoring.report import by_task_and_block, list_scores, to_json_text, write_report
from iepile_builder.scoring.scorer import read_predictions
from iepile_builder.scoring.significance import format_interval
from iepile_builder.scoring.trained import score_by_training
from iepile_builder.training.record import RECORD, read_trained_labels


@dataclass
class ScoreOptions:
    """
    What to score and what to write.

    Args:
        predictions_file (`Path`, *optional*):
            JSON lines with the model's answers.
        save_partial (`Path`, *optional*):
            Write the counts of these answers to a file, and no report.
        partial (`list[Path]`, *optional*):
            Such files, in place of `--predictions_file`: their counts are combined into one report, that of all
            answers at once. A record's answers must be in one of them.
        compare (`Path`, *optional*):
            Another system's answers to the same records, for a paired test.
        report (`Path`, *optional*):
            Folder for the error report, one HTML page.
        output_file (`Path`, *optional*):
            JSON file for the full report.
        json (`bool`, *optional*, defaults to `False`):
            Print the full report as JSON and nothing else.
        repair (`bool`, *optional*, defaults to `False`):
            Also read answers that are only nearly JSON.
        min_score (`float`, *optional*, defaults to 0.0):
            Leave out predicted facts with a lower score, from 0 to 1. Scores come from the `decisions` in the file.
        multi_label (`bool`, *optional*, defaults to `True`):
            Whether an entity of NER may have several labels. If not, the one that scores highest counts, as in
            `iepile extract`.
        calibration (`Path`, *optional*):
            A `calibration.json` of `iepile calibrate`, which makes scores probabilities if the answers were made with
            its bias (`predict` takes it from the adapter's folder).
        hard_negatives (`Path`, *optional*):
            The dictionary that says which labels are confusable, as `iepile mine` writes it; by default that of the
            `iepile build` whose folder `iepile predict` has answered, else the published one of the corpus, else one
            that is mined from the label names.
        trained_labels (`Path`, *optional*):
            Also score the label names that training has seen, and the others: an adapter or model with a
            `training.json` (its folder, Hub id or name in the recipes), or a text file, one name a line. Case and
            underscores are ignored.
        bootstrap (`int`, *optional*, defaults to 0):
            Bootstrap resamples of the records for intervals; 0 for no intervals.
        confidence (`float`, *optional*, defaults to 0.95):
            Confidence of the intervals.
        seed (`int`, *optional*, defaults to 0):
            Seed of the resamples.
    """

    predictions_file: Path | None = None
    save_partial: Path | None = None
    partial: list[Path] | None = None
    compare: Path | None = None
    report: Path | None = None
    output_file: Path | None = None
    json: bool = False
    repair: bool = False
    min_score: float = 0.0
    multi_label: bool = True
    calibration: Path | None = None
    hard_negatives: Path | None = None
    trained_labels: Path | None = None
    bootstrap: int = 0
    confidence: float = 0.95
    seed: int = 0


OPTIONS = (ScoreOptions, Matching)


def main(options: ScoreOptions, matching: Matching) -> None:
    if options.bootstrap < 0 or not 0 < options.confidence < 1:
        raise InputError("give bootstrap a number of resamples, confidence a number between 0 and 1")
    if (options.predictions_file is None) == (options.partial is None):
        raise InputError("give --predictions_file, or --partial with files of --save_partial")
    if options.partial is not None and (
        options.compare or options.report or options.save_partial or options.trained_labels
    ):
        raise InputError(
            "--compare, --report, --save_partial and --trained_labels need the answers: give --predictions_file"
        )
    if options.trained_labels is not None and not matching.labelled:
        raise InputError(f"--trained_labels: --mode {matching.mode} ignores labels; give another mode")
    if not 0 <= options.min_score <= 1:
        raise InputError(f"--min_score is {options.min_score}; give a number from 0 to 1")
    labels = options.trained_labels
    inputs = [options.predictions_file, *(options.partial or ()), options.compare, options.calibration]
    inputs += [run_file(file) for file in (options.predictions_file, options.compare) if file is not None]
    inputs += [options.hard_negatives, labels / RECORD if labels is not None and labels.is_dir() else labels]
    for file in (options.output_file, options.save_partial):
        if file is not None:
            check_output(file, inputs)
    if options.report is not None:
        if options.report.suffix == ".html":
            raise InputError(f"--report {options.report}: give a folder, in which index.html is written")
        check_output(options.report / "index.html", inputs)
    calibration = None if options.calibration is None else load_calibration(options.calibration)
    given = None if options.hard_negatives is None else load_hard_negatives(options.hard_negatives)
    trained = None if options.trained_labels is None else read_trained_labels(options.trained_labels)

    if options.partial is not None:
        report = combine_partial(
            options.partial, options.bootstrap, options.confidence, options.seed, given, str(options.hard_negatives)
        )
        scorer, confidence, name = None, report.get("confidence"), f"{len(options.partial)} parts"
    else:
        assert options.predictions_file is not None
        reading = (options.repair, options.min_score, options.multi_label, calibration)
        scorer = read_predictions(options.predictions_file, *reading)
        if options.save_partial is not None:
            write_partial(options.save_partial, scorer, matching)
            print(f"{len(scorer.records)} records: {options.save_partial}")
            return
        report = scorer.report(matching, options.bootstrap, options.confidence, options.seed)
        report["settings"] = asdict(matching) | {"repair": options.repair}
        if options.min_score > 0:
            report["settings"]["min_score"] = options.min_score
        if not options.multi_label:
            report["settings"]["multi_label"] = False
        report["confusable"] = count_confusable(
            scorer, given, str(options.hard_negatives), _find_built(options.predictions_file)
        )
        if (confidence := report_confidence(scorer)) is not None:
            report["confidence"] = confidence
        if trained is not None:
            intervals = (options.bootstrap, options.confidence, options.seed)
            report["trained_labels"] = score_by_training(scorer, trained, matching, *intervals)
        name = str(options.predictions_file)
    if options.bootstrap:
        report["settings"] |= {name: getattr(options, name) for name in ("bootstrap", "confidence", "seed")}
    resamples = options.bootstrap or 1000
    if options.compare is not None and scorer is not None:
        other = read_predictions(options.compare, *reading)
        report["comparison"] = scorer.compare(other, matching, resamples, options.confidence, options.seed)

    text = to_json_text(report)
    written = []
    if options.output_file is not None:
        write_whole(options.output_file, text)
        written.append(f"full report: {options.output_file}")
    if options.report is not None and scorer is not None:
        page = write_report(
            options.report,
            scorer,
            resamples,
            options.confidence,
            options.seed,
            system=Path(name).name,
            other=options.compare.name if options.compare is not None else "",
            comparison=report.get("comparison"),
            mode=matching.mode,
            confusable=report["confusable"],
            confidences=confidence,
        )
        written.append(f"error report: {page}")
    if options.json:
        print(text, end="")
    else:
        _print_scores(report, options, name, calibration)
        for line in written:
            print(line)


def _print_scores(report: dict[str, Any], options: ScoreOptions, name: str, calibration: Calibration | None) -> None:
    """Print scores and comparison, a row for each task and block."""
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 100)  # a pipe has 80 columns, too few for intervals
    names = ["records", "answers", "valid JSON", "precision", "recall", "F1"]
    names += [f"{options.confidence:.0%} interval"] if options.bootstrap else []
    least = report["settings"].get("min_score")
    left = f", facts that score at least {least:g}" if least else ""
    left += "" if report["settings"].get("multi_label", True) else ", one label an entity"
    scores = _make_table(f"{name} ({report['settings']['mode']}{left})", names)
    for block, of in list_scores(report):
        valid = 100 - 100 * of["unparsed"] / of["answers"]
        cells = [str(of["records"]), str(of["answers"]), f"{valid:.1f}%"]
        cells += [f"{of[measure]:.2f}" for measure in ("precision", "recall", "f1")]
        cells += [format_interval(of["intervals"]["f1"], of["records"])] if options.bootstrap else []
        scores.add_row(block, *cells)
    console.print(scores)
    mined = any("mined" in where for of in report["confusable"]["dictionaries"].values() for where in of.values())
    hint = " (--hard_negatives FILE takes that of the build)" if mined and not options.hard_negatives else ""
    console.print(f"{describe_confusable(report['confusable'])}{hint}", soft_wrap=True)
    if "confidence" in report:
        console.print(
            "scores of facts: average precision {average_precision:.2f}, expected calibration error "
            "{calibration_error:.2f}".format_map(report["confidence"]["overall"]),
            soft_wrap=True,
        )
        if calibration is not None and options.predictions_file is not None:
            for line in _compare_bias(options.predictions_file, calibration, list(report["confidence"]["tasks"])):
                console.print(line, soft_wrap=True)
        found = _find_calibration(options.predictions_file) if options.predictions_file is not None else None
        if options.calibration is None and found is not None:
            console.print(f"{found} was found: --calibration {found} makes the scores probabilities", soft_wrap=True)
    if "trained_labels" in report:
        names = ["labels", "facts", "precision", "recall", "F1"]
        names += [f"{options.confidence:.0%} interval"] if options.bootstrap else []
        parts = _make_table("by whether training has seen the label's name", names)
        for task, block, of_block in by_task_and_block(report["trained_labels"]):
            for part, of in of_block.items():
                cells = [str(of["labels"]), f"{of['gold']:g}"]
                cells += [f"{of[measure]:.2f}" for measure in ("precision", "recall", "f1")]
                cells += [format_interval(of["intervals"]["f1"], of["records"])] if options.bootstrap else []
                parts.add_row(f"{task} {block}".strip() + f", {part}", *cells)
        console.print(parts)
    if "comparison" in report:
        records = {name: of["records"] for name, of in list_scores(report)}
        names = ["F1", "other F1", "difference", f"{options.confidence:.0%} interval", "p"]
        tests = _make_table(f"F1 against {options.compare}", names)
        for name, of in list_scores(report["comparison"]):
            cells = [f"{of['f1']:.2f}", f"{of['other_f1']:.2f}", f"{of['difference']:+.2f}"]
            tests.add_row(name, *cells, format_interval(of["interval"], records[name]), f"{of['p_value']:.4f}")
        console.print(tests)


def _compare_bias(predictions: Path, calibration: Calibration, tasks: list[str]) -> list[str]:
    """Say for which tasks the answers were made with another bias than the one that the scaling is for."""
    try:
        used = read_run(predictions)["engine"].get("empty_bias") or 0.0
        of_task = {task: float(used.get(task, 0.0) if isinstance(used, dict) else used) for task in tasks}
    except (InputError, AttributeError, KeyError, TypeError, ValueError):
        return []  # no record, or a damaged one
    fitted = {task: calibration.empty_bias.get(task, 0.0) for task in calibration.score}
    return [
        f"{task}: answers made with empty_bias {bias:g}, the calibration is for {fitted[task]:g}: predict anew with "
        "it, else these scores are no probabilities"
        for task, bias in of_task.items()
        if fitted.get(task, bias) != bias
    ]


def _find_calibration(predictions: Path) -> Path | None:
    """Find the calibration of the adapter or model that the run record beside the answers names."""
    try:
        engine = read_run(predictions)["engine"]
        file = Path(engine.get("adapter") or engine["model"], CALIBRATION)
        return file if file.is_file() else None
    except (InputError, AttributeError, KeyError, TypeError, ValueError, OSError):
        return None  # no record, or a damaged one, which scores do not depend on


def _find_built(predictions: Path) -> dict[str, Any]:
    """Find the hard negatives of the build whose instances the run record beside the answers names."""
    try:
        place = Path(read_run(predictions)["data"]["dataset_name"])
        table = read_marker(place if place.is_dir() else place.parent)["hard_negatives"]
        return {task: {source: dict(of) for source, of in sources.items()} for task, sources in table.items()}
    except (InputError, AttributeError, KeyError, TypeError, ValueError, OSError):
        return {}  # no record, or a damaged one, or no build's folder


def _make_table(title: str, names: list[str]) -> Table:
    table = Table("task", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table
