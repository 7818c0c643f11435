"""
The `datasets` builder: folders of annotated corpora to instruction instances.

    import iepile_builder
    from datasets import load_dataset

    dataset = load_dataset("iepile", data_dir="corpora", tasks=["NER", "RE"])
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iepile_builder.data.batching import COLUMNS, SchemaBatching, negative_ranks
from iepile_builder.data.cleaning import Cleaning
from iepile_builder.data.corpus import SPLIT_FILES, Corpus, check_choices, find_corpora
from iepile_builder.data.hard_negatives import PUBLISHED, corpus_hard_negatives, load_hard_negatives
from iepile_builder.data.index import (
    TEXT,
    Index,
    Shard,
    collector_off,
    index_split,
    leave_out_evaluation_texts,
    read_shard,
    to_shards,
)
from iepile_builder.data.instructions import LANGUAGES, corpus_descriptions, load_descriptions
from iepile_builder.data.lengths import FitLength, load_tokenizer
from iepile_builder.data.sampling import draws
from iepile_builder.errors import InputError
from iepile_builder.io import hash_file, to_json
from iepile_builder.tasks import TASKS


SOURCE_HASH = sha256(Path(__file__).read_bytes()).hexdigest()
REPORT = "report.json"  # of what was read and left out, beside the data in the cache
LENGTHS = "lengths.jsonl"  # of each shard, what was too long, beside it
TO_FIT, TOO_LONG = "more instances, to fit", "too long"  # names in a report
TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt")
EXAMPLE_POOL = 64
PACKAGE = Path(str(files("iepile_builder")))
MAKERS = ("*.py", "data/*.py", "tasks/*.py", "resources/instructions.json")  # on which instances depend


@dataclass
class IEPileConfig(datasets.BuilderConfig):
    """
    What to build. `data_dir` is a folder of corpora: one corpus, or a tree `{IE-en,IE-zh}/{TASK}/{corpus}`.

    Args:
        corpus_dirs (`list[str]`, *optional*):
            Further folders of corpora.
        tasks (`list[str]`, *optional*):
            The tasks that are wanted. By default each folder's own; EE folders also serve `"EET"` and `"EEA"`, RE
            folders with typed triples `"SPO"`, when these are asked for.
        languages (`list[str]`, *optional*):
            The languages that are wanted, of `"en"` and `"zh"`.
        corpora (`list[str]`, *optional*):
            Names of the corpora that are wanted.
        splits (`list[str]`, *optional*):
            The splits that are wanted, of `"train"`, `"validation"` and `"test"`.
        negatives (`str`, *optional*, defaults to `"hard"`):
            Which labels a training record is asked for besides its own: `"hard"`, `"random"`, `"all"` or `"ratio"`,
            see [`SchemaBatching`]. Validation and test records are asked for all labels.
        negative_ratio (`float`, *optional*, defaults to 1.0):
            For `negatives="ratio"`, the probability of each negative label.
        num_random (`int`, *optional*):
            For `negatives="hard"` and `"random"`, the labels drawn at random besides the hard negatives; -1 for all.
            By default as many as `split_num`.
        hard_negatives (`str`, *optional*):
            A hard-negative dictionary in JSON, nested or flat; by default the published one.
        split_num (`int` or `dict[str, int]`, *optional*):
            Labels in one instruction, for all tasks or by task; -1 for all in one. By default 6 for NER, 1 for KG,
            else 4.
        schema_order (`str`, *optional*, defaults to `"random"`):
            Order of the labels and roles of training instances, `"random"` or `"sorted"`.
        max_negatives_per_positive (`float`, *optional*):
            Keep at most so many purely negative training instances per instance with an answer, in each corpus.
        held_out_labels (`dict[str, list[str]]`, *optional*):
            Corpus to labels that training and validation never see; the test split of such a corpus asks them alone.
        descriptions (`str`, *optional*):
            A JSON file like the hard-negative dictionary, with descriptions in place of lists, see
            [`load_descriptions`]: they stand in the `schema` of an instruction.
        num_examples (`int`, *optional*, defaults to 0):
            How many training records every instruction shows as examples.
        corpus_weights (`dict[str, float]`, *optional*):
            How often the training records of a corpus are given, each time with another draw; 0.1 gives every tenth.
        language_weights (`dict[str, float]`, *optional*):
            The same for a language; both are multiplied.
        max_records (`int`, *optional*):
            The first so many records of each corpus and split only.
        max_length (`int`, *optional*):
            The most tokens of an instance, in the tokenizer's chat template: a longer one is split into instances that
            ask for fewer labels each. One that is too long with a single label is left out of the training split, kept
            in the others, so that a score stays that of the whole split, and counted in [`IEPile.report`].
        tokenizer (`str`, *optional*):
            Name or folder of the tokenizer that counts.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves unusable records out and says how many; `"fix"` leaves out their annotations that cannot be
            used, and those that are not in the text.
        clean (`bool`, *optional*, defaults to `False`):
            Leave out texts that are no language; see [`is_noise`].
        deduplicate (`str`, *optional*, defaults to `"none"`):
            `"exact"` leaves out training records that repeat another one of their corpus in text and annotation,
            `"near"` also those that repeat most of a text.
        drop_evaluation_texts (`bool`, *optional*, defaults to `False`):
            Leave out training records whose text is in a validation or test split of any of the corpora.
        seed (`int`, *optional*, defaults to 42):
            Another seed gives another draw of negatives and orders.
        epoch (`int`, *optional*, defaults to 0):
            Another epoch gives another draw, see [`IEPile.set_epoch`].
    """

    corpus_dirs: list[str] | None = None
    tasks: list[str] | None = None
    languages: list[str] | None = None
    corpora: list[str] | None = None
    splits: list[str] | None = None
    negatives: str = "hard"
    negative_ratio: float = 1.0
    num_random: int | None = None
    hard_negatives: str | None = None
    split_num: int | dict[str, int] | None = None
    schema_order: str = "random"
    max_negatives_per_positive: float | None = None
    held_out_labels: dict[str, list[str]] | None = None
    descriptions: str | None = None
    num_examples: int = 0
    corpus_weights: dict[str, float] | None = None
    language_weights: dict[str, float] | None = None
    max_records: int | None = None
    max_length: int | None = None
    tokenizer: str | None = None
    on_error: str = "raise"
    clean: bool = False
    deduplicate: str = "none"
    drop_evaluation_texts: bool = False
    seed: int = 42
    epoch: int = 0

    def check(self) -> None:
        """Raise an `InputError` for a value that cannot be."""
        check_choices("task", self.tasks, TASKS)
        check_choices("split", self.splits, SPLIT_FILES)
        check_choices("negatives", [self.negatives], ("hard", "random", "all", "ratio"))
        check_choices("schema_order", [self.schema_order], ("random", "sorted"))
        check_choices("on_error", [self.on_error], ("raise", "skip", "fix"))
        check_choices("deduplicate", [self.deduplicate], ("none", "exact", "near"))
        check_choices("language", list(self.language_weights or ()), LANGUAGES)
        for name, weight in [*(self.corpus_weights or {}).items(), *(self.language_weights or {}).items()]:
            if weight < 0:
                raise InputError(f"the weight of {name} is {weight}; give 0 or more")
        if not 0 <= self.negative_ratio <= 1:
            raise InputError(f"negative_ratio is {self.negative_ratio}; give a number from 0 to 1")
        if self.num_random is not None and self.num_random < -1:
            raise InputError(f"num_random is {self.num_random}; give a number of labels, or -1 for all")
        least = {"num_examples": 0, "max_negatives_per_positive": 0, "max_records": 1, "max_length": 1}
        for name, number in least.items():
            value = getattr(self, name)
            if value is not None and value < number:
                raise InputError(f"{name} is {value}; give {number} or more")
        if (self.max_length is None) != (self.tokenizer is None):
            raise InputError("max_length and tokenizer need each other")
        if isinstance(self.split_num, dict):
            check_choices("task", list(self.split_num), TASKS)
        for split_num in self.split_num.values() if isinstance(self.split_num, dict) else [self.split_num]:
            if split_num is not None and split_num != -1 and split_num < 1:
                raise InputError(f"split_num is {split_num}; give a number of labels, or -1 for all in one")

    def find_corpora(self) -> list[Corpus]:
        """The corpora to build from."""
        corpus_dirs = ([self.data_dir] if self.data_dir else []) + (self.corpus_dirs or [])
        if not corpus_dirs:
            raise InputError("no corpora: give data_dir, a corpus folder or a tree of them")
        tasks = [self.name] if self.tasks is None and self.name in TASKS else self.tasks
        corpora = find_corpora(corpus_dirs, tasks, self.languages, self.corpora)
        sources = {corpus.source: corpus for corpus in corpora}
        check_choices("corpus", [*(self.corpus_weights or ()), *(self.held_out_labels or ())], sources)
        return corpora

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name of the cache folder: all that the instances depend on is in it, the contents of every file included."""
        self.check()
        key = sha256()
        for option in fields(self):
            if option.name not in ("data_dir", "data_files", "corpus_dirs", "hard_negatives", "descriptions"):
                key.update(f"{option.name}={getattr(self, option.name)!r}\n".encode())
        paths = [Path(self.hard_negatives or PUBLISHED)]
        paths += [path for pattern in MAKERS for path in sorted(PACKAGE.glob(pattern))]
        if self.descriptions is not None:
            paths.append(Path(self.descriptions))
        if self.tokenizer is not None and os.path.isdir(self.tokenizer):
            paths += [path for path in sorted(Path(self.tokenizer).iterdir()) if path.suffix in TOKENIZER_SUFFIXES]
        for corpus in self.find_corpora():
            key.update(f"{corpus.task} {corpus.language} {corpus.source}\n".encode())
            paths += [corpus.path / "schema.json", *(corpus.file(split) for split in SPLIT_FILES)]
        for path in paths:
            if path.exists():
                key.update(f"{path.name} {hash_file(path)}\n".encode())
        return f"{self.name}-{key.hexdigest()[:16]}"

    def batching(self, corpus: Corpus, split: str, hard_negatives: dict[str, Any]) -> SchemaBatching:
        """How the records of a corpus and split become instances."""
        batching = SchemaBatching(
            task=corpus.task,
            language=corpus.language,
            source=corpus.source,
            schema=corpus.schema,
            negatives=self.negatives,
            negative_ratio=self.negative_ratio,
            num_random=self.num_random,
            split_num=self.split_num.get(corpus.task) if isinstance(self.split_num, dict) else self.split_num,
            schema_order=self.schema_order,
            hard_negatives=corpus_hard_negatives(hard_negatives, corpus.task, corpus.source),
            seed=self.seed,
            epoch=self.epoch,
            labels=self.asked_labels(corpus, split),
            num_examples=self.num_examples,
        )
        return batching if split == "train" else replace(batching, negatives="all", schema_order="schema")

    def asked_labels(self, corpus: Corpus, split: str) -> tuple[str, ...] | None:
        """The labels that a split of a corpus may ask for, where some are held out."""
        held_out = (self.held_out_labels or {}).get(corpus.source)
        if held_out is None:
            return None
        labels = TASKS[corpus.task].labels(corpus.schema)
        check_choices(f"label of {corpus.source}", held_out, labels)
        return tuple(label for label in labels if (label in held_out) == (split == "test"))

    def weight(self, corpus: Corpus) -> float:
        """How often the training records of a corpus are given."""
        of_corpus = (self.corpus_weights or {}).get(corpus.source, 1.0)
        return of_corpus * (self.language_weights or {}).get(corpus.language, 1.0)


class IEPile(datasets.ArrowBasedBuilder):
    """
    Instances with the string columns `id`, `task`, `source`, `language`, `instruction`, `output` and `label`, in the
    splits train, validation and test; `output` and `label` are `None` for text without annotation.

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
        hard_negatives = load_hard_negatives(config.hard_negatives or PUBLISHED)
        descriptions = load_descriptions(config.descriptions) if config.descriptions is not None else {}
        corpora = config.find_corpora()
        if config.tokenizer is not None:
            load_tokenizer(config.tokenizer)  # or an error before the work begins
        splits = config.splits or list(SPLIT_FILES)
        cleaning = Cleaning(config.on_error, config.clean, config.deduplicate, config.drop_evaluation_texts)
        needed = SPLIT_FILES if config.drop_evaluation_texts else {*splits, "train"} if config.num_examples else splits
        indices = {
            (corpus, split): index_split(
                corpus, split, cleaning, config.max_records, dl_manager.download_config.num_proc
            )
            for corpus in corpora
            for split in needed
        }
        if config.drop_evaluation_texts:
            leave_out_evaluation_texts(indices)
        generators, report = [], []
        for split in splits:
            shards, batchings = [], []
            for corpus in corpora:
                index = indices[corpus, split]
                batching = config.batching(corpus, split, hard_negatives)
                batching = replace(
                    batching, descriptions=corpus_descriptions(descriptions, corpus.task, corpus.source)
                )
                if config.num_examples:
                    batching = replace(batching, examples=draw_examples(corpus, indices[corpus, "train"], config))
                weight = config.weight(corpus) if split == "train" else 1.0
                of_corpus = to_shards(corpus, split, index, weight, f"{config.seed} {config.epoch}", cleaning.on_error)
                if split == "train" and config.max_negatives_per_positive is not None:
                    limit = max_negative_rank(of_corpus, batching, config.max_negatives_per_positive)
                    batching = replace(batching, max_negative_rank=limit)
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
            if self.config.max_length is not None:
                fitted = pa.table(FitLength(self.config.tokenizer, self.config.max_length)(columns))
                table, fits = fitted.select(COLUMNS).cast(schema), fitted["fits"]
                self.note_lengths(shard, len(table) - len(columns["id"]), pc.sum(pc.invert(fits)).as_py())
                table = table.filter(fits) if shard.split == "train" else table
            if len(table):
                yield index, table

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, bool, Any]]:
        """As in `datasets`, which says of an error in `_generate_tables` only that there was one."""
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
        """Write down what was too long in a shard; the processes of a build write one file."""
        if os.path.isdir(self._output_dir):  # there is none when streaming
            place = [shard.repetition, int(shard.offsets[0])]
            line = [[*shard.corpus.names().values(), shard.split], place, {TO_FIT: more, TOO_LONG: too_long}]
            with Path(self._output_dir, LENGTHS).open("a", encoding="utf-8") as file:
                file.write(to_json(line) + "\n")

    def set_epoch(self, epoch: int) -> None:
        """
        Draw other negatives and orders in what is built or streamed from here on:

            for epoch in range(3):
                builder.set_epoch(epoch)
                rows = builder.as_dataset(split="train")
        """
        self.config.epoch = epoch
        self.config_id = self.config.create_config_id({})
        self._cache_dir = self._output_dir = self._build_cache_dir()

    def report(self) -> list[dict[str, Any]]:
        """What was read and left out of each corpus and split, after `download_and_prepare`."""
        report: list[dict[str, Any]] = json.loads(Path(self._output_dir, REPORT).read_text())
        if self.config.max_length is not None:
            # a shard stands twice where a build that was killed went on
            lines = map(json.loads, Path(self._output_dir, LENGTHS).read_text(encoding="utf-8").splitlines())
            counts = {(tuple(names), tuple(place)): of_shard for names, place, of_shard in lines}
            for of_split in report:
                names = tuple(of_split[name] for name in ("task", "language", "source", "split"))
                of_shards = [of_shard for (shard_names, _), of_shard in counts.items() if shard_names == names]
                of_split |= {reason: sum(of[reason] for of in of_shards) for reason in (TO_FIT, TOO_LONG)}
        return report

    def as_dataset(self, *args: Any, **kwargs: Any) -> datasets.Dataset | datasets.DatasetDict:
        """As in `datasets`, but builds the dataset first where that has not been done."""
        if not os.path.exists(self._output_dir):
            self.download_and_prepare()
        for split in self.info.splits.values():
            if not split.num_examples:
                raise InputError(
                    f"no instances for {split.name}: its records have none, or all are longer than max_length; leave "
                    "the split out, see splits, or change this"
                )
        return super().as_dataset(*args, **kwargs)


def read_columns(shard: Shard) -> dict[str, list]:
    """The records of a shard as columns."""
    records = list(read_shard(shard))
    return {column: [record[column] for record in records] for column in records[0]}


def max_negative_rank(shards: list[Shard], batching: SchemaBatching, per_positive: float) -> int:
    """The highest rank to keep for `per_positive` purely negative instances per other one."""
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


def draw_examples(corpus: Corpus, index: Index, config: IEPileConfig) -> tuple[tuple[str, str], ...]:
    """Training records that may be shown as examples."""
    order = np.argsort(draws(index.rows[:, TEXT], config.seed, 1)[:, 0])
    few = index._replace(rows=index.rows[order[:EXAMPLE_POOL]])
    field = TASKS[corpus.task].field
    records = [record for shard in to_shards(corpus, "train", few) for record in read_shard(shard)]
    return tuple((record["text"], to_json(record[field])) for record in records if record[field])


def register() -> None:
    """
    Make `load_dataset("iepile", data_dir=...)` work.

    `datasets` has no public way to add a builder by name, so this is the one place that uses its private table.
    """
    datasets.packaged_modules._PACKAGED_DATASETS_MODULES["iepile"] = (__name__, SOURCE_HASH)
