"""ASA_grad: the sign of the gradient of a target's loss at a block's output.

Source: Gu et al. 2025 (arXiv:2506.16078), after the sign-of-gradient step of Goodfellow et al. 2014 (arXiv:1412.6572).
With the plus sign, as published, the step raises the loss of the compliant target; with the minus sign it makes the
target likelier. They are two attacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from asabench.core.protocol import GradientPosition, Protocol
from asabench.core.records import Cell
from harness.attacks.cells import require_steered
from harness.attacks.own_refusal import TargetOption, away_from_refusals, check_away
from harness.attacks.target_loss import SIGN, Direction, loss_gradients
from harness.model.subject import Subject


class GradientAttack:
    """The sign of the gradient of L, the mean NLL of the prompt's target, at block `l`'s output; all layers of a prompt
    from one forward and backward."""

    family = "gradient"
    uses_seed = False

    def __init__(
        self,
        protocol: Protocol,
        direction: Annotated[
            Direction, Field(description="`ascend`, as published, raises L; `descend` makes the target likelier")
        ] = "ascend",
        at: Annotated[
            GradientPosition | None,
            Field(
                description="where the gradient is read: by default `last_prompt` in asabench-v1, and `reference` in "
                "gu2025 (as the paper's code reads it)"
            ),
        ] = None,
        target: TargetOption = "given",
    ) -> None:
        check_away(target, direction, protocol)
        self.protocol = protocol
        self.direction = direction
        self.target = target
        self.at: GradientPosition = protocol.gradient_at if at is None else at

    @property
    def name(self) -> str:
        at = [] if self.at == self.protocol.gradient_at else [f"at={self.at}"]
        away = [] if self.target == "given" else [f"target={self.target}"]
        return ":".join([f"gradient-{self.direction}", *at, *away])

    @property
    def needs_targets(self) -> bool:
        return self.target == "given"

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU, of -1, 0 and 1; for cells without a layer (cell, block, d_model).

        Raises `UserError` for prompts without a target and for models without gradients.
        """
        require_steered(cells)
        if self.target == "away":
            cells = away_from_refusals(subject, cells, self.protocol)
        prompts = list(dict.fromkeys(cell.prompt for cell in cells))
        gradients = loss_gradients(subject, prompts, self.protocol, self.at)
        every = slice(None)
        signs = [gradients[cell.prompt][every if cell.layer is None else cell.layer].sign() for cell in cells]
        return SIGN[self.direction] * torch.stack(signs).float()


make = GradientAttack
