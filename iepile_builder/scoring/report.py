"""The error report: one HTML page with scores, confusions, kinds of error and the worst records."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, get_args

from iepile_builder.answers.parse import answer_keys
from iepile_builder.html import render
from iepile_builder.io import write_whole
from iepile_builder.scoring.confidence import report_confidence
from iepile_builder.scoring.confusable import count_confusable, describe_confusable
from iepile_builder.scoring.matching import Label, Matching, Mentions, Mode, Overlaps
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.scoring.significance import format_interval
from iepile_builder.scoring.tally import Counts, RecordKey, ScoredRecord
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Fact


KINDS = {
    "missed": "a gold fact without a similar prediction",
    "spurious": "a predicted fact without a similar gold fact",
    "wrong type": "the mentions of a gold fact under another label, even if it is also found under its own",
    "wrong boundary": "the label of a gold fact with overlapping mentions",
    "not in the text": "a mention that does not occur in the text, or a value that is not of the task's form",
    "label outside the schema": "a label that the instruction did not ask for",
    "repeated": "predicted more often than annotated",
}
HEAT_LABELS = 15
TABLE_LABELS = 200
WORST = 25
TEXT_SHOWN = 3000
ITEMS_SHOWN = 40


class Part(NamedTuple):
    """The parts of a fact that are compared."""

    block: str
    label: Label
    mentions: Mentions


class Finding(NamedTuple):
    """A gold fact and the predicted fact that it is paired with; either may be missing."""

    kind: str  # "right" or one of KINDS
    gold: Part | None
    predicted: Part | None


@dataclass
class Diagnosis:
    """A record and its findings."""

    key: RecordKey
    record: ScoredRecord
    findings: list[Finding]

    @property
    def right(self) -> int:
        """Number of gold facts that were predicted."""
        return sum(finding.kind == "right" for finding in self.findings)

    @property
    def errors(self) -> int:
        """Number of wrong or missed facts and of answers that did not parse."""
        return len(self.findings) - self.right + len(self.record.unparsed)


def diagnose(
    gold: Iterable[Fact], predicted: Iterable[Fact], text: str, task: str, keys: frozenset[str]
) -> list[Finding]:
    """
    Classify every gold and every predicted fact of a record as right or as one of `KINDS`: a finding for each pair,
    and for each fact that has no pair. A gold fact has one pair, and another one with each further prediction of its
    mentions under a wrong label. `keys` are those that the answers may have.
    """
    matching = Matching()
    block_of = TASKS[task].block_of
    every = [Part(block_of(fact), *matching.parts(fact)) for fact in gold]
    missing = Counter(every)
    known: set[Part] = set()
    findings, rest = [], []
    for fact in predicted:
        part = Part(block_of(fact), *matching.parts(fact))
        if missing[part] > 0:
            missing[part] -= 1
            findings.append(Finding("right", part, part))
        elif part in known:
            findings.append(Finding("repeated", None, part))
        elif fact.answer_key not in keys:
            findings.append(Finding("label outside the schema", None, part))
        elif any(mention not in text for mention in part.mentions):
            findings.append(Finding("not in the text", None, part))
        else:
            rest.append(part)
        known.add(part)
    left = list(missing.elements())
    overlaps = Overlaps(text, 0)

    def wrong_type(annotated: Part, part: Part) -> bool:
        return annotated.block == part.block and annotated.mentions == part.mentions

    def wrong_boundary(annotated: Part, part: Part) -> bool:
        same = annotated[:2] == part[:2]
        return same and all(map(overlaps, annotated.mentions, part.mentions))

    passes = (
        ("wrong type", wrong_type, left),
        ("wrong type", wrong_type, every),
        ("wrong boundary", wrong_boundary, left),
    )
    for kind, near, candidates in passes:
        for part in list(rest):
            annotated = next((annotated for annotated in candidates if near(annotated, part)), None)
            if annotated is not None:
                if candidates is left:
                    left.remove(annotated)
                rest.remove(part)
                findings.append(Finding(kind, annotated, part))
    findings += [Finding("spurious", None, part) for part in rest]
    findings += [Finding("missed", part, None) for part in left]
    return findings


def write_report(
    folder: Path,
    scorer: Scorer,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    system: str = "",
    other: str = "",
    comparison: dict[str, Any] | None = None,
    mode: str = "strict",
    confusable: dict[str, Any] | None = None,
    confidences: dict[str, Any] | None = None,
) -> Path:
    """
    Write the error report of a system as one page, `index.html`, that needs no network; return its path.

    `resamples`, `confidence` and `seed` are those of the intervals; `comparison` is a result of [`Scorer.compare`]
    with the system `other` in a match `mode`. `confusable` and `confidences`, by default computed here, are those of
    [`count_confusable`] and [`report_confidence`].
    """
    confusable = count_confusable(scorer) if confusable is None else confusable
    confidences = report_confidence(scorer) if confidences is None else confidences
    report = scorer.report(resamples=resamples, confidence=confidence, seed=seed)
    diagnoses = []
    for key, record, gold in scorer.compared():
        keys = answer_keys(key.task, TASKS[key.task].labels(record.schema()))
        diagnoses.append(Diagnosis(key, record, diagnose(gold, record.facts, record.text, key.task, keys)))
    tests = [("all facts", "", comparison["overall"]), *by_task_and_block(comparison["tasks"])] if comparison else []
    html = render(
        "report.html",
        title="Error report",
        language="en",
        system=system,
        confidence=confidence,
        report=report,
        tasks=list(by_task_and_block(report["tasks"])),
        other=other,
        comparison=tests,
        records={name: of["records"] for name, of in list_scores(report)},
        interval=format_interval,
        mode=mode,
        modes=list(_score_modes(scorer)),
        kinds=_count_kinds(diagnoses),
        labels=[
            (task, block, list(labels.items())[:TABLE_LABELS], max(len(labels) - TABLE_LABELS, 0))
            for task, block, labels in by_task_and_block(report["labels"])
        ],
        confusable=confusable,
        confusable_line=describe_confusable(confusable),
        confusable_labels=[
            (task, [(label, of) for label, of in labels.items() if of["confusable"]][:TABLE_LABELS])
            for task, labels in confusable["labels"].items()
        ],
        confidences=list(_plots(confidences)) if confidences is not None else None,
        min_score=scorer.min_score,
        multi_label=scorer.multi_label,
        calibrated=scorer.calibration is not None,
        heat_labels=HEAT_LABELS,
        confusions=list(_count_confusions(diagnoses)),
        worst=[
            _describe(diagnosis)
            for diagnosis in sorted(diagnoses, key=lambda one: -one.errors)[:WORST]
            if diagnosis.errors
        ],
    )
    write_whole(folder / "index.html", html)
    return folder / "index.html"


def _plots(confidences: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the confidences that are drawn: of all facts, and of each task where there are several."""
    yield "all facts", confidences["overall"]
    if len(confidences["tasks"]) > 1:
        yield from confidences["tasks"].items()


def by_task_and_block(report: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield task, block and content of a part of a report that goes by task."""
    for task, blocks in report.items():
        for block in TASKS[task].blocks:
            if block in blocks or not block:
                yield task, block, blocks[block] if block else blocks


def list_scores(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the scores of a report or of a comparison with their names: of each task and block, then of all facts."""
    for task, block, of in by_task_and_block(report["tasks"]):
        yield f"{task} {block}".strip(), of
    yield "all facts", report["overall"]


def to_json_text(report: dict[str, Any]) -> str:
    """Write a report as JSON: a made-up label may hold half a surrogate pair, which only an escape can write."""
    return json.dumps(report, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace").decode() + "\n"


def _score_modes(scorer: Scorer) -> Iterator[tuple[str, Counts]]:
    """Count all facts in each match mode."""
    for mode in get_args(Mode):
        tally = scorer.tally(Matching(mode))
        yield mode, tally.counts(list(tally.rows))


def _count_kinds(diagnoses: list[Diagnosis]) -> list[tuple[str, int, float, str]]:
    """Count each kind of error; the share is relative to the most frequent one."""
    found = Counter(finding.kind for diagnosis in diagnoses for finding in diagnosis.findings)
    counts = [(kind, found[kind], meaning) for kind, meaning in KINDS.items()]
    unparsed = sum(len(diagnosis.record.unparsed) for diagnosis in diagnoses)
    counts.append(("unparsed", unparsed, "an answer that is no JSON object; its gold facts are missed"))
    most = max(1, *(count for _, count, _ in counts))
    return [(kind, count, count / most, meaning) for kind, count, meaning in counts]


def _count_confusions(
    diagnoses: list[Diagnosis],
) -> Iterator[tuple[str, str, list[str], list[tuple[str, list[tuple[int, float]]]]]]:
    """Count gold label against predicted label, by task and block: labels, and for each its cells with their shade."""
    pairs: dict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for diagnosis in diagnoses:
        label_text = TASKS[diagnosis.key.task].label_text
        for kind, gold, predicted in diagnosis.findings:
            if gold is not None and predicted is not None and kind in ("right", "wrong type"):
                names = label_text(gold.label), label_text(predicted.label)
                pairs[diagnosis.key.task, gold.block][names] += 1
    for (task, block), found in pairs.items():
        weight: Counter[str] = Counter()
        for names, count in found.items():
            for name in dict.fromkeys(names):  # in an order that every run has
                weight[name] += count if names[0] == names[1] else 1_000_000 * count
        labels = [name for name, _ in weight.most_common(HEAT_LABELS)]
        most = max(found.values())
        rows = [
            (row, [(found[row, column], 0.75 * (found[row, column] / most) ** 0.5) for column in labels])
            for row in labels
        ]
        yield task, block, labels, rows


def _describe(diagnosis: Diagnosis) -> dict[str, Any]:
    """Collect what the page shows of a record."""
    task = diagnosis.key.task
    wrong = [finding for finding in diagnosis.findings if finding.kind != "right"]
    said = [
        (
            kind,
            " instead of ".join(_part_text(part, task)[:TEXT_SHOWN] for part in (predicted, gold) if part is not None),
        )
        for kind, gold, predicted in wrong[:ITEMS_SHOWN]
    ]
    return {
        "key": diagnosis.key,
        "right": diagnosis.right,
        "errors": diagnosis.errors,
        "pieces": mark_mentions(diagnosis.record.text, diagnosis.findings),
        "kinds": {finding.kind for finding in wrong} | {"unparsed" for _ in diagnosis.record.unparsed},
        "wrong": said,
        "more": max(len(wrong) - ITEMS_SHOWN, 0),
        "unparsed": diagnosis.record.unparsed,
    }


def _part_text(part: Part, task: str) -> str:
    """Write a fact on one line."""
    return f"{TASKS[task].label_text(part.label)}: {' → '.join(part.mentions)}"


def mark_mentions(text: str, findings: list[Finding]) -> list[tuple[str, str]]:
    """Cut a text into pieces, each with the names of the marks on it."""
    text = text[:TEXT_SHOWN]
    mentions = {
        (name, mention)
        for kind, gold, predicted in findings
        for name, part in (("gold", gold), ("right" if kind in ("right", "repeated") else "wrong", predicted))
        if part is not None
        for mention in part.mentions
    }
    marks = {name: bytearray(len(text)) for name in ("gold", "right", "wrong")}
    for name, mention in mentions:
        for start, end in cover_spans(mention, text):
            marks[name][start:end] = b"\1" * (end - start)
    places = zip(text, *marks.values(), strict=True)
    return [
        ("".join(place[0] for place in piece), " ".join(name for name, on in zip(marks, marked, strict=True) if on))
        for marked, piece in groupby(places, key=lambda place: place[1:])
    ]


def cover_spans(mention: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield spans that together cover every occurrence; of those that overlap one, only the last is needed."""
    start = text.find(mention) if mention else -1
    while start >= 0:
        end = start + len(mention)
        yield start, end
        overlapping = text.rfind(mention, start + 1, end + len(mention) - 1)
        start = overlapping if overlapping >= 0 else text.find(mention, end)
