"""What `ablation` and its matched control have in common: options, name, and the direction, fitted or taken over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import quote, unquote

from pydantic import Field
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks.refusal_direction import Contrast, RefusalDirection, contrast, refusal_direction
from harness.model.files import locate
from harness.model.subject import Subject, load
from harness.stream.rewrite import Act, Rewrite

Harmful = Annotated[
    Path | None,
    Field(description="harmful requests to fit on; by default those of AdvBench that are unlike the published test"),
]
Harmless = Annotated[
    Path | None, Field(description="harmless requests to fit on; by default those that come along for training")
]
Positions = Annotated[int, Field(ge=1, description="how many of the last prompt positions candidates are read at")]


class DirectionalAttack(ABC):
    """An attack on the whole stream by a direction. `what`: its name without options; also its family."""

    what: ClassVar[str]
    uses_seed: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = False

    def __init__(
        self,
        protocol: Protocol,
        act: Annotated[
            Act,
            Field(
                description="`ablate`; `subtract` the difference at the block where it was found, or `add` it there, "
                "which induces refusal"
            ),
        ] = "ablate",
        from_: Annotated[
            str | None,
            Field(description="a model whose direction is taken instead of one fitted on the model that is attacked"),
        ] = None,
        positions: Positions = 5,
        harmful: Harmful = None,
        harmless: Harmless = None,
    ) -> None:
        self.protocol = protocol
        self.act = act
        self.source = None if from_ is None else unquote(from_)
        self.positions = positions
        self.own_texts = None if harmful is None and harmless is None else contrast(harmful, harmless)
        self._of_source: RefusalDirection | None = None

    @property
    def family(self) -> str:
        return self.what

    @property
    def name(self) -> str:
        """`ablation` or `random_ablation`, with the options that are not the default: files by the digest of what they
        say, a local folder by that of its weights."""
        given = [
            *([] if self.act == "ablate" else [f"act={self.act}"]),
            *([] if self.source is None else [f"from={_recorded(self.source)}"]),
            *([] if self.positions == 5 else [f"positions={self.positions}"]),
            *([] if self.own_texts is None else [f"texts={self.own_texts.digest}"]),
        ]
        return ":".join([self.what, *given])

    @cached_property
    def texts(self) -> Contrast:
        """The requests that are fitted on. Raises `UserError`."""
        return contrast(None, None) if self.own_texts is None else self.own_texts

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        self.texts.check_prompts(prompts)

    def direction(self, subject: Subject) -> RefusalDirection:
        """Raises `UserError`, above all for a direction of a model that has another width or depth."""
        if self.source is None:
            return refusal_direction(subject, self.protocol, self.texts, self.positions)
        if self._of_source is None:
            other = load(self.source, dtype=subject.dtype, device=str(subject.device))
            if (other.d_model, other.n_layers) != (subject.d_model, subject.n_layers):
                raise UserError(
                    f"ablation: {other.name} has {other.n_layers} blocks of width {other.d_model}, and {subject.name} "
                    f"{subject.n_layers} of {subject.d_model}; take a direction from a model of the same shape"
                )
            self._of_source = refusal_direction(other, self.protocol, self.texts, self.positions)
        return self._of_source

    def found(self, subject: Subject) -> dict[str, str]:
        return self.direction(subject).described

    @abstractmethod
    def rewrite(self, subject: Subject, cells: Sequence[Cell]) -> Rewrite:
        """What is done to each cell's stream."""

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU."""
        return self.rewrite(subject, cells).direction


def _recorded(source: str) -> str:
    """What names a model in a recorded name: its own name, or of a local folder its digest."""
    if not Path(source).expanduser().exists():
        return quote(source, safe="").replace("~", "%7E")
    return locate(source).revision.replace(":", "-")[:15]
