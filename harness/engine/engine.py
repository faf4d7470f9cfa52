"""What answers the cells of a run. Attacks, self-tests, the run folder and judging are the same around each engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Response
from harness.attacks import Attack
from harness.engine.selftest import self_test
from harness.engine.sweep import sweep
from harness.model.subject import Subject

ENGINES = ("hf", "vllm")


class Engine(Interface):
    """Cells in, responses out, the same tokens whichever engine it is.

    described: what is recorded of it with a run. on_cpu: whether it computes on the processors of this machine, which a
    judge in this process would take from it. Every call gets the attacks by the name in `Cell.attack`. `open` is
    told all cells of the run and those that are still to be answered, before anything else is asked; `close` frees what
    it holds.
    """

    @property
    def described(self) -> Mapping[str, str]: ...

    @property
    def on_cpu(self) -> bool: ...

    def open(
        self, cells: Sequence[Cell], pending: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]
    ) -> None: ...

    def self_test(
        self, cells: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]
    ) -> Mapping[str, str]: ...

    def sweep(
        self,
        cells: Sequence[Cell],
        protocol: Protocol,
        attacks: Mapping[str, Attack],
        *,
        max_rows: int | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[list[Response]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class HookedEngine:
    """The model in this process, with forward hooks: `harness.engine.sweep`."""

    subject: Subject

    @property
    def described(self) -> Mapping[str, str]:
        return {"engine": "hf"}

    @property
    def on_cpu(self) -> bool:
        return all(device.type == "cpu" for device in self.subject.devices)

    def open(
        self, cells: Sequence[Cell], pending: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]
    ) -> None:
        """Nothing to prepare."""

    def self_test(self, cells: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]) -> Mapping[str, str]:
        return self_test(self.subject, cells, protocol, attacks)

    def sweep(
        self,
        cells: Sequence[Cell],
        protocol: Protocol,
        attacks: Mapping[str, Attack],
        *,
        max_rows: int | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[list[Response]]:
        return sweep(self.subject, cells, protocol, attacks, max_rows=max_rows, on_step=on_step)

    def close(self) -> None:
        """Nothing to free."""


def check_engine(name: str) -> None:
    """`UserError` for a name that is no engine, and for one that this environment lacks."""
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}; allowed: {', '.join(ENGINES)}")
    if name == "vllm":
        from harness.engine.vllm_engine import check_vllm

        check_vllm()


def make_engine(name: str, subject: Subject, *, tensor_parallel: int = 1, gpu_memory: float | None = None) -> Engine:
    """The engine of that name for a model. Raises `UserError`."""
    check_engine(name)
    if name == "hf":
        return HookedEngine(subject)
    from harness.engine.vllm_engine import VllmEngine

    return VllmEngine(subject, tensor_parallel=tensor_parallel, gpu_memory=gpu_memory)
