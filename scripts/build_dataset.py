"""
Build instruction instances from annotated corpora.

    python scripts/build_dataset.py --corpus_dir iepile_builder/sample_corpus --tasks NER RE EE --output_dir
    outputs/sample

`--corpus_dir` is one corpus folder (`train.json`, `dev.json`, `test.json` and `schema.json`) or a tree of them,
`{IE-en,IE-zh}/{TASK}/{corpus}`. `--format jsonl` writes `{train,validation,test}.jsonl`; `--format parquet` writes a
folder that `load_dataset` opens, with a config for each task and a default one of all.
"""

import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import fields
from pathlib import Path

import datasets
import numpy as np
from datasets.utils import tqdm
from huggingface_hub import DatasetCard, DatasetCardData
from jsonargparse import ArgumentParser

from iepile_builder import IEPile, IEPileConfig, InputError
from iepile_builder.instructions import to_json


OPTIONS = {field.name for field in fields(IEPileConfig)}
SHARD_BYTES = 500_000_000


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--corpus_dir", type=str, nargs="+", required=True, help="a corpus folder or a tree of them")
    parser.add_argument("--tasks", type=str, nargs="+", help="of NER RE SPO EE EET EEA KG; default: each folder's own")
    parser.add_argument("--languages", type=str, nargs="+", help="of en zh; default: both")
    parser.add_argument("--corpora", type=str, nargs="+", help="names of corpora; default: all")
    parser.add_argument("--splits", type=str, nargs="+", help="of train validation test; default: all")
    parser.add_argument("--negatives", type=str, default="hard", help="hard, all or ratio: what train asks besides")
    parser.add_argument("--negative_ratio", type=float, default=1.0, help="share of negatives with --negatives ratio")
    parser.add_argument("--hard_negatives", type=str, help="dictionary in JSON; default: the published one")
    parser.add_argument("--max_negatives_per_positive", type=float, help="cap on purely negative train instances")
    parser.add_argument("--split_num", type=int, help="labels in one instruction, -1 for all; default: by task")
    parser.add_argument("--schema_order", type=str, default="random", help="random or sorted, for train")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--epoch", type=int, default=0, help="another epoch draws other negatives")
    parser.add_argument("--num_proc", type=int, help="number of processes")
    parser.add_argument("--max_records", type=int, help="the first so many of each corpus and split")
    parser.add_argument("--on_error", type=str, default="raise", help="raise or skip, at a record that cannot be used")
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")
    args = parser.parse_args()

    output_dir = args.output_dir
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir}: not a folder")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not args.overwrite:
        raise InputError(f"{output_dir}: not empty; give another folder or --overwrite")
    options = {name: value for name, value in vars(args).items() if name in OPTIONS}

    # everything is made beside the output folder and moved there when it is whole
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as temporary:
        builder = IEPile(corpus_dirs=args.corpus_dir, cache_dir=f"{temporary}/cache", **options)
        builder.download_and_prepare(num_proc=args.num_proc)
        dataset = builder.as_dataset()
        whole = Path(temporary) / "whole"
        whole.mkdir()
        if args.format == "jsonl":
            write_jsonl(dataset, whole)
        else:
            write_parquet(dataset, whole)
        if output_dir.exists():
            shutil.rmtree(output_dir)
        whole.replace(output_dir)

    for split, rows in dataset.items():
        counts = Counter(rows["task"])
        print(f"{split}: {len(rows)} instances ({', '.join(f'{task} {count}' for task, count in counts.items())})")
    print(f"written to {output_dir}")


def write_jsonl(dataset: datasets.DatasetDict, folder: Path) -> None:
    """Write `{split}.jsonl`; what an instance has not is left out of its line."""
    for split, rows in dataset.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for table in tqdm(rows.with_format("arrow").iter(1000), desc=f"Writing {split}", unit="k"):
                for row in table.to_pylist():
                    file.write(to_json({name: value for name, value in row.items() if value is not None}) + "\n")


def write_parquet(dataset: datasets.DatasetDict, folder: Path) -> None:
    """Write `data/{task}/{split}-*.parquet`, and the configs of a dataset repository in README.md."""
    splits: dict[str, list[str]] = {}
    for split, rows in dataset.items():
        tasks = np.array(rows["task"])
        for task in dict.fromkeys(rows["task"]):
            splits.setdefault(task, []).append(split)
            of_task = rows.select(np.flatnonzero(tasks == task))
            shards = of_task.data.nbytes // SHARD_BYTES + 1
            for index in range(shards):
                path = folder / "data" / task / f"{split}-{index:05d}-of-{shards:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                of_task.shard(shards, index, contiguous=True).to_parquet(path)
    configs = [{"config_name": "default", "data_files": data_files(list(dataset), "*"), "default": True}]
    configs += [{"config_name": task, "data_files": data_files(splits[task], task)} for task in splits]
    DatasetCard(f"---\n{DatasetCardData(configs=configs)}\n---\n").save(folder / "README.md")


def data_files(splits: list[str], task: str) -> list[dict[str, str]]:
    """The files of each split of a config."""
    return [{"split": split, "path": f"data/{task}/{split}-*.parquet"} for split in splits]


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
