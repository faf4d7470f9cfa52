"""Adaptive ASA: several projected sign-gradient steps on the raw direction, from several starts.

Source: the loss of Gu et al. 2025 (arXiv:2506.16078), the step of Goodfellow et al. 2014 (arXiv:1412.6572), repeated.
It goes through equations (1) and (2) of docs/protocol.md themselves, at the steps where generation injects and at the
cell's own dose, so its budget is that of every other attack. Where it breaks far more than `gradient`, a gradient taken
once at the clean hidden state did not show how fragile the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks.target_loss import (
    SIGN,
    TargetPass,
    checked_option,
    gradients_wanted,
    loss_gradients,
    require_targets,
    row_batches,
)
from harness.model.subject import Subject
from harness.stream.noise import gaussian
from harness.stream.perturbation import standardise

# The step size is the best of 0.1, 0.25, 0.5, 1 and 2 at doses 0.1, 0.3 and 1 on SmolLM2-135M (quickstart prompts)
DEFAULTS = {"steps": "8", "starts": "2", "step_size": "0.25", "direction": "descend", "seed": "0"}


class PgdAttack:
    """Options come as text from the command line; `UserError` for what they cannot be.

    steps: gradient steps from every start, 0 or more. starts: 1 or more; the first is the direction of `gradient` with
    the same `direction`, the second that of `random` with seed `seed`, others are further draws. step_size: length of a
    step in each entry of a direction of standard deviation 1. direction: `descend` lowers the target's loss, `ascend`
    raises it.

    It looks for the best of all starts, so a run's seeds are no draws of it: there is one cell a layer and dose.
    """

    needs_targets = True
    uses_seed = False

    def __init__(
        self,
        protocol: Protocol,
        steps: str = DEFAULTS["steps"],
        starts: str = DEFAULTS["starts"],
        step_size: str = DEFAULTS["step_size"],
        direction: str = DEFAULTS["direction"],
        seed: str = DEFAULTS["seed"],
    ) -> None:
        self.protocol = protocol
        self.steps = _whole("steps", steps, 0)
        self.starts = _whole("starts", starts, 1)
        self.step_size = _positive("step_size", step_size)
        self.direction = checked_option("pgd", "direction", direction, list(SIGN))
        self.seed = _whole("seed", seed, 0)

    @property
    def name(self) -> str:
        """`pgd`, with the options that are not the default."""
        given = {
            "steps": str(self.steps),
            "starts": str(self.starts),
            "step_size": f"{self.step_size:g}",
            "direction": self.direction,
            "seed": str(self.seed),
        }
        return ":".join(["pgd", *(f"{key}={value}" for key, value in given.items() if value != DEFAULTS[key])])

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU: of all iterates of all starts, the best by `target_loss`.

        The first iterate is `gradient`'s direction, so on that loss a cell is never weaker than it. Costs a cell
        `starts * (steps + 1)` forwards and `starts * steps` backwards over the target. What else is in the batch
        changes nothing but rounding. Raises `UserError` for prompts without a target and models without gradients.
        """
        if any(cell.layer is None for cell in cells):
            raise ValueError("a gradient direction needs a cell with a layer")
        prompts = list(dict.fromkeys(cell.prompt for cell in cells))
        require_targets(prompts)
        starts = self._starts(subject, cells, prompts)
        if self.steps + self.starts == 1:
            return starts[:, 0]
        # At dose 0 all directions are as good as the first
        rows = [(index, start) for index, cell in enumerate(cells) if cell.dose for start in range(self.starts)]
        of_row = [cells[index] for index, _ in rows]
        best, losses = starts.clone(), torch.full(starts.shape[:2], torch.inf)
        for batch in row_batches(subject, of_row, self.protocol):
            at = tuple(torch.tensor([rows[row] for row in batch]).unbind(1))
            best[at], losses[at] = self._climb(subject, [of_row[row] for row in batch], starts[at])
        return best[torch.arange(len(cells)), losses.argmin(dim=1)]

    def _starts(self, subject: Subject, cells: Sequence[Cell], prompts: Sequence[Prompt]) -> Tensor:
        """(cell, start, d_model)."""
        gradients = loss_gradients(subject, prompts, self.protocol, self.protocol.gradient_at)
        found = []
        for cell in cells:
            assert cell.layer is not None
            first = SIGN[self.direction] * gradients[cell.prompt][cell.layer].float().sign()
            directions = [first]
            if self.starts > 1:
                directions += gaussian(
                    replace(cell, seed=self.seed), subject.d_model, self.protocol.noise, self.starts - 1
                )
            found.append(torch.stack(directions))
        return torch.stack(found)

    def _climb(self, subject: Subject, cells: Sequence[Cell], start: Tensor) -> tuple[Tensor, Tensor]:
        """The best iterate of each row, (row, d_model), and its signed loss, (row,), lower being better."""
        passes = TargetPass(subject, cells, self.protocol)
        sign = -SIGN[self.direction]
        raw = start.to(subject.device)
        best, lowest = raw, torch.full((len(cells),), torch.inf, device=raw.device)
        for step in range(self.steps + 1):
            last = step == self.steps
            if last:
                with torch.no_grad():
                    loss = sign * passes.loss(raw)
            else:
                with gradients_wanted(subject):
                    raw = raw.detach().requires_grad_()
                    loss = sign * passes.loss(raw)
                    (gradient,) = torch.autograd.grad(loss.sum(), [raw])
            raw, loss = raw.detach(), loss.detach().to(raw.device)
            better = loss < lowest
            best, lowest = torch.where(better[:, None], raw, best), torch.where(better, loss, lowest)
            if not last:
                # The projection: (1) sees nothing of a direction but its standardised self
                raw = standardise(raw) - self.step_size * gradient.sign()
        return best.cpu(), lowest.cpu()


def _whole(option: str, text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"pgd: {option}={text} cannot be used; allowed: whole numbers of {least} or more")
    return value


def _positive(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"pgd: {option}={text} cannot be used; allowed: numbers above 0, such as 0.25")
    return value
