"""Writes `asabench/data/advbench_rewritten.txt`: digests of the test prompts in other writings, a line a prompt.

python -m tools.advbench_rewritten     needs AdvBench's goals (`asabench.core.advbench.INSTALL`)
"""

from __future__ import annotations

from asabench.core.advbench import load
from asabench.core.near_duplicates import PUBLISHED_TEST
from asabench.core.records import sha256_hex
from asabench.core.rewritten import PREFIX, TABLE, rewritings


def table() -> str:
    """The digests' first digits, in the order in which `rewritings` gives the texts."""
    goals = [prompt.goal for prompt in load()[:PUBLISHED_TEST]]
    return "".join(" ".join(sha256_hex(text)[:PREFIX] for text in rewritings(goal)) + "\n" for goal in goals)


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="ascii")
