"""
Build instruction instances from annotated corpora.

    python scripts/build_dataset.py --corpus_dir iepile_builder/resources/sample_corpus --output_dir outputs/sample

`--corpus_dir` is one corpus folder (`train.json`, `dev.json`, `test.json` and `schema.json`) or a tree of them,
`{IE-en,IE-zh}/{TASK}/{corpus}`. `--format jsonl` writes `{train,validation,test}.jsonl`; `--format parquet` writes a
folder that `load_dataset` opens and `--push_to_hub` pushes: a config for each task, for each task and language, and a
default one of all, with a dataset card. A build that was killed goes on with the split at which it was, when the same
command is given again.
"""

import shlex
import shutil
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets.utils import tqdm
from jsonargparse import ArgumentParser, Namespace

from iepile_builder import IEPile, IEPileConfig, InputError
from iepile_builder.data.corpus import SPLIT_FILES, Corpus
from iepile_builder.data.output import end_children_with_us, replace_folder
from iepile_builder.data.readers import read_conll, read_instances
from iepile_builder.data.statistics import count_instances, look_into, plot
from iepile_builder.hub.cards import dataset_card
from iepile_builder.iepile import TO_FIT, TOO_LONG
from iepile_builder.io import check_file, to_json, write_whole


OPTIONS = {field.name for field in fields(IEPileConfig)}
READERS = {"instances": read_instances, "conll": read_conll}
NO_REASONS = {"task", "language", "source", "split", "records", "given", TO_FIT, TOO_LONG}  # not why one is left out
SHARD_BYTES = 500_000_000


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--corpus_dir", type=str, nargs="+", required=True, help="a corpus folder or a tree of them")
    parser.add_argument("--tasks", type=str, nargs="+", help="of NER RE SPO EE EET EEA KG; default: each folder's own")
    parser.add_argument("--languages", type=str, nargs="+", help="of en zh; default: both")
    parser.add_argument("--corpora", type=str, nargs="+", help="names of corpora; default: all")
    parser.add_argument("--splits", type=str, nargs="+", help="of train validation test; default: all")
    parser.add_argument(
        "--negatives", type=str, default="hard", help="hard, random, all, ratio: what train asks besides"
    )
    parser.add_argument("--negative_ratio", type=float, default=1.0, help="share of negatives with --negatives ratio")
    parser.add_argument("--num_random", type=int, help="labels at random with --negatives hard; default: split_num")
    parser.add_argument("--hard_negatives", type=str, help="dictionary in JSON; default: the published one")
    parser.add_argument("--max_negatives_per_positive", type=float, help="cap on purely negative train instances")
    parser.add_argument("--split_num", type=int, help="labels in one instruction, -1 for all; default: by task")
    parser.add_argument("--schema_order", type=str, default="random", help="random or sorted, for train")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--epoch", type=int, default=0, help="another epoch draws other negatives")
    parser.add_argument("--num_proc", type=int, help="number of processes")
    parser.add_argument("--max_records", type=int, help="the first so many of each corpus and split")
    parser.add_argument("--held_out_labels", type=dict[str, list[str]], help="corpus to labels that only test asks")
    parser.add_argument("--descriptions", type=str, help="JSON with label descriptions, to stand in the instruction")
    parser.add_argument("--num_examples", type=int, default=0, help="training records that an instruction shows")
    parser.add_argument("--corpus_weights", type=dict[str, float], help="how often each corpus is given to train")
    parser.add_argument("--language_weights", type=dict[str, float], help="how often each language is given to train")
    parser.add_argument("--max_length", type=int, help="in tokens; longer instances are split, then dropped")
    parser.add_argument("--tokenizer", type=str, help="name or folder of the tokenizer that counts them")
    parser.add_argument("--on_error", type=str, default="raise", help="raise, skip or fix, at unusable annotation")
    parser.add_argument("--clean", action="store_true", help="leave out texts that are no language")
    parser.add_argument("--deduplicate", type=str, default="none", help="none, exact or near, for train")
    parser.add_argument(
        "--drop_evaluation_texts", action="store_true", help="leave texts of dev and test out of train"
    )
    parser.add_argument("--report_file", type=Path, help="JSON lines: what was read and left out, and why")
    parser.add_argument(
        "--input_format", choices=["unified", *READERS], default="unified", help="what the files of the corpora are"
    )
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--statistics", action="store_true", help="plots in the dataset card, with --format parquet")
    parser.add_argument("--licenses", type=dict[str, str], default={}, help="corpus to licence, for the dataset card")
    parser.add_argument("--push_to_hub", type=str, help="id of a dataset repository, with --format parquet")
    parser.add_argument("--public", action="store_true", help="make a new repository public, not private")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")
    args = parser.parse_args()

    output_dir = args.output_dir
    if args.push_to_hub is not None and args.format != "parquet":
        raise InputError("--push_to_hub needs --format parquet")
    options = {name: value for name, value in vars(args).items() if name in OPTIONS}
    IEPileConfig(**options).check()

    if args.report_file is not None:
        check_file(args.report_file)

    # Splits that a killed build has finished are in the cache, from which the next one takes them.
    end_children_with_us()
    with replace_folder(output_dir, "build", args.overwrite, args.corpus_dir) as new:
        dataset, report, corpora = build_splits(args, options, new.parent)
        notes = length_notes(report, args.max_length) if args.max_length is not None else []
        counts = {split: count_instances(rows) for split, rows in dataset.items()}
        if args.format == "jsonl":
            write_jsonl(dataset, new)
        else:
            write_parquet(dataset, counts, new)
            plots = []
            if args.statistics:
                (new / "statistics").mkdir()
                plots = plot(look_into(next(iter(dataset.values()))), new / "statistics")
            command = shlex.join(["python", *sys.argv]).replace(str(Path.home()), "~")
            name = args.push_to_hub or output_dir.name
            example = next(iter(dataset.values()))[0]
            card = dataset_card(corpora, counts, report, command, args.licenses, name, notes, plots, example)
            card.save(new / "README.md")
        if args.report_file is not None:
            write_whole(args.report_file, "".join(to_json(of_split) + "\n" for of_split in report))

    for split, of_split in counts.items():
        by_task: Counter[str] = Counter()
        for (task, _, _), count in sorted(of_split.items()):  # in any order from several processes
            by_task[task] += count
        tasks = ", ".join(f"{task} {count}" for task, count in by_task.items())
        print(f"{split}: {of_split.total()} instances ({tasks})")
    reasons = sum((Counter({name: of[name] for name in of.keys() - NO_REASONS}) for of in report), Counter())
    for reason, count in sorted(reasons.items()):
        print(f"{reason}: {count}")
    for note in notes:
        print(note)
    print(f"written to {output_dir}")
    if args.push_to_hub is not None:
        from iepile_builder.hub.push import push_dataset

        push_dataset(output_dir, args.push_to_hub, args.public)


def build_splits(
    args: Namespace, options: dict[str, Any], work: Path
) -> tuple[datasets.DatasetDict, list[dict[str, Any]], list[Corpus]]:
    """Build one split after the other, so that those which a killed build had finished are not built again."""
    corpus_dirs = args.corpus_dir
    if args.input_format != "unified":
        corpus_dirs = [str(work / "unified")]
        shutil.rmtree(work / "unified", ignore_errors=True)
        READERS[args.input_format](args.corpus_dir, work / "unified", args.languages)
    config = IEPileConfig(corpus_dirs=corpus_dirs, **options)
    config.check()
    corpora = config.find_corpora()
    dataset, report = datasets.DatasetDict(), []
    for split in args.splits or SPLIT_FILES:
        if any(corpus.file(split).exists() for corpus in corpora):
            builder = IEPile(corpus_dirs=corpus_dirs, cache_dir=str(work / "cache"), **{**options, "splits": [split]})
            builder.download_and_prepare(num_proc=args.num_proc)
            dataset[split] = builder.as_dataset(split=split)
            report += builder.report()
    if not dataset:
        raise InputError(f"{', '.join(args.corpus_dir)}: nothing for {', '.join(args.splits or SPLIT_FILES)}")
    return dataset, report, corpora


def length_notes(report: list[dict[str, Any]], max_length: int) -> list[str]:
    """A sentence on the instances of each split that were too long."""
    notes = []
    for split in dict.fromkeys(of["split"] for of in report):
        more, too_long = (sum(of[name] for of in report if of["split"] == split) for name in (TO_FIT, TOO_LONG))
        notes.append(
            f"{split}: {more} instances more, to stay within {max_length} tokens; {too_long} are too long with a "
            f"single label, and {'dropped' if split == 'train' else 'kept'}."
        )
    return notes


def write_jsonl(dataset: datasets.DatasetDict, folder: Path) -> None:
    """Write `{split}.jsonl`; what an instance has not is left out of its line."""
    for split, rows in dataset.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for table in tqdm(rows.with_format("arrow").iter(1000), desc=f"Writing {split}", unit="k"):
                for row in table.to_pylist():
                    file.write(to_json({name: value for name, value in row.items() if value is not None}) + "\n")


def write_parquet(
    dataset: datasets.DatasetDict, counts: dict[str, Counter[tuple[str, str, str]]], folder: Path
) -> None:
    """Write `data/{task}-{language}/{split}-*.parquet`."""
    datasets.disable_progress_bars()  # one for each file
    for split, rows in dataset.items():
        columns = rows.data.table
        for task, language in dict.fromkeys((task, language) for task, language, _ in counts[split]):
            wanted = pc.and_(pc.equal(columns["task"], task), pc.equal(columns["language"], language))
            part = rows.select(np.flatnonzero(wanted.to_numpy()))
            shards = part.data.nbytes * len(part) // len(rows) // SHARD_BYTES + 1
            for index in range(shards):
                path = folder / "data" / f"{task}-{language}" / f"{split}-{index:05d}-of-{shards:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                part.shard(shards, index, contiguous=True).to_parquet(path)
    datasets.enable_progress_bars()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
