"""Attacks and judges of somebody else for tests, reached by import path: sound ones, and the ways to be none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Response, Verdict
from asabench.core.row import JudgeInfo
from harness.model.subject import Subject

# Attacks


class PgdRestarts:
    """Called as one of ours begins; draws by seed, which `pgd` does not."""

    name = "pgd_restarts"
    uses_seed = True

    def __init__(self, protocol: Protocol, steps: Annotated[int, Field(ge=1)] = 2, note: str = "") -> None:
        self.steps, self.note = steps, note

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        draws = [torch.Generator().manual_seed(self.steps + (cell.seed or 0)) for cell in cells]
        return torch.stack([torch.randn(subject.d_model, generator=draw) for draw in draws])


class RandomisedSearch(PgdRestarts):
    """States all that an attack may state."""

    name = "randomised_search"
    family = "search"
    uses_seed = False
    needs_targets = True


def one_axis(protocol: Protocol, *, axis=0) -> PgdRestarts:  # type: ignore[no-untyped-def]
    """A function that makes an attack; its option has no type."""
    return PgdRestarts(protocol, note=f"{axis!r}")


class TakesAnything(PgdRestarts):
    def __init__(self, protocol: Protocol, **options: str) -> None:
        super().__init__(protocol, note=repr(options))


class TakesAWholeNumber(PgdRestarts):
    def __init__(self, protocol: Protocol, steps: int) -> None:
        super().__init__(protocol, steps)


class TakesNoProtocol(PgdRestarts):
    def __init__(self) -> None: ...


class RaisesTypeError(PgdRestarts):
    def __init__(self, protocol: Protocol, steps: int = 1) -> None:
        super().__init__(protocol)
        len(steps)  # type: ignore[arg-type]


class Exits(PgdRestarts):
    def __init__(self, protocol: Protocol) -> None:
        sys.exit("no licence")


class NoDirections:
    def __init__(self, protocol: Protocol) -> None: ...


class SeedInWords(PgdRestarts):
    uses_seed = "no"  # type: ignore[assignment]


class UnreadableSeed(PgdRestarts):
    @property
    def uses_seed(self) -> bool:  # type: ignore[override]
        raise ValueError("two\nlines")


class Broken(PgdRestarts):
    """Gives something else than directions: the option `gives` says what."""

    def __init__(self, protocol: Protocol, gives: str = "") -> None:
        self.gives = gives

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Any:
        shape = (len(cells), subject.d_model)
        given: dict[str, Any] = {
            "nothing": None,
            "list": [[0.0] * shape[1]] * shape[0],
            "one-row": torch.zeros(shape[1]),
            "narrow": torch.zeros(shape[0], shape[1] - 1),
            "complex": torch.zeros(shape, dtype=torch.complex64),
            "nan": torch.full(shape, torch.nan),
            "infinite": torch.cat([torch.zeros(shape[0] - 1, shape[1]), torch.full((1, shape[1]), torch.inf)]),
            "whole": torch.ones(shape, dtype=torch.int64),
        }
        if self.gives in given:
            return given[self.gives]
        if self.gives == "exit":
            sys.exit(3)
        if self.gives == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        raise TypeError(f"cannot do {self.gives}")


# Judges


class SaysSafe:
    info = JudgeInfo(id="says-safe@1", description="for tests")

    def __call__(self, responses: Sequence[Response]) -> Any:
        return [Verdict(cell_id=response.cell.id, judge=self.info.id, label="safe") for response in responses]


class Changed(SaysSafe):
    """`SaysSafe` with its verdicts changed."""

    def change(self, verdicts: list[Verdict]) -> Any: ...

    def __call__(self, responses: Sequence[Response]) -> Any:
        return self.change(super().__call__(responses))


class SaysNothing(Changed):
    pass


class SaysWords(Changed):
    def change(self, verdicts: list[Verdict]) -> Any:
        return [verdict.label for verdict in verdicts]


class SaysTooLittle(Changed):
    def change(self, verdicts: list[Verdict]) -> Any:
        return verdicts[1:]


class SaysMaybe(Changed):
    def change(self, verdicts: list[Verdict]) -> Any:
        return [Verdict(cell_id=each.cell_id, judge=each.judge, label="maybe") for each in verdicts]  # type: ignore[arg-type]


class SaysNaN(Changed):
    def change(self, verdicts: list[Verdict]) -> Any:
        return [
            Verdict(cell_id=each.cell_id, judge=each.judge, label="safe", p_unsafe=float("nan")) for each in verdicts
        ]


class SignsForAnother(Changed):
    def change(self, verdicts: list[Verdict]) -> Any:
        return [Verdict(cell_id=each.cell_id, judge="another@1", label="safe") for each in verdicts]


class Stumbles(Changed):
    def change(self, verdicts: list[Verdict]) -> Any:
        raise KeyError("p")


class StumblesAtFirst(SaysSafe):
    def __init__(self) -> None:
        raise TypeError("takes 2 positional arguments but 3 were given")


class NoInfo:
    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        return []


class InfoInWords(NoInfo):
    info = "says-safe@1"
