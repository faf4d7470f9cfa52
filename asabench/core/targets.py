"""Lists of targets: starts of answers that targeted attacks are run towards, one after the other; the strongest counts.

A defence may hold against one opening and not against another in the same spirit, so one target for all says little. A
list is named (`standard` comes with ASABench) or somebody's own; its texts are part of the protocol and its digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

from asabench.core.canonical import canonical_text
from asabench.core.defaults import TARGET_LISTS
from asabench.core.errors import UserError
from asabench.core.paths import file_named
from asabench.core.schema import Record

OWN = "own"
"""The name of a list that does not come with ASABench, whatever its file is called."""
MOST_TARGETS = 10
MOST_CHARACTERS = 120
_NAME_CHARACTERS = 24
_BETWEEN = "|"
_NOT_IN_A_TARGET = "|<>"


class TargetList(Record):
    """Targets in order, under the name by which the list is asked for."""

    name: str
    texts: tuple[str, ...]

    @cached_property
    def by_name(self) -> Mapping[str, str]:
        """The texts by a short name of each, which tables and rows use: its words, `sure-here-is`."""
        named: dict[str, str] = {}
        for number, text in enumerate(self.texts, 1):
            words = re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")
            short = words if len(words) <= _NAME_CHARACTERS else words[: _NAME_CHARACTERS + 1].rpartition("-")[0]
            short = short or words[:_NAME_CHARACTERS] or "target"
            named[short if short not in named else f"{short}-{number}"] = text
        return named

    @property
    def spec(self) -> str:
        """What asks for this list again: its name, or its targets between bars."""
        if shipped(self.name) == self:
            return self.name
        return _BETWEEN.join(self.texts) if len(self.texts) > 1 else f"{self.texts[0]}{_BETWEEN}"


@lru_cache
def shipped(name: str) -> TargetList | None:
    """The list of that name that comes with ASABench; None where there is none."""
    if name not in TARGET_LISTS:
        return None
    path = Path(str(files("asabench") / "data" / f"targets_{name}.txt"))
    return TargetList(name=name, texts=_lines(path))


def read_targets(spec: str) -> TargetList:
    """The list that is asked for by its name, as a text file in UTF-8 with a target a line, or as targets between bars
    (`Sure, here is|Of course. Here is`). Raises `UserError`."""
    if (found := shipped(spec)) is not None:
        return found
    if _BETWEEN in spec:
        return _checked("--targets", tuple(text.strip() for text in spec.split(_BETWEEN) if text.strip()))
    if (path := file_named(spec)) is None:
        raise UserError(
            f"unknown targets {spec!r}; allowed: {', '.join(TARGET_LISTS)}, a text file with a target a line, or "
            "targets between bars such as 'Sure, here is|Step 1:'; one target for all prompts is --target"
        )
    return _checked(str(path), _lines(path))


def text_problem(text: str) -> str | None:
    """Why a text can be no target of a list, in words; None if it can."""
    if not text.strip() or text != text.strip():
        return "is empty or has spaces around it"
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text)} characters; at most {MOST_CHARACTERS} are allowed"
    if not text.isprintable() or any(character in text for character in _NOT_IN_A_TARGET):
        return f"holds a control character or one of {_NOT_IN_A_TARGET}"
    return None


def list_problem(texts: tuple[str, ...]) -> str | None:
    """Why these are no list of targets, in words; None if they are."""
    if not 1 <= len(texts) <= MOST_TARGETS:
        return f"{len(texts)} targets; 1 to {MOST_TARGETS} are allowed"
    for text in texts:
        if problem := text_problem(text):
            return f"the target {text[:40]!r} {problem}"
        if texts.count(text) > 1:
            return f"the target {text[:40]!r} is there twice"
    return None


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = canonical_text(path.read_bytes()).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(
            f"the targets in {path} cannot be read ({reason}); give a text file in UTF-8 with a target a line"
        ) from None
    return tuple(line.strip() for line in lines if line.strip())


def _checked(where: str, texts: tuple[str, ...]) -> TargetList:
    if problem := list_problem(texts):
        raise UserError(f"{where}: {problem}")
    return TargetList(name=OWN, texts=texts)
