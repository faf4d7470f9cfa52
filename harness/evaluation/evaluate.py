"""Model in, run folder and row out: the one module that joins the pieces."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import asabench
from asabench.core.errors import UserError
from asabench.core.prompts import PromptSet, has_published_target, load_prompts, target_digest
from asabench.core.protocol import Protocol, preset
from asabench.core.protocol import size as published_size
from asabench.core.records import Cell, Prompt, Response, Verdict, sha256_hex
from asabench.core.row import JudgeInfo, ModelInfo, PromptSetInfo, ProtocolInfo, Row
from asabench.judging.agreement import BAR
from asabench.runs.folder import Run, open_run, run_id
from asabench.stats.scoring import scores
from harness.attacks import Attack, make_attacks
from harness.attacks.target_loss import require_targets
from harness.engine.decoding import decode
from harness.engine.selftest import self_test
from harness.engine.sweep import (
    ROWS_ON_CPU,
    ROWS_ON_GPU,
    grid,
    injection_of,
    kv_bytes_per_position,
    propose,
    row_bytes,
    rows_that_fit,
    sweep,
)
from harness.evaluation.judge import checked_judge, judge_the_rest
from harness.judges import DEFAULT_JUDGE, Judge, make_judge
from harness.judges.check import check_bar
from harness.model.inference_defence import defended
from harness.model.subject import Subject, check_prompt_format, load
from harness.progress import progress_line


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation gives. `responses` and `verdicts` are pandas tables (`asabench.core.records` lists the
    columns); `path` is the run folder, which holds the same on disk."""

    path: Path
    row: Row
    responses: pd.DataFrame
    verdicts: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An evaluation, resolved: every choice made and checked, nothing generated yet."""

    subject: Subject
    protocol: Protocol
    prompts: PromptSet
    layers: tuple[int, ...]
    attacks: dict[str, Attack]
    judge: Judge
    cells: tuple[Cell, ...]
    settings: dict[str, Any]
    path: Path
    bar: float = BAR
    uncertified: bool = False


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan is expected to take. `memory_bytes` comes on top of the model's own `model_bytes`."""

    cells: int
    rows_per_batch: int
    model_bytes: int
    memory_bytes: float
    seconds: float


def evaluate(
    model: str | Subject, *, progress: bool = False, max_rows: int | None = None, **choices: Any
) -> Evaluation:
    """Evaluates a model under an attack and writes the run folder; the same call goes on where an earlier one stopped.

    model: a short name, a local folder, a hub id with `@revision`, or a loaded `Subject`. choices: those of
    `make_plan`. progress: show a progress line on a terminal. max_rows: rows of a batch at most.

    Raises `asabench.core.errors.UserError` for what cannot be used, and `harness.engine.selftest.SelfTestFailed`.
    """
    return run_plan(make_plan(model, **choices), progress=progress, max_rows=max_rows)


def make_plan(
    model: str | Subject,
    *,
    prompts: str | Sequence[Prompt] = "quickstart",
    limit: int | None = None,
    layers: str | Sequence[int] = "all",
    doses: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    attack: str | Sequence[str] = "random",
    protocol: str | Protocol = "asabench-v1",
    size: str | None = None,
    max_new_tokens: int | None = None,
    steps: str | Sequence[int] | None = None,
    step_layers: Sequence[int] | None = None,
    target: str | None = None,
    judge: str | Judge = DEFAULT_JUDGE,
    bar: float = BAR,
    uncertified: bool = False,
    defence: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    out: str | Path | None = None,
    chat_template: str | Path | None = None,
    allow_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Plan:
    """Resolves and checks every choice, and loads the model. None takes the protocol's value.

    attack: one or several specifications (`harness.attacks.make_attack`); they share clean answers and gradients.
    size: a published size of the protocol; what is given beside it wins. steps, step_layers: see
    `asabench.core.protocol.Protocol`. target: that of all prompts; None leaves them their own. judge: a
    name (`harness.judges.make_judge`) or a judge; before the run it must reach the balanced accuracy `bar` on labelled
    pairs, unless `uncertified`.
    defence: the import path of one that acts at inference time (`harness.model.inference_defence`). out: a folder under
    `runs/` named after the run's id, if None. Raises `UserError`.
    """
    resolved = resolve_protocol(
        protocol,
        size=size,
        doses=doses,
        seeds=seeds,
        max_new_tokens=max_new_tokens,
        steps=steps,
        step_layers=step_layers,
    )
    # Names are checked before the model takes its time to load
    attacks = make_attacks([attack] if isinstance(attack, str) else attack, resolved)
    if size is not None and limit is None:
        limit = published_size(resolved, size).prompts
    check_bar(bar)
    chosen_judge = make_judge(judge, resolved.labels) if isinstance(judge, str) else judge
    _ = chosen_judge.info  # a judge behind a server that is not there says so now
    prompt_set = load_prompts(prompts) if isinstance(prompts, str) else PromptSet("custom", tuple(prompts))
    prompt_set = prompt_set.first(limit).with_target(target)
    if any(getattr(each, "needs_targets", False) for each in attacks.values()):
        prompt_set = prompt_set.with_target_texts()
        require_targets(prompt_set.prompts)
    if isinstance(model, Subject):
        subject = model
    else:
        subject = load(
            model,
            dtype=dtype,
            device=device,
            chat_template=Path(chat_template) if chat_template else None,
            allow_remote_code=allow_remote_code,
            allow_pickle=allow_pickle,
        )
    if defence is not None:
        subject = defended(subject, defence)
    check_prompt_format(subject, resolved)
    _require_suffixes_with_tokens(subject, prompt_set.prompts, resolved)
    chosen_layers = parse_layers(layers, subject.n_layers)
    if resolved.step_layers is not None:
        parse_layers(resolved.step_layers, subject.n_layers)
        chosen_layers = resolved.step_layers[:1]
    template = getattr(subject.tokenizer, "chat_template", None) if resolved.prompt_format == "chat" else None
    settings = {
        "model": subject.name,
        "revision": subject.revision,
        "dtype": subject.dtype,
        "chat_template": None if template is None else sha256_hex(str(template))[:16],
        "protocol": resolved.model_dump(mode="json"),
        "attacks": list(attacks),
        "layers": list(chosen_layers),
        "prompts": prompt_set.digest[:16],
        "prompt_count": len(prompt_set.prompts),
    }
    default = Path("runs") / f"{subject.name.replace('/', '--')}-{resolved.name}-{run_id(settings)}"
    return Plan(
        subject=subject,
        protocol=resolved,
        prompts=prompt_set,
        layers=chosen_layers,
        attacks=attacks,
        judge=chosen_judge,
        cells=tuple(grid(prompt_set.prompts, chosen_layers, list(attacks.values()), resolved)),
        settings=settings,
        path=Path(out) if out is not None else default,
        bar=bar,
        uncertified=uncertified,
    )


def _require_suffixes_with_tokens(subject: Subject, prompts: Sequence[Prompt], protocol: Protocol) -> None:
    """`UserError` for a suffix that changes nothing: what looks like an attack would be the bare prompt."""
    for prompt in prompts:
        bare = replace(prompt, suffix=None)
        if prompt.suffix is not None and subject.format(prompt, protocol) == subject.format(bare, protocol):
            raise UserError(
                f"the suffix {prompt.suffix!r} of prompt {prompt.id} has no tokens for {subject.name}; "
                "give it some text, or leave it empty for the bare prompt"
            )


def run_plan(plan: Plan, *, progress: bool = False, max_rows: int | None = None) -> Evaluation:
    """Generates and judges what the run folder does not hold yet, then writes the row."""
    prompts = pd.DataFrame([_prompt_columns(prompt) for prompt in plan.prompts.prompts])
    started = time.monotonic()
    judge, info = checked_judge(plan.judge, plan.bar, plan.uncertified)
    with open_run(plan.path, plan.settings, {**_context(plan), "judge": info.model_dump()}, prompts) as run:
        _generate(plan, run, judge, progress, max_rows)
        judge_the_rest(run, judge, progress=progress)
        row = _row(plan, run, info)
        run.write_row(row)
        run.update_manifest(state="finished", finished=_now(), seconds=round(time.monotonic() - started, 1))
        return Evaluation(path=run.path, row=row, responses=run.responses(), verdicts=run.verdicts())


def _prompt_columns(prompt: Prompt) -> dict[str, str | None]:
    return {
        "id": prompt.id,
        "goal": prompt.goal,
        # A published one by its digest alone: not every installation has its text, and the table is the same table
        "target": None if has_published_target(prompt) else prompt.target,
        "target_sha256": target_digest(prompt),
        "suffix": prompt.suffix,
    }


def _generate(plan: Plan, run: Run, judge: Judge, progress: bool, max_rows: int | None) -> None:
    done = set(run.responses()["cell_id"])
    pending = [cell for cell in plan.cells if cell.id not in done]
    if not pending:
        return
    found = self_test(plan.subject, plan.cells, plan.protocol, plan.attacks)
    run.update_manifest(self_tests=found)
    with progress_line(len(done), len(plan.cells), plan.protocol.max_new_tokens, progress) as line:
        batches = sweep(plan.subject, pending, plan.protocol, plan.attacks, max_rows=max_rows, on_step=line.step)
        for responses in _judged_behind(batches, run, judge):
            line.finish(len(responses))


def _judged_behind(batches: Iterator[list[Response]], run: Run, judge: Judge) -> Iterator[list[Response]]:
    """Stores each batch and its verdicts. A judge that is asked over the network reads one batch while the model
    generates the next; others would take the processor from the model."""
    if judge.info.kind != "llm":
        for responses in batches:
            run.append_responses(responses)
            run.append_verdicts(judge(responses))
            yield responses
        return
    with ThreadPoolExecutor(1) as pool:
        asked: Future[list[Verdict]] | None = None
        for responses in batches:
            run.append_responses(responses)
            if asked is not None:
                run.append_verdicts(asked.result())
            asked = pool.submit(judge, responses)
            yield responses
        if asked is not None:
            run.append_verdicts(asked.result())


def _row(plan: Plan, run: Run, judge: JudgeInfo) -> Row:
    subject = plan.subject
    return Row(
        run_id=run.id,
        created=_now(),
        asabench_version=asabench.__version__,
        model=ModelInfo(
            name=subject.name,
            revision=subject.revision,
            family=subject.family,
            n_layers=subject.n_layers,
            d_model=subject.d_model,
            n_parameters=subject.n_parameters,
            dtype=subject.dtype,
        ),
        protocol=ProtocolInfo(name=plan.protocol.name, digest=plan.protocol.digest),
        prompts=PromptSetInfo(name=plan.prompts.name, digest=plan.prompts.digest[:16], n=len(plan.prompts.prompts)),
        layers=plan.layers,
        seeds=plan.protocol.seeds,
        **scores(run.judged(judge.id), list(plan.attacks), plan.protocol.doses, judge),
    )


def resolve_protocol(
    protocol: str | Protocol,
    *,
    size: str | None = None,
    doses: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    max_new_tokens: int | None = None,
    steps: str | Sequence[int] | None = None,
    step_layers: Sequence[int] | None = None,
) -> Protocol:
    """A preset with a size's and the user's changes, checked."""
    base = preset(protocol) if isinstance(protocol, str) else protocol
    changes: dict[str, Any] = {}
    if size is not None:
        published = published_size(base, size)
        doses = published.doses if doses is None else doses
        seeds = published.seeds if seeds is None else seeds
    if doses is not None:
        if not doses or any(not dose >= 0 or dose == float("inf") for dose in doses):
            raise UserError(f"doses {_listed(doses)} cannot be used; give numbers of 0 or more, such as 0.3,1")
        changes["doses"] = _distinct("doses", [float(dose) for dose in doses])
    if seeds is not None:
        if not seeds or any(not 0 <= seed < 2**63 for seed in seeds):
            raise UserError(f"seeds {_listed(seeds)} cannot be used; give whole numbers of 0 or more, such as 0,1,2")
        changes["seeds"] = _distinct("seeds", list(seeds))
    if max_new_tokens is not None:
        if max_new_tokens < 1:
            raise UserError(f"--max-new-tokens {max_new_tokens} leaves no answer; give 1 or more")
        changes["max_new_tokens"] = max_new_tokens
    if steps is not None:
        changes["steps"] = steps if steps in ("every", "first") else _step_numbers(steps)
    if step_layers is not None:
        changes["step_layers"] = tuple(int(layer) for layer in step_layers)
        numbers = changes.get("steps", base.steps)
        if isinstance(numbers, str) or len(numbers) != len(step_layers):
            listed = numbers if isinstance(numbers, str) else len(numbers)
            raise UserError(
                f"--step-layers names {len(step_layers)} layers and --steps {listed}; "
                "give one layer for each listed step, such as --steps 0,1,2 --step-layers 5,9,5"
            )
        if base.statistics != "current-step":
            raise UserError(
                f"protocol {base.name} takes a clean prompt's statistics of one layer; leave --step-layers out"
            )
    return base.model_copy(update=changes)


def _step_numbers(steps: str | Sequence[int]) -> tuple[int, ...]:
    try:
        numbers = [int(step) for step in (steps.split(",") if isinstance(steps, str) else steps)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise UserError(f"steps {steps!r} cannot be read; give every, first, or numbers of 0 or more such as 0,1,5")
    return _distinct("steps", numbers)


def _distinct(what: str, values: list[Any]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise UserError(f"the {what} {_listed(values)} hold a value twice; give each once")
    return tuple(values)


def _listed(values: Sequence[object]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values) or "(none)"


def parse_layers(layers: str | Sequence[int], n_layers: int) -> tuple[int, ...]:
    """Block numbers from `all`, `0,3-5` or a sequence, in ascending order; `UserError` outside 0..n_layers-1."""
    allowed = f"allowed: all, or numbers and ranges from 0 to {n_layers - 1} such as 0,3-5"
    if isinstance(layers, str):
        if layers.strip() == "all":
            return tuple(range(n_layers))
        chosen: list[int] = []
        for part in layers.split(","):
            first, dash, last = part.strip().partition("-")
            try:
                numbers = range(int(first), int(last if dash else first) + 1)
            except ValueError:
                raise UserError(f"layers {layers!r} cannot be read at {part.strip()!r}; {allowed}") from None
            if not numbers:
                raise UserError(f"layers {layers!r} hold the empty range {part.strip()!r}; {allowed}")
            if numbers[-1] >= n_layers:
                raise UserError(f"layer {numbers[-1]} is out of range: the model has {n_layers} blocks; {allowed}")
            chosen.extend(numbers)
    else:
        chosen = [int(layer) for layer in layers]
    if outside := [layer for layer in chosen if not 0 <= layer < n_layers]:
        raise UserError(f"layer {outside[0]} is out of range: the model has {n_layers} blocks; {allowed}")
    if not chosen:
        raise UserError(f"no layers were given; {allowed}")
    return tuple(sorted(set(chosen)))


def estimate(plan: Plan, *, max_rows: int | None = None) -> Cost:
    """Cells, memory and time of a plan, from a few decoding steps on a batch of the size that the run would use."""
    subject, steps = plan.subject, 4
    lengths = [len(subject.format(prompt, plan.protocol)) for prompt in plan.prompts.prompts]
    positions = max(lengths) + plan.protocol.max_new_tokens
    position_bytes = kv_bytes_per_position(subject)
    most = max_rows or (ROWS_ON_GPU if subject.device.type == "cuda" else ROWS_ON_CPU)
    rows = min(most, len(plan.cells), rows_that_fit(subject, positions, position_bytes))
    cells = plan.cells[:rows]
    prompts = list(dict.fromkeys(cell.prompt for cell in cells))
    tokens = [subject.format(prompt, plan.protocol) for prompt in prompts]
    rows_of = torch.tensor([prompts.index(cell.prompt) for cell in cells])
    started = time.perf_counter()
    directions = propose(subject, cells, plan.attacks)
    proposing = time.perf_counter() - started

    def seconds_for(steps: int) -> float:
        started = time.perf_counter()
        decode(subject, tokens, rows_of, injection_of(cells, directions, plan.protocol), steps)
        return time.perf_counter() - started

    seconds_for(1)  # the first call pays for thread pools and page faults
    once = seconds_for(1)
    per_step = max(seconds_for(1 + steps) - once, 0.0) / steps
    batches = len(plan.cells) / rows
    return Cost(
        cells=len(plan.cells),
        rows_per_batch=rows,
        model_bytes=sum(p.numel() * p.element_size() for p in subject.model.parameters()),
        memory_bytes=rows * row_bytes(subject, positions, position_bytes),
        seconds=batches * (proposing + once + per_step * (plan.protocol.max_new_tokens - 1)),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _context(plan: Plan) -> dict[str, Any]:
    """What is recorded of where and with what a run was made; none of it decides whether it may be resumed."""
    packages = ("asabench", "torch", "transformers", "tokenizers", "pandas", "pyarrow", "numpy", "scipy")
    device = plan.subject.device
    return {
        "started": _now(),
        "protocol_digest": plan.protocol.digest,
        "prompt_set": plan.prompts.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "hardware": {"machine": platform.machine(), "system": platform.system(), "threads": torch.get_num_threads()},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the source that runs, when it runs from a clone."""
    source = Path(asabench.__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
