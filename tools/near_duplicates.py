"""Makes the two tables by which near-duplicates of AdvBench's goals are known without their text.

    python -m tools.near_duplicates

`advbench_words.csv`: in how many of the 520 goals a word is, by the word's digest; `advbench_pairs.csv`: every pair of
goals whose similarity (`asabench.core.similarity`) is 0.5 or more. Needs the text of AdvBench. Prints what follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from asabench.core import advbench, near_duplicates, similarity
from asabench.core.files import write_whole


def words_table(goals: Sequence[str]) -> str:
    """In the order of the digests, so that it says nothing of the order of words."""
    found = Counter(word for goal in goals for word in set(similarity.fold(goal).split()))
    lines = sorted(f"{similarity.word_digest(word)},{number}" for word, number in found.items())
    return "\n".join(["word_sha256,goals", *lines]) + "\n"


def pairs_table(goals: Sequence[str]) -> str:
    """By the weights of the words' table that is there."""
    lines = [f"{near.first},{near.second},{near.similarity:g}" for near in similarity.near_pairs(goals)]
    return "\n".join(["first,second,similarity", *lines]) + "\n"


def main() -> None:
    goals = [prompt.goal for prompt in advbench.load()]
    write_whole(similarity.WORDS, words_table(goals).encode())
    similarity.document_frequencies.cache_clear()
    write_whole(near_duplicates.PAIRS, pairs_table(goals).encode())
    near_duplicates.pairs.cache_clear()
    tested = near_duplicates.PUBLISHED_TEST
    digests = [prompt.digest for prompt in advbench.load()]
    near = near_duplicates.known_near(digests[tested:300], digests[:tested])
    sizes = Counter(near_duplicates.known_clusters(digests[:tested]))
    print(f"{len(near_duplicates.pairs())} pairs among {len(goals)} goals")
    print(f"{len(near)} of the first {tested} have a near-duplicate among {tested} to 299")
    print(f"{len(sizes)} clusters among the first {tested}, the largest of {max(sizes.values())}")
    print(f"{len(near_duplicates.disjoint_rows())} goals are connected with none of the first {tested}")


if __name__ == "__main__":
    main()
