"""Write the cards of models and datasets from `resources/templates`. A card says only what is known."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import DatasetCard, EvalResult, ModelCard
from markupsafe import Markup

from iepile_builder import html
from iepile_builder.answers.scores import CALIBRATION
from iepile_builder.data.corpus import Corpus
from iepile_builder.data.instructions import LANGUAGES, is_language
from iepile_builder.engines.record import find_version, run_file
from iepile_builder.errors import InputError
from iepile_builder.io import to_json
from iepile_builder.scoring.report import by_task_and_block
from iepile_builder.scoring.significance import MIN_RECORDS_OF_INTERVAL, format_interval
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.base import Task
from iepile_builder.training.curves import PLOT, curve_rows
from iepile_builder.training.record import RECORD


Form = Literal["adapter", "merged", "gguf"]
TAG = "iepile-builder"  # in every card, so that a push recognizes repositories of earlier pushes
KEPT_METRICS = {"eval_ie_f1": ("ie_f1", "IE F1, strict, micro, in percent"), "eval_loss": ("loss", "Loss")}
LABELS_SHOWN = 20  # of each task
LABELS_ASKED = 3  # in the code of the card

# ISO 639; any other is shown as its code
LANGUAGE_NAMES = {
    "ar": "Arabic", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sk": "Slovak", "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


@dataclass
class ModelFacts:
    """
    Facts for the card of a model that are not in its folder.

    Args:
        base_model (`str`, *optional*):
            Hub id of the base model; needed if the training loaded it from a folder.
        datasets (`list[str]`, *optional*):
            Hub ids of the training data, by default the recorded one.
        languages (`list[str]`, *optional*):
            Language codes, by default the recorded ones.
        license (`str`, *optional*):
            Identifier of the licence, by default that of the adapter that was continued, else of the base model.
        report_file (`Path`, *optional*):
            Scores, written by `iepile score --bootstrap 1000`.
        baseline_file (`Path`, *optional*):
            Scores of the untuned base model on the same records, shown beside them.
        predictions_file (`Path`, *optional*):
            The scored answers, pushed with the model. The file also has the texts and the gold annotations.
        split (`str`, *optional*):
            The scored split, such as `test`, by default the one that `iepile predict` recorded.
        scored (`str`, *optional*):
            A sentence for the card on the scored records, such as which part of the split.
    """

    base_model: str | None = None
    datasets: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    license: str | None = None
    report_file: Path | None = None
    baseline_file: Path | None = None
    predictions_file: Path | None = None
    split: str | None = None
    scored: str | None = None


def dataset_card(
    corpora: Sequence[Corpus],
    counts: Mapping[str, Counter[tuple[str, str, str]]],
    report: Sequence[Mapping[str, Any]],
    command: str,
    licenses: Mapping[str, str],
    name: str,
    notes: Sequence[str] = (),
    plots: Sequence[Path] = (),
    example: Mapping[str, Any] | None = None,
) -> DatasetCard:
    """
    Write the card of a built dataset, with configs for each task, for each task and language, and for all.

    Args:
        corpora (`Sequence[Corpus]`):
            The corpora that it was built from.
        counts (`Mapping[str, Counter]`):
            For each split, the number of instances of each task, language and corpus.
        report (`Sequence[Mapping[str, Any]]`):
            What was read and left out, from [`IEPile.report`].
        command, licenses, name, notes:
            The command that built it, the known licences by corpus, its Hub id or folder, and notes.
        plots (`Sequence[Path]`, *optional*):
            PNG files of the `statistics` folder beside the card.
        example (`Mapping[str, Any]`, *optional*):
            A row to show.
    """
    parts = {split: {f"{task}-{language}" for task, language, _ in of_split} for split, of_split in counts.items()}
    folders = set().union(*parts.values())
    patterns = ["*", *sorted({re.sub("-.*", "-*", folder) for folder in folders}), *sorted(folders)]
    configs = {
        pattern.removesuffix("-*").replace("*", "default"): [
            {"split": split, "path": f"data/{pattern}/{split}-*.parquet"}
            for split, of_split in parts.items()
            if any(fnmatchcase(folder, pattern) for folder in of_split)
        ]
        for pattern in patterns
    }
    content = render(
        "dataset_card.md",
        corpora=corpora,
        counts=counts,
        report=[of_corpus for of_corpus in report if of_corpus["given"]],
        reasons=list(dict.fromkeys(reason for of_corpus in report for reason in of_corpus)),
        command=command,
        licenses=licenses,
        name=name if "/" in name else f"./{name}",  # a bare name may name a loader, such as "parquet"
        notes=notes,
        plots=[plot.stem for plot in plots],
        example={column: value for column, value in (example or {}).items() if value is not None},
        configs=configs,
        total=sum(of_split.total() for of_split in counts.values()),
        tasks=TASKS,
    )
    return DatasetCard(content)


def model_card(
    form: Form,
    folder: Path,
    name: str | None = None,
    facts: ModelFacts | None = None,
    license: Mapping[str, Any] | None = None,
) -> ModelCard:
    """
    Write the card of a fine-tuned model.

    Args:
        form (`str`):
            `"adapter"`, `"merged"` or `"gguf"`.
        folder (`Path`):
            The model's folder, with the `training.json` that its training left.
        name (`str`, *optional*):
            The repository, `user/name`, which the code of the card loads. By default the name of the folder, in which
            the code is then to be run.
        facts ([`ModelFacts`], *optional*):
            What else is known.
        license (`Mapping[str, Any]`, *optional*):
            `license`, and `license_name` and `license_link` of an uncommon one.
    """
    facts = facts or ModelFacts()
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    calibration = read_json(folder / CALIBRATION) if (folder / CALIBRATION).exists() else {}
    report = read_report(facts.report_file) if facts.report_file else {}
    benchmark = report.get("benchmark", {})
    if benchmark:
        check_scored(benchmark["engine"], form, folder, facts.report_file)
    run = read_run(facts.predictions_file) if facts.predictions_file else {}
    decoding = benchmark.get("engine") or run.get("engine")
    if decoding is not None and not run.get("constrained", True):  # by a server that takes no schema
        decoding = {**decoding, "constrain": False}
    split = facts.split or ("test" if benchmark else run.get("data", {}).get("split"))
    base_model = facts.base_model or record.get("base_model")
    datasets = facts.datasets or ([record["dataset"]] if record.get("dataset") else [])
    trained = record.get("tasks") or report.get("tasks", ())
    tasks = [task for task in TASKS if task in trained]
    spoken = facts.languages or record.get("languages") or report.get("languages", ())
    languages = [language for language in spoken if is_language(language)]
    instructed = [code for code in LANGUAGES if code in languages] or ["en"]
    name = name or folder.resolve().name
    title = name.rsplit("/", 1)[-1]
    scores = list(_score_rows(report)) if report else []
    baseline = _score_rows(read_json(facts.baseline_file)) if scores and facts.baseline_file else ()
    data_name = datasets[0] if len(datasets) == 1 else record.get("dataset_name") or "iepile"
    settings = report.get("settings", {}) | {
        key: benchmark[key] for key in ("split_num", "misc", "unchecked") if benchmark
    }
    results = [_eval_result(row, settings, data_name, split) for row in scores] or _kept_results(record)
    shown_task = TASKS[tasks[0] if tasks else "NER"]
    language = next((code for code in languages if code in LANGUAGES), "en")
    content = render(
        "model_card.md",
        form=form,
        title=title,
        name=name if "/" in name else ".",
        base_model=base_model,
        tasks=[TASKS[task] for task in tasks],
        languages=languages,
        instructed=instructed,
        language=language,
        shown_task=shown_task,
        example=_example(shown_task, languages, record),
        labels={TASKS[task]: names for task, names in (record.get("labels") or {}).items() if names and task in TASKS},
        labels_shown=LABELS_SHOWN,
        language_names=LANGUAGE_NAMES,
        gguf=next(iter(gguf_files(folder)), ""),
        scores=scores,
        benchmark=benchmark,
        interval=format_interval,
        baseline={(row["corpus"], row["name"]): row["f1"] for row in baseline},
        settings=settings,
        split=split,
        decoding=decoding,
        facts=facts,
        record=record,
        calibration=calibration,
        curves=curve_rows(record["log"]) if record.get("log") else None,
        plot=PLOT if (folder / PLOT).exists() else None,
        datasets=datasets,
        license=license or record.get("terms", {}),
    )
    card = ModelCard(content)
    if results:
        card.data["model_name"], card.data["eval_results"] = title, results
        card.data["metrics"] = sorted({result.metric_type for result in results})
    return card


def gguf_files(folder: Path) -> list[str]:
    """List the files that are GGUF by content, not only by name."""
    names = []
    for path in folder.glob("*.gguf"):
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                names.append(path.name)
    return sorted(names)


def _example(task: Task, languages: Sequence[str], record: Mapping[str, Any]) -> dict[str, Any]:
    """Give the text and the schema of the card's code: labels of the training, where they make a schema alone."""
    language = next((code for code in languages if code in LANGUAGES), None)
    schema, text, _ = task.examples[language or "en"]
    if language is None and languages:
        text = f"Put a text in {LANGUAGE_NAMES.get(languages[0], languages[0])} here."
    asked = (record.get("items") or {}).get(task.name) or []
    if not task.roles_name:
        asked = [task.item(label, (), ()) for label in (record.get("labels") or {}).get(task.name, ())]
    if asked and not all(item in asked for item in schema):
        schema = asked[:LABELS_ASKED]
    return {"text": text, "schema": schema}


def _score_rows(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """
    List the scores of a report: all facts, each task, and each corpus of a task with several; of `iepile benchmark`
    the rows of its table.
    """
    for row in report.get("benchmark", {}).get("rows", ()):
        name = f"{row['task']} {row['block']}".strip()
        yield {**row, "corpus": row["corpus"] or row["set"], "name": name, "intervals": {"f1": row["interval"]}}
    if "benchmark" in report:
        return
    yield {"corpus": "all", "task": "all", "name": "all", **report["overall"]}
    for task, scores in report["tasks"].items():
        corpora = {corpus: tasks[task] for corpus, tasks in report["sources"].items() if task in tasks}
        for corpus, part in {"all": scores, **(corpora if len(corpora) > 1 else {})}.items():
            for _, block, found in by_task_and_block({task: part}):
                yield {"corpus": corpus, "task": task, "name": f"{task} {block}".strip(), **found}


def _eval_result(row: Mapping[str, Any], settings: Mapping[str, Any], data_name: str, split: str | None) -> EvalResult:
    """Make a score for the metadata."""
    low, high = (round(bound, 2) for bound in row["intervals"]["f1"])
    every, data_name = row["task"] == "all", data_name if row["corpus"] == "all" else row["corpus"]
    confidence = settings.get("confidence", 0.95)
    enough = row["records"] / row.get("corpora", 1) >= MIN_RECORDS_OF_INTERVAL
    scored = ", ".join(["all facts" if every else row["name"], *row.get("notes", ())])
    interval = f" ({confidence:.0%} interval {low} to {high})" if enough else ""
    shown = (
        "mode", "split_num", "misc", "max_records", "multi_label", "min_score", "repair", "bootstrap", "confidence",
        "seed",
    )  # fmt: skip
    return EvalResult(
        task_type="text-generation",
        task_name="information extraction" if every else f"information extraction, {row['task']}",
        dataset_type=data_name,
        dataset_name=Path(data_name).name,
        dataset_config="default" if every else row["task"],
        dataset_split=split,
        metric_type="ie_f1",
        metric_name=f"F1, {scored}{interval}",
        metric_value=round(row["f1"], 2),
        metric_args={
            **({"interval": [low, high]} if enough else {}),
            **({} if row.get("checked", True) else {"unchecked": True}),
            **{key: settings[key] for key in shown if key in settings},
        },
    )


def _kept_results(record: Mapping[str, Any]) -> list[EvalResult]:
    """Make scores of the kept weights on validation records for the metadata."""
    if record.get("averaged"):  # the mean was not evaluated
        return []
    evaluations = [entry for entry in record.get("log", ()) if "eval_loss" in entry]
    kept: dict[str, Any] = next((entry for entry in evaluations if entry["step"] == record["kept_step"]), {})
    if "eval_reward" in kept:  # GRPO's loss is not a measure of the model
        return []
    data_name = record.get("dataset_name") or "its training data"
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=record["dataset"] or record["dataset_name"] or "iepile",
            dataset_name=f"validation split of {data_name}",
            dataset_split="validation",
            metric_type=kind,
            metric_name=title,
            metric_value=round(kept[key], 4),
        )
        for key, (kind, title) in KEPT_METRICS.items()
        if key in kept
    ]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def read_report(path: Path) -> dict[str, Any]:
    """Read the report of `iepile score`, with intervals."""
    report = read_json(path)
    if not {"overall", "tasks", "sources"} <= report.keys():
        raise InputError(f"{path}: not a report of iepile score")
    if "intervals" not in report["overall"]:
        raise InputError(f"{path}: the scores have no intervals: score again with --bootstrap 1000")
    return report


def check_scored(engine: str | dict[str, Any], form: Form, folder: Path, report_file: Path | None) -> None:
    """Raise an `InputError` if a report of `iepile benchmark` scores something other than this model."""
    if isinstance(engine, str) or engine["engine"] == "lookup":
        raise InputError(f"{report_file}: scores of the look-up baseline: give those of the model in {folder}")
    version = engine.get("adapter_version", "none")
    # What a server answers with, or what is on the Hub, cannot be compared with files
    if form != "adapter" or engine["engine"] == "server" or version.startswith("commit "):
        return
    if version != find_version(str(folder), "adapter_config.json"):
        scored = engine.get("adapter", engine["model"])
        raise InputError(f"{report_file}: scores of {scored}, not of the adapter that is now in {folder}")


def read_run(predictions: Path) -> dict[str, Any]:
    """Read the record that `iepile predict` wrote beside the answers, if there is one."""
    file = run_file(predictions.resolve())
    return read_json(file) if file.is_file() else {}


# Filters of the templates


def render(template: str, **values: Any) -> str:
    """Render a template with the filters of this file; HTML is escaped elsewhere."""
    return html.render(template, **values) + "\n"


def plain(value: object) -> Markup:
    """Escape a string so that Markdown shows it as it is, on one line."""
    return Markup(re.sub(r"([\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(str(value).split())))


def code(value: object) -> Markup:
    """Put a string into a code span that its content cannot end."""
    text = " ".join(str(value).split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return Markup(f"{fence} {text} {fence}" if "`" in text else f"`{text}`")


def python(value: object) -> Markup:
    """Write a schema as Python does, with the quotes of JSON."""
    return Markup(to_json(value).replace(": true", ": True"))


def json_text(value: object) -> Markup:
    """Write a value as JSON that is not escaped."""
    return Markup(to_json(value))


html.ENVIRONMENT.filters |= {"plain": plain, "code": code, "python": python, "json": json_text}
