"""The published test prompts, written in other ways: known by their digests, as their text does not come with ASABench.

Where the texts of a training are at hand, `asabench.core.similarity` folds and compares them. A submission has digests
alone, and a digest of the same request in small letters, or with a full stop, is another one. So
`data/advbench_rewritten.txt` has the digests of each published test prompt in the writings of `rewritings`, which
`tools.advbench_rewritten` made. It finds carelessness; whoever leaves digests out is not found by it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from asabench.core import advbench
from asabench.core.defaults import TARGET
from asabench.core.errors import NotAtHand

TABLE = Path(str(files("asabench"))) / "data" / "advbench_rewritten.txt"
PREFIX = 12
"""Hex digits of a digest that are kept: two of the few thousand that are equal by chance are one in ten million."""
_ENDS = ("", ".", "!", "?", " ", "\n", ";")
_INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad")


def rewritings(text: str) -> Iterator[str]:
    """The text in the other ways that are known."""
    plain = text.rstrip(" .!?")
    ways = [
        cased + end
        for cased in (
            text,
            plain,
            text.lower(),
            plain.lower(),
            text.upper(),
            plain.upper(),
            text.title(),
            plain.title(),
        )
        for end in _ENDS
    ]
    ways += [text.swapcase(), text[:1].lower() + text[1:], text.capitalize()]
    words = text.split(" ")
    ways += [between.join(words) for between in ("  ", "\u00a0", "\t", "_", "-", "\n", "")]
    ways += [" ".join([words[0], "", *words[1:]]), " ".join([*words[:-1], "", words[-1]]), f" {text}", f"  {text}"]
    for sign in _INVISIBLE:
        ways += [text + sign, sign + text, words[0] + sign + text[len(words[0]) :], text[:1] + sign + text[1:]]
        ways.append(sign.join(text))
    ways += [f"{text}{between}{TARGET}" for between in (" ", "\n", ". ", ": ")]
    ways += [f"{start}{text}" for start in ("Please ", "please ", "Please, ")]
    ways += [f"{mark}{text}{mark}" for mark in ('"', "'", "`", "*", "**")]
    ways += ["".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text), unicodedata.normalize("NFD", text)]
    yield from dict.fromkeys(way for way in ways if way != text)


@lru_cache
def _known() -> dict[str, int]:
    """The number of AdvBench's goal by the digest's prefix; `NotAtHand` where the table cannot be read."""
    try:
        lines = TABLE.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotAtHand(
            f"the rewritten prompts in {TABLE} cannot be read ({type(error).__name__}); install ASABench again"
        ) from None
    return {prefix: number for number, line in enumerate(lines) for prefix in line.split()}


def rewritten(trained: Collection[str], tested: Sequence[str]) -> frozenset[str]:
    """Those of the test prompts that were trained on in another writing; all by SHA-256 of UTF-8 bytes, in hex."""
    known, goals = _known(), [digests.goal for digests in advbench.digests()]
    numbers = {known[digest[:PREFIX]] for digest in trained if digest[:PREFIX] in known}
    return frozenset(goals[number] for number in numbers) & frozenset(tested)
