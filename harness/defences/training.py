"""The training loop that all defences share: batches, optimiser, schedule, checkpoints, resume.

    OUT/settings.json            what was asked for: the same again goes on, anything else is refused
    OUT/checkpoints/step-000040/ weights, optimiser, schedule and random states; each is there whole or not at all
    OUT/config.json, ...         the model folder, once training is over
    OUT/training.json            written last: a folder without it is half written

What a batch holds and what noise it gets are functions of the seed and the step, so a run that was stopped goes on as
if it had not been.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from asabench.core.errors import UserError, first_line
from asabench.core.files import UNFINISHED, parse_json, whole_folder, write_whole
from asabench.core.records import sha256_hex
from asabench.core.schema import Record
from asabench.core.text import changes
from asabench.core.training_record import TRAINING_FILE
from harness.defences.examples import Example
from harness.model.architecture import save_configuration
from harness.model.subject import Subject

# Saving a checkpoint warns of tied weights, which loading ties again
logging.getLogger("accelerate").setLevel(logging.ERROR)

DIVERGED_NATS = 5.0
"""A loss that lies so much above that of the first step has diverged: for a vocabulary of 50,000 guessing is 10.8."""

LATER_SETTINGS = frozenset({"chat_template"})
"""Choices that the settings of older trainings do not say; what they do not say is not held against them."""

SETTINGS, CHECKPOINTS = "settings.json", "checkpoints"


class Settings(Record):
    """How to train. One of `epochs` (passes over the recipe's examples) and `steps` (optimiser batches) decides the
    length. `accumulation`: batches whose gradients are added up for a step."""

    learning_rate: float = Field(gt=0)
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    batch_size: int = Field(8, ge=1)
    accumulation: int = Field(1, ge=1)
    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    benign_batch_size: int = Field(4, ge=0, description="benign examples beside each batch, where a recipe has them")
    lora_rank: int | None = Field(None, ge=1, description="train adapters of this rank instead of all weights")
    lora_alpha: int | None = Field(None, ge=1, description="None: twice the rank")
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "no", "bf16"] = Field("auto", description="auto: bf16 on a GPU, no autocast elsewhere")


@dataclass(frozen=True, kw_only=True)
class Pools:
    """What batches are drawn from: `examples` in the seed's order, epoch after epoch, and `benign` beside them."""

    examples: Sequence[Example]
    benign: Sequence[Example] = ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch, and a generator of its own on the CPU for whatever is random about it. progress: the share of the
    training that was over before it."""

    examples: Sequence[Example]
    benign: Sequence[Example]
    generator: torch.Generator
    progress: float = 0.0


class Watch(Protocol):
    """What may stop a training early."""

    def begin(self, subject: Subject) -> None:
        """Called once, with the weights that training starts from."""
        ...

    def look(self, subject: Subject, step: int) -> bool | None:
        """Whether the model may go on from there; None: it was not looked at after this step."""
        ...


class Recipe(Protocol):
    """What the loop asks of a recipe. `weights` multiply the terms of `losses`; `distances` are those of them that are
    not in nats; `updates` is the number of optimiser updates that one `prepare` serves."""

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> Mapping[str, float]: ...

    @property
    def distances(self) -> frozenset[str]: ...

    @property
    def updates(self) -> int: ...

    def begin(self, subject: Subject) -> None:
        """Called once, with the weights that training starts from."""
        ...

    def prepare(self, subject: Subject, batch: Batch) -> Any:
        """What perturbs this batch: noise, an inner attack, or nothing."""
        ...

    def losses(self, subject: Subject, batch: Batch, prepared: Any) -> dict[str, Tensor]:
        """Scalar terms, keyed as `weights` is; their graphs reach the weights."""
        ...


def step_count(settings: Settings, examples: int) -> int:
    """Steps of a training over so many examples; a step takes `accumulation` batches."""
    if settings.steps is not None:
        return settings.steps
    batches = math.ceil(examples / settings.batch_size) * (settings.epochs or 1)
    return math.ceil(batches / settings.accumulation)


def batches_of_step(pools: Pools, settings: Settings, step: int) -> list[Batch]:
    """The batches of a step: a function of the seed and the step alone."""
    batches = []
    progress = step / max(step_count(settings, len(pools.examples)), 1)
    for number in range(step * settings.accumulation, (step + 1) * settings.accumulation):
        noise_seed = int(sha256_hex(f"defence:{settings.seed}:{number}")[:15], 16)
        batches.append(
            Batch(
                examples=_drawn(pools.examples, settings.batch_size, number, settings.seed),
                benign=_drawn(pools.benign, settings.benign_batch_size, number, settings.seed + 1),
                generator=torch.Generator().manual_seed(noise_seed),
                progress=progress,
            )
        )
    return batches


def _drawn(pool: Sequence[Example], size: int, number: int, seed: int) -> list[Example]:
    """Batch `number` of an endless row of epochs, each shuffled anew."""
    if not pool or not size:
        return []
    per_epoch = math.ceil(len(pool) / size)
    epoch, place = divmod(number, per_epoch)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch + 1):
        order = torch.randperm(len(pool), generator=generator)
    return [pool[index] for index in order[place * size : (place + 1) * size].tolist()]


@dataclass(kw_only=True)
class Progress:
    """Where a training stands. `losses` holds the weighted sum and every term of each step."""

    step: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def accelerator_for(subject: Subject, settings: Settings) -> Accelerator:
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if subject.device.type == "cuda" else "no"
    return Accelerator(
        cpu=subject.device.type == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=settings.accumulation,
    )


def trained_parameters(subject: Subject) -> list[torch.nn.Parameter]:
    return [parameter for parameter in subject.model.parameters() if parameter.requires_grad]


def compute_losses(recipe: Recipe, subject: Subject, batch: Batch, prepared: Any) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum, a scalar, and each term as a number."""
    terms = recipe.losses(subject, batch, prepared)
    total = torch.stack([recipe.weights[name] * term for name, term in terms.items()]).sum()
    return total, {"loss": float(total.detach()), **{name: float(term.detach()) for name, term in terms.items()}}


def fit(
    subject: Subject,
    recipe: Recipe,
    pools: Pools,
    settings: Settings,
    folder: Path,
    *,
    checkpoint_every: int | None = None,
    say: Callable[[str], None] = print,
    watch: Watch | None = None,
) -> Progress:
    """Trains the parameters that require a gradient, in place, from the last checkpoint in `folder` if there is one.

    watch: looks at the model now and then; where it may not go on, training ends with the weights of the look before.

    Raises `UserError` when the loss is not finite or has diverged; the last checkpoint stays.
    """
    recipe.begin(subject)
    if watch is not None:
        watch.begin(subject)
    accelerator = accelerator_for(subject, settings)
    steps = step_count(settings, len(pools.examples))
    updates = steps * recipe.updates
    parameters = trained_parameters(subject)
    bare = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = get_cosine_schedule_with_warmup(bare, int(settings.warmup * updates), updates)
    model, optimiser, schedule = accelerator.prepare(subject.model, bare, schedule)
    torch.manual_seed(settings.seed)
    progress = _resume(accelerator, folder)
    if progress.step:
        say(f"going on from step {progress.step} of {steps}")
    subject.model.train()
    started = time.monotonic() - progress.seconds
    good = (progress.step, _copied(parameters) if watch is not None else [])
    while progress.step < steps:
        batches = batches_of_step(pools, settings, progress.step)
        prepared = [recipe.prepare(subject, batch) for batch in batches]
        means: dict[str, float] = {}
        for _ in range(recipe.updates):
            means = {}
            for batch, state in zip(batches, prepared, strict=True):
                loss, terms = compute_losses(recipe, subject, batch, state)
                for name, value in terms.items():
                    means[name] = means.get(name, 0.0) + value / len(batches)
                _refuse_divergence(terms, recipe, progress, folder)
                accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(parameters, settings.clip)
            if not torch.isfinite(norm):
                _refuse_divergence({"loss": float("nan")}, recipe, progress, folder)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
        progress.step += 1
        progress.losses.append({name: round(value, 4) for name, value in means.items()})
        progress.seconds = time.monotonic() - started
        if progress.step % 10 == 0 or progress.step == steps:
            say(_progress_line(progress, steps))
        allowed = None if watch is None else watch.look(subject, progress.step)
        if allowed is False:
            with torch.no_grad():
                for parameter, own in zip(parameters, good[1], strict=True):
                    parameter.copy_(own)
            say(f"stopped early: the weights of step {good[0]} are kept")
            progress.step, progress.losses = good[0], progress.losses[: good[0]]
            break
        if allowed:
            good = (progress.step, _copied(parameters))
        if checkpoint_every and progress.step % checkpoint_every == 0 and progress.step < steps:
            _checkpoint(accelerator, subject, progress, folder)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval().requires_grad_(False)
    return progress


def _copied(parameters: Sequence[torch.nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _progress_line(progress: Progress, steps: int) -> str:
    terms = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses[-1].items())
    left = progress.seconds / progress.step * (steps - progress.step)
    return f"step {progress.step}/{steps}  {terms}  {progress.seconds:.0f} s, {left:.0f} s left"


def _refuse_divergence(terms: Mapping[str, float], recipe: Recipe, progress: Progress, folder: Path) -> None:
    loss = _in_nats(terms, recipe)
    first = _in_nats(progress.losses[0], recipe) if progress.losses else None
    if math.isfinite(loss) and (first is None or loss <= first + DIVERGED_NATS):
        return
    kept = last_checkpoint(folder)
    raise UserError(
        f"the loss is {loss:.4g} at step {progress.step}"
        + (f", and was {first:.4g} at first" if first is not None else "")
        + f"; use a smaller --learning-rate and another --out folder; {f'kept: {kept}' if kept else 'nothing was kept'}"
    )


def _in_nats(terms: Mapping[str, float], recipe: Recipe) -> float:
    """The weighted sum without distances between hidden states, which may grow by any number."""
    return terms["loss"] - sum(recipe.weights[name] * terms.get(name, 0.0) for name in recipe.distances)


def last_checkpoint(folder: Path) -> Path | None:
    found = sorted((folder / CHECKPOINTS).glob("step-*"))
    return found[-1] if found else None


def _checkpoint(accelerator: Accelerator, subject: Subject, progress: Progress, folder: Path) -> None:
    """Writes a checkpoint, then drops the ones before it."""
    where = folder / CHECKPOINTS
    with whole_folder(where / f"step-{progress.step:06d}", replace=True) as made:
        accelerator.save_state(str(made))
        # With these beside the weights the checkpoint of a full training is a model folder of its own
        save_configuration(subject.model, made)
        subject.tokenizer.save_pretrained(made)
        content = {"step": progress.step, "losses": progress.losses, "seconds": progress.seconds}
        (made / "progress.json").write_text(json.dumps(content), encoding="utf-8")
    for old in sorted(where.glob("step-*"))[:-1]:
        shutil.rmtree(old)


def _resume(accelerator: Accelerator, folder: Path) -> Progress:
    found = last_checkpoint(folder)
    if found is None:
        return Progress()
    try:
        accelerator.load_state(str(found))
        return Progress(**parse_json((found / "progress.json").read_text(encoding="utf-8")))
    except Exception as error:  # of accelerate, safetensors and pickle, for files that a full disk or a copy cut short
        raise UserError(
            f"the checkpoint {found} cannot be read ({first_line(error)}); delete that folder, and the same command "
            "begins again"
        ) from None


def is_finished(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether `folder` holds this very training, finished. `UserError` when it holds anything else."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder} is not empty and holds no training; choose another --out folder")
    try:
        old, new = parse_json(path.read_text(encoding="utf-8")), json.loads(json.dumps(asked))
        if not isinstance(old, dict):
            raise ValueError(f"it holds a {type(old).__name__}")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}, which says what was asked of the training, cannot be read ({first_line(error)}); choose another "
            "--out folder"
        ) from None
    for later in LATER_SETTINGS - old.keys():
        new.pop(later, None)  # a training from before it was recorded: nobody can say what it was
    if what := changes(old, new, most=80):
        raise UserError(f"{folder} holds another training ({what}); use the same choices, or another --out folder")
    return (folder / TRAINING_FILE).is_file()


def refuse_half_written(folder: Path) -> None:
    """`UserError` for the folder of a training that has not ended."""
    if (folder / SETTINGS).is_file() and not (folder / TRAINING_FILE).is_file():
        raise UserError(f"{folder} is half written: its training has not ended; run the same `asabench defend` again")


def start(folder: Path, asked: Mapping[str, Any]) -> None:
    """Makes the folder of a training, or takes it up again; what a process that died was writing goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.rglob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    write_whole(folder / SETTINGS, (json.dumps(asked, indent=2) + "\n").encode())


def card_head(base: str) -> str:
    """How the README of a model begins that was made from `base`: what the hub reads of it."""
    return f"""---
base_model: {base}
library_name: transformers
pipeline_tag: text-generation
tags: [safety, asabench]
---
"""


def finish(folder: Path, made: Path, record: Mapping[str, Any]) -> None:
    """Moves what is in `made` into `folder`, its config.json last, then writes training.json and drops checkpoints."""
    # Until config.json is there nothing takes the folder for a model
    for path in sorted(made.iterdir(), key=lambda path: path.name == "config.json"):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        elif path.is_file():
            path.chmod(0o644)  # safetensors writes for the owner alone
        os.replace(path, target)
    write_whole(folder / TRAINING_FILE, (json.dumps(record, indent=2) + "\n").encode())
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
