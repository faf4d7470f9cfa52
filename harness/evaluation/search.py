"""`--attack auto`: the answers of a run are not a grid but what the search asks for, verdict by verdict.

The search of a prompt (`asabench.core.dose_search`) is a function of that prompt's verdicts and of the order of its
blocks, which is written into the manifest. What is on disk is told to it first, so a run that was interrupted goes on
with the answers that it would have asked for; and a shard asks for what the whole run would.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from asabench.core.dose_search import Outcome, Probe, outcome_of, outcomes_of, search
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from asabench.core.suite import Suite
from asabench.judging.judge import Judge
from asabench.runs.folder import Run
from harness.attacks import Attack
from harness.attacks.target_loss import target_loss
from harness.engine.engine import Engine
from harness.evaluation.judge import judge_the_rest
from harness.evaluation.suite import cell_of, lines_of
from harness.judges.readings import read
from harness.model.subject import Subject
from harness.progress import progress_line

BLOCK_ORDER = "suite_block_order"
"""The manifest's field with the blocks of each prompt in order of promise."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What the search needs of a plan (`harness.evaluation.plan.Plan`): model, attacks by recorded name, and engine."""

    subject: Subject
    protocol: Protocol
    suite: Suite
    prompts: Sequence[Prompt]
    layers: Sequence[int]
    attacks: Mapping[str, Attack]
    cells: Sequence[Cell]
    engine: Engine
    max_rows: int | None


def search_radii(asking: Asking, run: Run, judge: Judge, *, progress: bool = False) -> None:
    """Generates and judges what each prompt's search asks for and the run does not hold yet."""
    judge_the_rest(run, judge)
    known = _known(run, judge)
    engine, protocol, attacks = asking.engine, asking.protocol, asking.attacks
    waiting = _Searches(asking, known)
    try:
        engine.open(asking.cells, asking.cells, protocol, attacks)
        tested = False
        with progress_line(len(known), len(known), protocol.max_new_tokens, progress) as line:
            while cells := waiting.asked(run):
                if not tested:
                    found = engine.self_test(asking.cells, protocol, attacks)
                    run.update_manifest(self_tests={**asking.subject.checks, **found})
                    tested = True
                # How many are to come is not known: the line shows how far this round is
                line.total = line.bar.total = len(known) + len(cells)
                batches = engine.sweep(cells, protocol, attacks, max_rows=asking.max_rows, on_step=line.step)
                for responses in batches:
                    run.append_responses(responses)
                    verdicts = read(judge, responses)
                    run.append_verdicts(verdicts)
                    known |= {each.cell_id: outcome_of(each.label, each.refused) for each in verdicts}
                    line.finish(len(responses))
    finally:
        engine.close()


class _Searches:
    """The searches of all prompts, side by side. known: by cell, what its answer came out as; it grows."""

    def __init__(self, asking: Asking, known: Mapping[str, Outcome]) -> None:
        self.asking, self.known = asking, known
        self._clean = [Cell(prompt=prompt) for prompt in asking.prompts]
        self._searching: dict[Prompt, tuple[Generator[list[Probe], Mapping[Probe, Outcome], int], list[Probe]]] = {}
        self._begun = False

    def asked(self, run: Run) -> list[Cell]:
        """The answers that all of them wait for; none when all are at their end."""
        if clean := [cell for cell in self._clean if cell.id not in self.known]:
            return clean
        if not self._begun:
            self._begin(run)
        cells: list[Cell] = []
        for prompt in list(self._searching):
            cells += self._go_on(prompt)
        return cells

    def _begin(self, run: Run) -> None:
        """Where the clean answer is unsafe there is nothing to search for."""
        self._begun = True
        asking = self.asking
        prompts = [cell.prompt for cell in self._clean if self.known[cell.id] is not Outcome.BROKE]
        orders = block_orders(asking, prompts, run)
        for prompt in prompts:
            lines = lines_of(orders[prompt.id], asking.attacks, asking.suite)
            searching = search(lines, len(asking.suite.doses))
            self._searching[prompt] = searching, next(searching)

    def _go_on(self, prompt: Prompt) -> list[Cell]:
        """Tells a search what is known until it asks for more than that."""
        searching, probes = self._searching[prompt]
        doses = self.asking.suite.doses
        while True:
            cells = {probe: cell_of(prompt, probe.line, doses[probe.dose]) for probe in probes}
            if unknown := [cell for cell in cells.values() if cell.id not in self.known]:
                self._searching[prompt] = searching, probes
                return unknown
            try:
                probes = searching.send({probe: self.known[cell.id] for probe, cell in cells.items()})
            except StopIteration:
                del self._searching[prompt]
                return []


def block_orders(asking: Asking, prompts: Sequence[Prompt], run: Run) -> dict[str, tuple[int, ...]]:
    """By prompt, its blocks in order of promise: by the loss of its target when the first member's direction is
    injected there at the middle dose, the smallest first. It decides what is looked at first, never what is left out.

    They are written into the manifest: computed again, rounding could put two blocks the other way round."""
    held: dict[str, list[int]] = run.manifest.get(BLOCK_ORDER) or {}
    missing = [prompt for prompt in prompts if sorted(held.get(prompt.id, ())) != sorted(asking.layers)]
    if missing:
        name, attack = next(iter(asking.attacks.items()))
        dose = asking.suite.doses[len(asking.suite.doses) // 2]
        cells = [
            Cell(prompt=prompt, layer=layer, attack=name, dose=dose) for prompt in missing for layer in asking.layers
        ]
        losses = target_loss(asking.subject, cells, attack.directions(asking.subject, cells), asking.protocol)
        # A loss that is no number, where the perturbed model overflows, stands last
        by_prompt = losses.nan_to_num(nan=float("inf")).reshape(len(missing), -1)
        for prompt, row in zip(missing, by_prompt.tolist(), strict=True):
            held[prompt.id] = [layer for _, layer in sorted(zip(row, asking.layers, strict=True))]
        run.update_manifest(**{BLOCK_ORDER: held})
    return {prompt.id: tuple(held[prompt.id]) for prompt in prompts}


def _known(run: Run, judge: Judge) -> dict[str, Outcome]:
    verdicts = run.verdicts()
    own = verdicts[verdicts["judge"] == judge.info.id]
    return dict(zip(map(str, own["cell_id"]), outcomes_of(own["label"], own["refused"]), strict=True))
