"""The command that looks at what a perturbation does before it shows in an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from asabench.cli import options
from asabench.cli.needs import MODEL, needs
from asabench.cli.options import option
from asabench.core.attack_names import has_blocks
from asabench.core.defaults import ATTACK, DEVICE, LAYERS, PROMPTS, PROTOCOL
from asabench.core.errors import UserError


def probe(
    place: options.ModelPlace = None,
    model: Annotated[Optional[str], option(options.MODEL, default="MODEL")] = None,
    prompts: options.Prompts = PROMPTS,
    prompt_column: options.PromptColumn = None,
    limit: options.Limit = None,
    layers: options.Layers = LAYERS,
    doses: options.Doses = None,
    seeds: options.Seeds = None,
    attack: Annotated[
        str, option("One attack, named as for evaluate; it is the first axis of the landscape too.")
    ] = ATTACK,
    protocol: options.Protocol = PROTOCOL,
    max_new_tokens: Annotated[
        Optional[int], option("Tokens of the clean answer that is probed.", default=options.PROTOCOLS_OWN)
    ] = None,
    target: options.Target = None,
    what: Annotated[str, option("Some of nll,kl,landscape.")] = "nll,kl,landscape",
    landscape_layers: Annotated[Optional[str], option("Blocks of the landscape.", default="four")] = None,
    landscape_points: Annotated[int, option("Points along each of the landscape's axes.")] = 11,
    landscape_prompts: Annotated[int, option("Prompts that the landscape averages over.")] = 8,
    out: Annotated[Path, option("Where tables and pictures go.")] = Path("runs/probe"),
    dtype: options.DtypeByDevice = None,
    device: options.Device = DEVICE,
    device_map: options.DeviceMap = None,
    attention: options.Attention = None,
    chat_template: options.ChatTemplate = None,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Probe what a perturbation does before it shows in an answer: NLL rise, KL by position, loss landscape."""
    named = options.named_model(place, model, "probe")
    needs(*MODEL)
    from asabench.runs.choices import Choices
    from asabench.runs.probe_settings import WHAT, read_probe
    from harness.evaluation.plan import make_plan, parse_layers
    from harness.probes.run import Plane, grid_axis
    from harness.probes.run import probe as run_probe
    from leaderboard.figures.probes import probe_figures

    for name, value in (("points", landscape_points), ("prompts", landscape_prompts)):
        if value < 1:
            raise UserError(f"--landscape-{name} {value} leaves no landscape; give 1 or more")
    chosen = what.split(",")
    if unknown := [name for name in chosen if name not in WHAT]:
        raise UserError(f"unknown probe {unknown[0]!r}; allowed: {', '.join(WHAT)}")
    choices = Choices.of(
        prompts=prompts,
        prompt_column=prompt_column,
        limit=limit,
        layers=layers,
        doses=doses,
        seeds=seeds,
        attack=[attack],
        protocol=protocol,
        max_new_tokens=max_new_tokens,
        target=target,
        dtype=dtype,
        device=device,
        device_map=device_map,
        attention=attention,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    plan = make_plan(named, choices)
    if everywhere := [name for name in plan.attacks if not has_blocks(name)]:
        raise UserError(f"a probe perturbs one block at a time, and {everywhere[0]} acts on all; name another --attack")
    axis = grid_axis(landscape_points)
    folder = run_probe(
        plan.subject,
        plan.prompts.prompts,
        plan.layers,
        plan.protocol,
        next(iter(plan.attacks.values())),
        plan.protocol.doses,
        out,
        what=[name for name in WHAT if name in chosen],
        plane=Plane(
            layers=None if landscape_layers is None else parse_layers(landscape_layers, plan.subject.n_layers),
            prompts=landscape_prompts,
            a=axis,
            b=axis,
        ),
        progress=True,
    )
    for name, finding in read_probe(folder).findings.items():
        print(f"{name}: {finding}")
    for picture in probe_figures(folder):
        print(f"picture: {picture}")
    print(f"tables:  {folder}")
