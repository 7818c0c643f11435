"""
Score a model, adapter or server on the test sets of the papers.

    iepile benchmark --data_dir data --list_sets
    iepile benchmark --data_dir data --suites ner --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \\
        --adapter_name_or_path outputs/adapter --output_dir outputs/benchmark
    iepile benchmark --data_dir data --engine lookup --output_dir outputs/benchmark_lookup

The protocol is the paper's: all labels of a set, six (NER) or four to an instruction, strict F1, and the mean over the
corpora of a set. Published scores are shown beside it. The data are yours: `--list_sets` says which files are
there and where the others come from; sets without files are skipped. `benchmarks/BENCHMARK.md` has the protocol in
full.

Answers are kept in `--output_dir`, and a killed run resumes. `report.json` there is a report of `iepile score`, with
the table under `benchmark`; `iepile push --report_file` makes a model card of it. `--engine lookup` without a model
looks up the training part of each corpus.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from iepile_builder.data.benchmark import BenchmarkSet, convert, read_benchmark
from iepile_builder.data.corpus import SPLIT_FILES, check_choices
from iepile_builder.data.instances import without_dataset_bars
from iepile_builder.engines import EngineOptions, load_engine
from iepile_builder.errors import InputError
from iepile_builder.io import (
    check_apart,
    hash_file,
    locked,
    pluralize,
    read_json,
    read_lines,
    read_objects,
    to_json,
    write_whole,
)
from iepile_builder.scoring.matching import Matching, Mode
from iepile_builder.scoring.report import to_json_text
from iepile_builder.scoring.significance import (
    compute_interval,
    draw_resamples,
    format_interval,
    precision_recall_f1,
)
from iepile_builder.scoring.tally import Tally
from iepile_builder.scoring.trained import score_by_training
from iepile_builder.tasks import TASKS
from iepile_builder.training.record import RECORD, public, read_labels, read_trained_labels


@dataclass
class BenchmarkOptions:
    """
    Which test sets, and how they are scored.

    Args:
        data_dir (`Path`):
            Folder with the files of the sets, see --list_sets.
        output_dir (`Path`, *optional*, defaults to `outputs/benchmark`):
            Folder for instances, answers and report.
        suites (`list[str]`, *optional*):
            Of `ner`, `re`, `ee`, `zh` (zero-shot) and `supervised`; by default all.
        sets (`list[str]`, *optional*):
            Names of sets; by default all of the suites.
        list_sets (`bool`, *optional*, defaults to `False`):
            Only list the sets, which of their files are there, and where the others come from.
        max_records (`int`, *optional*):
            Only the first records of each corpus, up to this number.
        misc (`str`, *optional*, defaults to `"drop"`):
            Leave CrossNER's label `misc` out (`drop`), as UniversalNER's files do, or `keep` it.
        mode (`str`, *optional*, defaults to `"strict"`):
            When a fact is right, see `iepile score`; `squad` is how UniversalNER scores.
        multi_label (`bool`, *optional*, defaults to `True`):
            Whether an entity of NER may have several labels. If not, the one that scores highest counts, and answers
            are scored for it.
        trained_labels (`Path`, *optional*):
            The label names that training has seen: a text file, one a line, or an adapter or model with a
            `training.json` (its folder, Hub id or name in the recipes); by default what the training of this model
            recorded.
        bootstrap (`int`, *optional*, defaults to 1000):
            Bootstrap resamples of the records for intervals.
        confidence (`float`, *optional*, defaults to 0.95):
            Confidence of the intervals.
        seed (`int`, *optional*, defaults to 0):
            Seed of the order of the labels of FewRel and Wiki-ZSL, and of the resamples.
        unchecked (`bool`, *optional*, defaults to `False`):
            Also score files that hold another number of records than the published ones, or records that cannot be
            used, which are left out.
        hub_dataset (`str`, *optional*):
            Hub id of a benchmark dataset that has these sets as tasks: writes `.eval_results/benchmark.yaml`, for the
            model's repository.
    """

    data_dir: Path
    output_dir: Path = Path("outputs/benchmark")
    suites: list[str] | None = None
    sets: list[str] | None = None
    list_sets: bool = False
    max_records: int | None = None
    misc: Literal["drop", "keep"] = "drop"
    mode: Mode = "strict"
    multi_label: bool = True
    trained_labels: Path | None = None
    bootstrap: int = 1000
    confidence: float = 0.95
    seed: int = 0
    unchecked: bool = False
    hub_dataset: str | None = None


OPTIONS = (BenchmarkOptions, EngineOptions)


@dataclass
class Instances:
    """
    The instances of the sets.

    Args:
        folders (`dict[str, dict[Path, int]]`, *optional*):
            By set, the folder of each corpus with the number of its test records that are left out.
        skipped (`dict[str, list[str]]`, *optional*):
            By set, the corpora without files.
        files (`dict[str, str]`, *optional*):
            The files that were read, with their sha256.
    """

    folders: dict[str, dict[Path, int]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def main(options: BenchmarkOptions, engine_options: EngineOptions) -> None:
    systems, shown, every = read_benchmark()
    check_choices("suite", options.suites, sorted({each.suite for each in every}))
    check_choices("set", options.sets, [each.name for each in every])
    sets = [each for each in every if options.suites is None or each.suite in options.suites]
    sets = [each for each in sets if options.sets is None or each.name in options.sets]
    if not sets:
        raise InputError(f"none of the sets {', '.join(options.sets or ())} is in these suites: leave out --suites")
    if not options.data_dir.is_dir():
        raise InputError(f"{options.data_dir}: no such folder; --data_dir holds the files of the test sets")
    if options.list_sets:
        print_sets(sets, options.data_dir)
        return
    if options.bootstrap < 1 or not 0 < options.confidence < 1:
        raise InputError("give bootstrap a number of resamples, confidence a number between 0 and 1")
    if options.hub_dataset is not None and options.max_records is not None:
        raise InputError("--hub_dataset publishes scores of whole sets: leave out --max_records")
    check_apart(options.output_dir / "report.json", [options.data_dir])
    if not options.multi_label:
        if engine_options.engine == "lookup":
            raise InputError("--multi_label false needs the scores of facts, which --engine lookup does not give")
        engine_options = replace(engine_options, scores=True)
    matching = Matching(options.mode)

    from accelerate.utils import broadcast_object_list

    from iepile_builder.commands.predict import PredictOptions, join_processes, predict
    from iepile_builder.engines.record import describe_engine

    own_lookup = engine_options.engine == "lookup" and engine_options.model_name_or_path is None
    description = None if own_lookup else describe_engine(engine_options)
    # Now that the default model and adapter are chosen
    trained = find_trained_labels(options, engine_options) if matching.labelled else None
    load = cache(lambda: load_engine(engine_options))
    state = join_processes(engine_options)

    # Held to the end: another run would put other instances under the answers of this one
    with locked(options.output_dir / "report.json") if state.is_main_process else nullcontext():
        made = make_instances(sets, options, engine_options, description) if state.is_main_process else None
        [made] = broadcast_object_list([made])
        folders = [folder for of_set in made.folders.values() for folder in of_set]
        total = sum(1 for folder in folders for _ in read_lines(folder / "instances" / "test.jsonl"))
        with tqdm(total=total, unit="instance", desc="Answering", disable=not state.is_main_process) as bar:
            for folder in folders:
                predict(
                    PredictOptions(str(folder / "instances"), folder / "answers.jsonl"),
                    replace(engine_options, model_name_or_path=str(folder / "instances"))
                    if own_lookup
                    else engine_options,
                    description,
                    None if own_lookup else lambda _: load(),
                    bar,
                )
        state.destroy_process_group()
        if not state.is_main_process:
            return
        report = make_report(sets, made, description, trained, matching, options)
        report["benchmark"]["systems"] = systems
        write_whole(options.output_dir / "report.json", to_json_text(report))
        if options.hub_dataset is not None:
            write_eval_results(options, report["benchmark"]["rows"])
    print_rows(report["benchmark"], shown, trained is not None, options)


def find_trained_labels(options: BenchmarkOptions, engine_options: EngineOptions) -> dict[str, list[str]] | None:
    """Read which label names training has seen, from the user's file or the record beside the adapter or model."""
    if options.trained_labels is not None:
        return read_trained_labels(options.trained_labels)
    model, adapter = engine_options.model_name_or_path, engine_options.adapter_name_or_path
    if engine_options.engine == "lookup" or (engine_options.base_url is not None and not os.path.isdir(model or "")):
        return None
    from iepile_builder.engines.loading import find_file

    file = find_file(RECORD, model, adapter)
    return None if file is None else read_labels(str(file.parent))


def make_instances(
    sets: list[BenchmarkSet],
    options: BenchmarkOptions,
    engine_options: EngineOptions,
    description: dict[str, Any] | None,
) -> Instances:
    """
    Write the instances of all corpora whose files are there, once the answers that are there are found to fit them.

    Raises:
        `InputError`: If there are no files, or wrong ones, or answers of another engine or to other instances.
    """
    from iepile_builder.commands.predict import check_done
    from iepile_builder.engines.record import describe_engine

    made = Instances()
    with TemporaryDirectory() as work:
        for each in sets:
            tree = options.output_dir / re.sub(r"\W+", "_", each.name)
            for corpus in each.corpora:
                reader, found = each.find_files(corpus, options.data_dir)
                if "test" not in found or (description is None and "train" not in found):
                    made.skipped.setdefault(each.name, []).append(corpus)
                    continue
                files = [file for part in found.values() for file in part]
                made.files |= {str(file.relative_to(options.data_dir)): hash_file(file) for file in files}
                keep_misc = options.misc == "keep"
                for name in convert(each, corpus, reader, found, tree, keep_misc, options.seed, options.unchecked):
                    left_out = build_instances(
                        tree / each.place(name),
                        Path(work, tree.name, name),
                        options.max_records,
                        description is None,
                        options.unchecked,
                    )
                    made.folders.setdefault(each.name, {})[tree / name] = left_out
        if not made.folders:
            raise InputError(
                f"{options.data_dir}: no files of {', '.join(each.name for each in sets)}; --list_sets says which "
                "they are"
            )
        new = {
            folder: Path(work, folder.relative_to(options.output_dir))
            for of_set in made.folders.values()
            for folder in of_set
        }
        for folder, instances in new.items():
            lookup = replace(engine_options, model_name_or_path=str(instances))
            rows = [row for _, row in read_objects(instances / "test.jsonl")]
            check_done(folder / "answers.jsonl", rows, description or describe_engine(lookup))
        for folder, instances in new.items():
            for file in instances.iterdir():
                write_whole(folder / "instances" / file.name, file.read_bytes())
    return made


def build_instances(corpus: Path, folder: Path, max_records: int | None, with_train: bool, unchecked: bool) -> int:
    """
    Write the test instances of a corpus, and the training ones where they are looked up; return the number of test
    records that cannot be used.

    Raises:
        `InputError`: If there is one, unless `unchecked`.
    """
    from iepile_builder.iepile import IEPile

    left_out = {}
    with without_dataset_bars(), TemporaryDirectory() as work:
        for split, limit in [("test", max_records), *([("train", None)] if with_train else [])]:
            on_error = "skip" if unchecked or split == "train" else "raise"
            options: dict[str, Any] = {"splits": [split], "max_records": limit, "negatives": "all"}
            builder = IEPile(cache_dir=work, corpus_dirs=[str(corpus)], on_error=on_error, **options)
            try:
                rows = builder.as_dataset(split=split)
            except InputError as error:
                cure = "; --unchecked leaves out records that cannot be used" if on_error == "raise" else ""
                raise InputError(f"{error}{cure}") from None
            lines = (to_json({name: value for name, value in row.items() if value is not None}) for row in rows)
            write_whole(folder / f"{split}.jsonl", "".join(line + "\n" for line in lines))
            left_out[split] = builder.report()[0].get("unusable", 0)
    return left_out["test"]


def make_report(
    sets: list[BenchmarkSet],
    made: Instances,
    description: dict[str, Any] | None,
    trained: dict[str, list[str]] | None,
    matching: Matching,
    options: BenchmarkOptions,
) -> dict[str, Any]:
    """Score the answers: a report of `iepile score`, with the rows of the table and what they depend on."""
    from iepile_builder.engines.record import run_file
    from iepile_builder.scoring.scorer import NO_SCORES, Scorer

    folders = [folder for of_set in made.folders.values() for folder in of_set]
    sources = Counter(folder.name for folder in folders)
    whole = Scorer(multi_label=options.multi_label)
    rows: list[dict[str, Any]] = []
    for each in (each for each in sets if each.name in made.folders):
        scorer = Scorer(multi_label=options.multi_label)
        for folder in made.folders[each.name]:
            for _, _, line in read_lines(folder / "answers.jsonl"):
                scorer.add(read_json(line))
        if not options.multi_label and TASKS[each.task].one_label and not scorer.has_decisions:
            raise InputError(f"{each.name}: {NO_SCORES}; leave out --multi_label false")
        # Two sets may have a corpus of the same name
        whole.records |= {
            key._replace(source=f"{each.name}, {key.source}") if sources[key.source] > 1 else key: record
            for key, record in scorer.records.items()
        }
        corpora = {folder.name: left_out for folder, left_out in made.folders[each.name].items()}
        by_training = None if trained is None else score_by_training(scorer, trained, matching)[each.task]
        rows += score_set(each, corpora, each.name not in made.skipped, scorer.tally(matching), by_training, options)

    report = whole.report(matching, options.bootstrap, options.confidence, options.seed)
    settings = {name: getattr(options, name) for name in ("bootstrap", "confidence", "seed")}
    report["settings"] = asdict(matching) | {"repair": False} | settings
    if not options.multi_label:
        report["settings"]["multi_label"] = False
    if options.max_records is not None:
        report["settings"]["max_records"] = options.max_records
    names = [name for name in ("model", "adapter") if description and name in description]
    runs = [read_json(run_file(folder / "answers.jsonl").read_bytes()) for folder in folders]
    if description and not all(run.get("constrained", True) for run in runs):  # by a server that takes no schema
        description["constrain"] = False
    report["benchmark"] = {
        "engine": {**description, **{name: public(description[name]) for name in names}} if description else "lookup",
        "misc": options.misc,
        "multi_label": options.multi_label,
        "split_num": {name: TASKS[name].split_num for name in dict.fromkeys(row["task"] for row in rows)},
        "max_records": options.max_records,
        "unchecked": options.unchecked,
        "rows": rows,
        "skipped": made.skipped,
        "notes": {each.name: each.notes for each in sets if each.name in made.folders},
        "files": made.files,
    }
    return report


def score_set(
    benchmark: BenchmarkSet,
    corpora: dict[str, int],
    complete: bool,
    tally: Tally,
    by_training: dict[str, Any] | None,
    options: BenchmarkOptions,
) -> Iterator[dict[str, Any]]:
    """
    Yield the scores of a set, the mean over its corpora, and of each of several corpora; for EE by block. `corpora`
    gives the number of records that are left out.
    """
    groups = [(benchmark.name, "", [*corpora], benchmark.published if complete else {})]
    if len(corpora) > 1:
        own = {name: benchmark.corpora.get(name, {}).get("published", {}) for name in corpora}
        groups += [(benchmark.name, name, [name], own[name]) for name in corpora]
    for name, corpus, members, published in groups:
        for block in TASKS[benchmark.task].blocks:
            cells = [cell for cell in tally.rows if cell.source in members and cell.block == block]
            if not cells:
                continue
            each = [tally.counts([cell]).scores() for cell in cells]
            samples = [resample_f1(tally.values(cell)[1], options, number) for number, cell in enumerate(cells)]
            counts = tally.counts(cells)
            row = {"set": name, "corpus": corpus, "task": benchmark.task, "block": block, "corpora": len(cells)}
            row |= {measure: float(np.mean([part[measure] for part in each])) for measure in each[0]}
            row["interval"] = compute_interval(np.mean(samples, axis=0), options.confidence)
            row |= {part: vars(counts)[part] for part in ("records", "answers", "unparsed", "gold", "pred")}
            row["left_out"] = left_out = sum(corpora[member] for member in members)
            notes = [f"mean of {len(cells)}"] if len(cells) > 1 else []
            notes += [] if complete or corpus else ["incomplete"]
            notes += [f"{pluralize(left_out, 'record')} left out"] if left_out else []
            row["notes"] = notes
            if by_training is not None and not corpus:
                row |= by_training[block] if block else by_training
            row["published"] = published.get(block, {}) if block else published
            row["complete"] = complete
            row["checked"] = benchmark.checked and not options.unchecked
            yield row


def resample_f1(values: np.ndarray, options: BenchmarkOptions, number: int) -> np.ndarray:
    """Compute the F1 of bootstrap resamples of a corpus's records; corpora are resampled one by one."""
    weights = draw_resamples(len(values), options.bootstrap, options.seed + number)
    return precision_recall_f1(np.concatenate([part @ values for part in weights]))[:, 2]


def write_eval_results(options: BenchmarkOptions, rows: list[dict[str, Any]]) -> None:
    """Write the scores of the complete sets as the Hub reads them from a model's repository."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(
            dataset_id=str(options.hub_dataset),
            task_id=re.sub(r"\W+", "_", f"{row['set']} {row['block']}").strip("_").lower(),
            value=round(row["f1"], 2),
            date=date.today().isoformat(),
            notes=", ".join(["F1", options.mode, *row["notes"], f"misc: {options.misc}"])
            + _unusual(options, row["checked"]),
        )
        for row in rows
        if not row["corpus"] and row["complete"]
    ]
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    write_whole(options.output_dir / ".eval_results" / "benchmark.yaml", text)


def _unusual(options: BenchmarkOptions, checked: bool) -> str:
    """Say in what the protocol was left."""
    one_label = "" if options.multi_label else ", one label an entity"
    part = "" if options.max_records is None else f", the first {options.max_records} records of each corpus"
    return one_label + part + ("" if checked else ", numbers of records not checked")


def print_sets(sets: list[BenchmarkSet], data_dir: Path) -> None:
    """Print the sets, their files, and where the files come from."""
    table = Table("set", "suite", "there", "test files in --data_dir", box=box.SIMPLE_HEAD)
    table.add_column("source", overflow="fold")
    for each in sets:
        found = {name: each.find_files(name, data_dir) for name in each.corpora}
        there = [name for name, (_, files) in found.items() if "test" in files]
        lines = [
            file if name in there or any(data_dir.glob(file)) else f"{file} (missing)"
            for name, (reader, _) in found.items()
            for file in (
                [f"{each.place(name)}/{SPLIT_FILES['test']}"]
                if name in there and reader == "unified" or not each.patterns(name, "test")
                else each.patterns(name, "test")
            )
        ]
        table.add_row(each.name, each.suite, f"{len(there)} of {len(each.corpora)}", "\n".join(lines), each.source)
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 180)
    console.print(table)


def print_rows(benchmark: dict[str, Any], shown: list[str], with_labels: bool, options: BenchmarkOptions) -> None:
    """Print the table, what to know about its published scores, and what is missing."""
    engine = benchmark["engine"]
    name = engine if engine == "lookup" else engine.get("adapter", engine["model"])
    title = f"{name}: F1, {options.mode}{_unusual(options, not options.unchecked)}"
    table = Table("set", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    rows = [row for row in benchmark["rows"] if row["published"] or not row["corpus"]]
    systems = [system for system in shown if any(system in row["published"] for row in rows)]
    columns = ["records", "facts", "P", "R", "F1", f"{options.confidence:.0%} interval"]
    columns += ["seen labels", "unseen"] if with_labels else []
    for column in (*columns, *systems):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        name = f"  {row['corpus']}" if row["corpus"] else row["set"]
        name = ", ".join([f"{name} {row['block']}".rstrip(), *row["notes"]])
        cells = [f"{row['records']:,}", f"{row['gold']:,.0f}"]
        cells += [f"{row[measure]:.1f}" for measure in ("precision", "recall", "f1")]
        cells += [format_interval(row["interval"], row["records"] / row["corpora"], "{:.1f} to {:.1f}")]
        if with_labels:
            labels = [row.get(part, {}) for part in ("seen", "unseen")]
            cells += [f"{part['f1']:.1f}" if part.get("gold") else "" for part in labels]
        cells += [f"{row['published'][system]:.2f}" if system in row["published"] else "" for system in systems]
        table.add_row(name, *cells)
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 180)
    console.print(table)

    told_of: dict[str, list[str]] = {}
    for system in systems:
        told_of.setdefault(benchmark["systems"][system], []).append(system)
    for each, notes in benchmark["notes"].items():
        for note in notes:
            told_of.setdefault(note, []).append(each)
    for note, names in told_of.items():
        print(f"{', '.join(names)}: {note}")
    if benchmark["skipped"]:
        missing = [
            f"{each} ({', '.join(corpora)})" if each in benchmark["notes"] else each
            for each, corpora in benchmark["skipped"].items()
        ]
        why = "no training part to look up in, or no files" if engine == "lookup" else "no files"
        print(f"skipped ({why}; see --list_sets): {', '.join(missing)}")
    print(f"answers and report.json: {options.output_dir}")
