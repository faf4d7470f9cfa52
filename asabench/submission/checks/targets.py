"""`manifest.json`: what targeted attacks worked towards is what the protocol says, and no refusal.

With a refusal as the target, `pgd` and `gradient` with `direction=descend` push the model towards refusing: they break
nothing, and the row looks like that of a model that nothing breaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asabench.core.attack_names import apart, works_towards_target
from asabench.core.prompts import published_digest
from asabench.core.protocol import PROMPT_SET
from asabench.core.targets import TargetList, list_problem, shipped
from asabench.judging.refusals import refusal_phrase
from asabench.submission.checks.values import listed
from asabench.submission.findings import Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import MANIFEST_FILE

_ALLOWED = "the start of a compliant answer"


def target_findings(manifest: RunManifest) -> Iterator[Finding]:
    """What is wrong with the targets of the runs, in one line each."""
    for number, run in enumerate(manifest.runs):
        protocol, where = run.settings.protocol, f"runs.{number}.settings.protocol"
        texts = (() if protocol.target is None else (protocol.target,)) + (
            () if protocol.targets is None else protocol.targets.texts
        )
        for text in texts:
            if kind := refusal_phrase(text):
                yield Finding(
                    MANIFEST_FILE,
                    f"{where}.target" if protocol.targets is None else f"{where}.targets",
                    f"{shown(text)}, which reads as a refusal ({kind})",
                    _ALLOWED,
                    "evaluate again with the published targets, without --target",
                )
        yield from _list_findings(run.settings.attacks, protocol.target, protocol.targets, where)
    yield from _published_findings(manifest)


def _list_findings(
    attacks: Sequence[str], target: str | None, targets: TargetList | None, where: str
) -> Iterator[Finding]:
    """A list is whole, and every attack that works towards it was run towards each of its targets."""
    if targets is None:
        for attack in attacks:
            if apart(attack)[1] is not None:
                yield Finding(
                    MANIFEST_FILE,
                    f"{where}.targets",
                    f"null beside the attack {shown(attack)[1:-1]}",
                    "the list that it was run towards",
                    "evaluate again with --targets",
                )
        return
    if target is not None:
        yield Finding(MANIFEST_FILE, f"{where}.target", shown(target), "null beside a list of targets")
    if problem := list_problem(targets.texts):
        yield Finding(MANIFEST_FILE, f"{where}.targets", problem, "a list that `asabench evaluate --targets` takes")
        return
    if (known := shipped(targets.name)) is not None and known != targets:
        yield Finding(
            MANIFEST_FILE,
            f"{where}.targets",
            f"{len(targets.texts)} targets under the name {targets.name}",
            f"the {len(known.texts)} of that list",
            f"evaluate again with --targets {targets.name}",
        )
    run_towards: dict[str, list[str]] = {}
    for attack in attacks:
        base, name = apart(attack)
        if name is not None or works_towards_target(attack):
            run_towards.setdefault(base, []).append(name or "none")
    wanted = list(targets.by_name)
    for base, names in run_towards.items():
        if sorted(names) != sorted(wanted):
            yield Finding(
                MANIFEST_FILE,
                where.removesuffix("protocol") + "attacks",
                f"{shown(base)[1:-1]} towards {listed(names)}",
                f"towards each of {listed(wanted)}: the strongest of them counts",
                "evaluate again with --targets, and submit the run as it is",
            )


def _published_findings(manifest: RunManifest) -> Iterator[Finding]:
    """A target is part of what was measured: without one in the protocol, each prompt has its published one."""
    settings = manifest.runs[0].settings
    if manifest.prompt_set != PROMPT_SET or settings.protocol.target is not None:
        return
    published = published_digest(settings.prompt_count)[:16]
    if settings.prompts != published:
        yield Finding(
            MANIFEST_FILE,
            "runs.0.settings.prompts",
            settings.prompts,
            f"{published}: {PROMPT_SET} with its published targets, as the protocol names no other target",
            "evaluate again: a run with --target has it in its protocol",
        )
