"""Other names of labels: the table of them, and which of them a record's instructions use."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from iepile_builder.data.corpus import Corpus
from iepile_builder.data.hard_negatives import is_flat, load_table, select_corpus
from iepile_builder.data.sampling import NAMES, draws
from iepile_builder.io import pluralize
from iepile_builder.tasks import TASKS


def load_synonyms(path: str | Path) -> dict[str, Any]:
    """
    Read the names of labels from a JSON file: `{label: [names]}`, `{task: {label: [names]}}`, or
    `{task: {corpus: {label: [names]}}}`.

    Raises:
        `InputError`: if the file is missing or has none of these forms.
    """
    return load_table(path, _are_names, "names of labels", "[names, none empty]")


def _are_names(table: object) -> bool:
    return is_flat(table) and all(
        name.strip() for names in cast("dict[str, list[str]]", table).values() for name in names
    )


def synonym_notes(table: Mapping[str, Any], corpora: Sequence[Corpus]) -> list[str]:
    """Say how many labels of the corpora have other names, which of the table are no labels, and which names clash."""
    named = number = 0
    unknown: dict[str, bool] = {}  # the labels of the table's used parts: whether no corpus has them
    clashes: dict[str, None] = {}
    for corpus in corpora:
        synonyms = select_corpus(dict(table), corpus.task, corpus.source)
        labels = TASKS[corpus.task].labels(corpus.schema)
        owners = {label.casefold(): label for label in labels}
        number += len(labels)
        named += sum(bool(synonyms.get(label)) for label in labels)
        for label, names in synonyms.items():
            unknown[label] = unknown.get(label, True) and label not in labels
            for name in names if label in labels else ():
                if owners.get(name.casefold(), label) != label:
                    clashes[f"{name} for {label} ({corpus.source})"] = None
    notes = [f"Labels with other names: {named} of {number}."]
    if others := [label for label, is_unknown in unknown.items() if is_unknown]:
        # many are no misspellings: the table is for more corpora than these
        listed = f": {', '.join(others)}" if len(others) <= 5 else ""
        notes.append(f"Names for {pluralize(len(others), 'label')} that these corpora do not have, not used{listed}.")
    if clashes:
        listed = f"{', '.join(list(clashes)[:5])}{', ...' if len(clashes) > 5 else ''}"
        notes.append(f"Names that are those of another label, not used: {listed} ({len(clashes)}).")
    return notes


def draw_names(
    labels: Sequence[str], synonyms: Mapping[str, Sequence[str]], seeds: np.ndarray, held_out: Iterable[str] = ()
) -> list[Sequence[str]]:
    """
    Draw for each record a name for each label, one of its synonyms; a label without any keeps its own.

    No two labels of a record get the same name, and no label gets that of another one or of one that is held out,
    whatever their case; a label for which no name is left keeps its own. A label's own name is drawn only if it is
    among its synonyms.
    """
    owners = Counter(label.casefold() for label in (*labels, *held_out))
    choices = {}
    for number, label in enumerate(labels):
        own = label.casefold()
        choices[number] = [
            name for name in synonyms.get(label, ()) if owners[name.casefold()] == (name.casefold() == own)
        ]
    choices = {number: names for number, names in choices.items() if names}
    if not choices:
        return [labels] * len(seeds)
    drawn: list[Sequence[str]] = []
    for row in draws(seeds, NAMES, len(labels)).tolist():
        names, taken = list(labels), set[str]()
        for number, of_label in choices.items():
            start = row[number] % len(of_label)
            left = [name for name in of_label[start:] + of_label[:start] if name.casefold() not in taken]
            names[number] = left[0] if left else labels[number]
            taken.add(names[number].casefold())
        drawn.append(names)
    return drawn
