"""`manifest.json`: how the runs behind a submission were made. Digests stand for prompts; it holds no path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from asabench.core.attack_names import RECORDED_NAME
from asabench.core.errors import UserError
from asabench.core.records import CLEAN
from asabench.core.row import JudgeInfo, ModelInfo
from asabench.core.schema import Record
from asabench.runs.settings import RunSettings
from asabench.submission.schema import Digest, Line, Name

if TYPE_CHECKING:
    import pandas as pd

HEADLINE_ATTACK = "random"
PROMPT_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Short names, so that no sentence fits into one."""
MOST_PROMPTS = 10_000
MOST_PACKAGES = 40
MOST_SELF_TESTS = 20

Count = Annotated[int, Field(ge=0, le=2**53)]


class SubmittedSettings(RunSettings):
    """What decides a run's answers, as a stranger's file may state it: every value within bounds."""

    model: Name
    revision: Name
    dtype: Literal["float32", "bfloat16", "float16"]
    chat_template: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None
    attacks: Annotated[tuple[Annotated[str, Field(pattern=RECORDED_NAME)], ...], Field(min_length=1, max_length=50)]
    layers: Annotated[tuple[Annotated[int, Field(ge=0, lt=10_000)], ...], Field(min_length=1, max_length=1_000)]
    prompts: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    prompt_count: Annotated[int, Field(ge=1, le=MOST_PROMPTS)]
    more_stop_tokens: Annotated[tuple[Count, ...], Field(max_length=100)] = ()
    """Tokens that end an answer besides those of `generate`: what the chat template closes a turn with."""
    suite: Annotated[str, Field(pattern=r"^auto-[0-9]{1,4}$")] | None = None


class PromptDigest(Record):
    """`sha256` is of the goal's UTF-8 bytes. `cluster`: the place of the first prompt of its near-duplicates, as texts
    are not submitted; None in entries whose intervals resample prompts."""

    id: Annotated[str, Field(pattern=PROMPT_ID)]
    sha256: Digest
    cluster: Annotated[int, Field(ge=0, lt=MOST_PROMPTS)] | None = None


class Hardware(Record):
    machine: Line
    system: Line
    threads: Count


class RunRecord(Record):
    """One run. `judge` is the entry of its row: what the judge scored before the verdicts were given. `content_rules`:
    the revision of the rules behind its labels of content; None where that was not recorded."""

    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    settings: SubmittedSettings
    judge: JudgeInfo
    started: Line | None
    finished: Line | None
    resumed: Count
    device: Line | None
    hardware: Hardware | None
    python: Line | None
    packages: Annotated[dict[Name, Name | None], Field(max_length=MOST_PACKAGES)]
    git_commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    self_tests: Annotated[dict[Line, Line], Field(max_length=MOST_SELF_TESTS)]
    content_rules: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class RunManifest(Record):
    """`prompts` are in the order of the set. Runs differ in their attacks only."""

    schema_version: Literal[1] = 1
    model: ModelInfo
    prompt_set: Line
    prompts: Annotated[tuple[PromptDigest, ...], Field(min_length=1, max_length=MOST_PROMPTS)]
    runs: Annotated[tuple[RunRecord, ...], Field(min_length=1, max_length=50)]

    @property
    def settings(self) -> SubmittedSettings:
        """Those of one run that had all of the attacks."""
        first = self.runs[0].settings
        return first.model_copy(update={"attacks": merged_attacks([run.settings.attacks for run in self.runs])})

    @property
    def content_rules(self) -> int | None:
        """Those of the first run that says them: all runs with labels of content have the same."""
        return next((run.content_rules for run in self.runs if run.content_rules is not None), None)

    def clustered(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of verdicts with the column `cluster` of `asabench.stats.metrics`, where every prompt has one."""
        known = {prompt.id: prompt.cluster for prompt in self.prompts}
        if None in known.values():
            return table
        return table.assign(cluster=table["prompt_id"].map(known).to_numpy(dtype="int64", na_value=-1))


def merged_attacks(attacks: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The attacks of several runs in order, `random` first. `UserError` for an attack that is there twice."""
    listed = [attack for each in attacks for attack in each]
    if twice := [attack for attack in dict.fromkeys(listed) if listed.count(attack) > 1]:
        raise UserError(f"the attack {twice[0]} is in more than one run; give each attack once")
    if CLEAN in listed:
        raise UserError(f"an attack is called {CLEAN!r}, which names clean answers; give it another name")
    return tuple(sorted(listed, key=lambda attack: attack != HEADLINE_ATTACK))


def difference(a: RunSettings, b: RunSettings) -> str | None:
    """What two runs differ in besides their attacks, in words; None if in nothing."""
    first, second = a.as_json(), b.as_json()
    names = [name for name in first if name not in ("attacks", "protocol") and first[name] != second.get(name)]
    parts = [f"{name} ({_short(first[name])}, {_short(second.get(name))})" for name in names]
    protocols: tuple[dict[str, Any], dict[str, Any]] = first["protocol"], second["protocol"]
    parts += [
        f"protocol {name} ({_short(protocols[0].get(name))}, {_short(protocols[1].get(name))})"
        for name in sorted(protocols[0].keys() | protocols[1].keys())
        if protocols[0].get(name) != protocols[1].get(name)
    ]
    return ", ".join(parts) or None


def _short(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
