"""
The numbers of `seqeval` and `nervaluate`, on real corpora with corrupted predictions; where these two differ from this
project, each difference as a test of its own.
"""

import json
import random
import warnings
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import pytest
from helpers.corpora import SHARED, needs_shared

from iepile_builder.data.corpus import Corpus, find_corpora
from iepile_builder.data.index import read_split
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.scorer import Scorer


Evaluator = pytest.importorskip("nervaluate").Evaluator
metrics = pytest.importorskip("seqeval.metrics")
IOB2 = pytest.importorskip("seqeval.scheme").IOB2

CORPORA = ["WNUT17", "bc5cdr", "mit-movie", "clue", "resume_ner"]


class Span(NamedTuple):
    start: int
    end: int
    label: str


class Sample(NamedTuple):
    text: str
    gold: list[Span]
    predicted: list[Span]


def corpus(name: str) -> Corpus:
    return next(found for found in find_corpora([SHARED / "corpora"], ["NER"]) if found.source == name)


def corrupted(spans: list[Span], text: str, labels: tuple[str, ...], rng: random.Random) -> list[Span]:
    """Some spans left out, with another label, another boundary, and some that are spurious."""
    predicted = []
    for span in spans:
        start, end, label = span
        kind = rng.choice(["right", "right", "right", "missed", "label", "boundary", "both", "spurious"])
        if kind == "missed":
            continue
        if kind in ("label", "both"):
            label = rng.choice(labels)
        if kind in ("boundary", "both"):
            start, end = start + rng.randint(-3, 2), end + rng.randint(-2, 3)
        if kind == "spurious":
            start = rng.randrange(len(text))
            end = start + rng.randint(1, 5)
        if 0 <= start < end <= len(text):
            predicted.append(Span(start, end, label))
    return predicted


def occurrences(mention: str, text: str) -> list[int]:
    return [start for start in range(len(text)) if text.startswith(mention, start)]


def samples(source: Corpus, seed: int) -> Iterator[Sample]:
    """Records whose mentions each occur once, none within another, with predictions of the same kind."""
    rng = random.Random(seed)
    for record in islice(read_split(source, "train"), 1500):
        text = record["text"]
        places = [(occurrences(entity["entity"], text), entity) for entity in record["entity"]]
        gold = [
            Span(start, start + len(entity["entity"]), entity["entity_type"])
            for starts, entity in places
            for start in starts
        ]
        predicted = corrupted(gold, text, source.schema.types, rng)
        if len(gold) == len(places) and all(
            flat(side) and all(len(occurrences(text[span.start : span.end], text)) == 1 for span in side)
            for side in (gold, predicted)
        ):
            yield Sample(text, gold, predicted)


def flat(spans: list[Span]) -> bool:
    return all(one.end <= other.start for one, other in pairwise(sorted(spans)))


def one_to_one(sample: Sample) -> bool:
    """Whether no span overlaps two of the other side: then nervaluate's result does not depend on the order."""
    met = [
        (gold, found)
        for gold in sample.gold
        for found in sample.predicted
        if gold.start < found.end and found.start < gold.end
    ]
    return len({gold for gold, _ in met}) == len({found for _, found in met}) == len(met)


def report(found: list[Sample], labels: tuple[str, ...], **options: object) -> dict:
    """What this project makes of the samples."""
    scorer = Scorer()
    for number, sample in enumerate(found):
        answer: dict[str, list[str]] = {label: [] for label in labels}
        for span in sample.predicted:
            answer[span.label].append(sample.text[span.start : span.end])
        gold = [{"entity": sample.text[span.start : span.end], "entity_type": span.label} for span in sample.gold]
        scorer.add(
            {
                "id": str(number),
                "task": "NER",
                "source": "x",
                "instruction": json.dumps({"instruction": "", "schema": labels, "input": sample.text}),
                "label": json.dumps(gold),
                "output": json.dumps(answer),
            }
        )
    return scorer.report(Matching(**options))


def tags(spans: list[Span], text: str) -> list[str]:
    """IOB2 tags, a tag for each character."""
    result = ["O"] * len(text)
    for start, end, label in spans:
        result[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return result


def nervaluate(found: list[Sample], labels: tuple[str, ...]) -> dict:
    sides = [
        [[{"label": label, "start": start, "end": end - 1} for start, end, label in side] for side in sides]
        for sides in zip(*((sample.gold, sample.predicted) for sample in found), strict=True)
    ]
    return Evaluator(*sides, tags=list(labels), loader="dict").evaluate()["overall"]


@needs_shared
@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.filterwarnings("ignore")
def test_seqeval_gives_the_same_strict_scores(name: str) -> None:
    source = corpus(name)
    found = list(samples(source, seed=1))
    assert len(found) > 200
    ours = report(found, source.schema.types)
    gold = [tags(sample.gold, sample.text) for sample in found]
    predicted = [tags(sample.predicted, sample.text) for sample in found]
    for average, scores in (("micro", ours["overall"]), ("macro", ours["macro"]["tasks"]["NER"]["labels"])):
        options = {"average": average, "mode": "strict", "scheme": IOB2, "zero_division": 0}
        theirs = [
            100 * function(gold, predicted, **options)
            for function in (metrics.precision_score, metrics.recall_score, metrics.f1_score)
        ]
        assert [scores[key] for key in ("precision", "recall", "f1")] == pytest.approx(theirs)


@needs_shared
@pytest.mark.parametrize("name", CORPORA)
def test_nervaluate_gives_the_same_counts_in_four_modes(name: str) -> None:
    source = corpus(name)
    found = [sample for sample in samples(source, seed=2) if one_to_one(sample)]
    assert len(found) > 200
    theirs = nervaluate(found, source.schema.types)
    for schema, mode in (("strict", "strict"), ("exact", "boundary"), ("ent_type", "type"), ("partial", "partial")):
        ours = report(found, source.schema.types, mode=mode)["overall"]
        assert ours["tp"] == theirs[schema].correct + theirs[schema].partial / 2, mode
        assert (ours["pred"], ours["gold"]) == (theirs[schema].actual, theirs[schema].possible)
        assert ours["f1"] == pytest.approx(100 * theirs[schema].f1)
    assert theirs["partial"].partial > 0


# Where they differ, and why


TEXT = "Ada Lovelace met Ada in Rome."
LABELS = ("person", "city")


def test_divergence_nervaluate_lets_an_overlap_take_the_gold_of_a_later_exact_match() -> None:
    short, whole = Span(0, 3, "city"), Span(0, 12, "person")
    for predicted, theirs in (([short, whole], 0), ([whole, short], 1)):
        sample = Sample("Bob Lovelace met Ada in Rome.", [whole], predicted)
        assert nervaluate([sample], LABELS)["strict"].correct == theirs  # depends on the order
        assert report([sample], LABELS)["overall"]["tp"] == 1


def test_divergence_nervaluate_matches_types_greedily() -> None:
    text = "abcdef"
    gold = [Span(0, 2, "x"), Span(2, 6, "x")]
    predicted = [Span(0, 4, "x"), Span(0, 1, "x")]  # the first could take the second gold, and leave the first
    for order in (predicted, predicted[::-1]):
        assert report([Sample(text, gold, order)], ("x",), mode="type")["overall"]["tp"] == 2
    assert nervaluate([Sample(text, gold, predicted)], ("x",))["ent_type"].correct == 1
    assert nervaluate([Sample(text, gold, predicted[::-1])], ("x",))["ent_type"].correct == 2


def test_divergence_spans_are_positions_and_answers_are_strings() -> None:
    gold, elsewhere = [Span(0, 3, "person")], [Span(17, 20, "person")]  # "Ada" both
    assert nervaluate([Sample(TEXT, gold, elsewhere)], LABELS)["strict"].correct == 0
    assert report([Sample(TEXT, gold, elsewhere)], LABELS)["overall"]["tp"] == 1


def test_divergence_nervaluate_asks_for_one_percent_of_overlap_and_this_project_for_a_character() -> None:
    text = "x" + "abcdefghij" * 15
    sample = Sample(text, [Span(0, 151, "city")], [Span(0, 1, "city")])
    assert nervaluate([sample], LABELS)["ent_type"].correct == 0
    assert report([sample], LABELS, mode="type")["overall"]["tp"] == 1
    assert report([sample], LABELS, mode="type", min_overlap=0.01)["overall"]["tp"] == 0


def test_divergence_tags_hold_no_nested_mentions() -> None:
    nested = [Span(0, 12, "person"), Span(4, 12, "city")]
    sample = Sample(TEXT, nested, nested)
    assert report([sample], LABELS)["overall"]["gold"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        side = [tags(nested, TEXT)]
        assert metrics.recall_score(side, side, mode="strict", scheme=IOB2) == 1
    assert side[0][:5] == ["B-person", *["I-person"] * 3, "B-city"]  # "Ada ", not "Ada Lovelace"
