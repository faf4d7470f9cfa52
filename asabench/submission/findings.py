"""What is wrong with a submission, and how to put it right."""

from __future__ import annotations

from typing import NamedTuple

REMAKE = "make the submission again with `asabench submit`; its files are not edited by hand"
EDIT = "put it right in that file"
"""What helps where a file may be edited by hand."""
_SHOWN = 80


class Finding(NamedTuple):
    """One thing that is wrong. `found` is what is there, `allowed` what may be; all without line breaks."""

    file: str
    field: str
    found: str
    allowed: str
    fix: str = REMAKE

    @property
    def line(self) -> str:
        return f"{self.file}: {self.field}: {self.found}; {self.allowed}; {self.fix}"


class Refused(Exception):
    """Ends the reading of one file."""

    def __init__(self, field: str, found: str, allowed: str, fix: str = REMAKE) -> None:
        super().__init__(f"{field}: {found}")
        self.finding = Finding("", field, found, allowed, fix)

    def in_file(self, file: str) -> Finding:
        return self.finding._replace(file=file)


def shown(value: object) -> str:
    """A stranger's value for a terminal or a page: short, on one line, in ASCII, without control characters."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
