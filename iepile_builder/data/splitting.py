"""Order the labels that a record is asked for, and cut them into batches."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import cache
from heapq import heappop, heappush
from typing import TypeVar

import numpy as np

from iepile_builder.data.sampling import BATCHES, draws
from iepile_builder.errors import InputError


T = TypeVar("T", bound=Hashable)


def check_split_num(split_num: int | None) -> None:
    """Raise an `InputError` for an impossible number of labels in one instruction."""
    if split_num is not None and split_num != -1 and split_num < 1:
        raise InputError(f"split_num is {split_num}; give a number of labels, or -1 for all in one")


def group_labels(
    labels: Sequence[int],
    confusable: dict[int, Collection[int]],
    split_num: int,
    answer_key: Callable[[int], str],
    seed: int,
) -> list[list[int]]:
    """
    Split labels, in random order, into as many batches as [`split_labels`], with positives beside their hard negatives
    (`confusable`) where they fit.

    Greedy: a batch begins with the largest group that has room in it, and next takes the label that is confusable with
    most of its labels. A group larger than any batch is cut. Within a batch, and from batch to batch, the order is
    random (drawn with `seed`): a place must not tell which label has an answer.
    """
    cut = spans(len(labels), split_num)
    if len(cut) < 2:
        return split_labels(list(labels), split_num, answer_key)
    place = {label: number for number, label in enumerate(labels)}
    links: dict[int, set[int]] = {label: set() for label in labels}
    for positive, others in confusable.items():
        for other in others:
            if positive in place and other in place and other != positive:
                links[positive].add(other)
                links[other].add(positive)
    waiting = dict.fromkeys(label for label in labels if links[label])
    single = deque(label for label in labels if not links[label])
    outside = {label: len(links[label]) for label in waiting}  # linked labels that wait, too
    batches: list[list[int]] = [[] for _ in cut]
    drawn = draws(np.array([seed], np.uint64), BATCHES, len(cut) + len(labels))[0]
    for number in np.argsort(drawn[: len(cut)]).tolist():
        start, end = cut[number]
        batch = batches[number]
        inside: Counter[int] = Counter()  # linked labels in the batch
        while (room := end - start - len(batch)) > 0:
            fitting = [label for label in waiting if outside[label] < room or not batch]
            near = [label for label in waiting if inside[label] and outside[label] < max(room, inside[label] + 1)]
            if near:
                taken = max(near, key=lambda label: (inside[label], -outside[label], -place[label]))
            elif fitting:
                taken = max(fitting, key=lambda label: (outside[label], -place[label]))
            elif single:
                taken = single.popleft()
            else:
                taken = min(waiting, key=lambda label: (outside[label] - inside[label], place[label]))
            batch.append(taken)
            waiting.pop(taken, None)
            inside.update(links[taken])
            for other in links[taken]:
                outside[other] -= 1
    grouped = [label for batch in batches for label in batch]
    order = dict(zip(labels, drawn[len(cut) :].tolist(), strict=True))
    return [sorted(batch, key=order.__getitem__) for batch in split_labels(grouped, split_num, answer_key)]


def split_labels(labels: list[T], split_num: int, answer_key: Callable[[T], str]) -> list[list[T]]:
    """
    Split labels into batches of `split_num` (-1: one batch) in which no two share a key in the answer.

    A remainder of fewer than `split_num // 2` labels joins the batch before it if their keys allow it.
    """
    keys = [answer_key(label) for label in labels]
    if len(set(keys)) == len(keys):
        return [labels[start:end] for start, end in spans(len(labels), split_num)]
    # A batch takes the first remaining label of each key, the earliest of these first.
    waiting: dict[str, deque[int]] = {}
    for number, key in enumerate(keys):
        waiting.setdefault(key, deque()).append(number)
    first = [numbers[0] for numbers in waiting.values()]
    batches = []
    while first:
        taken = [heappop(first) for _ in range(len(first) if split_num == -1 else min(split_num, len(first)))]
        batches.append({keys[number]: labels[number] for number in taken})
        for number in taken:
            of_key = waiting[keys[number]]
            of_key.popleft()
            if of_key:
                heappush(first, of_key[0])
    if len(batches) > 1 and len(batches[-1]) < split_num // 2 and batches[-1].keys().isdisjoint(batches[-2]):
        batches[-2:] = [batches[-2] | batches[-1]]
    return [list(batch.values()) for batch in batches]


@cache
def spans(number: int, split_num: int) -> list[tuple[int, int]]:
    """Cut a number of labels into batches: start and end of each."""
    if number == 0:
        return []
    starts = list(range(0, number, number if split_num == -1 else split_num))
    if len(starts) > 1 and number - starts[-1] < split_num // 2:
        starts.pop()
    return list(zip(starts, [*starts[1:], number], strict=True))
