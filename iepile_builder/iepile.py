"""
Build instruction instances from folders of annotated corpora: the builder for `datasets`.

    import iepile_builder
    from datasets import load_dataset

    dataset = load_dataset("iepile", data_dir="corpora", tasks=["NER", "RE"])
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.iterable_dataset import ArrowExamplesIterable

from iepile_builder.data.batching import COLUMNS, SchemaBatching, negative_ranks
from iepile_builder.data.corpus import SPLIT_FILES, Corpus
from iepile_builder.data.index import (
    TEXT,
    Index,
    Shard,
    collector_off,
    hash64,
    index_split,
    leave_out_evaluation_texts,
    read_shard,
    to_shards,
)
from iepile_builder.data.instructions import corpus_descriptions, load_descriptions
from iepile_builder.data.lengths import FitLength, load_tokenizer
from iepile_builder.data.options import IEPileConfig as IEPileConfig
from iepile_builder.data.sampling import CAPS, EXAMPLES, draws
from iepile_builder.errors import InputError
from iepile_builder.io import to_json
from iepile_builder.tasks import TASKS


SOURCE_HASH = sha256(Path(__file__).read_bytes()).hexdigest()
REPORT = "report.json"  # of what was read and left out, beside the data in the cache
LENGTHS = "lengths.jsonl"  # of each shard, what was too long, beside it
TO_FIT, TOO_LONG = "more instances, to fit", "too long"  # names in a report
EXAMPLE_POOL = 64


class IEPile(datasets.ArrowBasedBuilder):
    """
    Build instances in the splits train, validation and test. Their columns are strings: `id`, `task`, `source`,
    `language`, `instruction`, `output` and `label`; `output` and `label` are `None` for text without annotation.

    Format and method: IEPile (https://huggingface.co/papers/2402.14710,
    https://huggingface.co/datasets/zjunlp/iepile).

        builder = IEPile(data_dir="corpora", tasks=["NER"], negatives="hard")
        dataset = builder.as_dataset()
    """

    VERSION = datasets.Version("1.1.0")
    BUILDER_CONFIG_CLASS = IEPileConfig
    BUILDER_CONFIGS = [IEPileConfig(name=name, version="1.1.0") for name in ("default", *TASKS)]
    DEFAULT_CONFIG_NAME = "default"

    def __init__(self, *args: Any, hash: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, hash=hash or SOURCE_HASH, **kwargs)  # the cache folder that load_dataset takes

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Schema-based information extraction as instructions, with hard-negative schema batching.",
            features=datasets.Features({column: datasets.Value("string") for column in COLUMNS}),
            homepage="https://huggingface.co/papers/2402.14710",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        config = self.config
        descriptions = load_descriptions(config.descriptions) if config.descriptions is not None else {}
        corpora = config.find_corpora()
        if config.tokenizer is not None:
            load_tokenizer(config.tokenizer)  # or an error before the work begins
        splits = config.splits or list(SPLIT_FILES)
        needed = SPLIT_FILES if config.drop_evaluation_texts else {*splits, "train"} if config.num_examples else splits
        indices = {
            (corpus, split): index_split(corpus, split, config, dl_manager.download_config.num_proc)
            for corpus in corpora
            for split in needed
        }
        if config.drop_evaluation_texts:
            leave_out_evaluation_texts(indices)
        for (corpus, split), index in indices.items():
            if split == "train" and config.max_records_per_label is not None:
                indices[corpus, split] = cap_labels(corpus, index, config, config.max_records_per_label)
        weights = config.weights(
            {corpus: len(indices[corpus, "train"].rows) for corpus in corpora if "train" in splits}
        )
        generators, report = [], []
        for split in splits:
            shards, batchings = [], []
            for corpus in corpora:
                index = indices[corpus, split]
                described = corpus_descriptions(descriptions, corpus.task, corpus.source)
                batching = replace(config.batching(corpus, split), descriptions=described)
                if config.num_examples:
                    batching = replace(batching, examples=draw_examples(corpus, indices[corpus, "train"], config))
                weight = weights[corpus] if split == "train" else 1.0
                of_corpus = to_shards(corpus, split, index, weight, f"{config.seed} {config.epoch}", config.on_error)
                if split == "train" and config.max_negatives_per_positive is not None:
                    epochs = [config.epoch]
                    if dl_manager.is_streaming:  # goes on to the later negatives of a schedule
                        epochs += range(config.epoch + 1, len(config.negatives_schedule or ()))
                    limits = {
                        epoch: max_negative_rank(
                            of_corpus, replace(batching, epoch=epoch), config.max_negatives_per_positive
                        )
                        for epoch in epochs
                    }
                    batching = replace(batching, max_negative_ranks=limits)
                shards += of_corpus
                batchings += [replace(batching, repetition=shard.repetition) for shard in of_corpus]
                counts = {"given": sum(len(shard.offsets) for shard in of_corpus), **index.report}
                report.append({**corpus.names(), "split": split, **counts})
            if shards:
                gen_kwargs = {"shards": shards, "batchings": batchings}
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs=gen_kwargs))
        if not generators:
            raise InputError(f"no records in {', '.join(str(corpus.path) for corpus in corpora)}")
        if os.path.isdir(self._output_dir):  # there is none when streaming
            Path(self._output_dir, REPORT).write_text(json.dumps(report, ensure_ascii=False, indent=1))
        return generators

    def _generate_tables(self, shards: list[Shard], batchings: list[SchemaBatching]) -> Iterator[tuple[int, pa.Table]]:
        schema = self.info.features.arrow_schema
        for index, (shard, batching) in enumerate(zip(shards, batchings, strict=True)):
            with collector_off():
                columns = batching(read_columns(shard))
            table = pa.table(columns, schema=schema)
            if self.config.max_length is not None and len(table):
                fitted = pa.table(FitLength(self.config.tokenizer, self.config.max_length)(columns))
                table, fits = fitted.select(COLUMNS).cast(schema), fitted["fits"]
                self.note_lengths(shard, len(table) - len(columns["id"]), pc.sum(pc.invert(fits)).as_py())
                table = table.filter(fits) if shard.split == "train" else table
            if len(table):
                yield index, table

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, bool, Any]]:
        """Raise the error of `_generate_tables` itself: `datasets` hides it behind one of its own."""
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            if isinstance(error.__cause__, OSError):  # a full disk, and the like
                place = error.__cause__.filename or self._cache_dir_root
                raise InputError(f"{place}: {error.__cause__.strerror}") from error
            raise

    def note_lengths(self, shard: Shard, more: int, too_long: int) -> None:
        """Record the number of too long instances of a shard; all processes of a build write to one file."""
        if os.path.isdir(self._output_dir):  # there is none when streaming
            place = [shard.repetition, int(shard.offsets[0])]
            line = [[*shard.corpus.names().values(), shard.split], place, {TO_FIT: more, TOO_LONG: too_long}]
            with Path(self._output_dir, LENGTHS).open("a", encoding="utf-8") as file:
                file.write(to_json(line) + "\n")

    def set_epoch(self, epoch: int) -> None:
        """
        Draw new negatives and orders from now on, in builds and streams:

            for epoch in range(3):
                builder.set_epoch(epoch)
                rows = builder.as_dataset(split="train")
        """
        self.config.epoch = epoch
        self.config_id = self.config.create_config_id({})
        self._cache_dir = self._output_dir = self._build_cache_dir()

    def report(self) -> list[dict[str, Any]]:
        """Count what was read and left out of each corpus and split, after `download_and_prepare`."""
        report: list[dict[str, Any]] = json.loads(Path(self._output_dir, REPORT).read_text())
        if self.config.max_length is not None:
            # a resumed build may have a shard twice
            lines = map(json.loads, Path(self._output_dir, LENGTHS).read_bytes().splitlines())
            counts = {(tuple(names), tuple(place)): of_shard for names, place, of_shard in lines}
            for of_split in report:
                names = tuple(of_split[name] for name in ("task", "language", "source", "split"))
                of_shards = [of_shard for (shard_names, _), of_shard in counts.items() if shard_names == names]
                of_split |= {reason: sum(of[reason] for of in of_shards) for reason in (TO_FIT, TOO_LONG)}
        return report

    def _get_examples_iterable_for_split(self, *args: Any, **kwargs: Any) -> ArrowExamplesIterable:
        iterable = super()._get_examples_iterable_for_split(*args, **kwargs)
        return InstanceIterable(iterable.generate_tables_fn, iterable.kwargs)

    def _as_streaming_dataset_single(self, *args: Any, **kwargs: Any) -> datasets.IterableDataset:
        stream = super()._as_streaming_dataset_single(*args, **kwargs)
        if not hasattr(datasets.iterable_dataset, "shift_ex_examples_rngs"):
            stream.__class__ = OneEpochStream
        return stream

    def as_dataset(self, *args: Any, **kwargs: Any) -> datasets.Dataset | datasets.DatasetDict:
        """Load the dataset as `datasets` does, and build it first if needed."""
        if not os.path.exists(self._output_dir):
            self.download_and_prepare()
        for split in self.info.splits.values():
            if not split.num_examples:
                raise InputError(
                    f"no instances for {split.name}: its records have none, or all are longer than max_length; leave "
                    "the split out, see splits, or change this"
                )
        return super().as_dataset(*args, **kwargs)


class InstanceIterable(ArrowExamplesIterable):
    """
    What a stream of instances, and all that `map`, `shuffle` or `interleave_datasets` make of it, reads from: their
    `set_epoch(n)` draws the negatives and orders of n epochs after the builder's.

        stream = load_dataset("iepile", data_dir="corpora", split="train", streaming=True).shuffle(seed=0)
        for epoch in range(3):
            stream.set_epoch(epoch)
            for instance in stream: ...
    """

    def shift_rngs(self, value: int) -> "InstanceIterable":
        """Draw as this many epochs later: `datasets` calls it with the epoch."""
        later = [replace(batching, epoch=batching.epoch + value) for batching in self.kwargs["batchings"]]
        return InstanceIterable(self.generate_tables_fn, {**self.kwargs, "batchings": later})

    def shuffle_data_sources(self, *args: Any, **kwargs: Any) -> "InstanceIterable":
        return InstanceIterable(self.generate_tables_fn, super().shuffle_data_sources(*args, **kwargs).kwargs)

    def shard_data_sources(self, *args: Any, **kwargs: Any) -> ArrowExamplesIterable:
        sharded = super().shard_data_sources(*args, **kwargs)
        worker = "torch" in sys.modules and sys.modules["torch"].utils.data.get_worker_info()
        # A worker of a DataLoader, which has set the epoch by now, shifts by its own number.
        return sharded if worker else InstanceIterable(self.generate_tables_fn, sharded.kwargs)


class OneEpochStream(datasets.IterableDataset):
    """A stream under a version of `datasets` that keeps the epoch of a stream from what it reads."""

    def set_epoch(self, epoch: int) -> None:
        """Raise an error: the instances would not be drawn anew."""
        raise InputError(
            f"set_epoch: the streams of datasets {datasets.__version__} cannot draw new negatives: use datasets>=4.7, "
            f"or load the stream of each epoch with load_dataset(..., epoch={epoch})"
        )


def read_columns(shard: Shard) -> dict[str, list]:
    """Read the records of a shard as columns."""
    records = list(read_shard(shard))
    return {column: [record[column] for record in records] for column in records[0]}


def max_negative_rank(shards: list[Shard], batching: SchemaBatching, per_positive: float) -> int:
    """Find the highest rank to keep for `per_positive` purely negative instances per other one."""
    drawn, others = [], 0
    for shard in shards:
        columns = read_columns(shard)
        found = batching.find(columns[TASKS[batching.task].field])
        seeds = replace(batching, repetition=shard.repetition).seeds(columns["text"], found)
        for ranks in negative_ranks(found, batching.batches(found, seeds), seeds):
            drawn += [rank for rank in ranks if rank >= 0]
            others += ranks.count(-1)
    kept = int(per_positive * others)
    return sorted(drawn)[min(kept, len(drawn)) - 1] if kept and drawn else -1


def cap_labels(corpus: Corpus, index: Index, config: IEPileConfig, limit: int) -> Index:
    """Leave out training records whose labels all have `limit` records already, in random order."""
    batching = config.batching(corpus, "train")
    shards = to_shards(corpus, "train", index, on_error=config.on_error)
    records = [record[TASKS[corpus.task].field] for shard in shards for record in read_shard(shard)]
    labels = [tuple(of_record.by_label) or (-1,) for of_record in batching.find(records)]
    seeds = index.rows[:, TEXT] ^ np.uint64(hash64(f"{config.seed} {config.epoch}"))
    counts: Counter[int] = Counter()
    kept = np.zeros(len(labels), dtype=bool)
    for number in np.argsort(draws(seeds, CAPS, 1)[:, 0], kind="stable").tolist():
        if any(counts[label] < limit for label in labels[number]):
            counts.update(labels[number])
            kept[number] = True
    return index.keep(kept, "records whose labels have max_records_per_label already")


def draw_examples(corpus: Corpus, index: Index, config: IEPileConfig) -> tuple[tuple[str, str], ...]:
    """Draw the training records that instructions may show as examples."""
    seeds = index.rows[:, TEXT] ^ np.uint64(hash64(f"{config.seed}"))
    order = np.argsort(draws(seeds, EXAMPLES, 1)[:, 0])
    few = index._replace(rows=index.rows[order[:EXAMPLE_POOL]])
    field = TASKS[corpus.task].field
    shards = to_shards(corpus, "train", few, on_error=config.on_error)
    records = [record for shard in shards for record in read_shard(shard)]
    return tuple((record["text"], to_json(record[field])) for record in records if record[field])


def register() -> None:
    """
    Make `load_dataset("iepile", data_dir=...)` work.

    `datasets` has no public way to add a builder by name, so this is the one place that uses its private table.
    """
    datasets.packaged_modules._PACKAGED_DATASETS_MODULES["iepile"] = (__name__, SOURCE_HASH)
