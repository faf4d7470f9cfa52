"""Model in, run folder and row out, from Python: `asabench.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Prompt
from asabench.judging.judge import Judge
from asabench.runs.choices import DEFAULTS, Choices
from harness.evaluation.finished import finished_run
from harness.evaluation.plan import make_plan
from harness.evaluation.run import Evaluation, run_plan
from harness.model.in_memory import subject_in_memory
from harness.model.subject import Subject

if TYPE_CHECKING:
    from harness.model.in_memory import Model, Tokenizer

__all__ = ["Evaluation", "evaluate"]


def evaluate(
    model: str | Path | Subject | Model,
    tokenizer: Tokenizer | None = None,
    *,
    prompts: str | Path | Sequence[str | Prompt] = DEFAULTS.prompts,
    prompt_column: str | None = DEFAULTS.prompt_column,
    limit: int | None = DEFAULTS.limit,
    layers: str | Sequence[int] | None = DEFAULTS.layers,
    doses: str | Sequence[float] | None = DEFAULTS.doses,
    seeds: str | Sequence[int] | None = DEFAULTS.seeds,
    attack: str | Sequence[str] = DEFAULTS.attack,
    protocol: str | Protocol = DEFAULTS.protocol,
    size: str | None = DEFAULTS.size,
    max_new_tokens: int | None = DEFAULTS.max_new_tokens,
    steps: str | Sequence[int] | None = DEFAULTS.steps,
    step_layers: str | Sequence[int] | None = DEFAULTS.step_layers,
    target: str | None = DEFAULTS.target,
    targets: str | None = DEFAULTS.targets,
    prefix: int | None = DEFAULTS.prefix,
    control: bool = DEFAULTS.control,
    paper_code: bool = DEFAULTS.paper_code,
    noise_device: str | None = DEFAULTS.noise_device,
    judge: str | Judge = DEFAULTS.judge,
    bar: float = DEFAULTS.bar,
    uncertified: bool = DEFAULTS.uncertified,
    certificate: str | Path | None = DEFAULTS.certificate,
    defence: str | None = DEFAULTS.defence,
    dtype: str | None = DEFAULTS.dtype,
    device: str = DEFAULTS.device,
    device_map: str | Mapping[str, int | str] | None = DEFAULTS.device_map,
    attention: str | None = DEFAULTS.attention,
    engine: str = DEFAULTS.engine,
    tensor_parallel: int = DEFAULTS.tensor_parallel,
    gpu_memory: float | None = DEFAULTS.gpu_memory,
    shard: str | None = DEFAULTS.shard,
    workers: int | None = DEFAULTS.workers,
    gpus_per_worker: float | None = DEFAULTS.gpus_per_worker,
    ray: str | None = DEFAULTS.ray,
    max_rows: int | None = DEFAULTS.max_rows,
    out: str | Path | None = DEFAULTS.out,
    chat_template: str | Path | None = DEFAULTS.chat_template,
    allow_remote_code: bool = DEFAULTS.allow_remote_code,
    allow_pickle: bool = DEFAULTS.allow_pickle,
    progress: bool = False,
) -> Evaluation:
    """Evaluates a model under an attack and writes the run folder; the same call goes on where an earlier one stopped.

    model: a short name, a local folder, a hub id with `@revision`, or a model of transformers in memory with its
    `tokenizer` (`harness.model.in_memory`). prompts: a set's name, a file, or a list of requests. progress: show a
    progress line on a terminal. The others are the fields of `asabench.runs.choices.Choices`, which says what each is;
    numbers may also be a text, as on the command line. A YAML file's choices are `evaluate(**read_config(path))`.

    Raises `asabench.core.errors.UserError` for what cannot be used, and `harness.engine.selftest.SelfTestFailed`.
    """
    choices = Choices.of(
        prompts=prompts,
        prompt_column=prompt_column,
        limit=limit,
        layers=layers,
        doses=doses,
        seeds=seeds,
        attack=attack,
        protocol=protocol,
        size=size,
        max_new_tokens=max_new_tokens,
        steps=steps,
        step_layers=step_layers,
        target=target,
        targets=targets,
        prefix=prefix,
        control=control,
        paper_code=paper_code,
        noise_device=noise_device,
        judge=judge,
        bar=bar,
        uncertified=uncertified,
        certificate=certificate,
        defence=defence,
        dtype=dtype,
        device=device,
        device_map=device_map,
        attention=attention,
        engine=engine,
        tensor_parallel=tensor_parallel,
        gpu_memory=gpu_memory,
        shard=shard,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        ray=ray,
        max_rows=max_rows,
        out=out,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    given = _named_or_loaded(model, tokenizer)
    if isinstance(given, str) and (run := finished_run(given, choices)) is not None:
        return Evaluation(path=run.path, scored=run.row, responses=run.responses(), verdicts=run.verdicts())
    return run_plan(make_plan(given, choices), progress=progress)


def _named_or_loaded(model: Any, tokenizer: Any) -> str | Subject:
    if not isinstance(model, str | Path | Subject):
        return subject_in_memory(model, tokenizer)
    if tokenizer is not None:
        raise UserError("a tokenizer goes with a model in memory; a model that is named brings its own")
    return str(model) if isinstance(model, Path) else model
