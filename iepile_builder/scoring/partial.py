"""Score answers in parts, on different machines, and combine the counts: the report is that of scoring all at once."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from iepile_builder.errors import InputError
from iepile_builder.io import write_whole
from iepile_builder.scoring.confidence import Ranked, describe_tasks, rank_facts
from iepile_builder.scoring.confusable import Located, count_confusable, find_located
from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.scorer import Scorer
from iepile_builder.scoring.tally import Cell, Counts, Tally, report_tally


VERSION = 3


def write_partial(path: Path, scorer: Scorer, matching: Matching) -> None:
    """Write what a report of some answers is made of, in JSON, or raise an `InputError` if that is not possible."""
    tally, located = scorer.tally(matching), find_located(scorer)
    calibration = None if scorer.calibration is None else asdict(scorer.calibration)
    content = {
        "matching": asdict(matching),
        "reading": {
            "repair": scorer.repair,
            "min_score": scorer.min_score,
            "multi_label": scorer.multi_label,
            "calibration": calibration,
        },
        "records": [_hash(key) for key in scorer.records],
        "rows": [[*cell, rows.tolist()] for cell, rows in tally.rows.items()],
        "facts": [[*cell, vars(counts)] for cell, counts in tally.facts.items()],
        "answers": [[*part, vars(counts)] for part, counts in tally.answers.items()],
        "labels": [[*key, vars(counts)] for key, counts in tally.labels.items()],
        "asked": [[*corpus, list(labels)] for corpus, labels in located.asked.items()],
        "pairs": [[*pair, number] for pair, number in located.pairs.items()],
        "has_decisions": scorer.has_decisions,
        "ranked": {
            task: [each.scores.tolist(), each.hits.tolist(), each.gold, each.unscored]
            for task, each in rank_facts(scorer).items()
        },
    }
    write_whole(path, json.dumps({"version": VERSION, "digest": _hash(content), **content}))


def combine_partial(
    paths: Sequence[Path],
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    hard_negatives: dict[str, Any] | None = None,
    name: str = "given",
) -> dict[str, Any]:
    """
    Combine the files of [`write_partial`] into the report that `iepile score` gives of all answers.

    Returns:
        `dict`: The report, and in `settings` how the answers were read and compared.

    Raises:
        `InputError`: If a file is none of them, was made with other settings, or has a record that another one has.
    """
    tally, located, ranked = Tally(), Located(), dict[str, list[list[Any]]]()
    known: dict[str, Path] = {}
    first, has_decisions = _read(paths[0]), False
    for path in paths:
        part = _read(path)
        if (part["matching"], part["reading"]) != (first["matching"], first["reading"]):
            raise InputError(f"{path} and {paths[0]} were made with different options")
        if twice := next((each for each in part["records"] if each in known), None):
            raise InputError(f"{path} and {known[twice]} have answers to the same record: score these in one part")
        for *key, rows in part["rows"]:
            moved = np.array(rows).reshape(-1, 4) + (len(known), 0, 0, 0)
            tally.rows[Cell(*key)].extend(array("d", moved.ravel()))
        known.update(dict.fromkeys(part["records"], path))
        for *key, counts in part["facts"]:
            tally.facts[Cell(*key)] += Counts(**counts)
        for task, source, language, counts in part["answers"]:
            tally.answers[task, source, language] += Counts(**counts)
        for task, block, label, counts in part["labels"]:
            tally.labels[task, block, tuple(label)] += Counts(**counts)
        for task, source, labels in part["asked"]:
            located.asked[task, source].update(dict.fromkeys(labels, ()))
        located.pairs += Counter({(*pair[:2], tuple(pair[2]), pair[3]): pair[4] for pair in part["pairs"]})
        has_decisions = has_decisions or part["has_decisions"]
        for task, of_task in part["ranked"].items():
            ranked.setdefault(task, []).append(of_task)
    report = report_tally(tally, len(known), Matching(**first["matching"]), resamples, confidence, seed)
    report["settings"] = first["matching"] | {"repair": first["reading"]["repair"]}
    if min_score := first["reading"]["min_score"]:
        report["settings"]["min_score"] = min_score
    if not first["reading"]["multi_label"]:
        report["settings"]["multi_label"] = False
    report["confusable"] = count_confusable(located, hard_negatives, name)
    if has_decisions:
        report["confidence"] = describe_tasks({task: _join(parts) for task, parts in ranked.items()})
    return report


def _hash(value: Any) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=12).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        part = json.loads(path.read_bytes())
        if part.pop("version") == VERSION and part.pop("digest") == _hash(part):
            return dict(part)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError(
        f"{path}: not a file of iepile score --save_partial, or one of another version, or damaged: write it again"
    )


def _join(parts: Sequence[Sequence[Any]]) -> Ranked:
    """Join the scores of the facts of a task."""
    scores, hits, gold, unscored = zip(*parts, strict=True)
    return Ranked(np.concatenate(scores), np.concatenate(hits).astype(bool), sum(gold), sum(unscored))
