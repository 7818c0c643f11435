"""Count facts that are right except for a label that is easily confused with the right one."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iepile_builder.data.hard_negatives import select_corpus
from iepile_builder.data.mining import default_hard_negatives
from iepile_builder.errors import InputError
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.tasks import TASKS


@dataclass
class _Counts:
    right: int = 0
    confusable: int = 0
    other: int = 0

    def report(self) -> dict[str, Any]:
        located = self.right + self.confusable + self.other
        return {**vars(self), "rate": 100 * self.confusable / located if located else 0.0}


@dataclass
class Located:
    """
    The predicted facts with the mentions of a gold fact.

    Attributes:
        asked (`dict[tuple[str, str], dict[str, tuple]]`): by task and corpus: the labels that were asked for.
        pairs (`Counter[tuple[str, str, tuple[str, ...], str]]`): how many there are of a task and corpus, with these
            labels of the gold facts and this label of the predicted one.
    """

    asked: dict[tuple[str, str], dict[str, tuple[str, ...]]] = field(default_factory=lambda: defaultdict(dict))
    pairs: Counter[tuple[str, str, tuple[str, ...], str]] = field(default_factory=Counter)


def find_located(scorer: Scorer) -> Located:
    """Find the predicted facts with the mentions of a gold fact; one that is repeated counts once."""
    located = Located()
    for key, record, gold in scorer.compared():
        task = TASKS[key.task]
        for each in record.asked:
            located.asked[key.task, key.source].update(dict.fromkeys(task.labels(each.schema), ()))
        gold_labels: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for fact in gold:
            gold_labels[fact.block, fact.content].append(fact.asked_label)
        missing = Counter((fact.block, fact.content, fact.asked_label) for fact in gold)
        wrong = set()
        for fact in record.facts:
            annotated, label = gold_labels.get((fact.block, fact.content), []), fact.asked_label
            part = (fact.block, fact.content, label)
            if missing[part] > 0:
                missing[part] -= 1
                annotated = [label]
            elif not annotated or label in annotated or part in wrong:  # spurious, or repeated
                continue
            else:
                wrong.add(part)
            located.pairs[key.task, key.source, tuple(annotated), label] += 1
    return located


def count_confusable(
    scorer: Scorer | Located,
    given: dict[str, Any] | None = None,
    name: str = "given",
    built: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Count how often a predicted fact has a gold fact's mentions under a label that is confusable with the gold one.

    Strings are compared exactly, in every match mode. The label is the one that is asked for: an argument with a wrong
    role is not counted, one under a wrong event type is.

    Args:
        scorer ([`Scorer`] or [`Located`]):
            The answers, or what [`find_located`] has found in them.
        given (`dict[str, Any]`, *optional*):
            A dictionary of [`~iepile_builder.data.hard_negatives.load_hard_negatives`]. A corpus that it does not have
            gets that of the build, if known, else the published one, else one that is mined from the label names.
        name (`str`, *optional*, defaults to `"given"`):
            Name or path of the given dictionary.
        built (`dict[str, Any]`, *optional*):
            The dictionary that the instances were built with.

    Returns:
        `dict`: `overall` and, by task and gold label, `labels`. Each has the predicted facts with the mentions of a
        gold fact: `right`, under its label; `confusable`, under a label that the dictionary lists for the gold label;
        `other`, under another label; and `rate`, the percentage of `confusable` among the three. `dictionaries` says,
        by task and corpus, which dictionary that is.

    Raises:
        `InputError`: If the given dictionary has no pair of labels that the answers were asked for.
    """
    located = scorer if isinstance(scorer, Located) else find_located(scorer)
    tables = dict(_find_dictionaries(located, given, name, built or {}))
    overall = _Counts()
    labels: dict[str, dict[str, _Counts]] = defaultdict(lambda: defaultdict(_Counts))
    for (task, source, annotated, label), number in located.pairs.items():
        table = tables[task, source][0]
        confused = [each for each in annotated if label in table.get(each, ())]
        kind = "right" if label in annotated else "confusable" if confused else "other"
        gold_label = confused[0] if kind == "confusable" else annotated[0]
        for counts in (overall, labels[task][gold_label]):
            setattr(counts, kind, getattr(counts, kind) + number)
    dictionaries: dict[str, dict[str, str]] = defaultdict(dict)
    for (task, source), (_, where) in sorted(tables.items()):
        dictionaries[task][source] = where
    return {
        "dictionaries": dict(dictionaries),
        "overall": overall.report(),
        "labels": {
            task: {
                label: counts.report() for label, counts in sorted(found.items(), key=lambda item: -item[1].confusable)
            }
            for task, found in labels.items()
        },
    }


def describe_confusable(counts: dict[str, Any]) -> str:
    """Say in one line what [`count_confusable`] has counted, and in which dictionaries."""
    overall = counts["overall"]
    located = overall["right"] + overall["confusable"] + overall["other"]
    places = sorted({where for sources in counts["dictionaries"].values() for where in sources.values()})
    return (
        f"confusable labels: {overall['confusable']} of {located} predicted facts with the mentions of a gold fact "
        f"({overall['rate']:.1f}%); dictionary: {', '.join(places)}"
    )


def _find_dictionaries(
    located: Located, given: dict[str, Any] | None, given_name: str, built: dict[str, Any]
) -> Iterator[tuple[tuple[str, str], tuple[dict[str, list[str]], str]]]:
    """Find the dictionary of each task and corpus, and say where it is from."""
    fits = not given
    for (name, source), labels in located.asked.items():
        found = select_corpus(given, name, source) if given is not None else {}
        if found:
            fits = fits or any(label in labels and other in labels for label, of in found.items() for other in of)
            yield (name, source), (found, Path(given_name).name)  # a report may be published
        elif of_build := select_corpus(built, name, source):
            yield (name, source), (of_build, "that of the build")
        else:
            yield (name, source), default_hard_negatives(name, source, TASKS[name].to_schema(labels))
    if not fits:
        raise InputError(
            f"{given_name}: no dictionary of hard negatives of these corpora: it has no two labels that were asked for"
        )
