"""
Build instruction instances from annotated corpora.

    iepile build --corpus_dir sample_corpus --output_dir outputs/sample
    iepile build --corpus_dir my_corpora --tasks NER RE --format parquet --output_dir outputs/mine

A corpus is a folder with train.json, dev.json, test.json and schema.json; `--corpus_dir` takes one, or a tree of them,
{IE-en,IE-zh}/{TASK}/{corpus}, or files of the other formats that `iepile convert --help` lists. `--format jsonl`
writes a file for each split. `--format parquet` writes a folder with a dataset card, which load_dataset opens and
`--push_to_hub` publishes: one config of all instances, one for each task, and one for each task and language. The
same command resumes a killed build.
"""

import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow.compute as pc
from tqdm import tqdm

from iepile_builder.data.convert import convert
from iepile_builder.data.corpus import SPLIT_FILES, Corpus, check_choices
from iepile_builder.data.detect import SUFFIXES, in_place
from iepile_builder.data.options import IEPileConfig, InstanceOptions, find_given
from iepile_builder.data.output import MARKER, end_children_with_us, replace_folder, write_marker
from iepile_builder.data.statistics import count_instances, look_into, plot
from iepile_builder.data.synonyms import load_synonyms, synonym_notes
from iepile_builder.errors import InputError
from iepile_builder.hub.cards import dataset_card
from iepile_builder.iepile import TO_FIT, TOO_LONG, IEPile
from iepile_builder.io import check_apart, check_file, to_json, write_whole
from iepile_builder.tasks import TASKS


NO_REASONS = {"task", "language", "source", "split", "records", "given", TO_FIT, TOO_LONG}  # not why one is left out
SHARD_BYTES = 500_000_000
Counts = dict[str, Counter[tuple[str, str, str]]]  # by split: of each task, language and corpus


@dataclass
class BuildOptions:
    """
    What to read, and what to write.

    Args:
        corpus_dir (`list[str]`):
            Corpus folders, or trees of them; `sample_corpus` is the small one in this package.
        output_dir (`Path`):
            The folder to write.
        format (`str`, *optional*, defaults to `"jsonl"`):
            `jsonl` or `parquet`.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace what an earlier build wrote to the output folder.
        num_proc (`int`, *optional*):
            Number of processes.
        input_format (`str`, *optional*):
            Format of the corpora, by default detected, see `iepile convert`: `unified`, `conll`, `label_studio`,
            `doccano`, `brat`, `spacy`, `datasets`, `csv`, `instructie` or `instances` (of the IEPile dataset).
        left_out_file (`Path`, *optional*):
            JSON lines: how many records of each corpus were read and left out, and why.
        statistics (`bool`, *optional*, defaults to `False`):
            Add plots to the dataset card.
        licenses (`dict[str, str]`, *optional*):
            Licence of each corpus, for the dataset card.
        push_to_hub (`str`, *optional*):
            Id of the dataset repository to publish to; needs the format parquet.
        public (`bool`, *optional*, defaults to `False`):
            Make a new repository public.
    """

    corpus_dir: list[str]
    output_dir: Path
    format: Literal["jsonl", "parquet"] = "jsonl"
    overwrite: bool = False
    num_proc: int | None = None
    input_format: str | None = None
    left_out_file: Path | None = None
    statistics: bool = False
    licenses: dict[str, str] = field(default_factory=dict)
    push_to_hub: str | None = None
    public: bool = False


OPTIONS = (BuildOptions, InstanceOptions)


def main(options: BuildOptions, instance_options: InstanceOptions) -> None:
    if options.push_to_hub is not None and options.format != "parquet":
        raise InputError("--push_to_hub needs --format parquet")
    if options.num_proc is not None and options.num_proc < 1:
        raise InputError(f"num_proc is {options.num_proc}; give 1 or more")
    if options.left_out_file is not None:
        check_left_out_file(options, instance_options)
    check_choices("input_format", [options.input_format] if options.input_format else [], SUFFIXES)
    config = IEPileConfig(**vars(instance_options))
    config.check()
    modes = config.negatives_schedule or [config.negatives]
    for name, default, used in (
        ("num_hard", None, ("hard", "random")),
        ("num_random", None, ("hard", "random")),
        ("negative_ratio", 1.0, ("ratio",)),
    ):
        if getattr(config, name) != default and not {*modes} & {*used}:
            raise InputError(
                f"--{name} has no effect with negatives {', '.join(modes)}, only with {' and '.join(used)}"
            )

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    end_children_with_us()
    with replace_folder(options.output_dir, "build", options.overwrite, options.corpus_dir) as new:
        # splits that a killed build has finished are beside the new folder, and not built again
        dataset, report, corpora, notes = build_splits(options, instance_options, new.parent)
        max_length = instance_options.max_length
        notes += schema_notes(corpora)
        notes += length_notes(report, max_length) if max_length is not None else []
        if "train" in dataset and len({*modes}) > 1:
            notes.append(
                f"Negatives of epoch {config.epoch}: {modes[min(config.epoch, len(modes) - 1)]}. A build has one "
                "epoch of negatives_schedule (--epoch); iepile train takes all where --dataset_name is a YAML file of "
                "these options."
            )
        if "train" in dataset and config.needs_hard_negatives():
            notes += hard_negative_notes(config, corpora)
        if "train" in dataset and config.label_synonyms is not None:
            notes += synonym_notes(load_synonyms(config.label_synonyms), corpora)
        counts = {split: count_instances(rows) for split, rows in dataset.items()}
        with _bar("Writing", sum(map(len, dataset.values())), "instances") as update:
            if options.format == "jsonl":
                write_jsonl(dataset, new, update)
            else:
                write_parquet(dataset, counts, new, update)
        plots: list[Path] = []
        of_plots: list[str] = []
        if options.format == "parquet":
            if options.statistics:
                (new / "statistics").mkdir()
                plots, of_plots = plot(look_into(next(iter(dataset.values()))), new / "statistics")
            arguments = sys.argv[1:] if sys.argv[1:2] == ["build"] else ["build", *sys.argv[1:]]
            home = rf"(?<![^\s'\"=]){re.escape(str(Path.home()))}(?![^\s'\"/])"  # as a whole, at the start of a path
            command = re.sub(home, "~", shlex.join(["iepile", *arguments]))
            name = options.push_to_hub or options.output_dir.resolve().name
            example = next(iter(dataset.values()))[0]
            card = dataset_card(corpora, counts, report, command, options.licenses, name, notes, plots, example)
            card.save(new / "README.md")
        tables: dict[str, dict[str, dict[str, list[str]]]] = {}
        for corpus in corpora:
            of_task = tables.setdefault(corpus.task, {})
            of_task[corpus.source] = of_task.get(corpus.source, {}) | config.find_hard_negatives(corpus)[0]
        write_marker(new, options=find_given(instance_options), hard_negatives=tables)
        if options.left_out_file is not None:
            # in the output folder it is part of the new content, else the old would take it away
            file, output = options.left_out_file.resolve(), options.output_dir.resolve()
            file = new / file.relative_to(output) if file.is_relative_to(output) else options.left_out_file
            write_whole(file, "".join(to_json(of_split) + "\n" for of_split in report))

    for split, of_split in counts.items():
        by_task: Counter[str] = Counter()
        for (task, _, _), count in sorted(of_split.items()):  # in any order from several processes
            by_task[task] += count
        tasks = ", ".join(f"{task} {count}" for task, count in by_task.items())
        print(f"{split}: {of_split.total()} instances ({tasks})")
    reasons = sum((Counter({name: of[name] for name in of.keys() - NO_REASONS}) for of in report), Counter())
    for reason, count in sorted(reasons.items()):
        print(f"{reason}: {count}")
    for note in notes + of_plots:
        print(note)
    print(f"written to {options.output_dir}")
    if options.push_to_hub is not None:
        from iepile_builder.hub.push import push_folder

        push_folder("dataset", options.output_dir, options.push_to_hub, options.public)


def check_left_out_file(options: BuildOptions, instance_options: InstanceOptions) -> None:
    """Raise an `InputError` if the file is no file, is an input, or has the name of one that the build writes."""
    assert options.left_out_file is not None
    check_file(options.left_out_file)
    tables = (getattr(instance_options, name) for name in ("hard_negatives", "descriptions", "label_synonyms"))
    check_apart(options.left_out_file, [*options.corpus_dir, *tables])
    file, output = options.left_out_file.resolve(), options.output_dir.resolve()
    written = {*(f"{split}.jsonl" for split in SPLIT_FILES), "README.md", "data", "statistics", MARKER}
    if file.is_relative_to(output) and (file == output or file.relative_to(output).parts[0] in written):
        raise InputError(f"{options.left_out_file}: the build writes this itself; give another --left_out_file")


def build_splits(
    options: BuildOptions, instance_options: InstanceOptions, work: Path
) -> tuple[datasets.DatasetDict, list[dict[str, Any]], list[Corpus], list[str]]:
    """Build one split after the other, so that those which a killed build had finished are not built again."""
    notes: list[str] = []
    corpus_dirs = [place for place in options.corpus_dir if in_place(place, options.input_format)]
    if others := [place for place in options.corpus_dir if place not in corpus_dirs]:
        unified = work / "unified"
        shutil.rmtree(unified, ignore_errors=True)
        converted, of_conversion = convert(
            others, unified, options.input_format, instance_options.tasks, instance_options.languages
        )
        notes += [f"Converted {corpus.describe()}." for corpus in converted]
        notes += [f"{note[0].upper()}{note[1:]}." for note in of_conversion]
        corpus_dirs.append(str(unified))
    settings = {"corpus_dirs": corpus_dirs, **vars(instance_options)}
    corpora = IEPileConfig(**settings).find_corpora()
    files = {
        split: [corpus.file(split) for corpus in corpora if corpus.file(split).exists()]
        for split in instance_options.splits or SPLIT_FILES
    }
    sizes = {split: sum(file.stat().st_size for file in of_split) for split, of_split in files.items() if of_split}
    dataset, report = datasets.DatasetDict(), []
    with _bar("Building", sum(sizes.values()), "B") as update:
        for split, size in sizes.items():
            builder = IEPile(cache_dir=str(work / "cache"), **{**settings, "splits": [split]})
            builder.download_and_prepare(num_proc=options.num_proc)
            dataset[split] = builder.as_dataset(split=split)
            report += builder.report()
            update(size)
    if not dataset:
        raise InputError(f"{', '.join(options.corpus_dir)}: nothing for {', '.join(files)}")
    return dataset, report, corpora, notes


@contextmanager
def _bar(stage: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """A progress bar for a stage that takes more than a second, on a terminal."""
    with tqdm(desc=stage, total=total, unit=unit, unit_scale=True, delay=1, leave=False, disable=None) as bar:
        yield bar.update


def schema_notes(corpora: list[Corpus]) -> list[str]:
    """Say which schemas are derived from the records."""
    derived = [(corpus, len(TASKS[corpus.task].labels(corpus.schema))) for corpus in corpora if corpus.derived]
    return [
        f"Schema of {corpus.task} {corpus.source} ({corpus.language}): the {number} labels of its records."
        for corpus, number in derived
    ]


def hard_negative_notes(config: IEPileConfig, corpora: list[Corpus]) -> list[str]:
    """Say how many hard negatives each corpus has, and where they are from."""
    notes = []
    for corpus in corpora:
        table, origin = config.find_hard_negatives(corpus)
        number = sum(map(len, table.values()))
        notes.append(f"Hard negatives of {corpus.task} {corpus.source} ({corpus.language}): {number}, {origin}.")
    return notes


def length_notes(report: list[dict[str, Any]], max_length: int) -> list[str]:
    """Tell in a sentence how many instances of each split were too long."""
    notes = []
    for split in dict.fromkeys(of["split"] for of in report):
        more, too_long = (sum(of[name] for of in report if of["split"] == split) for name in (TO_FIT, TOO_LONG))
        notes.append(
            f"{split}: {more} instances more, to stay within {max_length} tokens; {too_long} are too long with a "
            f"single label, and {'dropped' if split == 'train' else 'kept'}."
        )
    return notes


def write_jsonl(dataset: datasets.DatasetDict, folder: Path, update: Callable[[int], object]) -> None:
    """Write `{split}.jsonl`; a line leaves out the fields that an instance does not have."""
    for split, rows in dataset.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for table in rows.with_format("arrow").iter(1000):
                for row in table.to_pylist():
                    file.write(to_json({name: value for name, value in row.items() if value is not None}) + "\n")
                update(len(table))


def write_parquet(
    dataset: datasets.DatasetDict, counts: Counts, folder: Path, update: Callable[[int], object]
) -> None:
    """Write `data/{task}-{language}/{split}-*.parquet`."""
    for split, rows in dataset.items():
        columns = rows.data.table
        for task, language in dict.fromkeys((task, language) for task, language, _ in counts[split]):
            wanted = pc.and_(pc.equal(columns["task"], task), pc.equal(columns["language"], language))
            part = rows.select(np.flatnonzero(wanted.to_numpy()))
            shards = rows.data.nbytes * len(part) // len(rows) // SHARD_BYTES + 1
            for index in range(shards):
                path = folder / "data" / f"{task}-{language}" / f"{split}-{index:05d}-of-{shards:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                shard = part.shard(shards, index, contiguous=True)
                shard.to_parquet(path)
                update(len(shard))
