"""
Mine hard negatives: find the labels of a schema that are easily confused with each other.

Each method yields the scores of one label after the other, so that memory stays linear in the labels. [`nearest`]
takes the best, [`union`] combines methods.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from iepile_builder.answers.parse import parse_answer
from iepile_builder.data.corpus import Corpus
from iepile_builder.data.hard_negatives import PUBLISHED, load_hard_negatives, select_corpus
from iepile_builder.data.instructions import Description, asked_schema, description_texts
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS


# On the published tables of 4 labels or more, each once: precision 73%, recall 26% of the edges
# (Chinese: 74%, 28%; at threshold 0.05 70%, 30%).
MINED_NEIGHBORS, MINED_THRESHOLD = 5, 0.1
MAX_MINED_LABELS = 5000  # all pairs are compared


def lexical_scores(labels: Sequence[str]) -> Iterator[np.ndarray]:
    """
    Score each label's similarity of spelling with all: the mean TF-IDF cosine of words and of character 1- to 4-grams.
    """
    lower = [re.sub(r"\s\s+", " ", label.lower()) for label in labels]
    words = [re.findall(r"[^\W_]+", label) for label in lower]
    grams = [[label[i : i + n] for n in range(1, 5) for i in range(len(label) - n + 1)] for label in lower]
    for by_words, by_grams in zip(_cosines(words), _cosines(grams), strict=True):
        yield (by_words + by_grams) / 2


def _cosines(documents: Sequence[Sequence[str]]) -> Iterator[np.ndarray]:
    """Compare each document with all by their TF-IDF vectors, as scikit-learn's `TfidfVectorizer` weighs terms."""
    number = len(documents)
    index: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, document in enumerate(documents):
        for term, count in Counter(document).items():
            index[term].append((row, count))
    rows: list[np.ndarray] = []  # of each term
    weights: list[np.ndarray] = []
    for entries in index.values():
        of_term, counts = np.array(entries).T
        rows.append(of_term)
        weights.append(counts * (np.log((1 + number) / (1 + len(of_term))) + 1))
    if not rows:
        yield from np.zeros((number, number))
        return
    in_order = np.argsort(np.concatenate(rows), kind="stable")
    all_rows, all_weights = np.concatenate(rows)[in_order], np.concatenate(weights)[in_order]
    all_terms = np.repeat(np.arange(len(rows)), list(map(len, rows)))[in_order]
    norms = np.sqrt(np.maximum(np.bincount(all_rows, all_weights**2, number), np.finfo(float).tiny))
    starts = np.searchsorted(all_rows, np.arange(number + 1))
    for row in range(number):
        products: np.ndarray = np.zeros(number)
        if terms := all_terms[starts[row] : starts[row + 1]].tolist():
            own = all_weights[starts[row] : starts[row + 1]]
            shared = [weight * weights[term] for weight, term in zip(own, terms, strict=True)]
            products = np.bincount(np.concatenate([rows[term] for term in terms]), np.concatenate(shared), number)
        yield products / (norms[row] * norms)


def embedding_scores(texts: Sequence[str], model_name_or_path: str) -> Iterator[np.ndarray]:
    """
    Score each label's similarity of meaning with all: the cosine of the embeddings of their texts (the label, with its
    description and mentions if they are known) by a sentence-transformers model.
    """
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(model_name_or_path, device="cpu")
    vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    for vector in vectors:
        yield vectors @ vector


def confusion_scores(labels: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[np.ndarray]:
    """
    Score how often a model took each label for each other one, as a share of its gold facts. A fact with the same
    mentions under another label counts one; a fact of a label that was not asked counts one half for each gold label
    of the instruction.

    `rows` are those of a prediction file of one task and corpus.
    """
    place = {label: number for number, label in enumerate(labels)}
    confused: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    right: Counter[str] = Counter()
    for row in rows:
        task = TASKS[row["task"]]
        asked = asked_schema(row["instruction"], row["task"])
        asked_labels = [label for label in task.labels(asked) if label in place]
        gold: dict[tuple[str, ...], set[str]] = {}
        for annotation in json.loads(row["label"]) if isinstance(row["label"], str) else row["label"]:
            for fact in task.facts([annotation], asked):
                gold.setdefault(fact.content, set()).add(fact.asked_label)
        here = Counter(label for of_mentions in gold.values() for label in of_mentions if label in asked_labels)
        right.update(here)
        for fact in parse_answer(row["output"], row["task"], asked).facts:
            given, right_ones = fact.asked_label, gold.get(fact.content, ())
            if given not in place or given in right_ones:
                continue
            for label in right_ones:
                if label in place:
                    confused[label][place[given]] += 1
            if given not in asked_labels:
                for label in here:
                    confused[label][place[given]] += 0.5
    for label in labels:
        scores = np.zeros(len(labels))
        for other, count in confused[label].items():
            scores[other] = count / max(1, right[label])
        yield scores


def nearest(
    labels: Sequence[str], scores: Iterable[np.ndarray], top_k: int, threshold: float = 0.0
) -> dict[str, list[str]]:
    """
    Take as hard negatives of each label up to `top_k` others with the highest scores above `threshold`, the best
    first. `scores` are those of each label with all labels, from one of the methods.
    """
    found = {}
    for number, (label, of_label) in enumerate(zip(labels, scores, strict=True)):
        others = np.flatnonzero(of_label > threshold)
        others = others[others != number]
        if len(others) > top_k:
            others = others[of_label[others] >= np.partition(of_label[others], -top_k)[-top_k]]
        best = others[np.argsort(-of_label[others], kind="stable")][:top_k]
        found[label] = [labels[other] for other in best]
    return found


def make_symmetric(table: dict[str, list[str]]) -> dict[str, list[str]]:
    """Make each label a hard negative of its hard negatives, too."""
    backward: dict[str, list[str]] = {label: [] for label in table}
    for label, others in table.items():
        for other in others:
            backward[other].append(label)
    return union([table, backward])


def union(tables: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Join the hard negatives of each label over the tables, in their order."""
    return {
        label: list(dict.fromkeys(other for table in tables for other in table.get(label, ()))) for label in tables[0]
    }


def label_texts(
    labels: Sequence[str], descriptions: Mapping[str, Description], mentions: Mapping[str, Sequence[str]]
) -> list[str]:
    """Write the text to embed for each label."""
    texts = []
    for label in labels:
        text = label.replace("_", " ")
        description = description_texts(label, descriptions.get(label, "")).get(label)
        if description:
            text += f": {description}"
        if mentions.get(label):
            text += f" ({', '.join(mentions[label])})"
        texts.append(text)
    return texts


def frequent_mentions(
    task: str, schema: Schema, records: Iterable[dict[str, Any]], number: int
) -> dict[str, list[str]]:
    """Find the most frequent mentions of each label in some records."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for annotation in record[TASKS[task].field] or ():
            mentions = [annotation[key] for key in TASKS[task].mentions if annotation[key]]
            counts.setdefault(TASKS[task].label(annotation, schema), Counter()).update([" - ".join(mentions)])
    return {label: [mention for mention, _ in of.most_common(number)] for label, of in counts.items()}


def find_hard_negatives(corpus: Corpus, given: dict[str, Any] | None = None) -> tuple[dict[str, list[str]], str]:
    """
    Find the hard negatives of a corpus, and say where they are from: those given, else those of a
    `hard_negatives.json` in its folder or in the tree above it, else the published ones, else mined from its label
    names.

    Raises:
        `InputError`: If a `hard_negatives.json` is not a dictionary of hard negatives.
    """
    if given is not None and (found := select_corpus(given, corpus.task, corpus.source)):
        return found, "the given file"
    for folder in (corpus.path, *corpus.path.parents[:3]):  # of {tree}/IE-en/NER/{corpus}
        file = folder / "hard_negatives.json"
        if file.exists() and (found := select_corpus(load_hard_negatives(file), corpus.task, corpus.source)):
            return found, f"{folder.name}/{file.name}"
    return default_hard_negatives(corpus.task, corpus.source, corpus.schema)


def default_hard_negatives(task: str, source: str, schema: Schema) -> tuple[dict[str, list[str]], str]:
    """Take the published hard negatives of a corpus, else mine them from its label names."""
    if found := select_corpus(load_hard_negatives(PUBLISHED), task, source):
        return found, "published"
    labels = TASKS[task].labels(schema)
    if len(labels) > MAX_MINED_LABELS:
        return {}, f"none: too many labels ({len(labels)}) to mine from their names"
    return _mine_names(tuple(labels)), "mined from the label names"


@lru_cache(maxsize=64)  # a build asks several times for those of each corpus
def _mine_names(labels: tuple[str, ...]) -> dict[str, list[str]]:
    table = nearest(labels, lexical_scores(labels), MINED_NEIGHBORS, MINED_THRESHOLD)
    return {label: others for label, others in table.items() if others}
