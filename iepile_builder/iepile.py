"""
The `datasets` builder: folders of annotated corpora to instruction instances.

    import iepile_builder
    from datasets import load_dataset

    dataset = load_dataset("iepile", data_dir="corpora", tasks=["NER", "RE"])
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from iepile_builder.batching import COLUMNS, SchemaBatching, is_negative, negative_rank
from iepile_builder.corpus import SPLIT_FILES, Corpus, Shard, check_choices, find_corpora, index_split, read_shard
from iepile_builder.errors import InputError
from iepile_builder.hard_negatives import PUBLISHED, corpus_hard_negatives, load_hard_negatives
from iepile_builder.tasks import TASKS


SOURCE_HASH = sha256(Path(__file__).read_bytes()).hexdigest()


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
            Which labels a training record is asked for besides its own: `"hard"`, `"all"` or `"ratio"`, see
            [`SchemaBatching`]. Validation and test records are asked for all labels.
        negative_ratio (`float`, *optional*, defaults to 1.0):
            For `negatives="ratio"`, the probability of each negative label.
        hard_negatives (`str`, *optional*):
            A hard-negative dictionary in JSON, nested or flat; by default the published one.
        split_num (`int` or `dict[str, int]`, *optional*):
            Labels in one instruction, for all tasks or by task; -1 for all in one. By default 6 for NER, 1 for KG,
            else 4.
        schema_order (`str`, *optional*, defaults to `"random"`):
            Order of the labels and roles of training instances, `"random"` or `"sorted"`.
        max_negatives_per_positive (`float`, *optional*):
            Keep at most so many purely negative training instances per instance with an answer, in each corpus.
        max_records (`int`, *optional*):
            The first so many records of each corpus and split only.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves unusable records out and says how many.
        seed (`int`, *optional*, defaults to 42):
            Another seed gives another draw of negatives and orders.
        epoch (`int`, *optional*, defaults to 0):
            Another epoch gives another draw.
    """

    corpus_dirs: list[str] | None = None
    tasks: list[str] | None = None
    languages: list[str] | None = None
    corpora: list[str] | None = None
    splits: list[str] | None = None
    negatives: str = "hard"
    negative_ratio: float = 1.0
    hard_negatives: str | None = None
    split_num: int | dict[str, int] | None = None
    schema_order: str = "random"
    max_negatives_per_positive: float | None = None
    max_records: int | None = None
    on_error: str = "raise"
    seed: int = 42
    epoch: int = 0

    def check(self) -> None:
        """Raise an `InputError` for a value that cannot be."""
        check_choices("task", self.tasks, TASKS)
        check_choices("split", self.splits, SPLIT_FILES)
        check_choices("negatives", [self.negatives], ("hard", "all", "ratio"))
        check_choices("schema_order", [self.schema_order], ("random", "sorted"))
        check_choices("on_error", [self.on_error], ("raise", "skip"))
        if not 0 <= self.negative_ratio <= 1:
            raise InputError(f"negative_ratio is {self.negative_ratio}; give a number from 0 to 1")
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
        return find_corpora(corpus_dirs, tasks, self.languages, self.corpora)

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name of the cache folder: all that the instances depend on is in it, the contents of every file included."""
        self.check()
        key = sha256()
        for option in fields(self):
            if option.name not in ("data_dir", "data_files", "corpus_dirs", "hard_negatives"):  # their contents follow
                key.update(f"{option.name}={getattr(self, option.name)!r}\n".encode())
        paths = [Path(self.hard_negatives or PUBLISHED), *Path(str(files("iepile_builder"))).glob("*.py")]
        for corpus in self.find_corpora():
            key.update(f"{corpus.task} {corpus.language} {corpus.source}\n".encode())
            paths += [corpus.path / "schema.json", *(corpus.file(split) for split in SPLIT_FILES)]
        for path in paths:
            if path.exists():
                key.update(f"{path.name} {sha256(path.read_bytes()).hexdigest()}\n".encode())
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
            split_num=self.split_num.get(corpus.task) if isinstance(self.split_num, dict) else self.split_num,
            schema_order=self.schema_order,
            hard_negatives=corpus_hard_negatives(hard_negatives, corpus.task, corpus.source),
            seed=self.seed,
            epoch=self.epoch,
        )
        return batching if split == "train" else replace(batching, negatives="all", schema_order="schema")


class IEPile(datasets.ArrowBasedBuilder):
    """
    Instances with the string columns `id`, `task`, `source`, `language`, `instruction`, `output` and `label`, in the
    splits train, validation and test; `output` and `label` are `None` for text without annotation.

    Format and method: IEPile (https://huggingface.co/papers/2402.14710,
    https://huggingface.co/datasets/zjunlp/iepile).

        builder = IEPile(data_dir="corpora", tasks=["NER"], negatives="hard")
        dataset = builder.as_dataset()
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = IEPileConfig
    BUILDER_CONFIGS = [IEPileConfig(name=name, version="1.0.0") for name in ("default", *TASKS)]
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
        hard_negatives = load_hard_negatives(self.config.hard_negatives or PUBLISHED)
        corpora = self.config.find_corpora()
        generators = []
        for split in self.config.splits or SPLIT_FILES:
            shards, batchings, limits = [], [], []
            for corpus in corpora:
                found = index_split(corpus, split, self.config.on_error, self.config.max_records)
                batching = self.config.batching(corpus, split, hard_negatives)
                limit = None
                if split == "train" and self.config.max_negatives_per_positive is not None:
                    limit = negative_limit(found, batching, self.config.max_negatives_per_positive)
                shards += found
                batchings += [batching] * len(found)
                limits += [limit] * len(found)
            if shards:
                gen_kwargs = {"shards": shards, "batchings": batchings, "limits": limits}
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs=gen_kwargs))
        if not generators:
            raise InputError(f"no records in {', '.join(str(corpus.path) for corpus in corpora)}")
        return generators

    def _generate_tables(
        self, shards: list[Shard], batchings: list[SchemaBatching], limits: list[int | None]
    ) -> Iterator[tuple[int, pa.Table]]:
        for index, (shard, batching, limit) in enumerate(zip(shards, batchings, limits, strict=True)):
            instances = shard_instances(shard, batching)
            if limit is not None:
                instances = (row for row in instances if not is_negative(row) or negative_rank(row) <= limit)
            rows = list(instances)
            if rows:
                columns = {column: [row[column] for row in rows] for column in COLUMNS}
                yield index, pa.table(columns, schema=self.info.features.arrow_schema)

    def as_dataset(self, *args: Any, **kwargs: Any) -> datasets.Dataset | datasets.DatasetDict:
        """As in `datasets`, but builds the dataset first where that has not been done."""
        if not os.path.exists(self._output_dir):
            self.download_and_prepare()
        return super().as_dataset(*args, **kwargs)


def shard_instances(shard: Shard, batching: SchemaBatching) -> Iterator[dict[str, Any]]:
    """The instances of a shard's records."""
    field = TASKS[batching.task].field
    for record in read_shard(shard):
        yield from batching.instances(record["id"], record["text"], record[field])


def negative_limit(shards: list[Shard], batching: SchemaBatching, per_positive: float) -> int:
    """The highest [`negative_rank`] to keep for `per_positive` purely negative instances per other one."""
    ranks, others = [], 0
    for shard in shards:
        for instance in shard_instances(shard, batching):
            if is_negative(instance):
                ranks.append(negative_rank(instance))
            else:
                others += 1
    kept = int(per_positive * others)
    return sorted(ranks)[min(kept, len(ranks)) - 1] if kept and ranks else -1


def register() -> None:
    """
    Make `load_dataset("iepile", data_dir=...)` work.

    `datasets` has no public way to add a builder by name, so this is the one place that uses its private table.
    """
    datasets.packaged_modules._PACKAGED_DATASETS_MODULES["iepile"] = (__name__, SOURCE_HASH)
