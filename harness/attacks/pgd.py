"""Adaptive ASA: several projected sign-gradient steps on the raw direction, from several starts.

Source: the loss of Gu et al. 2025 (arXiv:2506.16078), the step of Goodfellow et al. 2014 (arXiv:1412.6572), repeated.
It goes through equations (1) and (2) of docs/protocol.md themselves, at the steps where generation injects and at the
cell's own dose, so its budget is that of every other attack. Where it breaks far more than `gradient`, a gradient taken
once at the clean hidden state did not show how fragile the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks.cells import require_steered
from harness.attacks.options import not_default
from harness.attacks.own_refusal import TargetOption, away_from_refusals, check_away
from harness.attacks.target_loss import (
    SIGN,
    Direction,
    TargetPass,
    gradients_wanted,
    loss_gradients,
    require_targets,
    row_batches,
)
from harness.model.subject import Subject
from harness.stream.noise import gaussian, require_generator
from harness.stream.perturbation import standardise


class PgdAttack:
    """Several gradient steps on the raw direction through equations (1) and (2), at the cell's own dose; the best
    iterate of all starts, `gradient`'s direction among them.

    It looks for the best of all starts, so a run's seeds are no draws of it: there is one cell a layer and dose.
    """

    family = "pgd"
    uses_seed = False

    def __init__(
        self,
        protocol: Protocol,
        steps: Annotated[int, Field(ge=0, description="gradient steps from every start")] = 8,
        starts: Annotated[
            int,
            Field(
                ge=1,
                description="the first is the direction of `gradient` with the same `direction`, the second that of "
                "`random` with the seed `seed`, others are further draws",
            ),
        ] = 2,
        # The best of 0.1, 0.25, 0.5, 1 and 2 at doses 0.1, 0.3 and 1 on SmolLM2-135M (quickstart prompts)
        step_size: Annotated[
            float,
            Field(
                gt=0,
                allow_inf_nan=False,
                description="length of a step in each entry of a direction of standard deviation 1",
            ),
        ] = 0.25,
        direction: Annotated[
            Direction, Field(description="`descend` lowers the target's loss, `ascend` raises it")
        ] = "descend",
        seed: Annotated[int, Field(ge=0, description="of its random starts; the run's seeds are no draws of it")] = 0,
        early: Annotated[
            Literal["never", "target"],
            Field(
                description="`target` ends a cell at the first iterate under which every token of the target is the "
                "likeliest: cheaper where cells break, and another attack"
            ),
        ] = "never",
        target: TargetOption = "given",
    ) -> None:
        if early == "target" and direction == "ascend":
            raise UserError(
                "pgd:early=target ends where the target is said, which direction=ascend works against; leave one out"
            )
        check_away(target, direction, protocol)
        if starts > 1:
            require_generator(protocol.noise_device)
        self.protocol = protocol
        self.steps = steps
        self.starts = starts
        self.step_size = step_size
        self.direction = direction
        self.seed = seed
        self.early = early
        self.target = target

    @property
    def name(self) -> str:
        """`pgd`, with the options that are not the default."""
        return ":".join(["pgd", *not_default(self)])

    @property
    def needs_targets(self) -> bool:
        return self.target == "given"

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU: of all iterates of all starts, the best by `target_loss`. For cells
        without a layer (cell, block, d_model): the directions of all blocks climb together, through each other.

        The first iterate is `gradient`'s direction, so on that loss a cell is never weaker than it. Costs a cell
        `starts * (steps + 1)` forwards and `starts * steps` backwards over the target. What else is in the batch
        changes nothing but rounding. Raises `UserError` for prompts without a target and models without gradients.
        """
        require_steered(cells)
        if self.target == "away":
            cells = away_from_refusals(subject, cells, self.protocol)
        prompts = list(dict.fromkeys(cell.prompt for cell in cells))
        require_targets(prompts)
        starts = self._starts(subject, cells, prompts)
        if self.steps + self.starts == 1:
            return starts[:, 0]
        best, losses = starts.clone(), torch.full(starts.shape[:2], torch.inf)
        every = range(self.starts)
        # One start after the other where the first may be enough
        for together in [every] if self.early == "never" else [[start] for start in every]:
            # At dose 0 all directions are as good as the first
            left = [index for index, cell in enumerate(cells) if cell.dose and losses[index].min() > -torch.inf]
            rows = [(index, start) for index in left for start in together]
            of_row = [cells[index] for index, _ in rows]
            for batch in row_batches(subject, of_row, self.protocol) if rows else ():
                at = tuple(torch.tensor([rows[row] for row in batch]).unbind(1))
                best[at], losses[at] = self._climb(subject, [of_row[row] for row in batch], starts[at])
        return best[torch.arange(len(cells)), losses.argmin(dim=1)]

    def _starts(self, subject: Subject, cells: Sequence[Cell], prompts: Sequence[Prompt]) -> Tensor:
        """(cell, start, d_model), or (cell, start, block, d_model)."""
        gradients = loss_gradients(subject, prompts, self.protocol, self.protocol.gradient_at)

        def at_block(cell: Cell, layer: int) -> Tensor:
            directions = SIGN[self.direction] * gradients[cell.prompt][layer].float().sign()[None]
            if self.starts == 1:
                return directions
            drawn = gaussian(
                replace(cell, layer=layer, seed=self.seed),
                subject.d_model,
                self.protocol.noise,
                self.starts - 1,
                device=self.protocol.noise_device,
            )
            return torch.cat([directions, drawn])

        return torch.stack(
            [
                torch.stack([at_block(cell, layer) for layer in range(subject.n_layers)], dim=1)
                if cell.layer is None
                else at_block(cell, cell.layer)
                for cell in cells
            ]
        )

    def _climb(self, subject: Subject, cells: Sequence[Cell], start: Tensor) -> tuple[Tensor, Tensor]:
        """The best iterate of each row, (row, d_model) or (row, block, d_model), and its signed loss, (row,), lower
        being better: minus infinity where the row ended early."""
        passes = TargetPass(subject, cells, self.protocol)
        sign = -SIGN[self.direction]
        raw = start.to(subject.device)
        best, lowest = raw.clone(), torch.full((len(cells),), torch.inf, device=raw.device)
        rows = torch.arange(len(cells), device=raw.device)  # those that still climb
        for step in range(self.steps + 1):
            last = step == self.steps
            with torch.no_grad() if last else gradients_wanted(subject):
                raw = raw.detach().requires_grad_(not last)
                loss, said = self._pass(passes, raw)
                loss = sign * loss
                gradient = raw if last else torch.autograd.grad(loss.sum(), [raw])[0]
            raw, loss = raw.detach(), loss.detach().to(raw.device)
            better = (loss < lowest[rows]) | said
            best[rows[better]], lowest[rows[better]] = raw[better], loss[better]
            lowest[rows[said]] = -torch.inf
            if not last:
                if said.any():
                    on = (~said).nonzero().squeeze(1)
                    if not len(on):
                        break
                    raw, gradient, rows = raw[on], gradient[on], rows[on]
                    passes.keep(on.cpu())
                # The projection: (1) sees nothing of a direction but its standardised self
                raw = standardise(raw) - self.step_size * gradient.sign()
        return best.cpu(), lowest.cpu()

    def _pass(self, passes: TargetPass, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each row, (row,), and whether it ends here."""
        if self.early == "never":
            return passes.loss(raw), torch.zeros(len(raw), dtype=torch.bool, device=raw.device)
        loss, said = passes.loss_and_said(raw)
        return loss, said.to(raw.device)


make = PgdAttack
