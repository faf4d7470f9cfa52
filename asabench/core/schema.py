"""What the records that stand in files have in common, and what is wrong with one, in words."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """A record that never changes and holds its fields alone: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(NamedTuple):
    """One thing that is wrong with a record. `field`: names and positions with dots between, empty for the whole;
    `given`: what stands there."""

    field: str
    given: Any
    message: str

    def __str__(self) -> str:
        return f"{self.field or 'the file'}: {self.message}"


def first_problem(error: ValidationError) -> Problem:
    """The first thing that pydantic found wrong."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return Problem(field=where, given=first["input"], message=first["msg"].removeprefix("Value error, "))
