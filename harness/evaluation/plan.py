"""What an evaluation will do: every choice resolved and checked, and the model loaded; nothing is generated yet."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from asabench.core.attack_names import has_blocks, is_joint
from asabench.core.defaults import LAYERS
from asabench.core.errors import UserError
from asabench.core.prompts import PromptSet, load_prompts
from asabench.core.protocol import PAPER_CODE, NoiseDevice, Protocol, preset
from asabench.core.protocol import size as published_size
from asabench.core.records import Cell, Prompt, sha256_hex
from asabench.core.shards import Shard, shard_here
from asabench.core.suite import Suite
from asabench.core.targets import read_targets
from asabench.judging.certificate import Certificate, read_certificate, with_claims
from asabench.judging.judge import Judge
from asabench.runs.choices import DEFAULTS, Choices
from asabench.runs.settings import RunSettings, in_full
from harness.attacks import Attack, WholeAttack, make_attacks, needs_weights, on_every_block, with_controls
from harness.attacks.target_loss import require_targets
from harness.engine.engine import Engine, check_engine, make_engine
from harness.engine.sweep import grid
from harness.evaluation.suite import asked, chosen_suite, first_cells
from harness.judges import make_judge
from harness.judges.check import check_bar
from harness.model.dtypes import AUTO
from harness.model.inference_defence import defended
from harness.model.limits import check_fits
from harness.model.stop_tokens import generate_stops
from harness.model.subject import Subject, check_prompt_format, load


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An evaluation, resolved. `settings` is what of it decides the answers; `path` the run folder; `max_rows`: rows of
    a batch at most. `cells` are those of the `shard`, where this is one. `suite`: of `--attack auto`, whose search asks
    for more than its `cells` (`harness.evaluation.suite`)."""

    subject: Subject
    protocol: Protocol
    prompts: PromptSet
    layers: tuple[int, ...]
    attacks: dict[str, Attack]
    judge: Judge
    bar: float
    uncertified: bool
    certificate: Certificate | None
    cells: tuple[Cell, ...]
    settings: RunSettings
    path: Path
    max_rows: int | None
    engine: Engine
    shard: Shard | None
    suite: Suite | None = None


def make_plan(model: str | Subject, choices: Choices = DEFAULTS, *, weights: bool = True) -> Plan:
    """Resolves and checks every choice, and loads the model where it is named (see `harness.model.subject.load`).
    Raises `UserError`.

    weights: False leaves them on disk where that is possible, for a plan that is looked at and not run.
    """
    check_max_rows(choices.max_rows)
    check_engine(choices.engine)
    if choices.workers is not None:
        from harness.engine.ray_engine import check_ray

        check_ray()
    protocol = resolve_protocol(
        choices.protocol,
        size=choices.size,
        doses=choices.doses,
        seeds=choices.seeds,
        max_new_tokens=choices.max_new_tokens,
        steps=choices.steps,
        step_layers=choices.step_layers,
    )
    protocol = _with_target(protocol, choices)
    protocol = _as_the_paper_code(protocol, choices)
    suite = chosen_suite(choices, protocol)
    choices, protocol = asked(choices, protocol)
    # Names are checked before the model takes its time to load
    choices = _joint(choices)
    if choices.control:
        choices = replace(choices, attack=tuple(with_controls(choices.attack, protocol)))
    attacks = make_attacks(choices.attack, protocol)
    _require_engine_for(attacks, choices, protocol)
    limit = choices.limit
    if choices.size is not None and limit is None:
        limit = published_size(protocol, choices.size).prompts
    check_bar(choices.bar)
    judge = make_judge(choices.judge, protocol.labels) if isinstance(choices.judge, str) else choices.judge
    certificate = None if choices.certificate is None else read_certificate(choices.certificate)
    with_claims(judge.info, certificate)  # a judge behind a server that is not there says so now
    prompts = _prompts(choices.prompts, choices.prompt_column).first(limit).with_target(protocol.target)
    if protocol.prefix_tokens or any(each.needs_targets for each in attacks.values()):
        prompts = prompts.with_target_texts()
        require_targets(prompts.prompts)
    for attack in attacks.values():
        if isinstance(attack, WholeAttack):
            attack.check_prompts(prompts.prompts)
    subject = _subject(model, choices, attacks.values(), weights=weights)
    check_prompt_format(subject, protocol, prompts.prompts)
    _require_room(subject, prompts.prompts, protocol)
    _require_suffixes_with_tokens(subject, prompts.prompts, protocol)
    layers = _layers(choices, protocol, subject.n_layers)
    if protocol.step_layers is not None:
        parse_layers(protocol.step_layers, subject.n_layers)
        layers = protocol.step_layers[:1]
    template = getattr(subject.tokenizer, "chat_template", None) if protocol.prompt_format == "chat" else None
    settings = RunSettings(
        model=subject.name,
        revision=subject.revision,
        dtype=subject.dtype,
        chat_template=None if template is None else sha256_hex(str(template))[:16],
        protocol=in_full(protocol),
        attacks=tuple(attacks),
        layers=layers,
        prompts=prompts.digest[:16],
        prompt_count=len(prompts.prompts),
    )
    if beyond := subject.stops(protocol) - generate_stops(subject.model, subject.tokenizer):
        # Only where answers end otherwise than those of `generate`: other runs keep their ids
        settings = settings.model_copy(update={"more_stop_tokens": tuple(sorted(beyond))})
    if suite is not None:
        settings = settings.model_copy(update={"suite": suite.id})
    shard = shard_here(choices.shard, os.environ)
    if shard is not None and shard.count == 1:
        shard = None
    mine = tuple(prompt for prompt in prompts.prompts if shard is None or shard.holds(prompt.id))
    if not mine:
        raise UserError(
            f"shard {shard} holds none of the {len(prompts.prompts)} prompts; ask for fewer shards than prompts"
        )
    default = Path("runs") / f"{subject.name.replace('/', '--')}-{protocol.name}-{settings.id}"
    if shard is not None:
        default = default.with_name(f"{default.name}-shard-{shard.number}-of-{shard.count}")
    return Plan(
        subject=subject,
        protocol=protocol,
        prompts=prompts,
        layers=layers,
        attacks=attacks,
        judge=judge,
        bar=choices.bar,
        uncertified=choices.uncertified,
        certificate=certificate,
        cells=tuple(
            grid(mine, layers, list(attacks.values()), protocol)
            if suite is None
            else first_cells(mine, layers, attacks, suite)
        ),
        settings=settings,
        path=default if choices.out is None else choices.out,
        max_rows=choices.max_rows,
        engine=_engine(model, subject, protocol, choices),
        shard=shard,
        suite=suite,
    )


def _joint(choices: Choices) -> Choices:
    """The choices with the attacks that `joint` among the layers stands for: every attack on every block at once,
    beside one block at a time where blocks are named too."""
    if not isinstance(choices.layers, str):
        return choices
    parts = [part.strip() for part in choices.layers.split(",")]
    if "joint" not in parts:
        return choices
    blocks = ",".join(part for part in parts if part != "joint")
    joint = on_every_block(choices.attack)
    attack = tuple(dict.fromkeys([*(choices.attack if blocks else ()), *joint]))
    return replace(choices, layers=blocks or "all", attack=attack)


def _require_engine_for(attacks: Collection[str], choices: Choices, protocol: Protocol) -> None:
    """`UserError` for an attack on every block that what answers, or the protocol, has no place for."""
    everywhere = [name for name in attacks if not has_blocks(name)]
    if everywhere and choices.engine != "hf":
        raise UserError(
            f"the attack {everywhere[0]} acts on every block at once, which the engine {choices.engine} does not do; "
            "use --engine hf for it"
        )
    if protocol.step_layers is not None and (joint := [name for name in everywhere if is_joint(name)]):
        raise UserError(
            f"--step-layers names one block a step, and {joint[0]} acts on every block; leave one of them out"
        )


def _layers(choices: Choices, protocol: Protocol, n_layers: int) -> tuple[int, ...]:
    if choices.layers is not None:
        return parse_layers(choices.layers, n_layers)
    if choices.size is not None:
        return published_size(protocol, choices.size).layers(n_layers)
    return parse_layers(LAYERS, n_layers)


def _with_target(protocol: Protocol, choices: Choices) -> Protocol:
    """The protocol with the target, or the list of targets, that was chosen, and with how much of it is given."""
    if choices.prefix is not None:
        if choices.prefix < 1:
            raise UserError(f"--prefix {choices.prefix} gives nothing; give 1 or more tokens, or leave it out")
        if choices.targets is not None or protocol.targets is not None:
            raise UserError("--prefix gives the start of one target, and --targets is a list; use --target")
        protocol = protocol.model_copy(update={"prefix_tokens": choices.prefix})
    if choices.target is not None and choices.targets is not None:
        raise UserError("--target and --targets are both there; give one target for all prompts, or a list")
    if choices.target is not None:
        return protocol.model_copy(update={"target": choices.target, "targets": None})
    if choices.targets is not None:
        return protocol.model_copy(update={"target": None, "targets": read_targets(choices.targets)})
    return protocol


def _as_the_paper_code(protocol: Protocol, choices: Choices) -> Protocol:
    """The protocol with what the paper's code does besides, where that was chosen, and with the device that was chosen
    to draw noise."""
    changes: dict[str, Any] = dict(PAPER_CODE) if choices.paper_code else {}
    if choices.noise_device is not None:
        if choices.noise_device not in get_args(NoiseDevice):
            allowed = ", ".join(get_args(NoiseDevice))
            raise UserError(f"unknown --noise-device {choices.noise_device!r}; allowed: {allowed}")
        changes["noise_device"] = choices.noise_device
    protocol = protocol.model_copy(update=changes)
    if protocol.judged_text != "answer" and protocol.prompt_format != "raw":
        raise UserError(
            f"protocol {protocol.name} formats prompts as a chat, whose words would stay in the judged text; "
            "use --paper-code with --protocol gu2025, which takes prompts as raw text"
        )
    return protocol


def _engine(model: str | Subject, subject: Subject, protocol: Protocol, choices: Choices) -> Engine:
    """What answers: an engine in this process, or workers under Ray with one each."""
    if choices.workers is None:
        for name in ("gpus_per_worker", "ray"):
            if getattr(choices, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is for several workers; give --workers N too")
        if choices.engine == "hf" and (choices.tensor_parallel != 1 or choices.gpu_memory is not None):
            name = "gpu-memory" if choices.tensor_parallel == 1 else "tensor-parallel"
            raise UserError(f"--{name} is for --engine vllm; the engine hf spreads a model with --device-map auto")
        return make_engine(
            choices.engine, subject, tensor_parallel=choices.tensor_parallel, gpu_memory=choices.gpu_memory
        )
    from harness.engine.ray_engine import RayEngine, WorkerTask

    assert isinstance(model, str), "checked when the model was loaded"
    gpus = choices.gpus_per_worker
    if gpus is None:
        gpus = float(choices.tensor_parallel) if torch.cuda.is_available() else 0.0
    task = WorkerTask(
        model=model,
        dtype=subject.dtype,  # as it was resolved here: workers on other devices would resolve it otherwise
        device=choices.device,
        device_map=choices.device_map,
        attention=choices.attention,
        chat_template=choices.chat_template,
        allow_remote_code=choices.allow_remote_code,
        allow_pickle=choices.allow_pickle,
        attacks=choices.attack,
        protocol=protocol,
        engine=choices.engine,
        tensor_parallel=choices.tensor_parallel,
        gpu_memory=choices.gpu_memory,
    )
    return RayEngine(task, workers=choices.workers, gpus_per_worker=gpus, address=choices.ray)


def _prompts(prompts: str | tuple[Prompt, ...], column: str | None) -> PromptSet:
    return load_prompts(prompts, column) if isinstance(prompts, str) else PromptSet("custom", prompts)


def _subject(model: str | Subject, choices: Choices, attacks: Collection[Attack], *, weights: bool) -> Subject:
    elsewhere = choices.engine != "hf" or choices.workers is not None
    if elsewhere and choices.defence is not None:
        raise UserError(
            f"--defence {choices.defence} acts inside the model of the engine hf in this process; leave it out, or use "
            "--engine hf without --workers"
        )
    here = not elsewhere or (choices.workers is None and any(needs_weights(attack) for attack in attacks))
    if choices.engine == "vllm" and not (here and choices.workers is None):
        _refuse_placement(choices)
    if isinstance(model, Subject):
        if elsewhere:
            raise UserError(
                "a model in memory is for the engine hf in this process; give its name, or no --engine and no --workers"
            )
        subject = model
    else:
        subject = load(
            model,
            # This process may be on a machine without the GPUs that its workers have
            dtype=AUTO if choices.dtype is None and (choices.gpus_per_worker or 0) > 0 else choices.dtype,
            device=choices.device,
            device_map=choices.device_map,
            attention=choices.attention,
            chat_template=choices.chat_template,
            allow_remote_code=choices.allow_remote_code,
            allow_pickle=choices.allow_pickle,
            weights=weights and here,
        )
    return subject if choices.defence is None else defended(subject, choices.defence)


def _refuse_placement(choices: Choices) -> None:
    """`UserError` for a place of the model, where vLLM alone loads it."""
    device = choices.device if choices.device != DEFAULTS.device else None
    given = (("--device", device), ("--device-map", choices.device_map), ("--attention", choices.attention))
    for option, value in given:
        if value is not None:
            raise UserError(
                f"{option} {value} is for the model of --engine hf; vLLM takes the GPUs that CUDA_VISIBLE_DEVICES "
                "names, with --tensor-parallel N, and an attention of its own: leave it out"
            )


def _require_room(subject: Subject, prompts: Sequence[Prompt], protocol: Protocol) -> None:
    """`UserError` for a prompt that, with its answer or its target, does not fit into the model."""
    tokenizer = subject.tokenizer
    listed = () if protocol.targets is None else protocol.targets.texts
    texts = {prompt.id: listed or ((prompt.target,) if prompt.target else ()) for prompt in prompts}
    targets = {
        name: max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in some)
        for name, some in texts.items()
        if some
    }
    named = {prompt.id: subject.format(prompt, protocol) for prompt in prompts}
    check_fits(subject.model, named, subject.name, new_tokens=protocol.max_new_tokens, targets=targets)


def _require_suffixes_with_tokens(subject: Subject, prompts: Sequence[Prompt], protocol: Protocol) -> None:
    """`UserError` for a suffix that changes nothing: what looks like an attack would be the bare prompt."""
    for prompt in prompts:
        bare = replace(prompt, suffix=None)
        if prompt.suffix is not None and subject.format(prompt, protocol) == subject.format(bare, protocol):
            raise UserError(
                f"the suffix {prompt.suffix!r} of prompt {prompt.id} has no tokens for {subject.name}; "
                "give it some text, or leave it empty for the bare prompt"
            )


def check_max_rows(max_rows: int | None) -> None:
    """`UserError` for a batch that holds nothing."""
    if max_rows is not None and max_rows < 1:
        raise UserError(f"--max-rows {max_rows} leaves no batch; give 1 or more")


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
        max_new_tokens = published.max_new_tokens if max_new_tokens is None else max_new_tokens
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
    resolved = base.model_copy(update=changes)
    if isinstance(resolved.steps, tuple) and min(resolved.steps) >= resolved.max_new_tokens:
        raise UserError(
            f"--steps {_listed(resolved.steps)} perturbs none of the {resolved.max_new_tokens} steps of an answer; "
            f"give a step below {resolved.max_new_tokens}, or more --max-new-tokens"
        )
    return resolved


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
