"""Draw random numbers that depend on a seed and a position alone."""

from functools import lru_cache

import numpy as np


# one stream for each purpose of a record's draws
REST, ORDER, ROLES, NEGATIVES, EXAMPLES, HARD, BATCHES, DROPOUT, NAMES, CAPS = range(10)
LAST = np.uint64(2**64 - 1)  # sorts after every draw
ROLE_ORDERS = 64  # number of random orders of roles: few, so that most schema items are in the cache


def draws(seeds: np.ndarray, stream: int, number: int) -> np.ndarray:
    """
    Draw `number` random numbers of 64 bits for each seed, as a function of seed, stream and position alone.

    This is SplitMix64 (Steele, Lea and Flood, 2014): it has no state, so one array operation serves all seeds.
    """
    places = np.arange(number, dtype=np.uint64) + np.uint64(stream << 32)
    bits = seeds[:, None] + (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def lowest(numbers: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mark the `count` lowest numbers of each row, and all that are equal to the last of them."""
    last = np.take_along_axis(np.sort(numbers, axis=1), np.maximum(count, 1)[:, None] - 1, axis=1)
    return (numbers <= last) & (count > 0)[:, None]


@lru_cache(maxsize=65536)
def shuffled(roles: tuple[str, ...], order: int) -> tuple[str, ...]:
    """Put roles in one of their random orders."""
    return tuple(roles[number] for number in np.argsort(draws(np.array([order], np.uint64), ROLES, len(roles)))[0])
