"""Interpolation between a base model and a tuned one: theta = lam * theta_tuned + (1 - lam) * theta_base.

Source: Gu et al. 2025 (arXiv:2506.16078), after LAPT: the largest lam in [0, 0.5] whose CommonsenseQA accuracy stays
within 0.05 of the base model's.

Tensors are read one at a time from both models' safetensors files, mixed in float32 and cast back to the base's dtype;
a shard of at most `SHARD_BYTES` is in memory at once, so a large pair needs little of it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import asabench
from asabench.core.errors import UserError
from asabench.core.files import hidden_folder
from asabench.core.training_record import TRAINING_FILE, TrainingRecord, read_training
from harness.defences.training import card_head, finish, is_finished, refuse_half_written, start
from harness.model.files import RECORDS, ModelFiles, locate
from harness.model.weights import ADAPTER_CONFIG, INDEX, WEIGHTS, weight_files

SHARD_BYTES = 2**30

Score = Callable[[Path], float]
"""The utility of a model folder, larger is better."""


@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """What came out. `scores`: by lam, in the order in which they were tried; that of lam 0 is the base's."""

    path: Path
    lam: float
    scores: dict[float, float]


class Weights:
    """The tensors of a model folder, by name, read when they are asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        try:
            for path in weight_files(folder, str(folder), allow_pickle=False):
                opened = stack.enter_context(safe_open(path, framework="pt"))
                self._files.update(dict.fromkeys(opened.keys(), opened))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise UserError(f"the weights in {folder} cannot be read ({error}); give a folder of safetensors") from None

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


@contextmanager
def opened(base: Path, tuned: Path) -> Iterator[tuple[Weights, Weights, list[str]]]:
    """Both models' weights, and the names to write. `UserError` where the two are not of one architecture."""
    with ExitStack() as stack:
        a, b = Weights(base, stack), Weights(tuned, stack)
        yield a, b, shared_names(a, b)


def shared_names(base: Weights, tuned: Weights) -> list[str]:
    """The tensors of both, in the base's order. One that a single model has must be the copy of another there: tied
    weights, which some files hold once and others twice. Raises `UserError` for other keys and for shapes that differ.
    """
    shared = [name for name in base.names if name in set(tuned.names)]
    for weights, other in ((base, tuned), (tuned, base)):
        for name in sorted(set(weights.names) - set(other.names)):
            if not any(
                weights.shape(twin) == weights.shape(name) and torch.equal(weights[twin], weights[name])
                for twin in shared
            ):
                raise UserError(
                    f"{weights.folder} has the weight {name} and {other.folder} has not; "
                    "interpolate between models of one architecture"
                )
    for name in shared:
        if base.shape(name) != tuned.shape(name):
            raise UserError(
                f"the weight {name} has shape {base.shape(name)} in {base.folder} and {tuned.shape(name)} in "
                f"{tuned.folder}; interpolate between models of one architecture"
            )
    return shared


def mix(base: Tensor, tuned: Tensor, lam: float) -> Tensor:
    """lam * tuned + (1 - lam) * base, in float32 or the base's float64, cast to the base's dtype. Same shapes."""
    if not base.is_floating_point() or not tuned.is_floating_point():
        if torch.equal(base, tuned):
            return base
        raise UserError(f"weights of type {base.dtype} cannot be interpolated; use models that are not quantised")
    wide = torch.promote_types(base.dtype, torch.float32)
    return torch.lerp(base.to(wide), tuned.to(wide), lam).to(base.dtype)


def write_mixture(base: Path, tuned: Path, lam: float, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a model folder: the weights, and the base's configuration and tokenizer. `out` must exist."""
    with opened(base, tuned) as (a, b, names):
        shards = _shards(a, names, shard_bytes)
        total = 0
        weight_map: dict[str, str] = {}
        for number, names_in_shard in enumerate(shards, 1):
            file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            mixed = {name: mix(a[name], b[name], lam).contiguous() for name in names_in_shard}
            if broken := [name for name, tensor in mixed.items() if not tensor.isfinite().all()]:
                raise UserError(f"the weight {broken[0]} has values that are not finite; one of the models is broken")
            save_file(mixed, out / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(names_in_shard, file)
            total += sum(tensor.nbytes for tensor in mixed.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for path in base.iterdir():
        if path.suffix in {".json", ".jinja", ".txt", ".model"} and path.name not in (INDEX, ADAPTER_CONFIG, *RECORDS):
            shutil.copy2(path, out / path.name)


def _shards(weights: Weights, names: Sequence[str], most: int) -> list[list[str]]:
    """The names in order, in groups of at most `most` bytes or one tensor."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in names:
        own = weights[name].nbytes
        if shards[-1] and size + own > most:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += own
    return shards


def interpolate(
    base: str,
    tuned: str,
    lambdas: Sequence[float],
    out: Path,
    *,
    score: Score | None = None,
    margin: float = 0.05,
    kept: str = "",
    say: Callable[[str], None] = print,
) -> Interpolated:
    """Writes the mixture with the largest lam whose score is at most `margin` under the base's, to `out`.

    base, tuned: short names, folders or hub ids. score: None takes the one lam that is given. kept: what `score`
    measures, for the record. Raises `UserError`, also when no lam keeps the score.
    """
    _check(lambdas, score, margin)
    files = {name: _plain_model(name) for name in (base, tuned)}
    asked = {
        "recipe": {"name": "interpolation", "lambdas": sorted(lambdas), "kept": kept, "margin": margin},
        "base": {"name": files[base].name, "revision": files[base].revision},
        "tuned": {"name": files[tuned].name, "revision": files[tuned].revision},
    }
    if is_finished(out, asked):
        return _finished(out)
    _refuse_other_architecture(files[base].folder, files[tuned].folder)  # before anything is measured
    start(out, asked)
    scores: dict[float, float] = {}
    if score is not None:
        scores[0.0] = score(files[base].folder)
        say(f"base: {kept} {scores[0.0]:.3f}")
    for lam in sorted(lambdas, reverse=True):
        with hidden_folder(out) as made:
            write_mixture(files[base].folder, files[tuned].folder, lam, made)
            if score is not None:
                scores[lam] = score(made)
                say(f"lambda {lam:g}: {kept} {scores[lam]:.3f}")
                # A rate of 0.95 under one of 1 lies within a margin of 0.05, whatever its last bit says
                if scores[lam] < scores[0.0] - margin - 1e-9:
                    continue
            record = {
                **asked,
                "lambda": lam,
                "scores": [{"lambda": key, "score": value} for key, value in scores.items()],
                **_tuned_training(files[tuned].folder),
            }
            (made / "README.md").write_text(_card(asked, lam, scores), encoding="utf-8")
            finish(out, made, record)
        return Interpolated(path=out, lam=lam, scores=scores)
    listed = ", ".join(f"{lam:g}: {value:.3f}" for lam, value in scores.items())
    raise UserError(f"no lambda keeps {kept} within {margin:g} of the base ({listed}); give smaller --lambdas")


def _finished(out: Path) -> Interpolated:
    """What an earlier call left."""
    record = read_training(out / TRAINING_FILE)
    if record.lam is None:
        raise UserError(f"{out / TRAINING_FILE} names no lambda; choose another --out folder")
    return Interpolated(path=out, lam=record.lam, scores={each.lam: each.score for each in record.scores})


def _check(lambdas: Sequence[float], score: Score | None, margin: float) -> None:
    if not lambdas or any(not 0 < lam <= 1 for lam in lambdas) or len(set(lambdas)) < len(lambdas):
        raise UserError(
            f"lambdas {','.join(map(str, lambdas)) or '(none)'} cannot be used; give different numbers over 0 and up "
            "to 1, such as 0.1,0.2,0.3,0.4,0.5"
        )
    if score is None and len(lambdas) > 1:
        raise UserError("several lambdas were given and nothing to choose by; add --keep benign:0.05, or give one")
    if not (math.isfinite(margin) and margin >= 0):
        raise UserError(f"the margin {margin} cannot be used; give a share such as 0.05")


def _plain_model(name: str) -> ModelFiles:
    refuse_half_written(Path(name).expanduser())
    files = locate(name)
    if files.adapters:
        raise UserError(f"{name} is an adapter; interpolate with the merged model in the folder above it")
    return files


def _refuse_other_architecture(base: Path, tuned: Path) -> None:
    with opened(base, tuned):
        return


def _tuned_training(tuned: Path) -> dict[str, Any]:
    """What the tuned model's record says of its training: the recipe, the blocks, and the digests of the harmful
    requests, which are the mixture's too."""
    path = tuned / TRAINING_FILE
    record = read_training(path) if path.is_file() else TrainingRecord()
    kept = record.model_dump(mode="json", include={"recipe", "layers", "tuned_training"}, exclude_unset=True)
    compared = record.model_dump(mode="json", include={"compared_with_test"}, exclude_none=True)
    return {"harmful_goals": record.harmful_goals or (), **compared, **({"tuned_training": kept} if kept else {})}


def _card(asked: dict[str, Any], lam: float, scores: dict[float, float]) -> str:
    base, tuned, recipe = asked["base"], asked["tuned"], asked["recipe"]
    lines = "".join(f"| {key:g} | {value:.3f} |\n" for key, value in scores.items())
    tried = f"\n| lambda | {recipe['kept']} |\n|---|---|\n{lines}" if scores else ""
    return f"""{card_head(base["name"])}
# {lam:g} of {tuned["name"]}, the rest {base["name"]}

Made by `asabench interpolate` (ASABench {asabench.__version__}): theta = {lam:g} * tuned + {1 - lam:g} * base, tuned
{tuned["name"]} ({tuned["revision"]}), base {base["name"]} ({base["revision"]}). It is for research on how robust a
refusal is; it has not been shown safe for use.
{tried}"""
