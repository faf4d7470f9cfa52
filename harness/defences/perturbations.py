"""What disturbs the hidden states in a training step: its sources, and the one way in which all of them act.

The first of the choices that make a recipe (`harness.defences.form`). A source is a small record; asked with a `Scene`
(a teacher-forced batch, its positions and blocks, and a loss for the attacker to lower) it makes a `Perturbation`,
which `perturbed` lays over every forward inside.

    Nothing            h
    Noise              h + eps * delta'            equations (1) and (2), one direction an example
    GradientDirection  h_l + rho * g_l / ||g||     g: gradient of the attacker's loss, its norm over all blocks at once
    Pgd                h_l + d_l                   projected gradient descent, ||d_l[position]|| <= r_l
    Ablated            h - (h . u) u               u: the refusal direction, at random blocks and positions
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from harness.defences.examples import Example, TokenBatch, batch_of
from harness.model.subject import Subject
from harness.stream.injection import capture, edit
from harness.stream.perturbation import normalise, perturb, standardise

EMBEDDING = -2
"""In place of a block's number: what the embedding table puts out."""


class Perturbation(Protocol):
    """A change of hidden states, made for n examples."""

    @property
    def layers(self) -> Sequence[int]:
        """The blocks that it changes the outputs of; `EMBEDDING` among them."""
        ...

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """The changed output of a block, a new tensor. hidden: (k * n, position, d_model): the n examples k times over,
        with other answers each time; every copy of an example is changed alike."""
        ...


@contextmanager
def perturbed(subject: Subject, by: Perturbation | None) -> Iterator[None]:
    """While open, every forward of the subject is perturbed."""
    if by is None:
        yield
        return

    def change(layer: int, block_input: Tensor, block_output: Tensor) -> Tensor:
        return by.apply(layer, block_output)

    edits: dict[int, Callable[[Tensor, Tensor], Tensor | None]] = {
        layer: partial(change, layer) for layer in by.layers if layer != EMBEDDING
    }
    with ExitStack() as stack:
        stack.enter_context(edit(subject.blocks, edits))
        if EMBEDDING in by.layers:
            stack.enter_context(edit([subject.model.get_input_embeddings()], {0: partial(change, EMBEDDING)}))
        yield


def _for_rows(of_examples: Tensor, hidden: Tensor) -> Tensor:
    """What is given for n examples, for the k * n rows of `hidden`, on its device."""
    times = len(hidden) // len(of_examples)
    return torch.cat([of_examples] * times).to(hidden.device)


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A shift of the residual stream. by_layer: (example, position, d_model) each, zero where nothing is perturbed."""

    by_layer: Mapping[int, Tensor]

    @property
    def layers(self) -> Sequence[int]:
        return list(self.by_layer)

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        return (hidden.float() + _for_rows(self.by_layer[layer], hidden)).to(hidden.dtype)


@dataclass(frozen=True, kw_only=True)
class NoiseShift:
    """Equations (1) and (2): directions normalised to the statistics of each hidden state. units: (example, d_model)
    for each block, standardised. where: (example, position) bool."""

    units: Mapping[int, Tensor]
    dose: float
    where: Tensor

    @property
    def layers(self) -> Sequence[int]:
        return list(self.units)

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        unit = _for_rows(self.units[layer], hidden)[:, None]
        moved = perturb(hidden, normalise(unit, hidden), torch.tensor(self.dose, device=hidden.device))
        return torch.where(_for_rows(self.where, hidden)[..., None], moved, hidden)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A direction taken out of the stream. directions: (d_model,) of unit length for each block. where: (example,
    position) bool for each block."""

    directions: Mapping[int, Tensor]
    where: Mapping[int, Tensor]

    @property
    def layers(self) -> Sequence[int]:
        return list(self.directions)

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        return torch.where(
            _for_rows(self.where[layer], hidden)[..., None],
            without_direction(hidden, self.directions[layer].to(hidden.device, hidden.dtype)),
            hidden,
        )


def without_direction(hidden: Tensor, unit: Tensor) -> Tensor:
    """h - (h . u) u. hidden: (..., d_model); unit: (d_model,), of length 1."""
    return hidden - (hidden @ unit)[..., None] * unit


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a source is asked with. tokens: a batch whose rows are the n examples, once or several times over. where:
    (example, position) bool. objective: a scalar that the attacker lowers, given a perturbation; its graph reaches the
    shifts. directions: (layer, d_model), the refusal direction of each block, where the source needs one."""

    subject: Subject
    tokens: TokenBatch
    where: Tensor
    layers: Sequence[int]
    objective: Callable[[Perturbation | None], Tensor]
    generator: torch.Generator
    directions: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.where.shape, self.subject.d_model)  # type: ignore[return-value]


class Source(Protocol):
    """Where a perturbation comes from. `needs_direction`: the scene must bring refusal directions."""

    @property
    def needs_direction(self) -> bool: ...

    def make(self, scene: Scene) -> Perturbation | None: ...


@dataclass(frozen=True, kw_only=True)
class Nothing:
    needs_direction: ClassVar[bool] = False

    def make(self, scene: Scene) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Normalised Gaussian noise: of length about that of the hidden state at dose 1."""

    dose: float = 1.0
    needs_direction: ClassVar[bool] = False

    def make(self, scene: Scene) -> NoiseShift:
        shape = (len(scene.where), scene.subject.d_model)
        drawn = {layer: torch.randn(shape, generator=scene.generator) for layer in scene.layers}
        units = {layer: standardise(each).to(scene.subject.device) for layer, each in drawn.items()}
        return NoiseShift(units=units, dose=self.dose, where=scene.where)


@dataclass(frozen=True, kw_only=True)
class GradientDirection:
    """One step against the attacker's loss: the shifts of all blocks together have the L2 norm `length`, over all
    rows and positions of the batch (Vaccine's rho)."""

    length: float
    needs_direction: ClassVar[bool] = False

    def make(self, scene: Scene) -> Shift:
        gradients = shift_gradients(scene, scene.layers)
        norm = math.sqrt(sum(float(each.square().sum()) for each in gradients.values()))
        scale = self.length / max(norm, 1e-12)
        return Shift(by_layer={layer: -scale * each for layer, each in gradients.items()})


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """Projected gradient descent on the attacker's loss. The L2 bound at each position: `radius`, or `bound` standard
    deviations of the stream times sqrt(d_model), or for the embedding `bound` times the mean norm of its rows.

    rule: steps along the gradient's direction at each position, or of its signs; `step` radii long.
    """

    bound: float = 0.4
    radius: float | None = None
    steps: int = 16
    step: float = 0.25
    rule: Literal["direction", "sign"] = "direction"
    random_start: bool = True
    needs_direction: ClassVar[bool] = False

    def make(self, scene: Scene) -> Shift:
        radius = self._radii(scene)
        device = scene.where.device
        start = {
            layer: project(torch.randn(scene.shape, generator=scene.generator).to(device), each / 2, scene.where)
            if self.random_start
            else torch.zeros(scene.shape, device=device)
            for layer, each in radius.items()
        }
        return descend(scene.objective, start, radius, scene.where, steps=self.steps, step=self.step, rule=self.rule)

    def _radii(self, scene: Scene) -> dict[int, float]:
        if self.radius is not None:
            return dict.fromkeys(scene.layers, self.radius)
        found: dict[int, float] = {}
        if EMBEDDING in scene.layers:
            rows = scene.subject.model.get_input_embeddings().weight.detach().float()
            found[EMBEDDING] = self.bound * float(rows.norm(dim=-1).mean())
        blocks = [layer for layer in scene.layers if layer != EMBEDDING]
        if blocks:
            found |= stream_radii(scene.subject, scene.tokens, scene.where, blocks, self.bound)
        return {layer: found[layer] for layer in scene.layers}


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """The refusal direction of each block taken out: of a block with `probability`, and there of each position with the
    same probability again (so DeepRefusal's public code draws it)."""

    probability: float
    needs_direction: ClassVar[bool] = True

    def make(self, scene: Scene) -> Ablation:
        assert scene.directions is not None
        where: dict[int, Tensor] = {}
        for layer in scene.layers:
            chosen = bool(torch.rand((), generator=scene.generator) < self.probability)
            at = torch.rand(scene.where.shape, generator=scene.generator) < self.probability
            if chosen:
                where[layer] = at.to(scene.where.device) & scene.where
        return Ablation(directions={layer: scene.directions[layer] for layer in where}, where=where)


def stream_radii(
    subject: Subject, tokens: TokenBatch, where: Tensor, layers: Sequence[int], bound: float
) -> dict[int, float]:
    """`bound` times the stream's standard deviation times sqrt(d_model), by block: as long as an attack at that dose.

    The standard deviation is taken over the entries of h, and its median over the perturbed positions: the first token
    of a text has a norm many times that of the others, which a mean would follow.
    """
    with torch.no_grad(), capture(subject.blocks, layers) as seen:
        subject.forward(tokens.ids.to(subject.device), tokens.mask.to(subject.device), last=1)
    root = math.sqrt(subject.d_model)
    rows = len(where)
    return {
        layer: bound * root * float(seen.outputs[layer][:rows].float().std(dim=-1)[where].median()) for layer in layers
    }


def descend(
    objective: Callable[[Perturbation | None], Tensor],
    start: Mapping[int, Tensor],
    radius: Mapping[int, float],
    where: Tensor,
    *,
    steps: int,
    step: float,
    rule: Literal["direction", "sign"] = "direction",
) -> Shift:
    """Projected gradient descent from `start` ((example, position, d_model) by block); weights get no gradient."""
    shifts = dict(start)
    for _ in range(steps):
        leaves = {layer: shift.requires_grad_() for layer, shift in shifts.items()}
        with torch.enable_grad():
            loss = objective(Shift(by_layer=leaves))
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        shifts = {
            layer: project(shift.detach() - step * radius[layer] * _along(gradient, rule), radius[layer], where)
            for (layer, shift), gradient in zip(leaves.items(), gradients, strict=True)
        }
    return Shift(by_layer={layer: shift.detach() for layer, shift in shifts.items()})


def _along(gradient: Tensor, rule: str) -> Tensor:
    """A step of length 1 at each position; nothing where the gradient is nothing."""
    if rule == "sign":
        return gradient.sign() / math.sqrt(gradient.shape[-1])
    return unit(gradient)


def shift_gradients(
    scene: Scene, layers: Sequence[int], objective: Callable[[Perturbation | None], Tensor] | None = None
) -> dict[int, Tensor]:
    """The gradient of the attacker's loss (or of another) in the outputs of `layers`: (example, position, d_model)
    each, zero outside the scene's positions."""
    leaves = {layer: torch.zeros(scene.shape, device=scene.where.device).requires_grad_() for layer in layers}
    with torch.enable_grad():
        loss = (objective or scene.objective)(Shift(by_layer=leaves))
        gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {
        layer: torch.where(scene.where[..., None], gradient, 0.0)
        for layer, gradient in zip(leaves, gradients, strict=True)
    }


def project(shift: Tensor, radius: float, where: Tensor) -> Tensor:
    """The nearest shift whose L2 norm is at most `radius` at each position of `where`, and zero elsewhere.

    shift: (example, position, d_model); where: (example, position) bool.
    """
    norm = shift.norm(dim=-1, keepdim=True)
    return torch.where(where[..., None], shift * (radius / norm.clamp(min=1e-12)).clamp(max=1.0), 0.0)


def unit(vectors: Tensor) -> Tensor:
    """Each of length 1 along the last dimension; zero stays zero."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)


@torch.no_grad()
def refusal_directions(subject: Subject, harmful: Sequence[Example], benign: Sequence[Example]) -> Tensor:
    """Mean over harmful requests less that over harmless ones of every block's output at the request's last position,
    of unit length: (layer, d_model), float32. Source: Arditi et al. 2024 (arXiv:2406.11717), one direction a block."""
    means = []
    for examples in (harmful, benign):
        total = torch.zeros(subject.n_layers, subject.d_model, device=subject.device)
        for start in range(0, len(examples), 16):
            tokens = batch_of(examples[start : start + 16])
            ids = tokens.ids[:, : tokens.prompt_length].to(subject.device)
            mask = tokens.mask[:, : tokens.prompt_length].to(subject.device)
            with capture(subject.blocks, range(subject.n_layers)) as seen:
                subject.forward(ids, mask, last=1)
            total += torch.stack([seen.outputs[n][:, -1].float().sum(0).to(total.device) for n in range(len(total))])
        means.append(total / max(len(examples), 1))
    return unit(means[0] - means[1])
