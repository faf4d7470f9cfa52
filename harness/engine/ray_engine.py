"""Several workers on one machine or on a cluster: Ray starts them, deals out the prompts and replaces those that die.

Each worker holds an engine of its own (`--engine hf` or `vllm`) on its own GPUs. The prompts are a Ray data set that a
pool of workers maps over, all cells of a prompt together; answers come back as they are made, to the process that owns
the run folder. What a worker had in hand when it died is done again by another.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from asabench.core.errors import UserError, first_line
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Response
from harness.attacks import Attack, make_attacks, needs_weights
from harness.engine.engine import Engine, make_engine
from harness.engine.selftest import SelfTestFailed
from harness.model.subject import load

CELLS_AT_ONCE = 512
"""Cells that a worker is handed at once, where the prompts are many enough."""


CONNECT_SECONDS = 10.0


def check_ray() -> None:
    """`UserError` where this environment has no Ray."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("--workers needs Ray, not installed here; run `pip install 'asabench[ray]'`, or use --shard")


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What a worker needs to make the engine: plain values, so that it travels. attacks: specifications."""

    model: str
    dtype: str
    device: str
    device_map: str | Mapping[str, int | str] | None
    attention: str | None
    chat_template: Path | None
    allow_remote_code: bool
    allow_pickle: bool
    attacks: tuple[str, ...]
    protocol: Protocol
    engine: str
    tensor_parallel: int
    gpu_memory: float | None


class Worker:
    """One worker: it loads the model when it starts, and answers what it is handed. everything: a cell of each prompt
    of the run, so that the engine makes room for the longest."""

    def __init__(self, task: WorkerTask, everything: Sequence[Cell]) -> None:
        self._task = task
        self._attacks = make_attacks(task.attacks, task.protocol)
        subject = load(
            task.model,
            dtype=task.dtype,
            device=task.device,
            device_map=task.device_map,
            attention=task.attention,
            chat_template=task.chat_template,
            allow_remote_code=task.allow_remote_code,
            allow_pickle=task.allow_pickle,
            weights=task.engine == "hf",
        )
        self._engine: Engine = make_engine(
            task.engine, subject, tensor_parallel=task.tensor_parallel, gpu_memory=task.gpu_memory
        )
        self._engine.open(everything, everything, task.protocol, self._attacks)

    def self_test(self, cells: Sequence[Cell]) -> dict[str, str]:
        return dict(self._engine.self_test(cells, self._task.protocol, self._attacks))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        """Ray's: a batch of lines, each the cells of one prompt."""
        cells = [cell for line in batch["cells"] for cell in pickle.loads(line)]
        answered = self._engine.sweep(cells, self._task.protocol, self._attacks)
        return {"responses": [pickle.dumps(responses) for responses in answered]}

    def close(self) -> None:
        self._engine.close()


class RayEngine:
    """Workers under Ray; see the module and `harness.engine.engine.Engine`.

    address: of a cluster that is there (`auto`, `ray://...`, `host:6379`); None starts one on this machine that ends
    with the run. workers, gpus_per_worker: how many, and the GPUs that each gets to itself.
    """

    def __init__(self, task: WorkerTask, *, workers: int, gpus_per_worker: float, address: str | None) -> None:
        check_ray()
        if workers < 1:
            raise UserError(f"--workers {workers} is too few; give 1 or more")
        if gpus_per_worker < 0:
            raise UserError(f"--gpus-per-worker {gpus_per_worker:g} is below 0; give 0 for workers on the CPU")
        self._task, self._workers, self._gpus, self._address = task, workers, gpus_per_worker, address
        self._everything: list[Cell] = []

    @property
    def described(self) -> Mapping[str, str]:
        import ray

        gpus = f" of {self._gpus:g} GPUs" if self._gpus else ""
        workers = f"{self._workers}{gpus} under ray {ray.__version__}"
        return {"engine": self._task.engine, "workers": workers, "device": "its workers'"}

    @property
    def on_cpu(self) -> bool:
        return not self._gpus

    def open(
        self, cells: Sequence[Cell], pending: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]
    ) -> None:
        """Connects to the cluster, or starts one."""
        import ray

        if self._task.engine != "hf" and (asking := [name for name, each in attacks.items() if needs_weights(each)]):
            raise UserError(
                f"{asking[0]} looks at the model, which workers of the engine {self._task.engine} do not load; leave "
                "--workers out and use --shard, or use --engine hf"
            )
        self._everything = [next(group) for _, group in groupby(pending, key=lambda cell: cell.prompt.id)]
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self._address is not None:
            _require_listener(self._address)
        try:
            ray.init(
                address=self._address,
                num_cpus=None if self._address else max(self._workers + 1, os.cpu_count() or 1),
                include_dashboard=False if self._address is None else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
            where = (
                "cannot be started on this machine" if self._address is None else f"at {self._address} is not reached"
            )
            raise UserError(f"Ray {where} ({first_line(error)}); check --ray, or use --shard") from None
        data = ray.data.DataContext.get_current()
        data.enable_progress_bars = False
        logging.getLogger("ray").setLevel(logging.ERROR)  # its data sets tell every step of theirs
        # An error ends the run: left out, its prompts would be a hole. A worker that dies is none, and is replaced
        data.max_errored_blocks = 0
        held = ray.cluster_resources().get("GPU", 0)
        if self._gpus * self._workers > held:
            raise UserError(
                f"{self._workers} workers of {self._gpus:g} GPUs need {self._workers * self._gpus:g}, and the cluster "
                f"has {held:g}; give fewer --workers, or fewer --gpus-per-worker"
            )

    def self_test(self, cells: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]) -> Mapping[str, str]:
        """On a worker of its own, which ends with it."""
        import ray

        def tried(task: WorkerTask, everything: Sequence[Cell], cells: Sequence[Cell]) -> dict[str, str]:
            worker = Worker(task, everything)
            try:
                return worker.self_test(cells)
            finally:
                worker.close()

        remote = ray.remote(num_gpus=self._gpus, max_retries=3)(tried)
        try:
            found: dict[str, str] = ray.get(remote.remote(self._task, self._everything, list(cells)))
        except ray.exceptions.RayTaskError as error:
            raise _own(error) from None
        return found

    def sweep(
        self,
        cells: Sequence[Cell],
        protocol: Protocol,
        attacks: Mapping[str, Attack],
        *,
        max_rows: int | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[list[Response]]:
        """Answers every cell, in whatever order workers finish. max_rows: cells that a worker is handed at once."""
        import ray

        by_prompt = [list(group) for _, group in groupby(cells, key=lambda cell: cell.prompt.id)]
        largest = max(map(len, by_prompt))
        prompts = max(1, (max_rows or CELLS_AT_ONCE) // largest)
        lines = [{"cells": pickle.dumps(group)} for group in by_prompt]
        blocks = max(1, -(-len(lines) // prompts))
        answered = ray.data.from_items(lines, override_num_blocks=blocks).map_batches(
            Worker,
            fn_constructor_args=(self._task, self._everything),
            batch_size=prompts,
            compute=ray.data.ActorPoolStrategy(size=self._workers),
            num_gpus=self._gpus,
            num_cpus=1,
        )
        try:
            for line in answered.iter_rows():
                responses: list[Response] = pickle.loads(line["responses"])
                if on_step is not None:
                    on_step(sum(len(each.token_ids) for each in responses))
                yield responses
        except ray.exceptions.RayTaskError as error:
            raise _own(error) from None

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        import ray

        ray.shutdown()


def _require_listener(address: str) -> None:
    """`UserError` where nobody listens at a cluster's address: Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^/:]+|\[[^\]]+\]):(\d+)", address)
    if found is None:  # `auto`, and whatever else Ray knows
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"Ray at {address} is not reached ({first_line(error)}); check --ray, or use --shard") from None


def _own(error: Any) -> Exception:
    """The error of a worker as it was raised there, where a user can act on it."""
    cause = error.cause if error.cause is not None else error
    while isinstance(getattr(cause, "cause", None), Exception):
        cause = cause.cause
    if isinstance(cause, UserError | SelfTestFailed):
        return type(cause)(*cause.args)
    return UserError(f"a worker failed: {first_line(cause)}; run the same command again: what is finished is kept")
