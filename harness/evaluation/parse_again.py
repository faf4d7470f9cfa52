"""Reading the kept replies of a run's judges again: nothing is generated, and no judge is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asabench
from asabench.core.errors import UserError
from asabench.core.judge_names import GUARDS
from asabench.core.protocol import LabelSet
from asabench.core.records import Label, Response, Verdict, facts_behind, sha256_hex
from asabench.core.row import Row
from asabench.runs.folder import Run, read_run, reopen_run
from asabench.stats.scoring import head_of, scored_row
from harness.evaluation.judge import responses_of
from harness.evaluation.provenance import now
from harness.judges.guard import NamedGuard
from harness.judges.guards import TABLE
from harness.judges.judge_prompt import STATED_FACTS, read_reply
from harness.judges.verdict_cache import Opinion

_LABELS_IN_ID = re.compile(r"^vllm(?:-in-process)?-.*-(three|two)-[0-9a-f]{12}$")
_CUT = "cut at the token limit"

Reader = Callable[[Response, str, str | None], Opinion]
"""A response, the kept reply and the reason of the stored verdict, to what the reply says."""


@dataclass(frozen=True, kw_only=True)
class Reread:
    """What reading a judge's replies again came to. `unread`: replies that were no verdict, before and now. `row`: of
    the new verdicts, stored under its judge's id; None where nothing is different."""

    judge: str
    replies: int
    changed: int
    unread_before: int
    unread_now: int
    row: Row | None


def parse_again(path: Path, judges: tuple[str, ...] = ()) -> list[Reread]:
    """Reads the kept replies again, as this version does. Verdicts that came out otherwise are stored under an id of
    their own, `<id>-read-<digest>`, uncertified: how they agree with people was not checked.

    judges: ids; all whose replies are kept where none is given. `UserError` for a run, or an id, without replies.
    """
    run = read_run(path)
    kept = sorted(set(run.replies()["judge"]))
    if unknown := [judge for judge in judges if judge not in kept]:
        raise UserError(
            f"{path} keeps no replies of {', '.join(unknown)}; it keeps those of {', '.join(kept) or 'none'}"
        )
    if not kept:
        raise UserError(f"{path} keeps no replies; judges that are language models leave them when they judge")
    with reopen_run(path) as opened:
        return [_reread(opened, judge) for judge in (judges or kept)]


def _reread(run: Run, judge: str) -> Reread:
    read = reader_of(judge)
    kept = run.replies()
    own = kept[kept["judge"] == judge]
    replies: dict[str, str] = dict(zip(own["cell_id"], own["reply"], strict=True))
    judged = run.judged(judge).set_index("cell_id")
    told: list[Verdict] = []
    changed = unread_before = unread_now = 0
    for response in responses_of(run.responses()):
        cell = response.cell.id
        old = judged.loc[cell]
        label: Label | None = _or_none(old["label"])
        verdict = Verdict(
            cell_id=cell,
            judge=judge,
            label=label,
            reason=_or_none(old["reason"]),
            p_unsafe=_or_none(old["p_unsafe"]),
            **{
                fact: _or_none(old[fact])
                for fact in ("refused", "coherent", "harmful", "onset", "content_label", "content_rules")
            },
        )
        if cell in replies:
            opinion = read(response, replies[cell], verdict.reason)
            unread_before += label is None
            unread_now += opinion.label is None
            if opinion.label != label or opinion.facts != verdict.facts:
                changed += 1
                p_unsafe = verdict.p_unsafe if opinion.p_unsafe is None else opinion.p_unsafe
                verdict = Verdict(
                    cell_id=cell,
                    judge=judge,
                    label=opinion.label,
                    reason=opinion.reason,
                    p_unsafe=p_unsafe,
                    onset=verdict.onset,  # of the answer alone
                    **opinion.facts._asdict(),
                )
        told.append(verdict)
    row = _stored(run, judge, told) if changed else None
    return Reread(
        judge=judge,
        replies=len(replies),
        changed=changed,
        unread_before=unread_before,
        unread_now=unread_now,
        row=row,
    )


def _stored(run: Run, judge: str, told: list[Verdict]) -> Row:
    before, settings = _row_of(run, judge), run.settings
    digest = sha256_hex(json.dumps([[each.cell_id, each.label, *each.facts] for each in told]))[:8]
    info = before.judge.model_copy(
        update={
            "id": f"{judge}-read-{digest}",
            "certified": False,
            "figures": None,
            "certified_for": (),
            "certificate": None,
            "description": f"{before.judge.description} Replies read again by ASABench {asabench.__version__}.",
        }
    )
    held = run.verdicts()
    if not (held["judge"] == info.id).any():
        run.append_verdicts([replace(each, judge=info.id) for each in told])
    head = head_of(
        before,
        created=now(),
        asabench_version=asabench.__version__,
        shared_noise=settings.protocol.shares_noise,
        max_new_tokens=settings.protocol.max_new_tokens,
    )
    row = scored_row(head, run.judged(info.id), settings.attacks, settings.protocol.doses, info)
    run.write_row(row)
    return row


def _row_of(run: Run, judge: str) -> Row:
    if row := run.row_of(judge):
        return row
    raise UserError(f"{run.path} has no row of {judge}; finish judging by it before its replies are read again")


def reader_of(judge: str) -> Reader:
    """How replies of the judge of that id are read. `UserError` for one whose replies have no text to read."""
    for name in GUARDS:
        if judge.startswith(f"{name}-") and TABLE[name].read is not None:
            named = NamedGuard(name=name, model=judge, prompt=None)
            return lambda response, reply, reason: named.opinion(
                (response.cell.prompt.goal, response.text), reply, cut=reason == _CUT
            )
    if found := _LABELS_IN_ID.match(judge):
        labels: LabelSet = "three" if found[1] == "three" else "two"
        stated = STATED_FACTS[labels]

        def read(response: Response, reply: str, reason: str | None) -> Opinion:
            # Thoughts that a server cut off are not in the reply, and others end with a mark that is
            label, why = read_reply(reply, labels, cut=reason == _CUT, reasoning=False)
            return Opinion(label=label, reason=why, facts=facts_behind(label, stated))

        return read
    raise UserError(f"how replies of the judge {judge} are read is not known here; judge the run again")


def _or_none(value: Any) -> Any:
    import pandas as pd

    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value
