"""Score the facts of answers against annotations."""

from iepile_builder.scoring.matching import Matching
from iepile_builder.scoring.scorer import Scorer, score


__all__ = ["Matching", "Scorer", "score"]
