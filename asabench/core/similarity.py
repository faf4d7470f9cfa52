"""How alike two requests are: texts folded, cosine similarity of their words, and clusters of near-duplicates.

Two requests are *near-duplicates* where the cosine of their weighted words is `NEAR` or more. The weights are fixed, so
a similarity depends on its two texts alone, and not on what else is compared or installed.

    words     of the folded text (`fold`), split at spaces
    weight    n(w) * (ln((1 + 520) / (1 + d(w))) + 1): term frequency times smoothed inverse document frequency, where
              n(w) is how often the word is in the text and d(w) in how many of AdvBench's 520 goals it is (others: 0)
    cosine    of the two vectors of weights, rounded to `DIGITS` decimals; 0 for a text without words

The words of the reference come with ASABench by digest (`data/advbench_words.csv`), as its text does not. Limits: words
that AdvBench does not have weigh all the same, so in another language the common words count as much as the rare ones;
a language written without spaces has long words, and finds little more than equal texts; letters of another alphabet
that look alike, other spellings and paraphrases are not folded.
"""

from __future__ import annotations

import csv
import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from asabench.core.errors import NotAtHand

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MEASURE: Literal["tfidf-advbench"] = "tfidf-advbench"
"""The name of what is described above, in records: with another reference or weight it gets another name."""
NEAR = 0.5
DIGITS = 6
DOCUMENTS = 520
WORDS = Path(str(files("asabench"))) / "data" / "advbench_words.csv"
FEWEST_WORDS = 4
"""A request of fewer words is found inside others by chance."""
_BLOCK = 1000  # texts whose similarities to all others are in memory at once


class Near(NamedTuple):
    """Two near-duplicates by their places in what was compared."""

    first: int
    second: int
    similarity: float


# Variation selectors and fillers that show nothing, beside the category of format characters
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | {
    chr(code) for code in (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}


def fold(text: str) -> str:
    """The text's words with one space between: NFKC, case-folded, without format characters and others that show
    nothing (zero width, soft hyphens, variation selectors), and with punctuation, symbols and control characters read
    as spaces."""
    shown = "".join(c for c in text if c not in _INVISIBLE and unicodedata.category(c) != "Cf")
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", shown).casefold())
    kept = (c if c not in _INVISIBLE and unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    return " ".join("".join(kept).split())


def word_digest(word: str) -> str:
    """What names a word in the reference: the first 16 hex digits of SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(word.encode("utf-8")).hexdigest()[:16]


@lru_cache
def document_frequencies() -> Mapping[str, int]:
    """In how many goals of AdvBench a word is, by its digest; `NotAtHand` where the table cannot be read."""
    try:
        with WORDS.open(encoding="utf-8", newline="") as file:
            return {row["word_sha256"]: int(row["goals"]) for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as error:
        raise NotAtHand(
            f"the words of AdvBench in {WORDS} cannot be read ({type(error).__name__}); install ASABench again"
        ) from None


def similarities(a: Sequence[str], b: Sequence[str]) -> csr_matrix:
    """The cosines of the texts of a with those of b, rounded: (a, b), sparse."""
    places: dict[str, int] = {}
    rows, others = _vectors(a, places), _vectors(b, places)
    rows.resize(len(a), len(places))
    others.resize(len(b), len(places))
    found = (rows @ others.T).tocsr()
    found.data = found.data.round(DIGITS)
    return found


def _vectors(texts: Sequence[str], places: dict[str, int]) -> csr_matrix:
    """The texts' weights, each of length 1: (text, word). places: each word's column, which is added to."""
    from scipy.sparse import csr_matrix

    known = document_frequencies()
    values: list[float] = []
    columns: list[int] = []
    starts = [0]
    for text in texts:
        weights = {
            places.setdefault(word, len(places)): number
            * (math.log((1 + DOCUMENTS) / (1 + known.get(word_digest(word), 0))) + 1)
            for word, number in Counter(fold(text).split()).items()
        }
        length = math.sqrt(math.fsum(weight**2 for weight in weights.values()))
        columns += weights
        values += [weight / length for weight in weights.values()]
        starts.append(len(columns))
    return csr_matrix((values, columns, starts), shape=(len(texts), max(len(places), 1)))


def near_pairs(texts: Sequence[str]) -> list[Near]:
    """The near-duplicates among the texts, each pair once, in order."""
    found = (near for near in near_between(texts, texts) if near.first < near.second)
    return sorted(found)


def near_between(a: Sequence[str], b: Sequence[str]) -> list[Near]:
    """The near-duplicates between the texts of a and those of b, in order."""
    found: list[Near] = []
    for start in range(0, len(a), _BLOCK):
        block = similarities(a[start : start + _BLOCK], b).tocoo()
        near = block.data >= NEAR
        places = zip(block.row[near].tolist(), block.col[near].tolist(), block.data[near].tolist(), strict=True)
        found += [Near(start + row, column, value) for row, column, value in places]
    return sorted(found)


def copies(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Where a text of a is one of b but for how it is written, or holds its words in a row (a text that was appended
    to): places (a, b), in order. Texts without a word are none."""
    folded = [fold(text) for text in b]
    # Without spaces: w r i t e is write
    closed = {text.replace(" ", ""): place for place, text in enumerate(folded) if text}
    long = [(f" {text} ", place) for place, text in enumerate(folded) if text.count(" ") >= FEWEST_WORDS - 1]
    found = set()
    for first, text in enumerate(map(fold, a)):
        if (same := closed.get(text.replace(" ", ""))) is not None:
            found.add((first, same))
        found |= {(first, second) for words, second in long if words in f" {text} "}
    return sorted(found)


def components(number: int, pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The cluster of each of so many texts: the place of the first text that a chain of pairs leads to."""
    first = list(range(number))

    def root(place: int) -> int:
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return place

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        first[high] = low
    return tuple(root(place) for place in range(number))


def clusters(texts: Sequence[str]) -> tuple[int, ...]:
    """The cluster of near-duplicates of each text, named by the place of its first member."""
    return components(len(texts), [(near.first, near.second) for near in near_pairs(texts)])
