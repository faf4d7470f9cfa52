"""`asabench defend`: a model, a recipe and requests in; a model folder with a card and its training manifest out."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import asabench
from asabench.core.defaults import TEST_PROMPTS
from asabench.core.errors import UserError
from asabench.core.files import hidden_folder
from asabench.core.numbers import ranges
from asabench.core.protocol import preset
from asabench.core.records import Prompt, sha256_hex
from asabench.core.training_record import TRAINING_FILE, ComparedWithTest
from asabench.runs.training_choices import TrainingChoices
from harness.defences import Defence, make_recipe
from harness.defences.examples import (
    HarmfulData,
    SafeCell,
    benign_requests,
    chosen_prompts,
    compared_with_test,
    own_answers,
    read_answers,
    read_cells,
    refuse_overlap,
)
from harness.defences.kept import KeptByKl, Watch, answered, divided, keeping, look_alike_requests, read_stop
from harness.defences.training import (
    Pools,
    Progress,
    Settings,
    accelerator_for,
    batches_of_step,
    card_head,
    compute_losses,
    finish,
    fit,
    is_finished,
    refuse_half_written,
    start,
    step_count,
    trained_parameters,
)
from harness.evaluation.plan import parse_layers
from harness.model.adapters import base_reference
from harness.model.subject import Subject, check_prompt_format, load

ADAPTER = "adapter"
"""The folder beside a merged model that holds the LoRA adapter alone; it loads as a model too."""


@dataclass(frozen=True, kw_only=True)
class DefencePlan:
    """A training, resolved and checked; nothing is trained yet. `base`: the model as it was named, for an adapter to
    find it again. `compared`: with what it will be tested on. `finished`: the folder holds it already."""

    subject: Subject
    base: str
    recipe: Defence
    settings: Settings
    data: HarmfulData
    benign: list[Prompt]
    asked: Mapping[str, Any]
    compared: ComparedWithTest
    out: Path
    finished: bool
    look_alikes: Sequence[Prompt] = ()
    watch: Watch | None = None


@dataclass(frozen=True, kw_only=True)
class DefenceCost:
    """What a plan takes. Bytes of the weights, their gradients and the optimiser; activations come on top."""

    examples: int
    benign: int
    steps: int
    updates: int
    trained_parameters: int
    state_bytes: int
    seconds: float


def make_plan(model: str | Subject, choices: TrainingChoices) -> DefencePlan:
    """Checks every choice and loads the model; `UserError` for what cannot be used."""
    recipe, settings = make_recipe(choices.recipe, choices.preset, choices.changes())
    recipe = keeping(recipe, choices.keep_kl)
    if choices.keep_kl is not None and not settings.benign_batch_size:
        raise UserError(
            f"--keep-kl needs harmless examples beside each batch, and {recipe.name} with these settings has none; "
            "give --benign-batch-size 4, say"
        )
    stop = None if choices.stop_below is None else read_stop(choices.stop_below)
    protocol = preset(choices.protocol) if isinstance(choices.protocol, str) else choices.protocol
    safe_cells = None if choices.cells is None else read_cells(choices.cells)
    if safe_cells is None:
        harmful = list(chosen_prompts(choices.train).prompts)
    else:
        harmful = [cell.prompt for cell in safe_cells]
    harmful = list(dict.fromkeys(harmful))
    test = chosen_prompts(choices.test_prompts or TEST_PROMPTS)
    refuse_overlap(harmful, test)
    compared = compared_with_test(harmful, test, allow_similar=choices.allow_similar)
    subject = model if isinstance(model, Subject) else _load(model, choices)
    answers = None if choices.answers is None else read_answers(choices.answers, harmful)
    own = [] if choices.benign is None else list(chosen_prompts(choices.benign).prompts)
    benign = list({prompt.digest: prompt for prompt in [*benign_requests(), *own]}.values())
    look_alikes = look_alike_requests() if choices.look_alikes or (stop and stop.what == "over-refusal") else []
    watched: list[Prompt] = []
    if stop is not None and stop.what == "benign":
        benign, watched = divided(benign)
    elif stop is not None:
        look_alikes, watched = divided(look_alikes)
    if not choices.look_alikes:
        look_alikes = []
    check_prompt_format(subject, protocol, [*harmful, *benign, *look_alikes, *watched])
    layers = parse_layers("all" if choices.layers is None else choices.layers, subject.n_layers)
    if safe_cells is not None and choices.layers is not None:
        safe_cells = [cell for cell in safe_cells if cell.layer in layers]
        if not safe_cells:
            raise UserError(
                f"no cell of {choices.cells} is at the layers {ranges(layers)}; leave --layers out to take all of them"
            )
    asked: dict[str, Any] = {
        "recipe": {"name": recipe.name, "preset": choices.preset, **recorded_options(recipe)},
        "settings": settings.model_dump(),
        "base": {"name": subject.name, "revision": subject.revision, "dtype": subject.dtype},
        "protocol": protocol.name,
        "target": choices.target,
        "layers": list(layers),
        "harmful": {"count": len(harmful), "digest": _digest(harmful)},
        "cells": None if safe_cells is None else _cells_digest(safe_cells),
        "benign": {"count": len(benign), "digest": _digest(benign)},
        "chat_template": _template_digest(subject) if protocol.prompt_format == "chat" else None,
    }
    # What older trainings did not have stands only where it was asked for, so that their folders stay theirs
    kept = {
        "answers": None if answers is None else sha256_hex(json.dumps(sorted(answers.items())))[:16],
        "look_alikes": {"count": len(look_alikes), "digest": _digest(look_alikes)} if look_alikes else None,
        "keep_kl": choices.keep_kl,
        "stop_below": choices.stop_below,
    }
    asked |= {name: value for name, value in kept.items() if value is not None}
    return DefencePlan(
        subject=subject,
        base=subject.name if isinstance(model, Subject) else model,
        recipe=recipe,
        settings=settings,
        data=HarmfulData(
            prompts=harmful,
            protocol=protocol,
            target=choices.target,
            layers=layers,
            cells=safe_cells,
            answers=answers,
        ),
        benign=benign,
        look_alikes=look_alikes,
        watch=None if stop is None else Watch(stop=stop, requests=watched, protocol=protocol),
        asked=asked,
        compared=compared,
        out=choices.out,
        finished=is_finished(choices.out, asked),
    )


def _load(model: str, choices: TrainingChoices) -> Subject:
    refuse_half_written(Path(model).expanduser())
    return load(
        model,
        dtype=choices.dtype,
        device=choices.device,
        chat_template=choices.chat_template,
        allow_remote_code=choices.allow_remote_code,
        allow_pickle=choices.allow_pickle,
    )


def recorded_options(recipe: Defence) -> dict[str, Any]:
    """A recipe's options for the record, which older records of the same training have too."""
    bare: Any = recipe.recipe if isinstance(recipe, KeptByKl) else recipe
    later: frozenset[str] = getattr(bare, "later", frozenset())
    fields = type(bare).model_fields
    return {
        name: value for name, value in recipe.model_dump().items() if name not in later or value != fields[name].default
    }


def _digest(prompts: list[Prompt]) -> str:
    return sha256_hex("\n".join(prompt.goal for prompt in prompts))[:16]


def _template_digest(subject: Subject) -> str:
    """What decides the text that is trained on; the same digest as in a run's settings."""
    return sha256_hex(str(subject.tokenizer.chat_template))[:16]


def _cells_digest(cells: Sequence[SafeCell]) -> str:
    return sha256_hex(json.dumps([[cell.prompt.digest, cell.layer, cell.answer] for cell in cells]))[:16]


def _pools(plan: DefencePlan) -> Pools:
    harmful = plan.recipe.harmful_examples(plan.subject, plan.data)
    benign = own_answers(plan.subject, plan.benign, plan.data.protocol)
    if plan.look_alikes:
        benign += answered(plan.subject, own_answers(plan.subject, plan.look_alikes, plan.data.protocol))
    return plan.recipe.pools(harmful, benign)


def run_plan(plan: DefencePlan, *, checkpoint_every: int | None = None, say: Callable[[str], None] = print) -> Path:
    """Trains and saves; the same plan goes on where an earlier run stopped. Returns the model folder."""
    if plan.finished:
        return plan.out
    start(plan.out, plan.asked)
    pools = _pools(plan)
    adapter = _prepare_weights(plan)
    progress = fit(
        plan.subject,
        plan.recipe,
        pools,
        plan.settings,
        plan.out,
        checkpoint_every=checkpoint_every,
        say=say,
        watch=plan.watch,
    )
    record = _record(plan, pools, progress)
    with hidden_folder(plan.out) as made:
        model = plan.subject.model
        if adapter is not None:
            config = adapter.peft_config["default"]
            config.base_model_name_or_path, config.revision = base_reference(plan.base, plan.subject.revision)
            # Embeddings are not trained: peft would look for the base's configuration to see whether they grew
            adapter.save_pretrained(made / ADAPTER, save_embedding_layers=False)
            # With the template that it was trained with
            plan.subject.tokenizer.save_pretrained(made / ADAPTER)
            # Which weights the adapter is for: whoever loads it checks this
            (made / ADAPTER / TRAINING_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            # peft's own card is a form to fill in, and names a folder of this machine
            (made / ADAPTER / "README.md").write_text(_card(plan, record), encoding="utf-8")
            model = adapter.merge_and_unload()
        model.save_pretrained(made)
        plan.subject.tokenizer.save_pretrained(made)
        (made / "README.md").write_text(_card(plan, record), encoding="utf-8")
        finish(plan.out, made, record)
    return plan.out


def _prepare_weights(plan: DefencePlan) -> Any:
    """Marks what is trained: all weights, or adapters that are put into the model. Returns peft's model, or None."""
    model, rank = plan.subject.model, plan.settings.lora_rank
    if rank is None:
        model.requires_grad_(True)
        return None
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=plan.settings.lora_alpha or 2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    torch.manual_seed(plan.settings.seed)
    return get_peft_model(model, config)


def _record(plan: DefencePlan, pools: Pools, progress: Progress) -> dict[str, Any]:
    packages = ("asabench", "torch", "transformers", "accelerate", "peft")
    return {
        **plan.asked,
        "harmful_goals": [prompt.digest for prompt in plan.data.prompts],
        "compared_with_test": plan.compared.model_dump(mode="json"),
        "examples": len(pools.examples),
        "benign_examples": len(pools.benign),
        "steps": progress.step,
        "losses": progress.losses,
        **({"watched": {"first": plan.watch.first, "seen": plan.watch.seen}} if plan.watch is not None else {}),
        "seconds": round(progress.seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(plan.subject.device),
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _card(plan: DefencePlan, record: Mapping[str, Any]) -> str:
    base, recipe = record["base"], record["recipe"]
    options = "".join(f"| {key} | {value} |\n" for key, value in (recipe | record["settings"]).items())
    first, last = record["losses"][0]["loss"], record["losses"][-1]["loss"]
    return f"""{card_head(base["name"])}
# {base["name"]}, defended with {recipe["name"]}

Made by `asabench defend` (ASABench {asabench.__version__}) from {base["name"]}, revision {base["revision"]}. It is for
research on how robust a refusal is; it has not been shown safe for use.

- Harmful requests: {record["harmful"]["count"]}, by SHA-256 in `training.json` under `harmful_goals`. Never evaluate on
  these.
- Harmless requests: {record["benign"]["count"]}, those that come with ASABench, answered by the base model.
- {record["steps"]} steps in {record["seconds"]:.0f} s on {record["device"]}; loss {first:.3f} at first, {last:.3f} at
  last.

| choice | value |
|---|---|
{options}
Measure it with `asabench evaluate --model FOLDER --prompts advbench --limit 100`, and what it costs with
`asabench utility FOLDER`.
"""


def estimate(plan: DefencePlan) -> DefenceCost:
    """What the plan takes: the time is that of one step, run here without an update of the weights."""
    pools = _pools(plan)
    _prepare_weights(plan)
    subject, recipe, settings = plan.subject, plan.recipe, plan.settings
    trained = trained_parameters(subject)
    recipe.begin(subject)
    accelerator = accelerator_for(subject, settings)
    started = time.monotonic()
    batches = batches_of_step(pools, settings, 0)
    prepared = [recipe.prepare(subject, batch) for batch in batches]
    preparing, started = time.monotonic() - started, time.monotonic()
    for batch, state in zip(batches, prepared, strict=True):
        with accelerator.autocast():
            loss, _ = compute_losses(recipe, subject, batch, state)
        loss.backward()
    updating = time.monotonic() - started
    steps = step_count(settings, len(pools.examples))
    all_bytes = sum(p.numel() * p.element_size() for p in subject.model.parameters())
    return DefenceCost(
        examples=len(pools.examples),
        benign=len(pools.benign),
        steps=steps,
        updates=steps * recipe.updates,
        trained_parameters=sum(p.numel() for p in trained),
        # AdamW keeps two numbers a parameter, beside its gradient
        state_bytes=all_bytes + 3 * sum(p.numel() * p.element_size() for p in trained),
        seconds=steps * (preparing + recipe.updates * updating),
    )
