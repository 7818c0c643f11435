"""The cards of datasets and models, and the record of a training run that a model's card tells of."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
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
from iepile_builder.data.instructions import TEXT
from iepile_builder.errors import InputError
from iepile_builder.io import RESOURCES
from iepile_builder.tasks import TASKS
from iepile_builder.training.curves import curve_rows
from iepile_builder.training.record import RECORD


Form = Literal["adapter", "merged", "gguf"]
TAG = "iepile-builder"  # every card has it, so that a push knows its own repositories again
CITATION = """@inproceedings{gui-etal-2024-iepile,
  title = {{IEP}ile: Unearthing Large Scale Schema-Conditioned Information Extraction Corpus},
  author = {Gui, Honghao and Yuan, Lin and Ye, Hongbin and Zhang, Ningyu and Sun, Mengshu and Liang, Lei and
            Chen, Huajun},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics (Volume 2)},
  year = {2024},
  url = {https://huggingface.co/papers/2402.14710}
}"""
SIZES = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "1M<n<10M": 1e7}
FORMS = ("adapter", "merged", "gguf")
RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
LANGUAGES = {"en": "English", "zh": "Chinese"}
TASK_NAMES = {
    "NER": "named entities",
    "RE": "relations",
    "SPO": "typed relations",
    "EE": "events",
    "EET": "event triggers",
    "EEA": "event arguments",
    "KG": "entities with attributes",
}

# For each task an item of the schema, an answer to it, and for each language a schema and a text to try.
ITEMS = {
    "NER": '"person"',
    "RE": '"founder"',
    "SPO": '{"subject_type": "person", "predicate": "founder", "object_type": "company"}',
    "EE": '{"event_type": "resign", "trigger": true, "arguments": ["person", "time"]}',
    "EET": '"resign"',
    "EEA": '{"event_type": "resign", "trigger": ["resigned"], "arguments": ["person", "time"]}',
    "KG": '{"entity_type": "city", "attributes": ["mayor", "population"]}',
}
ANSWERS = {
    "NER": '{"person": ["A", "B"]}',
    "RE": '{"founder": [{"subject": "A", "object": "B"}]}',
    "SPO": '{"founder": [{"subject": "A", "object": "B"}]}',
    "EE": '{"resign": [{"trigger": "resigned", "arguments": {"person": "A", "time": "NAN"}}]}',
    "EET": '{"resign": ["resigned"]}',
    "EEA": '{"resign": [{"trigger": "resigned", "arguments": {"person": "A", "time": "NAN"}}]}',
    "KG": '{"city": {"A": {"mayor": "B", "population": "C"}}}',
}
EXAMPLES: dict[str, dict[str, tuple[list[Any], str]]] = {
    "en": {
        "NER": (["person", "city"], "Ada Lovelace met Charles Babbage in London."),
        "RE": (["founder", "place of birth"], "Ada Wong, who founded Orchard Books, was born in Leeds."),
        "SPO": (
            [{"subject_type": "company", "predicate": "founder", "object_type": "person"}],
            "Ada Wong founded Orchard Books.",
        ),
        "EE": (
            [{"event_type": "resign", "trigger": True, "arguments": ["person", "time"]}],
            "Ada Wong resigned in May.",
        ),
        "EET": (["resign", "hire"], "Ada Wong resigned in May."),
        "EEA": (
            [{"event_type": "resign", "trigger": ["resigned"], "arguments": ["person", "time"]}],
            "Ada Wong resigned in May.",
        ),
        "KG": ([{"entity_type": "city", "attributes": ["mayor"]}], "The mayor of Leeds is Ada Wong."),
    },
    "zh": {
        "NER": (["人物", "城市"], "王芳在北京见到了李明。"),
        "RE": (["创始人", "出生地"], "王芳出生于杭州，她创办了果园书店。"),
        "SPO": ([{"subject_type": "企业", "predicate": "创始人", "object_type": "人物"}], "王芳创办了果园书店。"),
        "EE": ([{"event_type": "辞职", "trigger": True, "arguments": ["人物", "时间"]}], "王芳五月辞职。"),
        "EET": (["辞职", "入职"], "王芳五月辞职。"),
        "EEA": ([{"event_type": "辞职", "trigger": ["辞职"], "arguments": ["人物", "时间"]}], "王芳五月辞职。"),
        "KG": ([{"entity_type": "城市", "attributes": ["市长"]}], "杭州市长是王芳。"),
    },
}
LOADING = {
    "adapter": """import json

from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, GenerationConfig

name = "{name}"
model = AutoPeftModelForCausalLM.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name)
config = GenerationConfig.from_pretrained(name, max_new_tokens=256)""",
    "merged": """import json

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

name = "{name}"
model = AutoModelForCausalLM.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name)
config = GenerationConfig.from_pretrained(name, max_new_tokens=256)""",
    "gguf": """import json

import xllamacpp  # llama.cpp
from huggingface_hub import hf_hub_download

name = "{name}"
params = xllamacpp.CommonParams()
params.model.path = hf_hub_download(name, "{file}")
params.n_ctx, params.verbosity = 4096, -1
server = xllamacpp.Server(params)""",
}
ASKING = """
instruction = {{
    "instruction": {instruction},
    "schema": {schema},
    "input": "{text}",
}}
messages = [{{"role": "user", "content": json.dumps(instruction, ensure_ascii=False)}}]
"""
ANSWERING = """inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, generation_config=config)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
GGUF_ANSWERING = """answer = server.handle_chat_completions(
    {"messages": messages, "temperature": 0, "max_tokens": 256}
)
print(answer["choices"][0]["message"]["content"])"""


def template(name: str) -> str:
    """A template of this package."""
    return (RESOURCES / "templates" / name).read_text(encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows))


# Datasets
def data_files(splits: Sequence[str], folder: str) -> list[dict[str, str]]:
    """The files of each split of a config; `folder` may be a pattern."""
    return [{"split": split, "path": f"data/{folder}/{split}-*.parquet"} for split in splits]


def dataset_card(
    corpora: Sequence[Corpus],
    counts: dict[str, Counter[tuple[str, str, str]]],
    report: list[dict[str, Any]],
    command: str,
    licenses: dict[str, str],
    name: str,
    notes: Sequence[str] = (),
    plots: Sequence[Path] = (),
) -> DatasetCard:
    """
    The card of a built dataset, with a config for each task, for each task and language, and one of all.

    Args:
        corpora (`Sequence[Corpus]`):
            What it was built from.
        counts (`dict[str, Counter]`):
            For each split, the number of instances of each task, language and corpus.
        report (`list[dict[str, Any]]`):
            What was read and left out, from [`IEPile.report`].
        command (`str`):
            The command that built it.
        licenses (`dict[str, str]`):
            Corpus to licence, as far as they are known.
        name (`str`):
            What `load_dataset` opens it by.
        notes (`Sequence[str]`, *optional*):
            Further sentences on how it was built.
        plots (`Sequence[Path]`, *optional*):
            PNG files of the `statistics` folder beside the card.
    """
    splits_of: dict[str, list[str]] = {}
    for split, of_split in counts.items():
        for task, language, _ in of_split:
            for folder in (f"{task}-*", f"{task}-{language}"):
                if split not in splits_of.setdefault(folder, []):
                    splits_of[folder].append(split)
    configs: list[dict[str, Any]] = [
        {"config_name": "default", "data_files": data_files(list(counts), "*"), "default": True}
    ]
    for folder, splits in sorted(splits_of.items(), key=lambda each: (not each[0].endswith("*"), each[0])):
        configs.append({"config_name": folder.removesuffix("-*"), "data_files": data_files(splits, folder)})
    total = sum(of_split.total() for of_split in counts.values())
    data = DatasetCardData(
        configs=configs,
        language=sorted({corpus.language for corpus in corpora}),
        task_categories=["token-classification", "text-generation"],
        tags=["information-extraction", "iepile", TAG, *sorted({corpus.task for corpus in corpora})],
        size_categories=next((size for size, limit in SIZES.items() if total < limit), "n>10M"),
        license="other",
    )
    instances = [
        [
            corpus.task,
            corpus.language,
            corpus.source,
            licenses.get(corpus.source, "not stated"),
            len(TASKS[corpus.task].labels(corpus.schema)),
            *(f"{of[corpus.task, corpus.language, corpus.source]:,}" for of in counts.values()),
        ]
        for corpus in corpora
    ]
    reasons = list(dict.fromkeys(reason for of_split in report for reason in of_split))
    return DatasetCard.from_template(
        data,
        template_str=template("dataset_card.md"),
        name=name,
        config_names=[config["config_name"] for config in configs],
        instances=table(["task", "language", "corpus", "licence", "labels", *counts], instances),
        command=command,
        notes=notes,
        report=table(reasons, [[of.get(reason, 0) for reason in reasons] for of in report if of["given"]]),
        plots=[plot.stem for plot in plots],
        labels=[
            {"source": corpus.source, "task": corpus.task, "labels": TASKS[corpus.task].labels(corpus.schema)}
            for corpus in corpora
        ],
        citation=CITATION,
    )


# Models
def model_card(
    form: Form,
    folder: Path,
    name: str,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    languages: Sequence[str] = (),
    license: Mapping[str, Any] | None = None,
    report: dict[str, Any] | None = None,
    predictions: bool = False,
) -> ModelCard:
    """
    The card of a fine-tuned model.

    Args:
        form (`str`):
            `"adapter"`, `"merged"` or `"gguf"`.
        folder (`Path`):
            Of the model; what [`write_training`] left there is told.
        name (`str`):
            The repository, which the code in the card loads, or another name for what has none yet.
        base_model (`str`, *optional*):
            Its Hub id; default: what the training record says.
        datasets (`Sequence[str]`, *optional*):
            Hub ids of the training data; default: what the training record says.
        languages (`Sequence[str]`, *optional*):
            Codes; default: the ones of the report.
        license (`Mapping[str, Any]`, *optional*):
            `license`, and `license_name` and `license_link` of an uncommon one.
        report (`dict[str, Any]`, *optional*):
            Of `scripts/score.py`.
        predictions (`bool`, *optional*, defaults to `False`):
            Whether the answers lie beside the card, too.
    """
    record: dict[str, Any] = {}
    if (folder / RECORD).exists():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    base_model = base_model or record.get("base_model")
    base_name = base_model or record.get("base_name") or "a language model"
    datasets = list(datasets) or ([record["dataset"]] if record.get("dataset") else [])
    languages = list(languages) or [each for each in (report or {}).get("languages", {}) if each in LANGUAGES]
    tasks = [task for task in TASKS if report is None or task in report["tasks"]]
    title = name.rsplit("/", 1)[-1]
    data_name = datasets[0] if len(datasets) == 1 else record.get("dataset_name", "iepile")
    scores = list(score_rows(report)) if report is not None else []
    results = [eval_result(row, report or {}, data_name) for row in scores] or kept_results(record)
    data = ModelCardData(
        base_model=base_model,
        base_model_relation=RELATIONS[form] if base_model else None,
        datasets=datasets or None,
        language=languages or None,
        library_name=LIBRARIES[form],
        pipeline_tag="text-generation",
        tags=["information-extraction", "iepile", TAG, *tasks, *(["lora"] if form == "adapter" else [])],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=title if results else None,
        eval_results=results or None,
        **dict(license or {}),
    )
    language = next((each for each in ("en", "zh") if each in languages), "en")
    return ModelCard.from_template(
        data,
        template_str=template("model_card.md"),
        form=form,
        title=title,
        base_link=f"[{base_model}](https://huggingface.co/{base_model})" if base_model else base_name,
        tasks=[describe(task, languages or ["en"]) for task in tasks],
        language_names=[LANGUAGES.get(each, each) for each in languages],
        usage=usage(form, folder, name, tasks[0], language),
        name=name,
        split_nums=", ".join(f"{TASKS[task].split_num} for {task}" for task in tasks),
        scores=scores and scores_table(scores),
        scores_text=scores_text(report or {}),
        predictions=predictions,
        training=bool(record),
        training_text=training_text(record, datasets) if record else "",
        settings=table(["setting", "value"], list(record.get("settings", {}).items())),
        curves=table(*curve_rows(record["log"])) if record.get("log") else "",
        with_f1=any("eval_ie_f1" in entry for entry in record.get("log", [])),
        plots=sorted(path.name for path in folder.glob("*.png")),
        dataset_links=", ".join(f"[{each}](https://huggingface.co/datasets/{each})" for each in datasets),
        citation=CITATION,
    )


def describe(task: str, languages: Sequence[str]) -> dict[str, Any]:
    """What the card says of a task."""
    texts = [TEXT[task][language] for language in languages if language in TEXT[task]]
    return {"task": task, "name": TASK_NAMES[task], "item": ITEMS[task], "answer": ANSWERS[task], "texts": texts}


def usage(form: Form, folder: Path, name: str, task: str, language: str) -> str:
    """Code to paste."""
    schema, text = EXAMPLES[language][task]
    sentence = TEXT[task][language]
    if language == "zh":
        lines = [sentence[start : start + 40] for start in range(0, len(sentence), 40)]
    else:
        lines = textwrap.wrap(sentence, 80)
        lines[:-1] = [f"{line} " for line in lines[:-1]]
    quoted = [json.dumps(line, ensure_ascii=False) for line in lines]
    instruction = "(\n        " + "\n        ".join(quoted) + "\n    )"
    asking = ASKING.format(instruction=instruction, schema=python(schema), text=text)
    loading = LOADING[form].format(name=name, file=next((path.name for path in sorted(folder.glob("*.gguf"))), ""))
    return f"{loading}\n{asking}{GGUF_ANSWERING if form == 'gguf' else ANSWERING}"


def python(value: Any) -> str:
    """A schema as Python writes it, with the quotes of JSON."""
    return json.dumps(value, ensure_ascii=False).replace(": true", ": True")


def score_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every score of a report: all facts, each task, and each corpus of a task that has several."""
    yield {"corpus": "all", "task": "all", "block": "", **report["overall"]}
    for task, scores in report["tasks"].items():
        corpora = {corpus: tasks[task] for corpus, tasks in report["sources"].items() if task in tasks}
        parts = {"all": scores, **(corpora if len(corpora) > 1 else {})}
        for corpus, part in parts.items():
            for block in TASKS[task].blocks:
                yield {"corpus": corpus, "task": task, "block": block, **(part[block] if block else part)}


def eval_result(row: dict[str, Any], report: dict[str, Any], data_name: str) -> EvalResult:
    """A score as the metadata has it."""
    settings = report.get("settings", {})
    shown = {
        name: settings[name] for name in ("mode", "repair", "bootstrap", "confidence", "seed") if name in settings
    }
    confidence = settings.get("confidence", 0.95)
    low, high = (round(bound, 2) for bound in row["intervals"]["f1"])
    task = f"{row['task']} {row['block']}".strip()
    pooled = row["corpus"] == "all"
    return EvalResult(
        task_type="text-generation",
        task_name="information extraction" if row["task"] == "all" else f"information extraction, {row['task']}",
        dataset_type=data_name if pooled else row["corpus"],
        dataset_name=Path(data_name).name if pooled else row["corpus"],
        dataset_config="default" if row["task"] == "all" else row["task"],
        dataset_split="test",
        metric_type="ie_f1",
        metric_name=f"F1, {task if task != 'all' else 'all facts'} ({confidence:.0%} interval {low} to {high})",
        metric_value=round(row["f1"], 2),
        metric_args={"interval": [low, high], **shown},
    )


def scores_table(rows: list[dict[str, Any]]) -> str:
    """The scores for the eye."""
    by_corpus = any(row["corpus"] != "all" for row in rows)
    lines = []
    for row in rows:
        low, high = row["intervals"]["f1"]
        line = [f"{row['task']} {row['block']}".strip(), f"**{row['f1']:.1f}** [{low:.1f}, {high:.1f}]"]
        line += [f"{row['precision']:.1f}", f"{row['recall']:.1f}", row["gold"], row["records"]]
        line.append(f"{100 - 100 * row['unparsed'] / row['answers']:.0f}%")
        lines.append([row["corpus"], *line] if by_corpus else line)
    head = ["task", "F1", "precision", "recall", "facts", "records", "valid JSON"]
    return table(["corpus", *head] if by_corpus else head, lines)


def scores_text(report: dict[str, Any]) -> str:
    """How the scores were made."""
    settings = report.get("settings", {})
    mode = settings.get("mode", "strict")
    text = "Exactly equal facts" if mode == "strict" else f"Facts that are equal in the mode `{mode}`"
    confidence = settings.get("confidence", 0.95)
    return f"{text}, in per cent, micro-averaged; in brackets {confidence:.0%} bootstrap intervals over the records."


def kept_results(record: Mapping[str, Any]) -> list[EvalResult]:
    """The scores on validation records of the weights that were kept."""
    evaluations = [entry for entry in record.get("log", ()) if "eval_loss" in entry]
    kept: dict[str, Any] = next((entry for entry in evaluations if entry["step"] == record["kept_step"]), {})
    metrics = {"eval_ie_f1": ("ie_f1", "IE F1, strict, micro, in per cent"), "eval_loss": ("loss", "Loss")}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=record["dataset"] or "iepile",
            dataset_name=f"validation split of {record['dataset_name']}",
            dataset_split="validation",
            metric_type=kind,
            metric_name=title,
            metric_value=round(kept[key], 4),
        )
        for key, (kind, title) in metrics.items()
        if key in kept
    ]


def training_text(record: Mapping[str, Any], datasets: Sequence[str]) -> str:
    """What it was trained on."""
    links = ", ".join(f"[{each}](https://huggingface.co/datasets/{each})" for each in datasets)
    text = f"Trained on {record['rows']:,} instances of {links or record['dataset_name']}, {record['how']}."
    return f"{text} The weights are those of step {record['kept_step']:,}."


def demo_card(name: str, model: str, adapter: str | None = None) -> SpaceCard:
    """
    The card of the demo.

    Args:
        name (`str`):
            The repository.
        model (`str`):
            Hub id of the model.
        adapter (`str`, *optional*):
            Hub id of a LoRA adapter.
    """
    title = name.rsplit("/", 1)[-1]
    loaded = [each for each in (adapter, model) if each is not None]
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        app_file="app.py",
        license="apache-2.0",
        colorFrom="blue",
        colorTo="green",
        models=loaded,
        tags=["information-extraction", "iepile", TAG],
    )
    links = " on ".join(f"[{each}](https://huggingface.co/{each})" for each in loaded)
    return SpaceCard.from_template(data, template_str=template("demo_card.md"), model=links)


def check_report(report: dict[str, Any], path: Path) -> None:
    """Refuse a report that a card cannot be written from."""
    if not {"overall", "tasks", "sources"} <= report.keys():
        raise InputError(f"{path}: not a report of scripts/score.py")
    if "intervals" not in report["overall"]:
        raise InputError(f"{path}: the scores have no intervals: score again with --bootstrap 1000")


def check_card(text: str, repo_type: str) -> None:
    """
    Refuse a card whose metadata the Hub would not take, or that has holes.

    Args:
        text (`str`):
            The card.
        repo_type (`str`):
            `"model"`, `"dataset"` or `"space"`.
    """
    try:
        data = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}[repo_type](text).data
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"README.md: its metadata cannot be read: {' '.join(str(error).split())}") from None
    needed = {
        "model": ("library_name", "pipeline_tag", "license", "base_model", "tags"),
        "dataset": ("configs", "license", "language", "tags"),
        "space": ("title", "sdk", "app_file", "tags"),
    }[repo_type]
    missing = [name for name in needed if not data.get(name)]
    if missing:
        raise InputError(f"README.md: its metadata lacks {', '.join(missing)}")
    if TAG not in data["tags"]:
        raise InputError(f"README.md: its tags lack {TAG}, by which a later push knows the repository again")
