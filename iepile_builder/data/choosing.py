"""Choose the labels that records are asked for: tables of records (rows) by labels (columns)."""

import numpy as np

from iepile_builder.data.sampling import DROPOUT, HARD, LAST, REST, draws, lowest


def choose_labels(
    positive: np.ndarray,
    hard: np.ndarray,
    seeds: np.ndarray,
    negatives: str,
    negative_ratio: float,
    num_hard: int | None,
    num_random: int,
) -> np.ndarray:
    """
    Choose the labels of each record, its own and negative ones, by the options of [`SchemaBatching`].

    `positive` and `hard`, of shape `(records, labels)`, tell which labels each record has, and which are hard
    negatives of one of these.
    """
    if negatives == "all":
        return np.ones_like(positive)
    number = positive.shape[1]
    rest = draws(seeds, REST, number)
    if negatives == "ratio":
        chosen = positive | (rest * 2.0**-64 < negative_ratio)
    else:
        drawn = np.full(len(positive), number if num_random == -1 else num_random)
        close = positive | hard
        near = close
        if num_hard is not None:
            of_hard = np.where(hard & ~positive, draws(seeds, HARD, number), LAST)
            near = positive | hard & lowest(of_hard, np.full(len(positive), min(num_hard, number)))
            drawn[~positive.any(axis=1)] += num_hard
        chosen = near | ~close & lowest(np.where(close, LAST, rest), np.minimum(drawn, number))
        if negatives == "random":
            drawn_instead = chosen.sum(axis=1) - positive.sum(axis=1)
            chosen = positive | lowest(np.where(positive, LAST, rest), drawn_instead)
    empty = np.flatnonzero(~chosen.any(axis=1))
    chosen[empty, rest[empty].argmin(axis=1)] = True
    return chosen


def drop_labels(chosen: np.ndarray, seeds: np.ndarray, probability: float) -> np.ndarray:
    """Drop each chosen label with a probability, but not the last one of a record."""
    drawn = np.where(chosen, draws(seeds, DROPOUT, chosen.shape[1]), 0)
    kept: np.ndarray = chosen & (drawn * 2.0**-64 >= probability)
    kept[np.arange(len(chosen)), drawn.argmax(axis=1)] |= chosen.any(axis=1)
    return kept
