"""What a model still does for harmless requests, as `utility.json`: the other half of a defence's worth.

`asabench utility` measures it (`harness.utility`); submissions carry it, and the leaderboard does not rank an entry
without it: a model that refuses everything would win.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asabench.errors import UserError
from asabench.row import Rate

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestSet(_Record):
    """The requests a rate is over. `digest` is of the requests' texts in order, 16 hex digits."""

    name: str
    digest: str
    n: int = Field(ge=1)


class BenignRates(_Record):
    """`benign_answer_rate`: the share of plainly harmless requests that got an answer, neither a refusal nor broken
    text. `over_refusal`: the share of safe requests that look unsafe which were refused. Under an injection, or none:
    then `attack` is "none" and `dose` 0."""

    attack: str = "none"
    dose: float = Field(0.0, ge=0, allow_inf_nan=False)
    benign_answer_rate: Rate
    over_refusal: Rate


class TaskScore(_Record):
    """Accuracy on a task. `chance` is what guessing reaches; a score whose interval holds it shows no ability."""

    accuracy: Rate
    n: int = Field(ge=1)
    chance: float = Field(ge=0, le=1)
    source: str
    digest: str


class UtilityReport(_Record):
    """`clean` is without injection; `under_injection` repeats its rates for harmless requests under noise. `tasks` is
    keyed by name: `gsm8k`, `csqa`, ..."""

    schema_version: int = SCHEMA_VERSION
    created: str
    asabench_version: str
    model: str
    revision: str
    dtype: str
    benign_set: RequestSet
    over_refusal_set: RequestSet
    refusal_detector: str
    clean: BenignRates
    under_injection: tuple[BenignRates, ...] = ()
    tasks: dict[str, TaskScore] = {}


def read_utility(path: Path) -> UtilityReport:
    """Reads and checks a `utility.json`; `UserError` when it is missing or not one."""
    how = "`asabench utility MODEL` writes one"
    try:
        return UtilityReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"no utility report can be read at {path} ({error}); {how}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path} is not a utility report: {where}: {first['msg']}; {how}") from None
