"""Options of the builder and of `iepile build`; `iepile mine` shares those on corpora."""

import os
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from importlib.resources import files
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

import datasets

from iepile_builder.data.batching import SchemaBatching
from iepile_builder.data.cleaning import CleaningOptions
from iepile_builder.data.corpus import SPLIT_FILES, Corpus, check_choices, check_languages, find_corpora
from iepile_builder.data.hard_negatives import load_hard_negatives, select_corpus
from iepile_builder.data.mining import find_hard_negatives
from iepile_builder.data.splitting import check_split_num
from iepile_builder.data.synonyms import load_synonyms
from iepile_builder.errors import InputError
from iepile_builder.io import find_table, hash_file, to_json
from iepile_builder.tasks import TASKS


TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt")
PACKAGE = Path(str(files("iepile_builder")))
MAKERS = ("*.py", "data/*.py", "tasks/*.py", "resources/instructions.json")  # that instances depend on
READ = (  # options whose files count, not their names
    "data_dir", "data_files", "corpus_dirs", "hard_negatives", "descriptions", "label_synonyms",
)  # fmt: skip


@dataclass
class CorpusOptions:
    """
    Which corpora to read.

    Args:
        tasks (`list[str]`, *optional*):
            Tasks, of NER, RE, SPO, EE, EET, EEA and KG; by default each folder's own. EE folders also serve EET and
            EEA, RE folders with typed triples SPO, when these are asked for.
        languages (`list[str]`, *optional*):
            Codes of languages, such as `en`, `zh` or `de`; by default all. Texts and labels may be in any language;
            the instructions are Chinese for zh, and English for all others.
        corpora (`list[str]`, *optional*):
            Names of the corpora to read; by default all.
    """

    tasks: list[str] | None = None
    languages: list[str] | None = None
    corpora: list[str] | None = None


@dataclass
class SchemaOptions:
    """
    Which labels to ask for (hard-negative schema batching).

    Args:
        negatives (`str`, *optional*, defaults to `"hard"`):
            Labels that a training record is asked for besides its own: `"hard"`, `"random"`, `"all"` or `"ratio"`,
            see [`SchemaBatching`]. Validation and test records are asked for all labels.
        split_num (`int` or `dict[str, int]`, *optional*):
            Number of labels in one instruction, for all tasks or by task; -1 for all in one. By default 6 for NER, 1
            for KG, 4 for other tasks.
        hard_negatives (`str`, *optional*):
            A hard-negative dictionary in JSON, as `iepile mine` writes it; by default a `hard_negatives.json` in the
            corpus's folder or tree, else the published one, else mined from the label names.
        max_negatives_per_positive (`float`, *optional*):
            Keep at most this many purely negative training instances per instance with an answer, in each corpus.
        negative_ratio (`float`, *optional*, defaults to 1.0):
            With negatives `"ratio"`, the probability of each negative label; 1.0 asks for all labels, as `"all"`.
        num_hard (`int`, *optional*):
            With negatives `"hard"` and `"random"`, number of hard negatives drawn for each record, other ones in each
            epoch. By default all.
        num_random (`int`, *optional*):
            With negatives `"hard"` and `"random"`, number of labels drawn at random besides the hard negatives; -1 for
            all. By default `split_num`.
        schema_order (`str`, *optional*, defaults to `"random"`):
            Order of the labels and roles of training instances: `"random"`; `"sorted"`; or `"grouped"`, random but
            cut, greedily, so that most of a record's labels are asked together with their hard negatives.
        descriptions (`str`, *optional*):
            A JSON file from label to description, see [`load_descriptions`]: instructions then describe their labels.
        num_examples (`int`, *optional*, defaults to 0):
            Number of training records that each instruction shows as examples.
        label_dropout (`float`, *optional*, defaults to 0.0):
            Probability with which each label of a training record is dropped, with what is annotated; one is left.
        label_synonyms (`str`, *optional*):
            A JSON file from label to names, see [`load_synonyms`]: training instructions ask for one of them, drawn
            for each record and epoch. List the label's own name to have it drawn, too.
            `sample_corpus/label_synonyms.json` is the file for the sample corpus.
        negatives_schedule (`list[str]`, *optional*):
            In place of `negatives`, one for each epoch; the last stays. With `negative_ratio` 0.15, `ratio hard all`
            begins with few negatives and ends with all labels, as in use. `iepile build` builds one epoch, by
            default the first; `iepile train` draws each where its `dataset_name` is a file with these options.
        held_out_labels (`dict[str, list[str]]`, *optional*):
            For each corpus, labels to hold out of training and validation; its test split asks for these alone.
    """

    negatives: str = "hard"
    split_num: int | dict[str, int] | None = None
    hard_negatives: str | None = None
    max_negatives_per_positive: float | None = None
    negative_ratio: float = 1.0
    num_hard: int | None = None
    num_random: int | None = None
    schema_order: str = "random"
    descriptions: str | None = None
    num_examples: int = 0
    label_dropout: float = 0.0
    label_synonyms: str | None = None
    negatives_schedule: list[str] | None = None
    held_out_labels: dict[str, list[str]] | None = None


@dataclass
class LengthOptions:
    """
    How long an instance may be.

    Args:
        max_length (`int`, *optional*):
            Maximum number of tokens of an instance, chat template included. A longer one is split into instances that
            ask for fewer labels. One that is too long with a single label is dropped from the training split, but kept
            in the others, so that scores are those of the whole split; both are counted.
        tokenizer (`str`, *optional*):
            Name or folder of the tokenizer to count with.
    """

    max_length: int | None = None
    tokenizer: str | None = None


@dataclass
class DrawOptions:
    """
    How negatives, orders and records are drawn.

    Args:
        seed (`int`, *optional*, defaults to 42):
            Another seed gives another draw of negatives and orders.
        epoch (`int`, *optional*, defaults to 0):
            Another epoch gives another draw, see [`IEPile.set_epoch`].
        corpus_weights (`dict[str, float]`, *optional*):
            Repetitions of each training record of a corpus, each with another draw; 0.1 gives every tenth record.
        language_weights (`dict[str, float]`, *optional*):
            The same for a language; the two weights are multiplied.
        sampling_temperature (`float`, *optional*, defaults to 1.0):
            Repeat or leave out training records so that a corpus of n of them counts in proportion to n to this power;
            0 makes all corpora the same size. The total stays about the same. `corpus_weights` come on top.
        max_records_per_label (`int`, *optional*):
            Going through a corpus's training records in random order, leave one out if each of its labels has this
            many already. Having no label counts as a label.
    """

    seed: int = 42
    epoch: int = 0
    corpus_weights: dict[str, float] | None = None
    language_weights: dict[str, float] | None = None
    sampling_temperature: float = 1.0
    max_records_per_label: int | None = None


@dataclass
class InstanceOptions(DrawOptions, LengthOptions, CleaningOptions, SchemaOptions, CorpusOptions):
    """How corpora become instances."""


def find_given(options: InstanceOptions) -> dict[str, Any]:
    """Find the options that differ from their defaults."""
    return {name: value for name, value in vars(options).items() if value != vars(InstanceOptions())[name]}


@dataclass
class IEPileConfig(InstanceOptions, datasets.BuilderConfig):
    """
    What to build. `data_dir` is a folder of corpora: one corpus, or a tree `{IE-en,IE-zh}/{TASK}/{corpus}`.

    The other options are those of [`CorpusOptions`], [`SchemaOptions`], [`CleaningOptions`], [`LengthOptions`] and
    [`DrawOptions`].

    Args:
        corpus_dirs (`list[str]`, *optional*):
            Further folders of corpora.
    """

    corpus_dirs: list[str] | None = None

    def check(self) -> None:
        """Raise an `InputError` for an option with an impossible value."""
        check_choices("task", self.tasks, TASKS)
        check_choices("split", self.splits, SPLIT_FILES)
        modes = [self.negatives, *(self.negatives_schedule or ())]
        check_choices("negatives", modes, ("hard", "random", "all", "ratio"))
        check_choices("schema_order", [self.schema_order], ("random", "sorted", "grouped"))
        check_choices("on_error", [self.on_error], ("raise", "skip", "fix"))
        check_choices("deduplicate", [self.deduplicate], ("none", "exact", "near"))
        check_languages(list(self.language_weights or ()))
        for name, weight in [*(self.corpus_weights or {}).items(), *(self.language_weights or {}).items()]:
            if not 0 <= weight < inf:
                raise InputError(f"the weight of {name} is {weight}; give 0 or more")
        for name in ("negative_ratio", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a number from 0 to 1")
        if not 0 <= self.sampling_temperature <= 10:
            raise InputError(f"sampling_temperature is {self.sampling_temperature}; give a number from 0 to 10")
        if self.num_random is not None and self.num_random < -1:
            raise InputError(f"num_random is {self.num_random}; give a number of labels, or -1 for all")
        least = {"num_hard": 0, "num_examples": 0, "max_negatives_per_positive": 0}
        least |= {"max_records": 1, "max_records_per_label": 1, "max_length": 1}
        for name, number in least.items():
            value = getattr(self, name)
            if value is not None and not number <= value < inf:
                raise InputError(f"{name} is {value}; give {number} or more")
        if (self.max_length is None) != (self.tokenizer is None):
            raise InputError("max_length and tokenizer need each other")
        if isinstance(self.split_num, dict):
            check_choices("task", list(self.split_num), TASKS)
        for split_num in self.split_num.values() if isinstance(self.split_num, dict) else [self.split_num]:
            check_split_num(split_num)

    def find_corpora(self) -> list[Corpus]:
        """Find the corpora to build from."""
        corpus_dirs = ([self.data_dir] if self.data_dir else []) + (self.corpus_dirs or [])
        if not corpus_dirs:
            raise InputError("no corpora: give data_dir, a corpus folder or a tree of them")
        tasks = [self.name] if self.tasks is None and self.name in TASKS else self.tasks
        corpora = find_corpora(corpus_dirs, tasks, self.languages, self.corpora)
        sources = {corpus.source: corpus for corpus in corpora}
        check_choices("corpus", [*(self.corpus_weights or ()), *(self.held_out_labels or ())], sources)
        return corpora

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name the cache folder by all that the instances depend on, the contents of every file included."""
        self.check()
        key = sha256()
        for option in fields(self):
            if option.name not in READ:
                key.update(f"{option.name}={getattr(self, option.name)!r}\n".encode())
        paths = [path for pattern in MAKERS for path in sorted(PACKAGE.glob(pattern))]
        paths += [find_table(path) for path in (self.descriptions, self.label_synonyms) if path is not None]
        if self.tokenizer is not None and os.path.isdir(self.tokenizer):
            paths += [path for path in sorted(Path(self.tokenizer).iterdir()) if path.suffix in TOKENIZER_SUFFIXES]
        for corpus in self.find_corpora():
            hard_negatives = to_json(self.find_hard_negatives(corpus)[0])
            key.update(f"{corpus.task} {corpus.language} {corpus.source} {hard_negatives}\n".encode())
            paths += [corpus.path / "schema.json", *(corpus.file(split) for split in SPLIT_FILES)]
        for path in paths:
            if path.exists():
                key.update(f"{path.name} {hash_file(path)}\n".encode())
        return f"{self.name}-{key.hexdigest()[:16]}"

    def needs_hard_negatives(self) -> bool:
        """Tell whether the training instances depend on hard negatives."""
        modes = {*(self.negatives_schedule or [self.negatives])}
        return bool(modes & {"hard", "random"}) or self.schema_order == "grouped"

    def find_hard_negatives(self, corpus: Corpus) -> tuple[dict[str, list[str]], str]:
        """Find the hard negatives of a corpus and their source; none if the options use none."""
        if not self.needs_hard_negatives() or TASKS[corpus.task].triggers_given:
            return {}, "not used"
        given = load_hard_negatives(self.hard_negatives) if self.hard_negatives is not None else None
        return find_hard_negatives(corpus, given)

    def batching(self, corpus: Corpus, split: str) -> SchemaBatching:
        """Make the transform of a corpus and split from records to instances."""
        batching = SchemaBatching(
            task=corpus.task,
            language=corpus.language,
            source=corpus.source,
            schema=corpus.schema,
            negatives=self.negatives,
            negative_ratio=self.negative_ratio,
            num_hard=self.num_hard,
            num_random=self.num_random,
            split_num=self.split_num.get(corpus.task) if isinstance(self.split_num, dict) else self.split_num,
            schema_order=self.schema_order,
            hard_negatives=self.find_hard_negatives(corpus)[0],
            seed=self.seed,
            epoch=self.epoch,
            labels=self.asked_labels(corpus, split),
            num_examples=self.num_examples,
        )
        if split != "train":
            return replace(batching, negatives="all", schema_order="schema")
        return replace(
            batching,
            negatives_schedule=self.negatives_schedule or (),
            label_dropout=self.label_dropout,
            label_synonyms=self.find_synonyms(corpus),
        )

    def find_synonyms(self, corpus: Corpus) -> dict[str, list[str]]:
        """Find the names of a corpus's labels; none without a table."""
        if self.label_synonyms is None:
            return {}
        found = select_corpus(load_synonyms(self.label_synonyms), corpus.task, corpus.source)
        try:
            for name in chain.from_iterable(found.values()):
                TASKS[corpus.task].answer_key(name)
        except InputError as error:
            raise InputError(f"{self.label_synonyms}: {error}") from None
        return found

    def asked_labels(self, corpus: Corpus, split: str) -> tuple[str, ...] | None:
        """List the labels that a split of a corpus may ask for if some are held out."""
        held_out = (self.held_out_labels or {}).get(corpus.source)
        if held_out is None:
            return None
        labels = TASKS[corpus.task].labels(corpus.schema)
        check_choices(f"label of {corpus.source}", held_out, labels)
        return tuple(label for label in labels if (label in held_out) == (split == "test"))

    def weights(self, sizes: dict[Corpus, int]) -> dict[Corpus, float]:
        """Compute the repetitions of each corpus's training records, of which there are so many."""
        powers = {corpus: size**self.sampling_temperature for corpus, size in sizes.items() if size}
        mean = sum(sizes.values()) / max(1.0, sum(powers.values()))
        weights = {}
        for corpus, size in sizes.items():
            of_corpus = (self.corpus_weights or {}).get(corpus.source, 1.0)
            of_language = (self.language_weights or {}).get(corpus.language, 1.0)
            weights[corpus] = of_corpus * of_language * mean * size ** (self.sampling_temperature - 1) if size else 0.0
        return weights
