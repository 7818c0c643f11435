"""
Mine hard negatives: find the labels of a schema that are easily confused with each other.

Each method gives a matrix of scores, labels by labels. [`nearest`] takes the best, [`union`] combines methods.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from iepile_builder.answers.parse import parse_answer
from iepile_builder.data.corpus import Corpus
from iepile_builder.data.hard_negatives import PUBLISHED, corpus_hard_negatives, load_hard_negatives
from iepile_builder.data.instructions import Description, asked_schema, description_texts
from iepile_builder.errors import InputError
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS


# Against the published dictionary these have recall 30% and precision 88% of its edges.
MINED_NEIGHBORS, MINED_THRESHOLD = 5, 0.1
MAX_MINED_LABELS = 5000  # all pairs are compared


def lexical_scores(labels: Sequence[str]) -> np.ndarray:
    """
    Score the similarity of spelling: the mean TF-IDF cosine of words and of character 1- to 4-grams.

    Args:
        labels (`Sequence[str]`):
            The labels, in any language.

    Returns:
        `np.ndarray` of shape `(labels, labels)`.
    """
    lower = [re.sub(r"\s\s+", " ", label.lower()) for label in labels]
    words = [re.findall(r"[^\W_]+", label) for label in lower]
    grams = [[label[i : i + n] for n in range(1, 5) for i in range(len(label) - n + 1)] for label in lower]
    return (_cosines(words) + _cosines(grams)) / 2


def _cosines(documents: Sequence[Sequence[str]]) -> np.ndarray:
    """Compare documents by their TF-IDF vectors, as scikit-learn's `TfidfVectorizer` weighs terms."""
    columns: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, document in enumerate(documents):
        for term, count in Counter(document).items():
            columns[term].append((row, count))
    products = np.zeros((len(documents), len(documents)))
    for column in columns.values():
        rows, counts = np.array(column).T
        weights = counts * (np.log((1 + len(documents)) / (1 + len(rows))) + 1)
        products[np.ix_(rows, rows)] += np.outer(weights, weights)
    norms = np.sqrt(np.maximum(products.diagonal(), np.finfo(float).tiny))
    return products / np.outer(norms, norms)


def embedding_scores(labels: Sequence[str], texts: Sequence[str], model_name_or_path: str) -> np.ndarray:
    """
    Score the similarity of meaning: the cosine of embeddings.

    Args:
        labels (`Sequence[str]`):
            The labels.
        texts (`Sequence[str]`):
            Text to embed for each label: the label, with its description and mentions if they are known.
        model_name_or_path (`str`):
            Name or folder of a sentence-transformers model.

    Returns:
        `np.ndarray` of shape `(labels, labels)`.
    """
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(model_name_or_path, device="cpu")
    vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors @ vectors.T)


def confusion_scores(labels: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """
    Score how often a model confused a label with another one, as a share of the label's gold facts. A fact with the
    same mentions under another label counts one; a fact of a label that was not asked counts one half for each gold
    label of the instruction.

    Args:
        labels (`Sequence[str]`):
            The labels.
        rows (`Iterable[Mapping]`):
            Rows of a prediction file of one task and corpus: `task`, `instruction`, `label` and `output`.

    Returns:
        `np.ndarray` of shape `(labels, labels)`: gold label by predicted label.
    """
    place = {label: number for number, label in enumerate(labels)}
    confused = np.zeros((len(labels), len(labels)))
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
                    confused[place[label], place[given]] += 1
            if given not in asked_labels:
                for label in here:
                    confused[place[label], place[given]] += 0.5
    return confused / np.maximum(1, [[right[label]] for label in labels])


def nearest(
    labels: Sequence[str], scores: np.ndarray, top_k: int, threshold: float = 0.0, symmetric: bool = False
) -> dict[str, list[str]]:
    """
    Take the labels of the highest scores as hard negatives of each label, the best first, never the label itself.

    Args:
        labels (`Sequence[str]`):
            The labels.
        scores (`np.ndarray` of shape `(labels, labels)`):
            Scores of one of the methods.
        top_k (`int`):
            Maximum number of hard negatives of a label, before `symmetric`.
        threshold (`float`, *optional*, defaults to 0.0):
            Scores must be above this.
        symmetric (`bool`, *optional*, defaults to `False`):
            Make each label a hard negative of its hard negatives, too.
    """
    scores = np.where(np.eye(len(labels), dtype=bool), -np.inf, scores)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    found = {
        label: [labels[other] for other in best[row] if scores[row, other] > threshold]
        for row, label in enumerate(labels)
    }
    return make_symmetric(found) if symmetric else found


def make_symmetric(table: dict[str, list[str]]) -> dict[str, list[str]]:
    """Make each label a hard negative of its hard negatives, too."""
    return union([table, {label: [other for other in table if label in table[other]] for label in table}])


def union(tables: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Join the hard negatives of each label over the tables, in their order."""
    return {
        label: list(dict.fromkeys(other for table in tables for other in table.get(label, ()))) for label in tables[0]
    }


def recovered(table: dict[str, list[str]], published: dict[str, list[str]]) -> tuple[int, int, int]:
    """
    Compare a table with a published one on the labels that have hard negatives there.

    Returns:
        `tuple[int, int, int]`: number of edges in both, in the table, and in the published one.
    """
    both = mined = wanted = 0
    for label, others in published.items():
        expected = set(others) & table.keys() - {label}
        if expected:
            both += len(expected & set(table[label]))
            mined += len(table[label])
            wanted += len(expected)
    return both, mined, wanted


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
    Find the hard negatives of a corpus: those given, else those of a `hard_negatives.json` in its folder or in
    the tree above it, else the published ones, else mined from its label names.

    Args:
        corpus ([`~iepile_builder.data.corpus.Corpus`]):
            The corpus.
        given (`dict[str, Any]`, *optional*):
            A dictionary of [`load_hard_negatives`].

    Returns:
        `tuple[dict[str, list[str]], str]`: The labels with their hard negatives, and where they are from.

    Raises:
        `InputError`: If a `hard_negatives.json` is not a dictionary of hard negatives.
    """
    if given is not None and (found := corpus_hard_negatives(given, corpus.task, corpus.source)):
        return found, "the given file"
    for folder in (corpus.path, *corpus.path.parents[:3]):  # of {tree}/IE-en/NER/{corpus}
        file = folder / "hard_negatives.json"
        if file.exists() and (found := corpus_hard_negatives(load_hard_negatives(file), corpus.task, corpus.source)):
            return found, f"{folder.name}/{file.name}"
    return default_hard_negatives(corpus.task, corpus.source, corpus.schema)


def default_hard_negatives(task: str, source: str, schema: Schema) -> tuple[dict[str, list[str]], str]:
    """Take the published hard negatives of a corpus, else mine them from its label names."""
    if found := corpus_hard_negatives(load_hard_negatives(PUBLISHED), task, source):
        return found, "published"
    labels = TASKS[task].labels(schema)
    if len(labels) > MAX_MINED_LABELS:
        return {}, f"none: too many labels ({len(labels)}) to mine from their names"
    table = nearest(labels, lexical_scores(labels), MINED_NEIGHBORS, MINED_THRESHOLD)
    return {label: others for label, others in table.items() if others}, "mined from the label names"


METHODS = ("lexical", "embedding", "confusion")


def check_methods(methods: Sequence[str], model: str | None, predictions: Any) -> None:
    """Raise an `InputError` if a method lacks its model or predictions."""
    for method in methods:
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if "embedding" in methods and model is None:
        raise InputError("--method embedding needs --model_name_or_path")
    if "confusion" in methods and predictions is None:
        raise InputError("--method confusion needs --predictions_file")
