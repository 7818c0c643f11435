"""The error report: one HTML page with scores, confusions, kinds of error and the worst records."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, get_args

from iepile_builder.answers.parse import answer_keys
from iepile_builder.html import STYLE, table
from iepile_builder.io import write_whole
from iepile_builder.scoring.matching import BLOCKS, Label, Matching, Mentions, Mode, Overlaps, block_of
from iepile_builder.scoring.scorer import Scorer, label_name
from iepile_builder.scoring.tally import RecordKey, ScoredRecord
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Fact, TypedRelation


KINDS = {
    "missed": "a gold fact that nothing predicted comes near",
    "spurious": "a predicted fact that comes near no gold one",
    "wrong type": "the mentions of a gold fact under another label",
    "wrong boundary": "the label of a gold fact with overlapping mentions",
    "not in the text": "a mention that does not occur in the text, or a value that is not of the task's form",
    "label outside the schema": "a label that the instruction did not ask for",
    "repeated": "predicted once more than it is annotated",
}
HEAT_LABELS = 15
TABLE_LABELS = 200
WORST = 25
TEXT_SHOWN = 3000
ITEMS_SHOWN = 40


class Part(NamedTuple):
    """What is compared of a fact."""

    block: str
    label: Label
    mentions: Mentions

    def __str__(self) -> str:
        return f"{label_name(self.label)}: {' → '.join(self.mentions)}"


class Finding(NamedTuple):
    """A gold fact and the predicted one that it goes with; either may be missing."""

    kind: str  # "right" or one of KINDS
    gold: Part | None
    predicted: Part | None


@dataclass
class Diagnosis:
    """A record's findings."""

    key: RecordKey
    record: ScoredRecord
    findings: list[Finding]

    @property
    def errors(self) -> int:
        """How much is wrong."""
        wrong = sum(finding.kind != "right" for finding in self.findings)
        return wrong + len(self.record.unparsed)


def diagnose(
    gold: Iterable[Fact], predicted: Iterable[Fact], text: str, task: str, keys: frozenset[str]
) -> list[Finding]:
    """
    Say of every gold and every predicted fact of a record whether it is right, and what is wrong with it otherwise.

    Args:
        gold (`Iterable[Fact]`):
            What is annotated.
        predicted (`Iterable[Fact]`):
            What the answers say.
        text (`str`):
            The record's.
        task (`str`):
            One of the seven tasks.
        keys (`frozenset[str]`):
            The keys that the answers may have.
    """
    matching = Matching()
    missing = Counter(Part(block_of(fact, task), *matching.parts(fact)) for fact in gold)
    known: set[Part] = set()
    findings, rest = [], []
    for fact in predicted:
        part = Part(block_of(fact, task), *matching.parts(fact))
        key = fact.relation if isinstance(fact, TypedRelation) else part.label[0]
        if missing[part] > 0:
            missing[part] -= 1
            findings.append(Finding("right", part, part))
        elif part in known:
            findings.append(Finding("repeated", None, part))
        elif key not in keys:
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

    for kind, near in (("wrong type", wrong_type), ("wrong boundary", wrong_boundary)):
        for part in list(rest):
            annotated = next((annotated for annotated in left if near(annotated, part)), None)
            if annotated is not None:
                left.remove(annotated)
                rest.remove(part)
                findings.append(Finding(kind, annotated, part))
    findings += [Finding("spurious", None, part) for part in rest]
    findings += [Finding("missed", part, None) for part in left]
    return findings


def write_report(folder: Path, scorer: Scorer, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Path:
    """
    Write the error report of a system as one page, `index.html`, that needs no network.

    Args:
        folder (`Path`):
            Where it goes.
        scorer ([`Scorer`]):
            With the system's answers.
        resamples (`int`, *optional*, defaults to 1000):
            Of the bootstrap that gives the intervals.
        confidence (`float`, *optional*, defaults to 0.95):
            Of the intervals.
        seed (`int`, *optional*, defaults to 0):
            Of the bootstrap.
    """
    report = scorer.report(resamples=resamples, confidence=confidence, seed=seed)
    diagnoses = []
    for key, record, gold in scorer.compared():
        keys = answer_keys(key.task, TASKS[key.task].labels(record.schema()))
        diagnoses.append(Diagnosis(key, record, diagnose(gold, record.facts, record.text, key.task, keys)))
    parts = [
        *headline(report, confidence),
        *modes(scorer),
        *error_kinds(diagnoses),
        *labels(report["labels"]),
        *confusions(diagnoses),
        *worst_records(diagnoses),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Error report</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    # an answer may hold half a surrogate pair
    write_whole(folder / "index.html", page.encode("utf-8", "xmlcharrefreplace").decode("utf-8"))
    return folder / "index.html"


def task_blocks(report: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Task, block and what a part of a report that goes by task has of them."""
    for task, blocks in report.items():
        for block in BLOCKS.get(task, ("",)):
            if block in blocks or not block:
                yield task, block, blocks[block] if block else blocks


def with_interval(scores: dict[str, Any], name: str) -> str:
    """A score and its interval."""
    low, high = scores["intervals"][name]
    return f"{scores[name]:.2f} <small>[{low:.2f}, {high:.2f}]</small>"


def headline(report: dict[str, Any], confidence: float) -> Iterator[str]:
    """The scores of all facts, and by task."""
    overall = report["overall"]
    yield "<h1>Error report</h1>"
    yield (
        f"<p>Strict scores over all facts, with {confidence:.0%} intervals (bootstrap over records). "
        f"Macro F1 over corpora: {report['macro']['overall']['sources']['f1']:.2f}, over labels: "
        f"{report['macro']['overall']['labels']['f1']:.2f}.</p>"
    )
    yield '<div class="cards">'
    for name in ("f1", "precision", "recall"):
        low, high = overall["intervals"][name]
        title = name.upper() if name == "f1" else name.title()
        value = f"<b>{overall[name]:.2f}</b><span>{low:.2f} – {high:.2f}</span>"
        yield f'<div class="card"><span>{title}</span>{value}</div>'
    for name, title in (
        ("records", "records"),
        ("answers", "answers"),
        ("unparsed", "answers not parsed"),
        ("repaired", "answers repaired"),
        ("outside_schema", "labels outside the schema"),
        ("not_in_text", "predicted facts not in the text"),
        ("gold_not_in_text", "gold facts not in the text"),
    ):
        yield f'<div class="card"><b>{overall[name]}</b><span>{title}</span></div>'
    yield "</div><h2>By task</h2>"
    names = ("precision", "recall", "f1")
    yield table(
        ("task", "precision", "recall", "F1", "right", "predicted", "gold"),
        (
            (f"{task} {block}", *(with_interval(scores, name) for name in names), *counts(scores))
            for task, block, scores in task_blocks(report["tasks"])
        ),
    )


def counts(scores: dict[str, Any]) -> tuple[str, ...]:
    """Matches, predicted and gold facts."""
    return tuple(f"{scores[name]:g}" if name == "tp" else str(scores[name]) for name in ("tp", "pred", "gold"))


def modes(scorer: Scorer) -> Iterator[str]:
    """All match modes side by side."""
    rows = []
    for mode in get_args(Mode):
        tally = scorer.tally(Matching(mode))
        overall = tally.counts(list(tally.rows))
        rows.append((mode, *(f"{score:.2f}" for score in overall.scores().values()), *counts(vars(overall))))
    yield "<h2>By match mode</h2><p>Far more right in a laxer mode: the facts are found, their form is missed.</p>"
    yield table(("mode", "precision", "recall", "F1", "right", "predicted", "gold"), rows)


def error_kinds(diagnoses: list[Diagnosis]) -> Iterator[str]:
    """How often each kind of error occurs."""
    found = Counter(finding.kind for diagnosis in diagnoses for finding in diagnosis.findings)
    rows = [(kind, found[kind], meaning) for kind, meaning in KINDS.items()]
    unparsed = sum(len(diagnosis.record.unparsed) for diagnosis in diagnoses)
    rows.append(("unparsed", unparsed, "an answer that is no JSON object; its gold facts are missed"))
    most = max([count for _, count, _ in rows] + [1])
    yield "<h2>Kinds of error</h2>"
    shown = table(
        ("kind", "count", "", "meaning"),
        (
            (kind, str(count), f'<span class="bar" style="width:{12 * count / most:.2f}rem"></span>', meaning)
            for kind, count, meaning in rows
        ),
    )
    yield f'<div class="kinds">{shown}</div>'


def labels(report: dict[str, Any]) -> Iterator[str]:
    """The scores of each label."""
    yield "<h2>By label</h2>"
    for task, block, by_label in task_blocks(report):
        shown = list(by_label.items())[:TABLE_LABELS]
        yield f"<h3>{task} {block}</h3>"
        yield table(
            ("label", "precision", "recall", "F1", "right", "predicted", "gold"),
            (
                (escape(label), *(f"{scores[name]:.2f}" for name in ("precision", "recall", "f1")), *counts(scores))
                for label, scores in shown
            ),
        )
        if len(by_label) > len(shown):
            yield f"<p>{len(by_label) - len(shown)} labels with fewer gold facts are not shown.</p>"


def confusions(diagnoses: list[Diagnosis]) -> Iterator[str]:
    """Heat maps of gold label against predicted label."""
    pairs: dict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for diagnosis in diagnoses:
        for kind, gold, predicted in diagnosis.findings:
            if gold is not None and predicted is not None and kind in ("right", "wrong type"):
                names = label_name(gold.label), label_name(predicted.label)
                pairs[diagnosis.key.task, gold.block][names] += 1
    yield (
        "<h2>Confusion between labels</h2><p>Facts with the right mentions: annotated as the row says, predicted as "
        f"the column says. The {HEAT_LABELS} labels that are confused most, then the most frequent.</p>"
    )
    for (task, block), found in pairs.items():
        weight: Counter[str] = Counter()
        for names, count in found.items():
            for name in set(names):
                weight[name] += count if len(set(names)) == 1 else 1_000_000 * count
        shown = [name for name, _ in weight.most_common(HEAT_LABELS)]
        most = max(found.values())
        head = "".join(f'<th><span title="{escape(name)}">{escape(name)}</span></th>' for name in shown)
        yield f"<h3>{task} {block}</h3>"
        yield f'<div class="scroll"><table class="heat"><thead><tr><th></th>{head}</tr></thead><tbody>'
        for row in shown:
            cells = ""
            for column in shown:
                count = found[row, column]
                share = 0.75 * (count / most) ** 0.5
                cells += f'<td style="background:rgb(var(--heat) / {share:.2f})">{count or ""}</td>'
            yield f"<tr><th>{escape(row)}</th>{cells}</tr>"
        yield "</tbody></table></div>"


def worst_records(diagnoses: list[Diagnosis]) -> Iterator[str]:
    """The records with most errors, gold and predicted mentions marked in their texts."""
    worst = [diagnosis for diagnosis in sorted(diagnoses, key=lambda one: -one.errors)[:WORST] if diagnosis.errors]
    yield (
        "<h2>Worst records</h2><p>In the texts: "
        '<mark class="gold">annotated</mark>, <mark class="right">predicted rightly</mark>, '
        '<mark class="wrong">predicted wrongly</mark>. A mention is marked wherever it occurs.</p>'
    )
    for number, diagnosis in enumerate(worst, start=1):
        key, record = diagnosis.key, diagnosis.record
        right = sum(finding.kind == "right" for finding in diagnosis.findings)
        yield (
            f"<article><header>{number}. {key.task}, {escape(key.source)}, {escape(key.id)}: "
            f"{right} right, {diagnosis.errors} wrong</header>"
            f'<div class="text">{marked(record.text, diagnosis.findings)}</div><ul>'
        )
        wrong = [finding for finding in diagnosis.findings if finding.kind != "right"]
        for kind, gold, predicted in wrong[:ITEMS_SHOWN]:
            said = [escape(str(part)[:TEXT_SHOWN]) for part in (predicted, gold) if part is not None]
            yield f"<li><b>{kind}</b> {' instead of '.join(said)}</li>"
        if len(wrong) > ITEMS_SHOWN:
            yield f"<li>and {len(wrong) - ITEMS_SHOWN} more</li>"
        for answer in record.unparsed:
            yield f"<li><b>unparsed</b> <code>{escape(answer)}</code></li>"
        yield "</ul></article>"


def marked(text: str, findings: list[Finding]) -> str:
    """Mark the gold and the predicted mentions in a text."""
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
        for start, end in _spans(mention, text):
            marks[name][start:end] = b"\1" * (end - start)
    by_character = list(zip(*marks.values(), strict=True))
    pieces = []
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or by_character[end] != by_character[start]:
            piece = escape(text[start:end])
            names = " ".join(name for name, marked in zip(marks, by_character[start], strict=True) if marked)
            pieces.append(f'<mark class="{names}">{piece}</mark>' if names else piece)
            start = end
    return "".join(pieces)


def _spans(mention: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield spans that together cover every occurrence; of those that overlap one, only the last is needed."""
    start = text.find(mention) if mention else -1
    while start >= 0:
        end = start + len(mention)
        yield start, end
        overlapping = text.rfind(mention, start + 1, end + len(mention) - 1)
        start = overlapping if overlapping >= 0 else text.find(mention, end)
