"""The folder of all entries, as it stands: whatever is in it is an entry, or is refused.

A pull request is checked by what it leaves behind, not by the names in a diff: a folder that no list of changes names,
or that a shell reads as something else, stands on the board all the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from asabench.core.errors import NotAtHand, UserError
from asabench.submission.findings import Finding, shown
from asabench.submission.schema import RERUN_FILE, SLUG

README = "README.md"
MOST_README_BYTES = 64 * 2**10
RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(10))}
)
"""No folder can be called so where Windows checks the repository out."""


class Tree(NamedTuple):
    """`slugs`: the folders that are to be checked as entries, sorted; `findings`: what is none and may not be there."""

    slugs: tuple[str, ...]
    findings: tuple[Finding, ...]


class Changes(NamedTuple):
    """Entries by slug, sorted. Whether one that was taken out is missed, the entries made from it say."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def read_tree(collection: Path) -> Tree:
    """What stands in the folder of all entries, links not followed. `UserError` where it is no folder, `NotAtHand`
    where it cannot be read."""
    if collection.is_symlink() or not collection.is_dir():
        raise UserError(f"{collection} is no folder; give the folder of all entries, such as submissions")
    try:
        with os.scandir(collection) as entries:
            listed = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    except OSError as error:
        raise NotAtHand(f"{collection} cannot be read ({error.strerror}); make it readable and check again") from None
    slugs, findings = [], []
    for name, status in listed:
        refused = _refused(name, status)
        if refused is not None:
            findings.append(refused)
        elif name != README:
            slugs.append(name)
    return Tree(tuple(slugs), tuple(findings))


def _refused(name: str, status: os.stat_result) -> Finding | None:
    given = shown(name)[1:-1]
    take_out = "take it out of the folder"
    if stat.S_ISLNK(status.st_mode):
        return Finding(given, "the name", "a link", "folders of entries themselves", "put the folder itself there")
    if name == README:
        if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_README_BYTES:
            return None
        return Finding(given, "the file", "no short plain file", f"at most {MOST_README_BYTES} bytes", take_out)
    if not stat.S_ISDIR(status.st_mode):
        return Finding(given, "the name", "no folder", f"folders of entries, and {README}", take_out)
    if re.fullmatch(SLUG, name) is None or name in RESERVED:
        allowed = "small letters, digits and dashes inside, at most 64, and no name that Windows keeps for itself"
        return Finding(given, "the name", "no name of an entry", allowed, "rename the folder, and its slug")
    return None


def entry_digests(collection: Path) -> dict[str, str]:
    """By slug, SHA-256 over the names and contents of an entry's files: equal digests are equal entries."""
    return {slug: _digest(collection / slug) for slug in read_tree(collection).slugs}


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            kind = "link" if path.is_symlink() else "file" if path.is_file() else "other"
            content = path.read_bytes() if kind == "file" else os.fsencode(os.readlink(path)) if kind == "link" else b""
            for part in (os.fsencode(path.name), kind.encode(), content):
                found.update(len(part).to_bytes(8, "big") + part)
    except OSError as error:
        raise NotAtHand(f"{folder} cannot be read ({error.strerror}); make it readable and check again") from None
    return found.hexdigest()


def evidence_changes(before: Path, after: Path) -> list[Finding]:
    """Evidence that was added or changed: it is not for those to bring whom it is about."""
    found = []
    for slug in read_tree(after).slugs:
        held, given = (_content(folder / slug / RERUN_FILE) for folder in (before, after))
        if given is not None and given != held:
            place = f"{slug}/{RERUN_FILE}"
            allowed = "evidence that maintainers bring"
            found.append(
                Finding(place, "the file", "new or changed", allowed, "take it out; a maintainer reruns entries")
            )
    return found


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if not path.is_symlink() and path.is_file() else None
    except OSError as error:
        raise NotAtHand(f"{path} cannot be read ({error.strerror}); make it readable and check again") from None


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Changes:
    """What was done to the entries, by their digests."""
    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(slug for slug in after.keys() & before.keys() if after[slug] != before[slug])),
        removed=tuple(sorted(before.keys() - after.keys())),
    )
