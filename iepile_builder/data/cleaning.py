"""Find records to skip: texts that are not natural language, duplicates, and training texts of evaluation splits."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from iepile_builder.data.instructions import UNSPACED
from iepile_builder.errors import InputError
from iepile_builder.io import fold


NEAR = 0.8  # texts of at least this Jaccard similarity of character 4-grams are near duplicates
PERMUTATIONS = 64
SCHEME = "affine32"  # of the permutations, in datasketch


@dataclass
class CleaningOptions:
    """
    What to leave out.

    Args:
        splits (`list[str]`, *optional*):
            Build only these splits, of train, validation and test.
        max_records (`int`, *optional*):
            Read only the first records of each corpus and split, up to this number.
        on_error (`str`, *optional*, defaults to `"raise"`):
            What to do about a record that cannot be used: `"raise"` stops there; `"skip"` leaves it out; `"fix"`
            leaves out its unusable annotations and mentions that are not in the text.
        clean (`bool`, *optional*, defaults to `False`):
            Leave out texts that are not natural language, see [`is_noise`].
        deduplicate (`str`, *optional*, defaults to `"none"`):
            `"exact"` leaves out training records that repeat the text and annotation of another one in their corpus,
            `"near"` also those that repeat most of a text.
        drop_evaluation_texts (`bool`, *optional*, defaults to `False`):
            Leave out training records whose text is in a validation or test split of any corpus.
    """

    splits: list[str] | None = None
    max_records: int | None = None
    on_error: str = "raise"
    clean: bool = False
    deduplicate: str = "none"
    drop_evaluation_texts: bool = False


@cache
def stop_words(language: str) -> frozenset[str]:
    """Load the stop words of a language; none for one that has no list."""
    try:
        from stopwordsiso import has_lang, stopwords
    except ImportError:
        raise InputError("cleaning needs stop words: pip install 'iepile-builder[clean]'") from None
    return frozenset(stopwords(language) if has_lang(language) else ())


def is_noise(text: str, annotated: bool, language: str) -> bool:
    """
    Check whether the IEPile dataset would skip a text (https://huggingface.co/papers/2402.14710): more than 80% of its
    characters are not letters, or it has under 5 characters and no annotation, or more than 80% of its words (in
    languages without spaces, characters) are stop words.
    """
    letters = sum(map(str.isalpha, text))
    if letters < 0.2 * len(text) or (len(text) < 5 and not annotated):
        return True
    words = [character for character in text if character.isalpha()] if language in UNSPACED else text.lower().split()
    return sum(word in stop_words(language) for word in words) > 0.8 * len(words)


def signature(text: str) -> np.ndarray:
    """Compute the MinHash of a text's character 4-grams, of shape `(PERMUTATIONS,)`."""
    from datasketch import MinHash

    text = fold(text)
    hashes = MinHash(num_perm=PERMUTATIONS, scheme=SCHEME)
    hashes.update_batch({text[start : start + 4].encode() for start in range(max(1, len(text) - 3))})
    return hashes.digest()


def is_near_repeat(signatures: np.ndarray) -> np.ndarray:
    """Mark each signature that is near an earlier one that is kept."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS)
    repeats = np.zeros(len(signatures), dtype=bool)
    for row, values in enumerate(signatures):
        hashes = MinHash(num_perm=PERMUTATIONS, hashvalues=values, scheme=SCHEME)
        near = np.array(index.query(hashes), dtype=int)
        repeats[row] = ((signatures[near] == values).mean(axis=1) >= NEAR).any()
        if not repeats[row]:
            index.insert(row, hashes, check_duplication=False)
    return repeats
