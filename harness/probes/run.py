"""The probes of a model as a folder: tables, and a manifest that says what they are. No prompt or answer text in it.

OUT/nll.parquet        one line a (prompt, layer, dose, seed): `harness.probes.measures.nll_rise`
OUT/kl.parquet         one line a (prompt, layer, dose, seed, position): `harness.probes.measures.kl_by_position`
OUT/kl_trend.parquet   whether KL grows with position, by layer: `harness.probes.measures.kl_trend`
OUT/landscape.parquet  one line a (prompt, layer, a, b): `harness.probes.measures.landscape`
OUT/manifest.json      settings, versions, findings; written last, so that a folder that has one is whole
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from asabench.core.errors import UserError
from asabench.core.files import parse_json, write_whole
from asabench.core.numbers import evenly_spaced
from asabench.core.prompts import content
from asabench.core.protocol import Protocol
from asabench.core.records import Prompt, sha256_hex
from asabench.runs.probe_settings import (
    MANIFEST,
    WHAT,
    LandscapeSettings,
    ProbeManifest,
    ProbeSettings,
    What,
    write_probe,
)
from harness.attacks import Attack
from harness.attacks.random import RandomAttack
from harness.model.subject import Subject, check_prompt_format
from harness.probes.measures import kl_trend, landscape, nll_and_kl
from harness.progress import progress_line


def grid_axis(points: int) -> tuple[float, ...]:
    """The landscape's doses along one axis: from -1 to 1, evenly spaced."""
    return tuple(np.linspace(-1, 1, points).tolist()) if points > 1 else (0.0,)


GRID = grid_axis(11)
"""The values of a and b in the landscape. A full picture takes 50."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The plane that the landscape lies over: the attack probed (axis a, the first seed) and `against` (axis b, the
    seed after it; None: the protocol's random noise), its points all pairs of `a` and `b`.

    layers: None takes four of those probed, evenly spaced. prompts: only the first of them; None takes all.
    """

    against: Attack | None = None
    layers: Sequence[int] | None = None
    prompts: int | None = 8
    a: Sequence[float] = GRID
    b: Sequence[float] = GRID


_TABLES = ("nll", "kl", "kl_trend", "landscape")


def probe(
    subject: Subject,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    protocol: Protocol,
    attack: Attack,
    doses: Sequence[float],
    out: Path,
    *,
    what: Sequence[What] = WHAT,
    seeds: Sequence[int] | None = None,
    plane: Plane | None = None,
    progress: bool = False,
) -> Path:
    """Runs the probes in `what` and writes `out`; returns it. An earlier probe there is replaced.

    seeds: the protocol's by default. plane: of the landscape. progress: a line on a terminal. Raises `UserError` for
    what cannot be probed or written.
    """
    seeds = tuple(protocol.seeds if seeds is None else seeds)
    plane = plane or Plane()
    against = plane.against or RandomAttack(noise=protocol.noise)
    planes = tuple(evenly_spaced(layers, 4) if plane.layers is None else plane.layers)
    mapped = prompts[: plane.prompts]
    given = {
        "prompts": prompts if "landscape" not in what else mapped,
        "layers": [*layers, *planes],
        "doses": doses,
        "seeds": seeds,
        "probes": what,
        "a": plane.a,
        "b": plane.b,
    }
    _check(given, subject.n_layers)
    if "landscape" in what and against.name == attack.name and not attack.uses_seed:
        raise UserError(f"a landscape needs two directions, and {attack.name} gives only one; name another attack")
    check_prompt_format(subject, protocol, prompts)
    _make_room(out)
    along = len(prompts) * len(layers) * len(doses) * (len(seeds) if attack.uses_seed else 1)
    plane_seeds = (seeds[0], seeds[0] + 1)
    points = len(mapped) * len(planes) * len(plane.a) * len(plane.b)
    total = along * ("nll" in what or "kl" in what) + points * ("landscape" in what)
    findings: dict[str, str] = {}
    with progress_line(0, total, 1, progress) as line:
        if "nll" in what or "kl" in what:
            with_kl = "kl" in what
            nll, kl = nll_and_kl(
                subject, prompts, layers, protocol, attack, doses, seeds, with_kl=with_kl, on_rows=line.finish
            )
            if "nll" in what:
                _write(out, "nll", nll)
            if with_kl:
                trend = kl_trend(kl)
                findings["kl_trend"] = trend.answer
                _write(out, "kl", kl)
                _write(out, "kl_trend", trend.table)
        if "landscape" in what:
            a, b = plane.a, plane.b
            table = landscape(
                subject, mapped, planes, protocol, attack, against, a, b, seeds=plane_seeds, on_rows=line.finish
            )
            _write(out, "landscape", table)
    mapping = LandscapeSettings(
        a_attack=attack.name,
        b_attack=against.name,
        a=tuple(plane.a),
        b=tuple(plane.b),
        seeds=plane_seeds,
        layers=planes,
        prompt_count=len(mapped),
    )
    settings = ProbeSettings(
        model=subject.name,
        revision=subject.revision,
        dtype=subject.dtype,
        protocol=protocol,
        what=tuple(name for name in WHAT if name in what),
        attack=attack.name,
        doses=tuple(doses),
        seeds=seeds if attack.uses_seed else (),
        layers=tuple(layers),
        prompt_count=len(prompts),
        prompts=sha256_hex(json.dumps(content(prompts)))[:16],
        landscape=mapping if "landscape" in what else None,
    )
    write_probe(out, _manifest(subject, settings, findings))
    return out


def _check(given: Mapping[str, Sequence[Any]], n_layers: int) -> None:
    """given: what is probed, by the names that the lines for the user have for it."""
    if unknown := [name for name in given["probes"] if name not in WHAT]:
        raise UserError(f"unknown probe {unknown[0]!r}; allowed: {', '.join(WHAT)}")
    for name, values in given.items():
        if not len(values):
            raise UserError(f"there are no {name} to probe; give at least one")
    if outside := [layer for layer in given["layers"] if not 0 <= layer < n_layers]:
        raise UserError(f"layer {outside[0]} is out of range; allowed: 0 to {n_layers - 1}")


def _make_room(out: Path) -> None:
    """Removes an earlier probe's files: what is there afterwards belongs to one probe."""
    manifest = out / MANIFEST
    try:
        if manifest.exists():
            if parse_json(manifest.read_text(encoding="utf-8")).get("kind") != "probe":
                raise UserError(f"{out} holds something other than a probe; choose another --out folder")
            manifest.unlink()
        out.mkdir(parents=True, exist_ok=True)
        for name in _TABLES:
            (out / f"{name}.parquet").unlink(missing_ok=True)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot write to {out} ({error}); choose another --out folder") from None


def _write(out: Path, name: str, table: pd.DataFrame) -> None:
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    write_whole(out / f"{name}.parquet", content.getvalue())


def _manifest(subject: Subject, settings: ProbeSettings, findings: dict[str, str]) -> ProbeManifest:
    packages = ("asabench", "torch", "transformers", "pandas", "pyarrow", "numpy", "scipy")
    device = subject.device
    return ProbeManifest(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=settings,
        findings=findings,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        python=platform.python_version(),
        packages={name: importlib.metadata.version(name) for name in packages},
    )
