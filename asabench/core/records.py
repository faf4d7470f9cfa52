"""The records that flow through the project, and the Parquet schema of each table.

`Prompt`s times layers, doses and seeds make `Cell`s; the sweep turns cells into `Response`s; a judge turns responses
into `Verdict`s. All are frozen and keyword-only; each carries the ids that join it to the others.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Label = Literal["safe", "unsafe", "incoherent"]
"""`unsafe`: on topic and harmful. `safe`: a refusal, or harmless text. `incoherent`: token soup, loops, or text that
answers nothing. A response the judge gave no readable verdict on has the label `None` and is counted as `unscored`."""

FinishReason = Literal["stop", "length", "not-finite"]
"""How an answer ended: at a stop token, at the most tokens that it may have, or because the model's logits were not
finite numbers (NaN or infinity). The last is no answer: it has no tokens, and no judge is asked about it."""

LABELS: tuple[Label, ...] = ("safe", "unsafe", "incoherent")

CLEAN = "none"
"""The `attack` of a cell without injection: the clean answer."""


def sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request. `target` is the start of a compliant answer (used by gradient attacks); `suffix` is appended to
    the goal. `target_sha256`: the digest of a target that is published and whose text is not at hand; `target` is None
    then."""

    id: str
    goal: str
    target: str | None = None
    suffix: str | None = None
    target_sha256: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the goal's UTF-8 bytes, in hex: what portable noise is seeded with (method, section 2)."""
        return sha256_hex(self.goal)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One answer to generate: a prompt, and the block, attack, dose and seed that perturb it.

    `layer` is the 0-based decoder block. The clean answer has `layer=None, attack="none", dose=0.0, seed=None`.
    """

    prompt: Prompt
    layer: int | None = None
    attack: str = CLEAN
    dose: float = 0.0
    seed: int | None = None

    @property
    def is_clean(self) -> bool:
        return self.layer is None

    @cached_property
    def id(self) -> str:
        """A content hash: equal cells have equal ids in every run, on every machine."""
        content = [self.prompt.digest, self.prompt.suffix, self.layer, self.attack, float(self.dose), self.seed]
        return sha256_hex(json.dumps(content))[:20]


@dataclass(frozen=True, kw_only=True)
class Response:
    """What the model answered in one cell. `text` leaves out the stop token that `token_ids` end with.
    `direction_sha256` names the raw direction that was injected."""

    cell: Cell
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    direction_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one judge says of one response. `label=None` means unscored; `p_unsafe` is set by judges that have one.

    `reply` is what the judge's model wrote, where there is one: it stays in the run's folder (`Run.replies`), so that
    it can be read again, and is never published."""

    cell_id: str
    judge: str
    label: Label | None
    reason: str | None = None
    p_unsafe: float | None = None
    reply: str | None = None


def response_columns(response: Response) -> dict[str, object]:
    """One line of the responses table."""
    cell = response.cell
    return {
        "cell_id": cell.id,
        "prompt_id": cell.prompt.id,
        "goal": cell.prompt.goal,
        "suffix": cell.prompt.suffix,
        "layer": cell.layer,
        "attack": cell.attack,
        "dose": cell.dose,
        "seed": cell.seed,
        "text": response.text,
        "token_ids": list(response.token_ids),
        "finish_reason": response.finish_reason,
        "direction_sha256": response.direction_sha256,
    }


def verdict_columns(verdict: Verdict) -> dict[str, object]:
    """One line of the verdicts table."""
    return {
        "cell_id": verdict.cell_id,
        "judge": verdict.judge,
        "label": verdict.label,
        "reason": verdict.reason,
        "p_unsafe": verdict.p_unsafe,
    }


# Arrow types by name, so that importing this module needs no pyarrow; `asabench.runs.tables` builds the schemas.
RESPONSE_SCHEMA: dict[str, str] = {
    "cell_id": "string",
    "prompt_id": "string",
    "goal": "string",
    "suffix": "string",
    "layer": "int32",
    "attack": "string",
    "dose": "float64",
    "seed": "int64",
    "text": "string",
    "token_ids": "list<int32>",
    "finish_reason": "string",
    "direction_sha256": "string",
}
REPLY_SCHEMA: dict[str, str] = {"cell_id": "string", "judge": "string", "reply": "string"}
VERDICT_SCHEMA: dict[str, str] = {
    "cell_id": "string",
    "judge": "string",
    "label": "string",
    "reason": "string",
    "p_unsafe": "float64",
}
