"""Names that people read: one way to write each, nothing that shows nothing, and no letters that pass for others.

Two rules. A name is written as Unicode's composed form (NFC) has it, of letters, digits, marks, punctuation, symbols
and single spaces, none of which is invisible. And no word of it mixes the scripts that look alike, such as Latin, Greek
and Cyrillic.
`skeleton` is what two names share that look the same.
"""

from __future__ import annotations

import re
import unicodedata

MOST_MARKS = 2
"""Marks on one letter; more are drawn over the lines above."""
_ALIKE_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE")
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and symbols that show nothing; format characters are not printable anyway."""
# Letters of Cyrillic and Greek that are drawn as Latin ones, and digits that are read as letters
_LOOKS_LIKE = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0458\u04bb\u0501\u051b\u051d"
    "\u03b1\u03b2\u03b5\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7"
    "01\u0131",
    "abekmhopctyxsijhdqwabenikuvoptuxoli",
)


def fault(name: str) -> str | None:
    """What is wrong with a name, in words of what to do; None if nothing is."""
    if any(not character.isprintable() or character in "<>" for character in name):
        return "use plain text on one line, without < and >"
    if name != name.strip() or "  " in name:
        return "leave out the spaces around the text, and all but one between words"
    if unicodedata.normalize("NFC", name) != name:
        return "write it in Unicode's composed form (NFC)"
    if any(c in _BLANK or 0xFE00 <= ord(c) <= 0xFE0F or 0xE0000 <= ord(c) <= 0xE0FFF for c in name):
        return "leave out characters that show nothing"
    marks = 0
    for character in name:
        marks = marks + 1 if unicodedata.category(character).startswith("M") else 0
        if marks > MOST_MARKS:
            return f"put at most {MOST_MARKS} marks on a letter"
    if any(len(_scripts(word)) > 1 for word in re.findall(r"\w+", name)):
        return "write each word in the letters of one script"
    return None


def _scripts(word: str) -> set[str]:
    """The scripts of a word among those whose letters look alike; words of mathematics and the like have none."""
    names = (unicodedata.name(character, "").split(" ")[0] for character in word if character.isalpha())
    return {name for name in names if name in _ALIKE_SCRIPTS}


def skeleton(name: str) -> str:
    """What names that look the same have in common: folded in case and width, without spaces, punctuation and marks,
    with letters and digits that pass for Latin letters written as those."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold()).translate(_LOOKS_LIKE)
    return "".join(c for c in folded if c.isalnum())
