"""Write the cards of models, datasets and Spaces. A card says only what is known."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import (
    DatasetCard,
    DatasetCardData,
    EvalResult,
    ModelCard,
    ModelCardData,
    SpaceCard,
    SpaceCardData,
)

from iepile_builder.data.corpus import Corpus
from iepile_builder.data.instructions import LANGUAGES
from iepile_builder.errors import InputError
from iepile_builder.hub.markdown import plain, render, table
from iepile_builder.tasks import TASKS
from iepile_builder.training.curves import PLOT, curve_rows
from iepile_builder.training.record import RECORD


Form = Literal["adapter", "merged", "gguf"]
TAG = "iepile-builder"  # in every card, so that a push recognizes repositories of earlier pushes
SIZES = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "1M<n<10M": 1e7}
RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}


@dataclass
class ModelFacts:
    """
    Facts for the card of a model that are not in its folder.

    Args:
        base_model (`str`, *optional*):
            Hub id of the base model, if the training loaded it from a folder.
        datasets (`list[str]`, *optional*):
            Hub ids of the training data, by default the one that the training recorded.
        languages (`list[str]`, *optional*):
            Codes of the languages, by default those that the training recorded.
        license (`str`, *optional*):
            The licence, by default that of the base model.
        report_file (`Path`, *optional*):
            Scores, written by `iepile score --bootstrap 1000`.
        baseline_file (`Path`, *optional*):
            Scores of the untuned base model on the same records, shown beside them.
        predictions_file (`Path`, *optional*):
            The scored answers, pushed with the model.
        split (`str`, *optional*):
            The split that was scored, such as `test`, by default the one that `iepile predict` recorded.
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


# Datasets
def dataset_card(
    corpora: Sequence[Corpus],
    counts: dict[str, Counter[tuple[str, str, str]]],
    report: list[dict[str, Any]],
    command: str,
    licenses: dict[str, str],
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
        counts (`dict[str, Counter]`):
            For each split, the number of instances of each task, language and corpus.
        report (`list[dict[str, Any]]`):
            What was read and left out, from [`IEPile.report`].
        command (`str`):
            The command that built it.
        licenses (`dict[str, str]`):
            Corpus to licence, as far as they are known.
        name (`str`):
            Its Hub id, or the name of its folder.
        notes (`Sequence[str]`, *optional*):
            Further sentences on how it was built.
        plots (`Sequence[Path]`, *optional*):
            PNG files of the `statistics` folder beside the card.
        example (`Mapping[str, Any]`, *optional*):
            A row to show.
    """
    splits_of: dict[str, list[str]] = {}
    for split, of_split in counts.items():
        for task, language, _ in of_split:
            for folder in (f"{task}-*", f"{task}-{language}"):
                if split not in splits_of.setdefault(folder, []):
                    splits_of[folder].append(split)
    configs: list[dict[str, Any]] = [
        {"config_name": "default", "data_files": _data_files(list(counts), "*"), "default": True}
    ]
    for folder, splits in sorted(splits_of.items(), key=lambda each: (not each[0].endswith("*"), each[0])):
        configs.append({"config_name": folder.removesuffix("-*"), "data_files": _data_files(splits, folder)})
    total = sum(of_split.total() for of_split in counts.values())
    data = DatasetCardData(
        configs=configs,
        language=sorted({corpus.language for corpus in corpora}),
        task_categories=["token-classification", "text-generation"],
        tags=["information-extraction", "iepile", TAG, *sorted({corpus.task for corpus in corpora})],
        size_categories=next((size for size, limit in SIZES.items() if total < limit), "n>10M"),
        license="other",
        license_name="cc-by-nc-sa-4.0-and-those-of-the-corpora",
    )
    instances = [
        [
            corpus.task,
            corpus.language,
            plain(corpus.source),
            plain(licenses.get(corpus.source, "not stated")),
            len(TASKS[corpus.task].labels(corpus.schema)),
            *(f"{of[corpus.task, corpus.language, corpus.source]:,}" for of in counts.values()),
        ]
        for corpus in corpora
    ]
    reasons = list(dict.fromkeys(reason for of_split in report for reason in of_split))
    content = render(
        "dataset_card.md",
        card_data=data.to_yaml(),
        name=name if "/" in name else f"./{name}",  # a bare name may name a loader, such as "parquet"
        config_names=[config["config_name"] for config in configs],
        example=example and {name: value for name, value in example.items() if value is not None},
        instances=table(["task", "language", "corpus", "licence", "labels", *counts], instances),
        command=command,
        notes=notes,
        report=table(reasons, [[plain(of.get(reason, 0)) for reason in reasons] for of in report if of["given"]]),
        plots=[plot.stem for plot in plots],
        labels=[(corpus.source, corpus.task, TASKS[corpus.task].labels(corpus.schema)) for corpus in corpora],
    )
    return DatasetCard(content)


def _data_files(splits: Sequence[str], folder: str) -> list[dict[str, str]]:
    """List the files of each split of a config; `folder` may be a pattern."""
    return [{"split": split, "path": f"data/{folder}/{split}-*.parquet"} for split in splits]


# Models
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
            Of the model, with the `training.json` that its training left.
        name (`str`, *optional*):
            The repository, `user/name`, which the code of the card loads. With another name, by default that of the
            folder, the code is to be run in the folder.
        facts ([`ModelFacts`], *optional*):
            What else is known.
        license (`Mapping[str, Any]`, *optional*):
            `license`, and `license_name` and `license_link` of an uncommon one.
    """
    facts = facts or ModelFacts()
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    report = read_report(facts.report_file) if facts.report_file else {}
    run = _find_run(facts.predictions_file)
    split = facts.split or run.get("data", {}).get("split")
    base_model = facts.base_model or record.get("base_model")
    datasets = facts.datasets or ([record["dataset"]] if record.get("dataset") else [])
    trained = record.get("tasks") or report.get("tasks", ())
    tasks = [task for task in TASKS if task in trained]
    languages = [
        each for each in facts.languages or record.get("languages") or report.get("languages", ()) if each in LANGUAGES
    ]
    name = name or folder.resolve().name
    scores = list(_score_rows(report)) if report else []
    baseline = list(_score_rows(read_json(facts.baseline_file))) if scores and facts.baseline_file else []
    data_name = datasets[0] if len(datasets) == 1 else record.get("dataset_name", "iepile")
    results = [_eval_result(row, report, data_name, split) for row in scores] or _kept_results(record)
    data = ModelCardData(
        base_model=base_model,
        base_model_relation=RELATIONS[form] if base_model else None,
        datasets=datasets or None,
        language=languages or None,
        library_name=LIBRARIES[form],
        pipeline_tag="text-generation",
        tags=["information-extraction", "iepile", TAG, *tasks, *(["lora"] if form == "adapter" else [])],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name.rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
        **dict(license or {}),
    )
    shown_task = tasks[0] if tasks else "NER"
    language = languages[0] if languages else "en"
    log = record.get("log", ())
    content = render(
        "model_card.md",
        card_data=data.to_yaml(),
        form=form,
        title=name.rsplit("/", 1)[-1],
        name=name if "/" in name else ".",
        base_model=base_model,
        base_name=base_model or record.get("base_name"),
        base_note=record.get("base_note"),
        tasks=[TASKS[task] for task in tasks],
        languages=languages,
        example=TASKS[shown_task].examples[language],
        shown_task=TASKS[shown_task],
        language=language,
        gguf=next(iter(gguf_files(folder)), ""),
        scores=scores and _scores_table(scores, baseline),
        settings=report.get("settings", {}),
        records=report.get("overall", {}).get("records"),
        split=split,
        decoding=run.get("engine"),
        scored=facts.scored,
        predictions=facts.predictions_file is not None,
        record=record,
        training=table(["setting", "value"], [map(plain, row) for row in record.get("settings", {}).items()]),
        curves=table(*curve_rows(log)) if log else "",
        with_f1=any("eval_ie_f1" in entry for entry in log),
        plots=[PLOT] if (folder / PLOT).exists() else [],
        datasets=datasets,
        license=(license or {}).get("license_name") or (license or {}).get("license"),
    )
    return ModelCard(content)


def gguf_files(folder: Path) -> list[str]:
    """List the files that are GGUF by content, not only by name."""
    return sorted(path.name for path in folder.glob("*.gguf") if path.open("rb").read(4) == b"GGUF")


def _find_run(predictions: Path | None) -> dict[str, Any]:
    """Read the record of `iepile predict` beside the answers, if there is one."""
    file = predictions and predictions.with_name(f"{predictions.name.removesuffix('.jsonl')}.run.json")
    return dict(read_json(file)) if file and file.is_file() else {}


def _score_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """List the scores of a report: all facts, each task, and each corpus of a task with several."""
    yield {"corpus": "all", "task": "all", "block": "", **report["overall"]}
    for task, scores in report["tasks"].items():
        corpora = {corpus: tasks[task] for corpus, tasks in report["sources"].items() if task in tasks}
        for corpus, part in {"all": scores, **(corpora if len(corpora) > 1 else {})}.items():
            for block in TASKS[task].blocks:
                yield {"corpus": corpus, "task": task, "block": block, **(part[block] if block else part)}


def _row_name(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["corpus"], f"{row['task']} {row['block']}".strip()


def _eval_result(row: dict[str, Any], report: dict[str, Any], data_name: str, split: str | None) -> EvalResult:
    """Make a score for the metadata."""
    settings = report.get("settings", {})
    shown = {
        name: settings[name] for name in ("mode", "repair", "bootstrap", "confidence", "seed") if name in settings
    }
    low, high = (round(bound, 2) for bound in row["intervals"]["f1"])
    pooled, every = row["corpus"] == "all", row["task"] == "all"
    task = "all facts" if every else _row_name(row)[1]
    return EvalResult(
        task_type="text-generation",
        task_name="information extraction" if every else f"information extraction, {row['task']}",
        dataset_type=data_name if pooled else row["corpus"],
        dataset_name=Path(data_name).name if pooled else row["corpus"],
        dataset_config="default" if every else row["task"],
        dataset_split=split,
        metric_type="ie_f1",
        metric_name=f"F1, {task} ({settings.get('confidence', 0.95):.0%} interval {low} to {high})",
        metric_value=round(row["f1"], 2),
        metric_args={"interval": [low, high], **shown},
    )


def _scores_table(rows: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> str:
    """Make a table of the scores, with the F1 of the base model if it is known."""
    by_corpus = any(row["corpus"] != "all" for row in rows)
    base = {_row_name(row): row["f1"] for row in baseline}
    lines = []
    for row in rows:
        low, high = row["intervals"]["f1"]
        line = [_row_name(row)[1], f"**{row['f1']:.1f}** [{low:.1f}, {high:.1f}]"]
        if base:
            line.append(f"{base[_row_name(row)]:.1f}" if _row_name(row) in base else "")
        line += [f"{row['precision']:.1f}", f"{row['recall']:.1f}", row["gold"], row["records"]]
        line.append(f"{100 - 100 * row['unparsed'] / row['answers']:.0f}%")
        lines.append([plain(row["corpus"]), *line] if by_corpus else line)
    head = ["task", "F1", *(["F1 of the base model"] if base else [])]
    head += ["precision", "recall", "annotated facts", "records", "valid JSON"]
    return table(["corpus", *head] if by_corpus else head, lines)


def _kept_results(record: Mapping[str, Any]) -> list[EvalResult]:
    """List the scores of the kept weights on validation records."""
    evaluations = [entry for entry in record.get("log", ()) if "eval_loss" in entry]
    kept: dict[str, Any] = next((entry for entry in evaluations if entry["step"] == record["kept_step"]), {})
    if "eval_reward" in kept:  # GRPO's loss is not a measure of the model
        return []
    metrics = {"eval_ie_f1": ("ie_f1", "IE F1, strict, micro, in per cent"), "eval_loss": ("loss", "Loss")}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=record["dataset"] or record["dataset_name"],
            dataset_name=f"validation split of {record['dataset_name']}",
            dataset_split="validation",
            metric_type=kind,
            metric_name=title,
            metric_value=round(kept[key], 4),
        )
        for key, (kind, title) in metrics.items()
        if key in kept
    ]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def read_report(path: Path) -> dict[str, Any]:
    """Read a report of `iepile score`, with intervals."""
    report = read_json(path)
    if not {"overall", "tasks", "sources"} <= report.keys():
        raise InputError(f"{path}: not a report of iepile score")
    if "intervals" not in report["overall"]:
        raise InputError(f"{path}: the scores have no intervals: score again with --bootstrap 1000")
    return report


# Spaces
def demo_card(name: str, model: str, adapter: str | None = None) -> SpaceCard:
    """
    Write the card of the demo.

    Args:
        name (`str`):
            The repository.
        model (`str`):
            Hub id of the model.
        adapter (`str`, *optional*):
            Hub id of a LoRA adapter.
    """
    title = name.rsplit("/", 1)[-1]
    models = [each for each in (adapter, model) if each is not None]
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        app_file="app.py",
        license="other",
        license_name="apache-2.0-and-cc-by-nc-sa-4.0",
        colorFrom="blue",
        colorTo="green",
        models=models,
        tags=["information-extraction", "iepile", TAG],
    )
    return SpaceCard(render("demo_card.md", card_data=data.to_yaml(), title=title, models=models))
