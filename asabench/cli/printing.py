"""What commands print: a row as tables and pictures, what a run would take, and how to go on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from asabench.core.row import JudgeInfo, Row, VerdictCounts
    from harness.evaluation.cost import Cost
    from harness.evaluation.plan import Plan


def interrupted(kept: str) -> NoReturn:
    """Ends a command after Ctrl-C. kept: what is kept, and how to go on."""
    print(f"\nasabench: interrupted; {kept}", file=sys.stderr)
    sys.exit(130)


def say(line: str) -> None:
    """A line that is there at once, where a command takes its time; none with `-q`."""
    from harness import progress

    if not progress.hushed:
        print(line, flush=True)


def show_row(row: Row, path: Path, *, as_json: bool = False) -> None:
    """Prints a row as tables and a small picture, and draws the large one; or the row as its file has it."""
    if as_json:
        return print(row.model_dump_json(indent=1))
    from asabench.core.row import worst_case
    from asabench.core.text import suite_text
    from leaderboard.figures.lasr import lasr_figure, lasr_text

    encoding = (sys.stdout.encoding or "").lower()
    print(row_table(row))
    print()
    if row.suite is not None:
        # It has no rates by block: the search leaves a block as soon as another has done better
        wide = min(max(shutil.get_terminal_size().columns, 60), 100)
        print("\n".join(suite_text(row.suite, wide, "█" if encoding.startswith("utf") else "#")))
        print()
        for name, value in (("run", path), ("row", path / "row.json")):
            print(f"{name + ':':9}{value}")
        return
    # An attack on no one block has no profile: then the worst that has one is drawn
    profile = worst_case([result for result in row.results if result.lasr])
    headline = [result for result in row.results if (result.attack, result.dose) == (row.attack, row.dose)]
    if profile is not None and not all(result.lasr for result in headline):
        headline = [profile]
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    print(
        lasr_text(row.model_copy(update={"results": tuple(headline)}), width, ascii_only=not encoding.startswith("utf"))
    )
    print()
    picture = lasr_figure(row, path / "lasr.png")
    for name, value in (("run", path), ("row", path / "row.json"), ("picture", picture)):
        print(f"{name + ':':9}{value}")


def row_table(row: Row) -> str:
    from asabench.core.attack_names import is_whole
    from asabench.core.links import link
    from asabench.core.row import MEASURES
    from asabench.core.text import eps50_text, in_words

    wide = max(12, *(len(result.attack) + 2 for result in row.results))
    lines = [
        f"{row.model.name} ({row.model.revision}), {row.model.n_layers} blocks, {row.model.dtype}",
        f"protocol {row.protocol.name}, prompts {row.prompts.name} ({row.prompts.n}), "
        f"layers {len(row.layers)}, seeds {len(row.seeds)}",
        f"judge {row.judge.id}: {_fitness(row.judge)}",
        f"measures {row.judge.measures}: unsafe is {MEASURES[row.judge.measures]}",
        *(
            [f"  certified on people's labels for {', '.join(row.judge.certified_for)}"]
            if row.judge.certified_for
            else []
        ),
        *([f"harm is claimed with a certificate for it ({link('docs/judges.md')})"] if _tells_more(row.judge) else []),
        "",
        f"{'attack':{wide}}{'dose':>4}  {'MASR':22}{'PASR':22}{'peak layer':>10}   "
        f"{'safe':>6}{'unsafe':>8}{'incoh.':>8}{'unscored':>10}",
    ]

    def line(attack: str, dose: str, masr: str, pasr: str, peak: str, counts: VerdictCounts) -> str:
        return (
            f"{attack:{wide}}{dose:>4}  {masr:22}{pasr:22}{peak:>10}   "
            f"{counts.safe:>6}{counts.unsafe:>8}{counts.incoherent:>8}{counts.unscored:>10}"
        )

    lines.append(line("clean", "", f"INIT {in_words(row.init)}", "", "", row.clean_verdicts))
    for result in row.results:
        peak = "-" if result.peak_layer is None else str(result.peak_layer)
        lines.append(
            line(
                result.attack,
                "-" if is_whole(result.attack) else f"{result.dose:g}",
                in_words(result.masr),
                in_words(result.pasr),
                peak,
                result.verdicts,
            )
        )
    if len({result.dose for result in row.results}) > 1:
        lines += ["", *(f"eps50 of {attack}: {eps50_text(eps50)}" for attack, eps50 in row.eps50.items())]
    lines = [*lines, *_unread_lines(row), *_control_lines(row), "", *_worst_lines(row)]
    if row.flags:
        lines += ["", f"flags: {', '.join(row.flags)}"]
    return "\n".join(lines)


def _unread_lines(row: Row) -> list[str]:
    """The rates under both readings of answers without a readable verdict, where there are such."""
    from asabench.core.text import in_words, where

    lines = []
    for result in row.results:
        rates = [
            f"{name} {in_words(readings['safe'])} with them safe, {in_words(readings['unsafe'])} with them unsafe"
            for name, readings in (("MASR", result.masr_readings), ("PASR", result.pasr_readings))
            if readings
        ]
        if rates:
            lines.append(f"  {where(result)}, {result.verdicts.unscored} unscored: {'; '.join(rates)}")
    return ["", "answers without a readable verdict, read both ways:", *lines] if lines else []


def _control_lines(row: Row) -> list[str]:
    """What attacks break more than a random direction in their place."""
    from asabench.core.text import in_words, where

    compared = [(result, result.against_control) for result in row.results if result.against_control is not None]
    if not compared:
        return []
    wide = max(len(where(result)) for result, _ in compared)
    lines = [
        f"{where(result):{wide}}  less {found.attack}: MASR {in_words(found.masr)}"
        + ("" if found.pasr.value is None else f", PASR {in_words(found.pasr)}")
        for result, found in compared
    ]
    return ["", "against matched controls (random directions), paired by prompt:", *lines]


def _tells_more(judge: JudgeInfo) -> bool:
    return "harmful" in judge.facts and judge.measures != "harm"


def _worst_lines(row: Row) -> list[str]:
    """The headline: what broke most, where, and how much of it."""
    from asabench.core.row import worst_case, worst_rate
    from asabench.core.text import FACT_WORDS, in_words, where

    worst = worst_case(row.results)
    if worst is None:
        return ["worst case: nothing was scored"]
    peak = "" if worst.peak_layer is None else f", most at layer {worst.peak_layer}"
    lines = [f"worst case: MASR {in_words(worst_rate(row))} under {where(worst)}{peak}"]
    if worst.facts:
        shares = ", ".join(f"{FACT_WORDS[name]} {in_words(rate)}" for name, rate in worst.facts.items())
        lines.append(f"  of its answers: {shares}")
    if worst.survival is not None and worst.survival.value is not None:
        lines.append(
            f"  of its unsafe verdicts {in_words(worst.survival)} stand without the opener and the request said back"
        )
    if worst.pasr_held_out is not None and worst.pasr_held_out.value is not None:
        lines.append(
            f"  PASR {in_words(worst.pasr)}; {worst.pasr_held_out.value:.2f} with its layer chosen on other prompts"
        )
    if worst.masr_floor is not None and row.false_alarms is not None:
        lines.append(
            f"  judge's noise floor: MASR {in_words(worst.masr_floor)}, PASR {in_words(worst.pasr_floor)} if nothing "
            f"were broken and {in_words(row.false_alarms)} of the answers called unsafe"
        )
    return lines


def _fitness(judge: JudgeInfo) -> str:
    """How well the judge agrees with labelled pairs, in words."""
    from asabench.core.text import in_words
    from asabench.submission.tracks import is_certified

    ranked = "" if is_certified(judge) else "; under the bar: not ranked"
    if judge.figures is None:
        return f"not checked against labelled pairs{ranked}"
    figures = judge.figures
    return f"balanced accuracy {in_words(figures.balanced_accuracy)} on {figures.n} {figures.set_name} pairs{ranked}"


SPEEDS = (500, 5_000)
"""Tokens a second that an engine which was not measured is reckoned with."""


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def print_cost(plan: Plan, cost: Cost) -> None:
    """What a run would take: a line each for its cells, memory, disk, and the hours of its parts."""
    subject, tokens = plan.subject, plan.protocol.max_new_tokens
    memory = (cost.model_bytes + cost.memory_bytes) / 2**30
    print(f"model:    {subject.name} ({subject.revision}), {subject.n_layers} blocks, {subject.dtype}")
    print(f"prompts:  {plan.prompts.name} ({len(plan.prompts.prompts)})")
    print(f"cells:    {cost.cells} answers of up to {tokens} tokens, {cost.rows_per_batch} side by side")
    where = ", ".join(map(str, subject.devices)) if cost.measured else "the devices of its engine"
    print(f"memory:   {memory:.1f} GiB on {where}, weights included")
    print(f"disk:     {cost.disk_bytes / 2**20:.1f} MiB at most")
    for part in cost.parts:
        print(f"{'time:':10}{part.seconds / 3600:.4f} hours for {part.cells} cells: {part.name}")
    if cost.measured:
        print(f"{'time:':10}about {cost.seconds / 3600:.4f} hours in all ({_in_words(cost.seconds)}), and self-tests")
    else:
        speeds = ", ".join(f"{cost.tokens / speed / 3600:.2f} hours at {speed:,} tokens a second" for speed in SPEEDS)
        print(f"{'time:':10}answers not measured, as this engine was not started: {speeds}")
    print(f"run:      {plan.path} (nothing was written)")
