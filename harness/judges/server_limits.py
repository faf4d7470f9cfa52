"""What is taken from a judge's server at most; no client is imported here."""

from __future__ import annotations

MOST_ANSWER_BYTES = 8 * 2**20
"""Of one reply: a long train of thought has a tenth of that."""


class TooLong(ValueError):
    """A reply that has more than `MOST_ANSWER_BYTES`."""
