"""What a probe was asked, and the manifest of its folder.

`ProbeSettings` are made in one place, `harness.probes.run`, and read from `manifest.json` by whoever draws its tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from asabench.core.files import read_record, write_record
from asabench.core.protocol import Protocol
from asabench.core.schema import Record

MANIFEST = "manifest.json"

What = Literal["nll", "kl", "landscape"]
WHAT: tuple[What, ...] = get_args(What)


class LandscapeSettings(Record):
    """The plane of the landscape: the attacks that give its two directions with a seed each, the doses along both, and
    the blocks and the number of prompts (the first ones) that it was measured at."""

    a_attack: str
    b_attack: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    seeds: tuple[int, int]
    layers: tuple[int, ...]
    prompt_count: int


class ProbeSettings(Record):
    """Everything that decides what a probe's tables hold.

    `statistics`: at every answer position, whatever the protocol's steps and statistics. `seeds`: none for an attack
    that draws nothing. `prompts`: the first 16 hex digits of a SHA-256 of what the prompts say. `landscape`: None where
    none was asked for.
    """

    model: str
    revision: str
    dtype: str
    protocol: Protocol
    statistics: Literal["current-step"] = "current-step"
    what: tuple[What, ...]
    attack: str
    doses: tuple[float, ...]
    seeds: tuple[int, ...]
    layers: tuple[int, ...]
    prompt_count: int
    prompts: str
    landscape: LandscapeSettings | None = None


class ProbeManifest(Record):
    """`manifest.json` of a probe's folder, written last. `findings` are sentences by the name of a table."""

    kind: Literal["probe"] = "probe"
    schema_version: Literal[1] = 1
    finished: str
    settings: ProbeSettings
    findings: dict[str, str]
    device: str
    python: str
    packages: dict[str, str]


def write_probe(folder: Path, manifest: ProbeManifest) -> None:
    """Writes the manifest, whole or not at all."""
    write_record(folder / MANIFEST, manifest)


def read_probe(folder: Path) -> ProbeManifest:
    """The manifest of a finished probe; `UserError` where the folder holds none."""
    return read_record(
        ProbeManifest, folder / MANIFEST, "the manifest of a finished probe", f"run `asabench probe --out {folder}`"
    )
