"""The row: one evaluated model on the leaderboard, as `row.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asabench.core.errors import UserError

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Record):
    """A share between 0 and 1 with its 95% interval; all None when nothing was scored."""

    value: float | None
    low: float | None
    high: float | None


class Kappa(_Record):
    """Cohen's kappa, between -1 and 1, with its 95% interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class ModelInfo(_Record):
    """`revision` is a hub commit, a package version, or `sha256:...` of a local folder's weights."""

    name: str
    revision: str
    family: str
    n_layers: int
    d_model: int
    n_parameters: int
    dtype: str


class ProtocolInfo(_Record):
    name: str
    digest: str


class PromptSetInfo(_Record):
    name: str
    digest: str
    n: int


JudgeKind = Literal["llm", "embedded", "rules", "other"]
"""`llm`: a language model that is asked; `embedded`: the small judge that comes with ASABench; `rules`: patterns."""


class JudgeFigures(_Record):
    """How often a judge agrees with people on one set of labelled pairs.

    An answer is positive when it is `unsafe`. `sensitivity`: share of the unsafe pairs that the judge calls unsafe;
    `specificity`: share of the others that it does not; `balanced_accuracy`: the mean of the two. A pair without a
    readable verdict counts as wrong in all of them; `unscored` says how many there were. `label_recall` is keyed by
    label, over the pairs whose exact label is known. `kappa` is Cohen's, on unsafe or not.
    """

    set_name: str
    set_digest: str
    n: int
    n_unsafe: int
    unscored: int
    balanced_accuracy: Rate
    sensitivity: Rate
    specificity: Rate
    kappa: Kappa
    label_recall: dict[str, Rate]


class JudgeInfo(_Record):
    """A judge is `certified` once its balanced accuracy on labelled pairs has reached the bar; rows of judges that have
    not are never ranked with rows of judges that have. `figures` are of the check that came before the run."""

    id: str
    certified: bool = False
    description: str
    kind: JudgeKind = "other"
    figures: JudgeFigures | None = None


class VerdictCounts(_Record):
    safe: int = 0
    unsafe: int = 0
    incoherent: int = 0
    unscored: int = 0


Dose = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Censored = Literal["above", "below"]


class Eps50(_Record):
    """The dose at which half of the prompts break, with its 95% interval.

    Each of `value`, `low` and `high` is a dose, or None where the measured doses do not reach it; then its `censored`
    says on which side it lies: "above" `last` (`> last`), or "below" `first` (`< first`, or, as `first` is 0 where
    there are clean answers, half of the prompts are broken without an attack). All None: nothing was scored.
    """

    value: Dose | None
    low: Dose | None
    high: Dose | None
    censored: Censored | None = None
    low_censored: Censored | None = None
    high_censored: Censored | None = None
    first: Dose | None
    last: Dose | None


class AttackResult(_Record):
    """Rates of one attack at one dose. `lasr` is keyed by the block's 0-based number; `peak_layer` is where it is
    largest (the lowest such block on a tie).

    `masr`, `pasr`, `lasr` and `asr_at_k` are two-label rates: an incoherent answer counts as safe, as in the paper.
    They are the headline. `*_conditional` are the same over the prompts whose clean answer was safe; `*_coherent` are
    over coherent answers only. `asr_at_k` is keyed by k. `*_corrected` are corrected for the judge's measured error
    (`asabench.stats.judge_error`; MASR cannot be). Rows from before these fields were there have None or {}.
    """

    attack: str
    dose: float
    masr: Rate
    pasr: Rate
    peak_layer: int | None
    lasr: dict[str, Rate]
    verdicts: VerdictCounts
    masr_conditional: Rate | None = None
    pasr_conditional: Rate | None = None
    masr_coherent: Rate | None = None
    pasr_coherent: Rate | None = None
    asr_at_k: dict[str, Rate] = {}
    pasr_corrected: Rate | None = None
    asr_at_1_corrected: Rate | None = None


class Row(_Record):
    """One line of the leaderboard. The fields at the top are those of `results` at the headline attack and dose;
    `eps50` is keyed by attack."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    created: str
    asabench_version: str
    model: ModelInfo
    protocol: ProtocolInfo
    prompts: PromptSetInfo
    judge: JudgeInfo
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    attack: str
    dose: float
    init: Rate
    init_corrected: Rate | None = None
    masr: Rate
    pasr: Rate
    peak_layer: int | None
    lasr: dict[str, Rate]
    verdicts: VerdictCounts
    clean_verdicts: VerdictCounts
    results: tuple[AttackResult, ...]
    flags: tuple[str, ...] = ()
    eps50: dict[str, Eps50] = {}


def eps50_text(eps50: Eps50) -> str:
    """For a terminal: `0.34 [0.21, > 1]`; `< 0.1` and `0` say that the first dose, or none at all, breaks half."""
    if eps50.first is None or eps50.last is None:
        return "none scored"
    below = f"< {eps50.first:g}" if eps50.first > 0 else "0"

    def text(dose: float | None, censored: Censored | None) -> str:
        if dose is not None:
            return f"{dose:.3g}"
        return below if censored == "below" else f"> {eps50.last:g}"

    value, low, high = (
        text(eps50.value, eps50.censored),
        text(eps50.low, eps50.low_censored),
        text(eps50.high, eps50.high_censored),
    )
    return f"{value} [{low}, {high}]"


def rate_text(rate: Rate, none: str = "none scored") -> str:
    """`0.42 [0.31, 0.53]`; without the brackets where there is no interval, `none` where there is no value."""
    if rate.value is None:
        return none
    # z: a rounding error below 0 is no minus
    interval = "" if rate.low is None or rate.high is None else f" [{rate.low:z.2f}, {rate.high:z.2f}]"
    return f"{rate.value:z.2f}{interval}"


def read_row(path: Path) -> Row:
    """Reads and checks a `row.json`; `UserError` when it is missing or not a row."""
    try:
        return Row.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no row at {path}; an evaluation writes one when it ends") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path} is not a leaderboard row: {where}: {first['msg']}") from None
