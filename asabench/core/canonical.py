"""Text as bytes that do not depend on how it was copied or checked out."""

from __future__ import annotations


def canonical_text(content: bytes) -> bytes:
    """The bytes with each line ended by one line feed, as on the machine where the text was written: a checkout may
    have put a carriage return before it. What is digested is digested so."""
    return content.replace(b"\r\n", b"\n")
