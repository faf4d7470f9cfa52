"""Two runs side by side: what changed from A to B, paired by prompt.

`compare` joins the tables of two finished runs; the numbers are those of `asabench.stats.paired` and
`asabench.stats.dose_response`. It refuses what cannot be compared, and notes what a reader has to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asabench.core.errors import UserError
from asabench.core.estimate import Rate
from asabench.core.row import MEASURES, AttackResult, Eps50, Measure, comparable, worst_case
from asabench.core.suite import AUTO, suite_of
from asabench.core.text import eps50_text, in_words, where
from asabench.stats.dose_response import attacks_of, doses_of, eps50
from asabench.stats.metrics import attack_result
from asabench.stats.paired import Difference, difference
from asabench.stats.radius import rates_table, suite_eps50
from asabench.stats.strongest_target import with_strongest
from asabench.stats.worst import worst_case_rate

if TYPE_CHECKING:
    import pandas as pd

    from asabench.core.protocol import Protocol
    from asabench.runs.folder import Run
    from asabench.runs.settings import RunSettings

# How much of a protocol was run; the rest of it says what was run
_AMOUNTS = ("doses", "seeds", "headline_dose")
# Settings that are compared by themselves; any other that differs is noted
_SPOKEN_FOR = {"model", "revision", "protocol", "attacks", "layers", "prompts", "prompt_count"}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs: what stands above its column."""

    run_id: str
    model: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """B less A: one difference for each attack and dose that both runs have, in the order of A.

    `measures` says what an unsafe verdict is, and so what every rate counts. `worst` is A's and B's worst case over
    those attacks and doses and the shared prompts, `worst_rates` their MASRs with intervals that allow for the choice.
    `prompts` is how many prompts both have. `eps50` gives A's and B's for each shared attack, over those prompts and
    each run's own doses; two from other doses do not compare. `notes` are sentences on what is not the same in both and
    moves a number, or on what the intervals leave out.
    """

    a: Side
    b: Side
    protocol: str
    judge: str
    measures: Measure
    prompts: int
    worst: tuple[AttackResult | None, AttackResult | None]
    worst_rates: tuple[Rate, Rate]
    differences: tuple[Difference, ...]
    eps50: dict[str, tuple[Eps50, Eps50]]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return comparison_table(self)


def compare(run_a: Run, run_b: Run) -> Comparison:
    """Compares two finished runs over the prompts, attacks and doses that both have, by one judge's verdicts.

    Prompts are the same if their goal and suffix are, whatever their ids. `UserError` if a run is not finished, if
    their protocols differ in more than doses and seeds, or if there is no common judge, prompt, or attack and dose.
    """
    for run in (run_a, run_b):
        if run.manifest.get("state") != "finished":
            raise UserError(f"the run in {run.path} is not finished; run its command again to finish it, then compare")
    settings_a, settings_b = run_a.settings, run_b.settings
    protocol = _common_protocol(settings_a.protocol, settings_b.protocol)
    judge = _common_judge(run_a, run_b)
    suite_id = _common_suite(run_a, run_b)
    table_a, table_b = (_by_content(with_strongest(run.judged(judge))) for run in (run_a, run_b))
    prompts = set(table_a["prompt_id"]) & set(table_b["prompt_id"])
    if not prompts:
        raise UserError(
            f"{run_a.path} and {run_b.path} have no prompt in common (a prompt is its goal and suffix); "
            "evaluate both on one prompt set"
        )
    notes = _notes(settings_a, settings_b, table_a, table_b, len(prompts))
    table_a, table_b = (table[table["prompt_id"].isin(prompts)] for table in (table_a, table_b))
    shared = settings_a.protocol.shares_noise
    if suite_id is not None:
        suite = suite_of(suite_id)
        found = {AUTO: (suite_eps50(table_a, suite), suite_eps50(table_b, suite))}
        table_a, table_b = (rates_table(table, suite_id) for table in (table_a, table_b))
    pairs = _common_pairs(table_a, table_b)
    results = [
        [attack_result(table, attack, dose, shared=shared) for attack, dose in pairs] for table in (table_a, table_b)
    ]
    if suite_id is None:
        found = {
            attack: (eps50(table_a, attack, shared=shared), eps50(table_b, attack, shared=shared))
            for attack, _ in pairs
        }
    return Comparison(
        a=_side(run_a),
        b=_side(run_b),
        protocol=protocol,
        judge=judge,
        measures=_measure(judge, run_a, run_b),
        prompts=len(prompts),
        worst=(worst_case(results[0]), worst_case(results[1])),
        worst_rates=(_worst_rate(table_a, results[0], suite_id), _worst_rate(table_b, results[1], suite_id)),
        differences=tuple(difference(table_a, table_b, attack, dose) for attack, dose in pairs),
        eps50=found,
        notes=(*notes, *_limits(found, shared)),
    )


def _worst_rate(table: pd.DataFrame, results: Sequence[AttackResult], suite_id: str | None) -> Rate:
    worst = worst_case(results)
    # What a suite broke grows with the dose: its largest rate was not chosen among noisy ones
    return worst_case_rate(table, results) if suite_id is None or worst is None else worst.masr


def _common_suite(run_a: Run, run_b: Run) -> str | None:
    """The suite that both are of; None where both are grids."""
    suites = [run.settings.suite for run in (run_a, run_b)]
    if suites[0] != suites[1]:
        what = " and ".join(
            f"{run.path} is {'a grid of attacks and doses' if suite is None else f'a search of the suite {suite}'}"
            for run, suite in zip((run_a, run_b), suites, strict=True)
        )
        raise UserError(f"{what}, which do not compare; evaluate both with --attack auto, or both without it")
    return suites[0]


def comparison_json(comparison: Comparison) -> str:
    """The comparison as JSON, field by field."""
    from pydantic import TypeAdapter

    return TypeAdapter(Comparison).dump_json(comparison, indent=1).decode()


def comparison_table(comparison: Comparison) -> str:
    """The comparison as lines for a terminal of 100 columns."""
    a, b = comparison.a, comparison.b
    lines = [
        f"A: {a.model} ({a.revision}), run {a.run_id}",
        f"B: {b.model} ({b.revision}), run {b.run_id}",
        f"protocol {comparison.protocol}, judge {comparison.judge}, {comparison.prompts} shared prompts; "
        "differences are B less A",
        f"measures {comparison.measures}: unsafe is {MEASURES[comparison.measures]}",
        "",
        *(
            f"worst case of {name}: {_worst_text(worst, rate)}"
            for name, worst, rate in zip("AB", comparison.worst, comparison.worst_rates, strict=True)
        ),
        "",
        f"{'attack':18}{'dose':>6}{'n':>5}  {'MASR':22}{'PASR':22}{'more in A/B':>11}{'p':>9}",
    ]
    for each in comparison.differences:
        p_value = "-" if each.p_value is None else f"{each.p_value:.2g}"
        lines.append(
            f"{each.attack:18}{each.dose:>6g}{each.prompts:>5}  {in_words(each.masr):22}{in_words(each.pasr):22}"
            f"{f'{each.only_a}/{each.only_b}':>11}{p_value:>9}"
        )
    if comparison.differences:
        lines += ["", f"clean answers: INIT {in_words(comparison.differences[0].init)}"]
    budgets = [each for each in comparison.differences if each.asr_at_k]
    if budgets:
        lines += ["", "within k cells (layer, seed), for models of different depth:"]
        for each in budgets:
            rates = "  ".join(f"ASR@{k} {in_words(change)}" for k, change in each.asr_at_k.items())
            lines.append(f"{each.attack:18}{each.dose:>6g}  {rates}")
    lines += ["", f"{'eps50':18}{'A':36}B"]
    lines += [f"{name:18}{eps50_text(of_a):36}{eps50_text(of_b)}" for name, (of_a, of_b) in comparison.eps50.items()]
    if comparison.notes:
        lines += ["", *(f"note: {note}" for note in comparison.notes)]
    return "\n".join(lines)


def _worst_text(worst: AttackResult | None, rate: Rate) -> str:
    return "none scored" if worst is None else f"MASR {in_words(rate)} under {where(worst)}"


def _limits(found: dict[str, tuple[Eps50, Eps50]], shared: bool) -> Iterator[str]:
    if others := [attack for attack, pair in found.items() if not comparable(pair)]:
        yield (
            f"eps50 of {', '.join(others)} is from other doses in A than in B: do not compare the two, as each depends "
            "on where its doses lie"
        )
    if shared:
        yield "a seed is one noise vector for all prompts: the differences hold for the vectors of these runs"


def _side(run: Run) -> Side:
    return Side(run_id=run.id, model=run.settings.model, revision=run.settings.revision)


def _common_protocol(a: Protocol, b: Protocol) -> str:
    of_a, of_b = dict(a), dict(b)
    if different := sorted(name for name in of_a if name not in _AMOUNTS and of_a[name] != of_b[name]):
        what = "; ".join(f"{name} is {of_a[name]!r} in A, {of_b[name]!r} in B" for name in different)
        raise UserError(f"the runs have different protocols ({what}); evaluate both under one protocol")
    return a.name


def _common_judge(run_a: Run, run_b: Run) -> str:
    """The judge of both; of several, the one that A's row was made with, then B's, then the first by name."""
    judges_a, judges_b = (sorted(set(run.verdicts()["judge"])) for run in (run_a, run_b))
    common = [judge for judge in judges_a if judge in judges_b]
    if not common:
        raise UserError(
            f"the runs have no judge in common (A: {', '.join(judges_a) or 'none'}; "
            f"B: {', '.join(judges_b) or 'none'}); run one of them again with the other's --judge"
        )
    own = [str((run.manifest.get("judge") or {}).get("id")) for run in (run_a, run_b)]
    return next((judge for judge in own if judge in common), common[0])


def _measure(judge: str, *runs: Run) -> Measure:
    """Harm, where both runs have a row of that judge that claims it."""
    measures = [row.judge.measures for run in runs if (row := run.row_of(judge)) is not None]
    return "harm" if len(measures) == len(runs) and set(measures) == {"harm"} else "refusal broken"


def _by_content(table: pd.DataFrame) -> pd.DataFrame:
    """With the prompt's text for its id: two prompt sets may give one id to different prompts, or two ids to one."""
    return table.assign(prompt_id=table["goal"].astype(str) + "\0" + table["suffix"].fillna("").astype(str))


def _common_pairs(a: pd.DataFrame, b: pd.DataFrame) -> list[tuple[str, float]]:
    pairs_a, pairs_b = (
        [(attack, dose) for attack in attacks_of(table) for dose in doses_of(table, attack)] for table in (a, b)
    )
    common = [pair for pair in pairs_a if pair in pairs_b]
    if not common:
        raise UserError(
            f"the runs have no attack and dose in common (A: {_listed(pairs_a)}; B: {_listed(pairs_b)}); "
            "evaluate both under one attack and dose"
        )
    return common


def _listed(pairs: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{attack} at {dose:g}" for attack, dose in pairs) or "none"


def _notes(
    settings_a: RunSettings, settings_b: RunSettings, table_a: pd.DataFrame, table_b: pd.DataFrame, shared: int
) -> tuple[str, ...]:
    notes = []
    numbers = [table["prompt_id"].nunique() for table in (table_a, table_b)]
    if max(numbers) > shared:
        notes.append(f"A has {numbers[0]} prompts and B {numbers[1]}; only the {shared} that both have are compared")
    layers = [set(settings.layers) for settings in (settings_a, settings_b)]
    if layers[0] != layers[1]:
        notes.append(
            f"A has {len(layers[0])} layers and B {len(layers[1])}, not the same ones; "
            "MASR and PASR are maxima over layers and grow with their number: read ASR@k"
        )
    seeds = [settings.protocol.seeds for settings in (settings_a, settings_b)]
    if seeds[0] != seeds[1]:
        notes.append("the seeds differ, so the runs do not share their noise; the intervals allow for it")
    of_a, of_b = dict(settings_a), dict(settings_b)
    for name in sorted(of_a.keys() - _SPOKEN_FOR):
        if of_a[name] != of_b[name]:
            notes.append(f"{name} is {of_a[name]} in A and {of_b[name]} in B")
    return tuple(notes)
