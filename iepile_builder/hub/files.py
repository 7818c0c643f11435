"""Collect the files of a model, a dataset or a Space that go to the Hub, by name."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from iepile_builder.answers.scores import CALIBRATION
from iepile_builder.errors import InputError
from iepile_builder.hub.cards import TAG, Form, ModelFacts, gguf_files, model_card, read_json, read_report, render
from iepile_builder.hub.client import base_license
from iepile_builder.io import RESOURCES, pluralize, read_objects
from iepile_builder.scoring.report import by_task_and_block
from iepile_builder.training.curves import PLOT
from iepile_builder.training.record import RECIPE, RECORD, is_path


Files = Mapping[str, Path | bytes]  # path in the repository to a local file or to content

WEIGHTS = {
    "adapter": ("adapter_config.json", "adapter_model.safetensors"),
    "merged": ("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    "gguf": ("Modelfile",),
}
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
)  # fmt: skip
TRAINING = (RECORD, RECIPE, PLOT, CALIBRATION)
DATA_FILE = re.compile(r"data/[A-Z]+-[a-z]+/(train|validation|test)-\d{5}-of-\d{5}\.parquet")


def model_files(form: Form, folder: Path, name: str, facts: ModelFacts | None = None) -> Files:
    """
    Collect the weights, the tokenizer, the card and the training record of a model.

    Raises:
        `InputError`: If the folder holds no such model, or the Hub id or licence of its base model is not known.
    """
    facts = facts or ModelFacts()
    names = [*WEIGHTS[form], *TOKENIZER, *TRAINING]
    if form == "gguf":
        names += gguf_files(folder)
    elif (folder / "model.safetensors.index.json").is_file():
        names += sorted(set(read_json(folder / "model.safetensors.index.json")["weight_map"].values()))
    files = _take(folder, names)
    suffix = ".gguf" if form == "gguf" else ".safetensors"
    if not any(path.endswith(suffix) for path in files) or not files.keys() >= {*WEIGHTS[form][:1]} - {"Modelfile"}:
        pickled = ", but weights in a pickle file: save them as safetensors" if any(folder.glob("*.bin")) else ""
        raise InputError(f"{folder}: no {form} model in it{pickled}")

    record = read_json(folder / RECORD) if RECORD in files else {}
    config = read_json(folder / "adapter_config.json") if form == "adapter" else {}
    base_model = facts.base_model or record.get("base_model") or config.get("base_model_name_or_path")
    missing = []
    terms: dict[str, Any] = {"license": facts.license} if facts.license else record.get("terms", {})
    if not isinstance(base_model, str) or is_path(base_model):
        missing.append(f"{folder}: its base model has no Hub id: give --base_model")
    elif not terms:
        try:
            terms = base_license(base_model)
        except InputError as error:
            missing.append(str(error))
    reports = {"score_report.json": facts.report_file, "predictions.jsonl": facts.predictions_file}
    missing += [f"{file}: no such file" for file in reports.values() if file is not None and not file.is_file()]
    if missing:
        raise InputError("; ".join(missing))
    if facts.report_file and facts.predictions_file:
        _check_same(facts.report_file, facts.predictions_file)
    if form == "adapter":
        config["base_model_name_or_path"] = base_model
        files["adapter_config.json"] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    files |= {path: file for path, file in reports.items() if file is not None}
    files["README.md"] = str(model_card(form, folder, name, replace(facts, base_model=base_model), terms)).encode()
    return files


def dataset_files(folder: Path, name: str) -> Files:
    """
    Collect the data, the card and its plots of a dataset that `iepile build --format parquet` wrote.

    Raises:
        `InputError`: If the folder holds no such dataset.
    """
    shards = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("data/*/*.parquet"))]
    files = _take(folder, filter(DATA_FILE.fullmatch, shards))
    if not _take(folder, ["README.md"]) or not files:
        raise InputError(f"{folder}: no dataset with a card: build it with iepile build --format parquet")
    card = _name_in_code(folder / "README.md", name)
    plots = re.findall(r"\]\(<?(statistics/[^/>]+\.png)>?\)", card)
    return files | _take(folder, plots) | {"README.md": card.encode()}


def metric_files(folder: Path, name: str) -> Files:
    """
    Collect a metric and this library as a Space. The module gets the Space's name, which `evaluate` looks for.

    Raises:
        `InputError`: If the folder lacks `README.md`, `app.py`, `requirements.txt` or the module of its own name.
    """
    files = _take(folder, ("app.py", "requirements.txt", "README.md", f"{folder.name}.py"))
    if len(files) < 4:
        raise InputError(f"{folder}: not a metric: needs README.md, app.py, requirements.txt and {folder.name}.py")
    files[f"{name.rsplit('/', 1)[-1]}.py"] = files.pop(f"{folder.name}.py")
    files["README.md"] = _name_in_code(folder / "README.md", name).encode()
    needed = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    return files | _library_files(set(), {line for line in needed if line != TAG})


def demo_files(name: str, model: str, adapter: str | None = None) -> Files:
    """
    Make a Space of this library and an app that loads a model; it serves people, and assistants by MCP.

    Raises:
        `InputError`: If the model or the adapter is a folder, which the Space could not load.
    """
    models = [each for each in (adapter, model) if each is not None]
    if local := next(filter(is_path, models), None):
        raise InputError(f"{local}: a Space loads its model from the Hub: push it, and give its Hub id")
    return _library_files({"mcp"}) | {
        "README.md": render("demo_card.md", title=name.rsplit("/", 1)[-1], models=models).encode(),
        "app.py": render("demo_app.py.txt", model=model, adapter=adapter).encode(),
    }


def _check_same(report_file: Path, predictions_file: Path) -> None:
    """Raise an `InputError` unless a report has as many answers of each task and corpus as the predictions."""
    answers: Counter[tuple[str, str]] = Counter()
    for _, row in read_objects(predictions_file):
        answers[str(row.get("task")), str(row.get("source"))] += 1
    report = read_report(report_file)
    scored = {
        (task, source): of["answers"]
        for source, tasks in report["sources"].items()
        for task, _, of in by_task_and_block(tasks)
    }
    if scored != answers:
        key = min(key for key in {**scored, **answers} if scored.get(key, 0) != answers[key])
        raise InputError(
            f"{predictions_file}: {pluralize(answers[key], 'answer')} of {key[0]} from {key[1]!r}, but "
            f"{scored.get(key, 0)} in {report_file}: give the answers that the report scores"
        )


def _take(folder: Path, names: Iterable[str]) -> dict[str, Path | bytes]:
    """Take the files that exist; refuse links that lead out of the folder."""
    files: dict[str, Path | bytes] = {name: folder / name for name in names if (folder / name).is_file()}
    for name in files:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder / name}: a link that leads out of the folder; put the file itself there")
    return files


def _name_in_code(card: Path, name: str) -> str:
    """Make the card's code load the repository instead of the folder."""
    text = card.read_text(encoding="utf-8")
    return re.sub(r'\b(load_dataset|evaluate\.load)\("[^"]*"', rf'\1("{name}"', text)


def _library_files(extras: set[str], further: Iterable[str] = ()) -> dict[str, Path | bytes]:
    """Collect this library without the dictionary and the sample corpus, and list what it and the Space require."""
    library = RESOURCES.parent
    paths = [path for path in library.rglob("*.py") if RESOURCES not in path.parents]
    paths += [library / "py.typed", *RESOURCES.glob("templates/*"), *filter(Path.is_file, RESOURCES.iterdir())]
    files: dict[str, Path | bytes] = {
        f"{library.name}/{path.relative_to(library).as_posix()}": path
        for path in sorted(paths)
        if path.name != "hard_negatives.json"
    }
    lines = sorted(_requirements(extras).union(further))
    return files | {"requirements.txt": "".join(f"{line}\n" for line in lines).encode()}


def _requirements(extras: set[str]) -> set[str]:
    """List the requirements of this package with some extras, without the package itself."""
    found: set[str] = set()
    for line in requires(TAG) or ():
        needed, _, marker = line.partition(";")
        extra = re.search(r"extra == [\"']([\w-]+)", marker)
        if extra is None or extra[1] in extras:
            own = re.match(rf"{TAG}\[(.*)\]", needed)
            found |= _requirements({each.strip() for each in own[1].split(",")}) if own else {needed.strip()}
    return found
